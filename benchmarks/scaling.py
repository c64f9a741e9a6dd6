#!/usr/bin/env python
"""Time and memory of run_aie_corpus.py against the size of the corpus: in one process, and on Ray
with one worker and more, each of --threads threads.

    python benchmarks/scaling.py --aie_model_dir plain.pt packed.pt --data_dir SST-2

The corpus is made from the task's train file, again and again, as Parquet with a key. After each
run every key must stand in the output once. Memory is the most that all processes of a run held
together (PSS: what several share is counted once), Ray's own included. Rates of whole runs drift
with the machine: corpus_turns.py compares them.
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
from subprocess import PIPE
from typing import NamedTuple

from albert_aie.artifact import pt_file
from albert_aie.base import files
from albert_aie.base.errors import UserError
from albert_aie.base.files import json_text
from albert_aie.cli import arguments, console, parsing
from albert_aie.data import datasets
from benchmarks import cells, host

ROWS = [1000, 10000, 100000, 1000000]
FILES = 8  # of a corpus
PAUSE = 0.25  # seconds between two looks at the memory
HEADER = ("file", "rows", "workers", "rows/s", "run s", "start s", "all s", "peak MB")


class Kind(NamedTuple):
    """How a corpus is run."""

    workers: int
    ray: bool

    def __str__(self):
        if self.ray:
            return f"{self.workers} on Ray"
        return "1, no Ray" if self.workers == 1 else f"{self.workers} at once, no Ray"


ALONE = Kind(1, False)


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument
    whole = {"type": parsing.at_least(1), "metavar": "N"}
    add("--aie_model_dir", nargs="+", required=True, metavar="FILE.pt", help="files to run")
    add("--data_dir", required=True, help="the task's folder")
    add("--rows", nargs="+", default=ROWS, help="(default: 1000 10000 100000 1000000)", **whole)
    add("--workers", nargs="+", default=[1, 2], help="on Ray (default: 1 2)", **whole)
    add("--threads", default=1, help="of each worker (default: 1)", **whole)
    add("--part_rows", default=8192, help="(default: 8192)", **whole)
    add("--output", metavar="FILE", help="write machine, versions and every run as JSON")
    add("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(argv)


def run(args):
    arguments.check_outputs(args.output)
    task = pt_file.open_pt(args.aie_model_dir[0]).task
    sentences = datasets.read(args.data_dir, "train", task).sentences
    everything = {"machine": host.machine(), "command": args.command, "runs": []}
    kinds = [ALONE, *(Kind(n, True) for n in dict.fromkeys(args.workers))]
    with tempfile.TemporaryDirectory() as folder:
        for rows in args.rows:
            write_corpus(Path(folder, str(rows)), sentences, task.text, rows)
        for file, rows, kind in itertools.product(args.aie_model_dir, args.rows, kinds):
            told = measure(args, Path(folder, str(rows)), file, rows, kind)
            everything["runs"].append(told)
            console.note(", ".join(map(str, line(told))))
    if args.output:
        with files.replacing(args.output) as temporary:
            temporary.write_text(json_text(everything), encoding="utf-8")
    table = [line(told) for told in everything["runs"]]
    shown = cells.markdown if args.markdown else cells.aligned
    print("\n".join(shown(HEADER, table)))
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


def measure(args, corpus, file, rows, kind):
    """What a run of the script came to."""
    with tempfile.TemporaryDirectory() as output:
        given = flags(args, file, corpus, output, kind)
        command_line = [sys.executable, str(host.ROOT / "run_aie_corpus.py"), *given]
        started = time.monotonic()
        with subprocess.Popen(command_line, stderr=PIPE, text=True) as process:
            with peak(process.pid) as memory:
                said = process.communicate()[1].strip()
        seconds = time.monotonic() - started
        if process.returncode:
            raise UserError(f"{file}, {rows} rows: {said}; see the run's own message")
        check_keys(Path(output), rows)
        summary = json.loads(Path(output, "_summary.json").read_text("utf-8"))
    return {
        "file": str(file),
        "rows": rows,
        "workers": kind.workers,
        "ray": kind.ray,
        "all_seconds": seconds,
        "peak_bytes": max(memory, default=None),
        "summary": summary,
    }


def flags(args, file, corpus, output, kind):
    """Of run_aie_corpus.py."""
    given = [f"--aie_model_dir={file}", f"--input={corpus}", f"--output_dir={output}"]
    given += [f"--part_rows={args.part_rows}", f"--threads={args.threads}"]
    return given + ["--ray=local", f"--workers={kind.workers}"] * kind.ray


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


def line(told):
    summary = told["summary"]
    return (
        os.path.basename(told["file"]),
        f"{told['rows']:,}",
        str(Kind(told["workers"], told["ray"])),
        f"{summary['rows_per_second']:,.1f}",
        f"{summary['seconds']:.1f}",
        f"{summary['startup_seconds']:.1f}",
        f"{told['all_seconds']:.1f}",
        f"{told['peak_bytes'] / 1e6:,.0f}" if told["peak_bytes"] else "-",
    )


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
