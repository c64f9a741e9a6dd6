#!/usr/bin/env python
"""One file for each batch size, length, precision and kind of row, exported, compared and evaluated
by the two scripts: a table of them, and what the owner of a card can send in.

    python -m benchmarks.sweep --pth_dir demo/checkpoint --data_dir SST-2 --max_seq_length 64 128
    python -m benchmarks.sweep --backend aie --data_dir SST-2 --output ascend_report.json

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

from albert_aie.base import files
from albert_aie.base.errors import UserError, refusing
from albert_aie.cli import arguments, console, parsing
from albert_aie.report import page
from albert_aie.run import compare
from benchmarks import cells, host, readings, sweep_page
from benchmarks.cells import Cell, verdict

SIZES = [1, 4, 8, 16, 32, 64]
ROWS = ("padded", "chosen", "packed")
OWN = ("--batch_size", "--save_dir", "--compare_cpu", "--compare_output", "--pack")


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    parser.allow_abbrev = False  # --device and --batch_size are export_albert_aie.py's
    add = parser.add_argument
    whole = {"type": parsing.at_least(1), "metavar": "N"}
    add("--batch_size", nargs="+", default=SIZES, help="(default: 1 4 8 16 32 64)", **whole)
    add("--max_seq_length", nargs="+", default=[128], help="(default: 128)", **whole)
    names = {"nargs": "+", "default": [None], "choices": tuple(compare.GATES), "metavar": "NAME"}
    add("--precision", help=f"{', '.join(compare.GATES)} (default: the backend's first)", **names)
    kinds = "one sentence a row, as the file chooses, or on aie compiled with --pack"
    add("--rows", nargs="+", choices=ROWS, default=["padded"], help=f"{kinds} (default: padded)")
    add("--rounds", default=1, help="evaluate each file so many times", **whole)
    add("--data_dir", required=True, help="the task's folder")
    add("--pth_dir", help="checkpoint (default: export_albert_aie.py's)")
    add("--backend", help="(default: the first that runs here)")
    add("--device_id", type=int, help="number of the card, for both scripts")
    add("--no_compare_cpu", action="store_true", help="leave the comparison with the CPU out")
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
    arguments.check_outputs(args.report, args.output)
    keeps = args.output and not files.is_stream(args.output)  # else it is written once, at the end
    combined = itertools.product(args.precision, args.rows, args.max_seq_length, args.batch_size)
    wanted = [Cell(*values) for values in dict.fromkeys(combined)]
    everything, results = begin(args, keeps)
    waiting = [cell for cell in wanted if cell not in results or "error" in results[cell]]
    check_export(args, waiting)
    if len(waiting) < len(wanted):
        console.note(f"{len(wanted) - len(waiting)} of {len(wanted)} cells are in {args.output}")
    started = time.monotonic()
    for count, cell in enumerate(waiting, 1):
        with tempfile.TemporaryDirectory() as folder:
            result = results[cell] = {"cell": list(cell), **measure(cell, Path(folder), args)}
        cells.check_inputs(results.items(), args.output)
        everything["results"] = list(results.values())
        if keeps:  # what was measured is kept if the next cell hangs
            host.save(args.output, everything)
        left = (time.monotonic() - started) / count * (len(waiting) - count) / 60
        left = f"{max(1, round(left))} min left" if left > 0 else "none left"
        if "error" in result:
            said = f"failed ({result['error']})"
        else:
            rate = statistics.median(cells.rates(result, "end_to_end"))
            said = f"{rate:.1f} sentences/s end to end"
        console.note(f"{count} of {len(waiting)}: {cell} {said}, {left}")
    done = [(cell, results[cell]) for cell in wanted]
    whole = cells.table(done, cells.WHOLE)
    terminal = cells.aligned(*cells.table(done, cells.TERMINAL))
    lines = cells.markdown(*whole) if args.markdown else terminal
    errors = [f"{cell}: error: {each['error']}" for cell, each in done if "error" in each]
    print(*lines, *errors, *cells.summary(done), sep="\n", flush=True)
    if args.output and not keeps:
        host.save(args.output, everything)
    if args.report:
        shown = {**everything, "results": [result for _, result in done]}
        files.write_text(args.report, sweep_page.of_sweep(shown, whole))
    failed = errors or any(verdict(result) == "FAIL" for _, result in done)
    differing = [n for (name, _), n in cells.disagreements(done).items() if name == "fp32"]
    return 1 if failed or any(differing) else 0


def begin(args, keeps):
    """(what --output will hold, {Cell: result} of what it holds already). Raises UserError where
    that is of another sweep."""
    settings = {
        "data_dir": stamp(args.data_dir),
        "pth_dir": stamp(args.pth_dir),
        "backend": args.backend,
        "device_id": args.device_id,
        "compared": not args.no_compare_cpu,
        "repeat": args.rounds,
        "export_flags": args.export_flags,
    }
    fresh = {"machine": host.machine(), "command": args.command, "settings": settings}
    if not keeps or not Path(args.output).is_file():
        return fresh, {}
    with refusing(f"{args.output}: holds no sweep; name another file", *readings.WRONG):
        held = json.loads(Path(args.output).read_text(encoding="utf-8"))
        before, now = (
            {**each["settings"], **{key: each["machine"][key] for key in ("packages", "cpu")}}
            for each in (held, fresh)
        )
        results = {Cell(*result["cell"]): result for result in held["results"]}
        cells.check_inputs(results.items(), args.output)
    if other := [key for key, value in now.items() if before.get(key) != value]:
        raise UserError(
            f"{args.output}: holds a sweep with another {' and '.join(other)}; name another file, "
            "or remove this one"
        )
    return {**held, "command": args.command}, results


def check_export(args, waiting):
    """Raises UserError for what export_albert_aie.py refuses in every cell: a flag, an engine or a
    checkout that is not there. It says so before it misses the checkpoint."""
    errors, firsts = [], {}
    for cell in waiting:
        firsts.setdefault((cell.precision, cell.rows), cell)
    for first in firsts.values():
        with tempfile.TemporaryDirectory() as empty:
            flags = *export_flags(first, args), f"--pth_dir={empty}"
            reason = host.reason(host.script("export_albert_aie.py", *flags))
        if empty in reason:
            return  # some cells can be made: those that cannot say so for themselves
        errors.append(reason)
    if errors:
        raise UserError(errors[0])


def export_flags(cell, args):
    """Of a cell's export, but for what it writes and compares."""
    given = {"batch_size": cell.batch_size, "max_seq_length": cell.max_seq_length}
    given.update(precision=cell.precision, pth_dir=args.pth_dir, backend=args.backend)
    flags = [f"--{name}={value}" for name, value in given.items() if value]
    return [*args.export_flags, *["--pack"] * (cell.rows == "packed"), *flags]


