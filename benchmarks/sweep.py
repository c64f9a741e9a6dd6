#!/usr/bin/env python
"""One file per batch size, exported, compared and evaluated by the two scripts: the batch table of
the README, and what the owner of a card can send in.

    python benchmarks/sweep.py --demo --data_dir ../shared/data/SST-2 --max_seq_length 64
    python benchmarks/sweep.py --backend aie --data_dir SST-2 --output ascend_report.json

Flags that this script does not know go to export_albert_aie.py (--pth_dir, --precision, --pack,
--soc_version, ...). Exit code 1 if a size or its comparison failed, or if fp32 predictions differ
between sizes; the other sizes go on, and --output is written all the same.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import host  # noqa: E402
from tables import head, row  # noqa: E402

from albert_aie import UserError, command, files, report  # noqa: E402

SIZES = [1, 4, 8, 16, 32, 64]
HEADS = ["batch", "sentences scored", "accuracy", "forward, samples/s", "end to end, samples/s"]
HEADS += ["p50, ms a batch", "p99, ms a batch", "compare"]
OWN = ("--batch_size", "--save_dir", "--compare_cpu", "--compare_output")


def parse_args(argv):
    parser = command.Parser(__doc__)
    parser.allow_abbrev = False  # --device and --batch_size are export_albert_aie.py's
    add = parser.add_argument
    add("--batch_sizes", type=int, nargs="+", default=SIZES, help="(default: 1 4 8 16 32 64)")
    add("--max_seq_length", type=int, default=128, help="(default: %(default)s)")
    add("--data_dir", required=True, help="GLUE's SST-2")
    add("--backend", help="(default: the first that runs here)")
    add("--device_id", type=int, help="number of the card, for both scripts")
    add("--no_compare", action="store_true", help="leave the comparison with the CPU out")
    add("--output", metavar="FILE", help="write machine, versions and every result as JSON")
    args, args.export_flags = parser.parse_known_args(argv)
    for flag in args.export_flags:
        if flag.split("=")[0] in OWN:
            raise UserError(f"{flag}: the sweep sets this flag itself; leave it out")
    return args


def run(args):
    if args.output:
        files.check_writable(args.output)
    results, predictions = [], []
    everything = {"machine": host.machine(), "command": sys.argv, "results": results}
    print("\n".join(head(HEADS)), flush=True)
    for batch_size in args.batch_sizes:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(batch_size, Path(folder), args))
            for file in Path(folder).glob("predictions.tsv"):
                lines = file.read_text(encoding="utf-8").split("\n")[1:-1]
                predictions.append([line.split("\t")[1] for line in lines])
        print(table_row(results[-1]), flush=True)
        if args.output:  # what was measured is kept if the next size hangs
            with files.replacing(args.output) as temporary:
                temporary.write_text(report.json_text(everything), encoding="utf-8")
    evaluations = [result["evaluation"] for result in results if "evaluation" in result]
    differing = sum(len(set(classes)) > 1 for classes in zip(*predictions))
    if evaluations:
        print(f"\n{summary(evaluations, differing)}")
    fp32 = any(evaluation["precision"] == "fp32" for evaluation in evaluations)
    failed = any("error" in result or verdict(result) == "FAIL" for result in results)
    return 1 if failed or (differing and fp32) else 0


def measure(batch_size, folder, args):
    """{"batch_size", "export" and "evaluate": what the scripts said, "comparison", "evaluation",
    "error"}; what did not come to be is missing."""
    result, compared = {"batch_size": batch_size}, folder / "comparison.json"
    flags = [*args.export_flags, f"--save_dir={folder}", f"--batch_size={batch_size}"]
    flags += [f"--max_seq_length={args.max_seq_length}"]
    flags += [f"--backend={args.backend}"] if args.backend else []
    flags += [] if args.no_compare else ["--compare_cpu", f"--compare_output={compared}"]
    both = [f"--data_dir={args.data_dir}"]
    both += [] if args.device_id is None else [f"--device_id={args.device_id}"]
    result["export"] = done = host.script("export_albert_aie.py", *flags, *both)
    if compared.is_file():
        result["comparison"] = json.loads(compared.read_text(encoding="utf-8"))
    # 1 is the exit code of a failed comparison and of a crash: the file tells them apart
    if done["exit_code"] and not (done["exit_code"] == 1 and verdict(result) == "FAIL"):
        return {**result, "error": host.reason(done)}
    if not args.no_compare and "comparison" not in result:
        return {**result, "error": "export_albert_aie.py wrote no comparison"}
    file = next(folder.glob("*.pt"), folder / "missing.pt")
    flags = [f"--aie_model_dir={file}", f"--output_dir={folder}"]
    result["evaluate"] = done = host.script("run_aie_eval.py", *flags, *both)
    if done["exit_code"]:
        return {**result, "error": host.reason(done)}
    evaluation = (folder / "eval.json").read_text(encoding="utf-8")
    return {**result, "evaluation": json.loads(evaluation)}


def verdict(result):
    if "comparison" not in result:
        return "-"
    return "PASS" if result["comparison"]["passed"] is True else "FAIL"


def table_row(result):
    if "error" in result:
        error = result["error"].replace("|", "\\|")
        return row(result["batch_size"], f"error: {error}", *[""] * 5, verdict(result))
    e = result["evaluation"]
    rate, latency, accuracy = e["samples_per_second"], e["latency_ms"], "none"
    if "accuracy" in e:
        accuracy = "{:.2%} ({correct}/{total})".format(e["accuracy"]["value"], **e["accuracy"])
    cells = [f"{e['sentences_scored']} of {e['sentences_total']}", accuracy.replace("%", " %")]
    cells += [f"{rate['forward']:.2f}", f"{rate['end_to_end']:.2f}"]
    cells += [f"{latency['p50']:.0f}", f"{latency['p99']:.0f}"]
    return row(result["batch_size"], *cells, verdict(result))


def summary(evaluations, differing):
    """What the files ran on, and whether the sizes agree."""
    e, agree = evaluations[0], f"identical over {len(evaluations)} batch sizes"
    if differing:
        agree = f"DIFFER in {differing} of {e['sentences_total']} sentences"
    on = f"{e['backend']} on {e['device']}, {e['precision']}, {e['threads']} threads"
    return f"{on}, length {e['max_seq_length']}; predictions {agree}"


if __name__ == "__main__":
    sys.exit(command.main(parse_args, run))
