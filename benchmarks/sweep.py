#!/usr/bin/env python
"""One file for each batch size, length, precision and kind of row, exported, compared and evaluated
by the two scripts: a table of them, and what the owner of a card can send in.

    python benchmarks/sweep.py --demo --data_dir ../shared/data/SST-2 --max_seq_length 64 128
    python benchmarks/sweep.py --backend aie --data_dir SST-2 --output ascend_report.json

Each cell runs in processes of its own. With --output a sweep that was stopped goes on where it was:
what is finished is not run again. Flags that this script does not know go to export_albert_aie.py
(--pth_dir, --soc_version, ...). Exit code 1 if a cell or its comparison failed, or if fp32
predictions differ between cells of one length; the other cells go on, and --output is written all
the same.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Optional

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import host  # noqa: E402
from tables import head, row  # noqa: E402

from albert_aie import UserError, command, compare, files, page, results  # noqa: E402

SIZES = [1, 4, 8, 16, 32, 64]
ROWS = ("plain", "packed")
OWN = ("--batch_size", "--save_dir", "--compare_cpu", "--compare_output", "--pack")
# samples/s of forward on an Ascend310P3 through torch_aie, fp16, 128 tokens, plain rows, by batch
# size: docs/torch_aie.md, "Published throughput". Not measured by us.
PUBLISHED = {1: 532.61, 4: 841.79, 8: 1020.77, 16: 982.26, 32: 988.63, 64: 891.06}
PUBLISHED_LENGTH = 128
HEADS = ["precision", "rows", "shape", "accuracy", "forward/s", "end to end/s", "p50 ms", "compare"]


class Cell(NamedTuple):
    """What is compiled; precision None: the backend's first."""

    precision: Optional[str]
    rows: str
    max_seq_length: int
    batch_size: int

    @property
    def flags(self):
        """For export_albert_aie.py."""
        yield f"--batch_size={self.batch_size}"
        yield f"--max_seq_length={self.max_seq_length}"
        yield from [f"--precision={self.precision}"] * (self.precision is not None)
        yield from ["--pack"] * (self.rows == "packed")

    @property
    def shape(self):
        return f"{self.batch_size} x {self.max_seq_length}"

    def __str__(self):
        return " ".join(filter(None, (self.precision, self.rows, self.shape)))


def parse_args(argv):
    parser = command.Parser(__doc__)
    parser.allow_abbrev = False  # --device and --batch_size are export_albert_aie.py's
    add = parser.add_argument
    whole = {"type": command.at_least(1), "metavar": "N"}
    add("--batch_sizes", nargs="+", default=SIZES, help="(default: 1 4 8 16 32 64)", **whole)
    add("--max_seq_length", nargs="+", default=[128], help="(default: 128)", **whole)
    add(
        "--precision",
        nargs="+",
        choices=tuple(compare.GATES),
        default=[None],
        metavar="NAME",
        help=f"of {', '.join(compare.GATES)} (default: the backend's first)",
    )
    add("--rows", nargs="+", choices=ROWS, default=["plain"], help="(default: plain)")
    add("--repeat", default=1, help="evaluate each file so many times", **whole)
    add("--data_dir", required=True, help="the task's folder")
    add("--backend", help="(default: the first that runs here)")
    add("--device_id", type=int, help="number of the card, for both scripts")
    add("--no_compare", action="store_true", help="leave the comparison with the CPU out")
    add("--output", metavar="FILE", help="write machine, versions and every result as JSON")
    add("--report", metavar="FILE.html", help="write a page of plots, all in one file")
    add("--markdown", action="store_true", help="print the table as Markdown")
    args, args.export_flags = parser.parse_known_args(argv)
    for flag in args.export_flags:
        if flag.split("=")[0] in OWN:
            raise UserError(f"{flag}: the sweep sets this flag itself; leave it out")
    return args