def stamp(folder):
    """What of a folder tells that it was changed: [path, [[name, bytes, ns of its last change] of
    each file]]. What is no folder, as a hub id, goes by its name."""
    if folder is None or not Path(folder).is_dir():
        return folder
    folder = Path(folder).resolve()
    stats = [(p, p.stat()) for p in sorted(folder.rglob("*")) if p.is_file()]
    stamps = [[str(path.relative_to(folder)), s.st_size, s.st_mtime_ns] for path, s in stats]
    return [str(folder), stamps]


def measure(cell, folder, args):
    """{"export" and "evaluate": what the scripts said, "comparison", "evaluations": eval.json of
    each repetition, "predictions": of the last (None: of a regression), "error"}; what did not come
    to be is missing."""
    compared, both = folder / "comparison.json", [f"--data_dir={args.data_dir}"]
    both += [] if args.device_id is None else [f"--device_id={args.device_id}"]
    flags = [f"--save_dir={folder}", *export_flags(cell, args)]
    flags += [] if args.no_compare_cpu else ["--compare_cpu", f"--compare_output={compared}"]
    done = host.script("export_albert_aie.py", *flags, *both)
    result = {"export": done}
    if compared.is_file():
        result["comparison"] = json.loads(compared.read_text(encoding="utf-8"))
    # 1 is the exit code of a failed comparison and of a crash: the file tells them apart
    if done["exit_code"] and not (done["exit_code"] == 1 and verdict(result) == "FAIL"):
        return {**result, "error": host.reason(done)}
    if not args.no_compare_cpu and "comparison" not in result:
        return {**result, "error": "export_albert_aie.py wrote no comparison"}
    file = next(folder.glob("*.pt"), folder / "missing.pt")
    flags = [f"--aie_model_dir={file}", f"--output_dir={folder}", *both]
    flags += ["--padded"] * (cell.rows == "padded")
    result["evaluations"] = []
    for _ in range(args.rounds):
        result["evaluate"] = done = host.script("run_aie_eval.py", *flags)
        if done["exit_code"]:
            return {**result, "error": host.reason(done)}
        result["evaluations"].append(files.read_json(folder / "eval.json"))
    rows = (folder / "predictions.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    predictions = "\t".join(row.split("\t")[1] for row in rows)
    several = len(result["evaluations"][-1]["classes"]) > 1
    return {**result, "predictions": predictions if several else None}


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
