#!/usr/bin/env python
"""Time and memory of run_aie_corpus.py against the size of the corpus: in one process, and on Ray
with one worker and more, each of them of --threads threads.

    python benchmarks/scaling.py --aie_model_dir plain.pt packed.pt --data_dir SST-2
    python benchmarks/scaling.py --aie_model_dir packed.pt --data_dir SST-2 --rows 4000 --repeat 3

The corpus is made from the task's train file, again and again, as Parquet with a key. After each
run every key must stand in the output once. Ratios are paired within a round, with the 95 %
bootstrap interval of their median. Memory is the most that all processes of a run held
together (PSS: what several share is counted once), Ray's own included.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import cells  # noqa: E402
import host  # noqa: E402
import readings  # noqa: E402

from albert_aie import UserError, arguments, artifact, command, datasets, files  # noqa: E402
from albert_aie.results import json_text  # noqa: E402

ROWS = [1000, 10000, 100000, 1000000]
FILES = 8  # of a corpus
PAUSE = 0.25  # seconds between two looks at the memory
HEADER = ("file", "rows", "workers", "rows/s", "run s", "start s", "all s", "peak MB")


def parse_args(argv):
    parser = arguments.Parser(__doc__)
    add = parser.add_argument
    whole = {"type": arguments.at_least(1), "metavar": "N"}
    add("--aie_model_dir", nargs="+", required=True, metavar="FILE.pt", help="files to run")
    add("--data_dir", required=True, help="the task's folder")
    add("--rows", nargs="+", default=ROWS, help="(default: 1000 10000 100000 1000000)", **whole)
    add("--workers", nargs="+", default=[1, 2], help="on Ray (default: 1 2)", **whole)
    add("--threads", default=1, help="of each worker (default: 1)", **whole)
    add("--part_rows", default=8192, help="(default: 8192)", **whole)
    add("--repeat", default=1, help="rounds (default: 1)", **whole)
    add("--output", metavar="FILE", help="write machine, versions and every run as JSON")
    add("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(argv)


def run(args):
    arguments.check_outputs(args.output)
    task = artifact.open_pt(args.aie_model_dir[0]).task
    sentences = datasets.read(args.data_dir, "train", task).sentences
    everything = {"machine": host.machine(), "command": args.command, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        for rows in args.rows:
            write_corpus(Path(folder, str(rows)), sentences, task.text, rows)
        wanted = itertools.product(
            range(args.repeat), args.aie_model_dir, args.rows, [None, *args.workers]
        )
        for round_, file, rows, workers in wanted:
            told = measure(args, Path(folder, str(rows)), file, rows, workers)
            everything["runs"].append({"round": round_, **told})
            command.note(", ".join(map(str, line(told))))
    if args.output:
        with files.replacing(args.output) as temporary:
            temporary.write_text(json_text(everything), encoding="utf-8")
    table = [line(told) for told in everything["runs"]]
    shown = cells.markdown if args.markdown else cells.aligned
    print("\n".join(shown(HEADER, table)))
    print("\n".join(ratios(everything["runs"])))
    return 0


def write_corpus(folder, sentences, columns, rows):
    """Parquet files of a key and the columns of a sentence, written a piece at a time."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir()
    for number in range(min(FILES, rows)):
        first, end = (rows * n // min(FILES, rows) for n in (number, number + 1))
        writer = None
        for start in range(first, end, 1 << 16):
            keys = range(start, min(end, start + (1 << 16)))
            chosen = [sentences[key % len(sentences)] for key in keys]
            texts = [chosen] if len(columns) == 1 else map(list, zip(*chosen))
            table = pyarrow.table({"key": keys, **dict(zip(columns, texts))})
            writer = writer or parquet.ParquetWriter(folder / f"{number}.parquet", table.schema)
            writer.write_table(table)
        writer.close()


def measure(args, corpus, file, rows, workers):
    """What a run of the script came to; `workers` None is without Ray."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--aie_model_dir={file}", f"--input={corpus}", f"--output_dir={folder}/out"]
        flags += [f"--threads={args.threads}", f"--part_rows={args.part_rows}", "--quiet"]
        flags += ["--ray=local", f"--workers={workers}"] if workers else []
        command_line = [sys.executable, str(host.ROOT / "run_aie_corpus.py"), *flags]
        started = time.monotonic()
        process = subprocess.Popen(command_line, stderr=subprocess.PIPE, text=True)
        with peak(process.pid) as memory:
            _, said = process.communicate()
        seconds = time.monotonic() - started
        if process.returncode:
            raise UserError(f"{file}, {rows} rows: {said.strip()}; see the run's own message")
        summary = json.loads(Path(folder, "out", "_summary.json").read_text(encoding="utf-8"))
        check_keys(Path(folder, "out"), rows)
    told = {"file": str(file), "rows": rows, "workers": workers, "all_seconds": seconds}
    return {**told, "peak_bytes": max(memory, default=None), "summary": summary}


def check_keys(folder, rows):
    """Raises UserError unless each key stands in the output once."""
    import numpy
    from pyarrow import parquet

    seen = numpy.zeros(rows, numpy.int64)
    for path in folder.glob("*.parquet"):
        keys = parquet.read_table(path, columns=["key"]).column(0).to_numpy()
        numpy.add.at(seen, keys, 1)
    if (seen != 1).any():
        raise UserError(f"{folder}: key {int((seen != 1).argmax())} is missing or there twice")


@contextlib.contextmanager
def peak(pid):
    """`with peak(pid) as memory:` a list of what a process and all that it started hold together,
    in bytes, looked at again and again."""
    memory, over = [], threading.Event()

    def look():
        while not over.wait(PAUSE):
            memory.append(sum(map(held, family(pid))))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def family(pid):
    """Numbers of a process and of all below it."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def held(pid):
    with contextlib.suppress(OSError):
        for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if row.startswith("Pss:"):
                return int(row.split()[1]) * 1024
    return 0


def ratios(runs):
    """Lines: rows/s, start-up excluded, of what differs in one thing, paired within the rounds:
    one worker on Ray against none, and more workers on Ray against one."""
    rates = {}
    for told in runs:
        kind = told["file"], told["rows"], told["workers"]
        rates.setdefault(kind, []).append(told["summary"]["rows_per_second"])
    for (file, rows, workers), measured in rates.items():
        base = rates.get((file, rows, None if workers == 1 else 1)) if workers else None
        if base:
            ratio = readings.interval([one / other for one, other in zip(measured, base)])
            middle, low, high = (f"{value:.3f}" for value in ratio)
            what = "1 worker on Ray / 1, no Ray" if workers == 1 else f"{workers} workers / 1"
            name = os.path.basename(file)
            yield f"{name}, {rows:,} rows: {what} = {middle} [{low}, {high}]"


def line(told):
    summary = told["summary"]
    return (
        os.path.basename(told["file"]),
        f"{told['rows']:,}",
        f"{told['workers']} on Ray" if told["workers"] else "1, no Ray",
        f"{summary['rows_per_second']:,.1f}",
        f"{summary['seconds']:.1f}",
        f"{summary['startup_seconds']:.1f}",
        f"{told['all_seconds']:.1f}",
        f"{told['peak_bytes'] / 1e6:,.0f}" if told["peak_bytes"] else "-",
    )


if __name__ == "__main__":
    sys.exit(command.main(parse_args, run))