def run(args):
    page.check(args.report)
    command.check_outputs(args.report)
    combined = itertools.product(args.precision, args.rows, args.max_seq_length, args.batch_sizes)
    cells = [Cell(*values) for values in dict.fromkeys(combined)]
    everything = begin(args)
    results = {Cell(*result["cell"]): result for result in everything["results"]}
    waiting = [cell for cell in cells if cell not in results or "error" in results[cell]]
    if len(waiting) < len(cells):
        command.note(f"{len(cells) - len(waiting)} of {len(cells)} cells are in {args.output}")
    started = time.monotonic()
    for count, cell in enumerate(waiting, 1):
        with tempfile.TemporaryDirectory() as folder:
            results[cell] = {"cell": list(cell), **measure(cell, Path(folder), args)}
        everything["results"] = list(results.values())
        if args.output:  # what was measured is kept if the next cell hangs
            save(args.output, everything)
        left = (time.monotonic() - started) / count * (len(waiting) - count)
        command.note(f"{count} of {len(waiting)}: {cell} {told(results[cell])}, {minutes(left)}")
    done = [(cell, results[cell]) for cell in cells]
    heads, rows = table(done)
    print("\n".join(laid_out(heads, rows, args.markdown)), flush=True)
    if args.report:
        shown = {**everything, "results": [result for _, result in done]}
        page.write(args.report, page.of_sweep(shown, (heads, rows)))
    differing = disagreements(done)
    for line in (*errors(done), *summary(done, differing)):
        print(line)
    failed = any("error" in result or verdict(result) == "FAIL" for _, result in done)
    return 1 if failed or any(of["precision"] == "fp32" for of in differing) else 0


def begin(args):
    """What --output will hold, with the results that it has already. Raises UserError where they
    are of another sweep."""
    settings = {
        "data_dir": str(Path(args.data_dir).resolve()),
        "backend": args.backend,
        "device_id": args.device_id,
        "compared": not args.no_compare,
        "repeat": args.repeat,
        "export_flags": args.export_flags,
    }
    fresh = {"machine": host.machine(), "command": args.command, "settings": settings}
    fresh["results"] = []
    if not args.output:
        return fresh
    files.check_writable(args.output)
    if not Path(args.output).is_file():
        return fresh
    try:
        held = json.loads(Path(args.output).read_text(encoding="utf-8"))
        known = {**held["settings"], "packages": held["machine"]["packages"]}
        known["cpu"], held["results"] = held["machine"]["cpu"], list(held["results"])
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{args.output}: holds no sweep; name another file") from None
    machine = {key: fresh["machine"][key] for key in ("packages", "cpu")}
    other = [key for key, value in {**settings, **machine}.items() if known.get(key) != value]
    if other:
        raise UserError(
            f"{args.output}: holds a sweep with another {' and '.join(other)}; name another file, "
            "or remove this one"
        )
    return {**held, "command": args.command}


def save(path, everything):
    with files.replacing(path) as temporary:
        temporary.write_text(results.json_text(everything), encoding="utf-8")


def measure(cell, folder, args):
    """{"export" and "evaluate": what the scripts said, "comparison", "evaluations": eval.json of
    each repetition, "predictions": of the first, "error"}; what did not come to be is missing."""
    result, compared = {}, folder / "comparison.json"
    flags = [*args.export_flags, f"--save_dir={folder}", *cell.flags]
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
    result["evaluations"] = []
    for _ in range(args.repeat):
        result["evaluate"] = done = host.script("run_aie_eval.py", *flags, *both)
        if done["exit_code"]:
            return {**result, "error": host.reason(done)}
        evaluation = (folder / "eval.json").read_text(encoding="utf-8")
        result["evaluations"].append(json.loads(evaluation))
    rows = (folder / "predictions.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    return {**result, "predictions": "\t".join(row.split("\t")[1] for row in rows)}


def verdict(result):
    if "comparison" not in result:
        return "-"
    return "PASS" if result["comparison"]["passed"] is True else "FAIL"


def rates(result, name):
    """Sentences a second of each repetition."""
    return [e["samples_per_second"][name] for e in result["evaluations"]]


def told(result):
    """A finished cell in a few words."""
    if "error" in result:
        return f"failed ({result['error']})"
    return f"{statistics.median(rates(result, 'end_to_end')):.1f} sentences/s end to end"


def minutes(seconds):
    return "none left" if seconds <= 0 else f"{max(1, round(seconds / 60))} min left"


def table(done):
    """(heads, rows of texts) of all cells that did not fail: medians of their repetitions, and the
    least and greatest end to end where there are several."""
    rows = [cells(cell, result) for cell, result in done if "error" not in result]
    heads = list(HEADS)
    known = [published(cell, result) for cell, result in done if "error" not in result]
    if any(known):
        heads.append("310P3*")
        rows = [[*cells, "" if x is None else f"{x:.1f}"] for cells, x in zip(rows, known)]
    return heads, rows


def laid_out(heads, rows, markdown):
    """Lines of that table."""
    if markdown:
        return [*head(heads), *(row(*cells) for cells in rows)]
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
        for line in (heads, *rows)
    ]


def cells(cell, result):
    first = result["evaluations"][0]
    accuracy, both = "none", rates(result, "end_to_end")
    if "accuracy" in first:
        accuracy = "{value:.4f} ({correct}/{total})".format(**first["accuracy"])
    elif first["metrics"]:
        name, value = next(iter(first["metrics"].items()))
        accuracy = f"{name} undefined" if value is None else f"{name} {value:.4f}"
    spread = f" [{min(both):.1f}, {max(both):.1f}]" * (len(both) > 1)
    p50 = statistics.median(e["latency_ms"]["p50"] for e in result["evaluations"])
    return [
        first["precision"],
        cell.rows,
        cell.shape,
        accuracy,
        f"{statistics.median(rates(result, 'forward')):.1f}",
        f"{statistics.median(both):.1f}{spread}",
        f"{p50:.1f}",
        verdict(result),
    ]


def published(cell, result):
    """samples/s that the vendor published for such a file on such a card, or None."""
    same = cell.rows == "plain" and cell.max_seq_length == PUBLISHED_LENGTH
    on_card = same and result["evaluations"][0]["backend"] == "aie"
    return PUBLISHED.get(cell.batch_size) if on_card else None


def errors(done):
    for cell, result in done:
        if "error" in result:
            yield f"{cell}: error: {result['error']}"


def disagreements(done):
    """One {precision, max_seq_length, sentences} for each group of cells whose predictions should
    be the same and are not."""
    groups = {}
    for cell, result in done:
        if "predictions" in result:
            key = result["evaluations"][0]["precision"], cell.max_seq_length
            groups.setdefault(key, []).append(result["predictions"].split("\t"))
    found = []
    for (precision, length), group in groups.items():
        sentences = sum(len(set(classes)) > 1 for classes in zip(*group))
        if sentences:
            group = {"precision": precision, "max_seq_length": length, "sentences": sentences}
            found.append(group)
    return found


def summary(done, differing):
    """What the files ran on, whether cells agree, and what is not ours."""
    evaluations = [result["evaluations"][0] for _, result in done if "error" not in result]
    if not evaluations:
        return
    first = evaluations[0]
    yield ""
    yield f"{first['backend']} on {first['device']}, {first['threads']} thread(s)"
    scored = [e["sentences_scored"] for e in evaluations]
    total = first["sentences_total"]
    if set(scored) == {total}:
        yield f"{total} of {total} sentences scored in each"
    else:
        yield f"{min(scored)} of {total} sentences scored in the worst"
    for of in differing:
        yield (
            f"predictions of {of['precision']} at {of['max_seq_length']} tokens DIFFER between "
            f"cells in {of['sentences']} of {total} sentences"
        )
    if not differing:
        yield "predictions identical between cells of one precision and length"
    if any(published(*each) for each in done if "error" not in each[1]):
        yield "* samples/s that the vendor published for torch_aie (docs/torch_aie.md); not ours"


if __name__ == "__main__":
    sys.exit(command.main(parse_args, run))
