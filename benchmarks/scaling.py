#!/usr/bin/env python
"""Time and memory of run_aie_corpus.py against the size of the corpus and the number of workers,
each of --threads threads: in one process, and on Ray.

    python -m benchmarks.scaling --aie_model_dir plain.pt packed.pt --data_dir SST-2
    python -m benchmarks.scaling --aie_model_dir packed.pt --data_dir SST-2 --rounds 24

The corpus is the task's train file, again and again, as Parquet with a key, which must stand in the
output once. Memory is the most that all processes of a run held together (PSS: what several share
counts once), Ray's own included.

Rates of whole runs drift with the machine. With --rounds the runs take turns of a few seconds, in
random order: one process, as many as workers without Ray, which know nothing of each other and keep
to cores of their own, and Ray. Who has no turn is stopped (SIGSTOP). A turn is counted from the end
of a part to the end of another: no worker is idle meanwhile. Ratios are paired within a round, with
the 95 % bootstrap interval of their median.
"""

import contextlib
import ctypes
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy

from albert_aie.artifact import pt_file
from albert_aie.base import machine, process
from albert_aie.base.errors import UserError
from albert_aie.cli import arguments, console, parsing
from albert_aie.corpus import ray_workers
from albert_aie.data import datasets
from benchmarks import cells, host, readings

SIZES = [1000, 10000, 100000, 1000000]
FILES = 8  # of a corpus
POLL = 0.1  # seconds between two looks at the parts that are done
HEADER = ("file", "rows", "workers", "rows/s", "run s", "start s", "all s", "peak MB")
TURNS = ("file", "run", "rows/s of a turn, median", "least", "most")


class Kind(NamedTuple):
    """How a corpus is run."""

    workers: int
    ray: bool

    def __str__(self):
        at_once = " at once" * (self.workers > 1)
        return f"{self.workers} on Ray" if self.ray else f"{self.workers}{at_once}, no Ray"


ALONE = Kind(1, False)


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument
    whole = {"type": parsing.at_least(1), "metavar": "N"}
    add("--aie_model_dir", nargs="+", required=True, metavar="FILE.pt", help="files to run")
    add("--data_dir", required=True, help="the task's folder")
    add("--corpus_rows", nargs="+", default=SIZES, help="(default: 1000 to 1000000)", **whole)
    add("--workers", nargs="+", default=[1, 2], help="on Ray (default: 1 2)", **whole)
    add("--threads", default=1, help="of each worker (default: 1)", **whole)
    add("--part_rows", help="rows of a part (default: 8192, with --rounds 500)", **whole)
    add("--rounds", help="take turns, so many of each; without it whole runs", **whole)
    add("--parts", default=2, help="that a worker runs in a turn (default: 2)", **whole)
    add("--output", metavar="FILE", help="write machine, versions and every run as JSON")
    add("--markdown", action="store_true", help="print the table as Markdown")
    args = parser.parse_args(argv)
    args.part_rows = args.part_rows or (500 if args.rounds else 8192)
    needed, cores = max(args.workers) * args.threads, ray_workers.cores()
    if args.rounds and needed > cores:  # they would wait for each other
        given = f"--workers {max(args.workers)}, --threads {args.threads}"
        raise UserError(f"{given}: take {needed} cores, and this process has {cores}; take fewer")
    return args


def run(args):
    arguments.check_outputs(args.output)
    task = pt_file.open_pt(args.aie_model_dir[0]).task
    sentences = datasets.read(args.data_dir, "train", task).sentences
    with tempfile.TemporaryDirectory() as folder:
        measure_all = take_turns if args.rounds else run_whole
        header, runs, table, lines = measure_all(args, Path(folder), sentences, task.text)
    if args.output:
        host.save(args.output, {"machine": host.machine(), "command": args.command, "runs": runs})
    print("\n".join([*(cells.markdown if args.markdown else cells.aligned)(header, table), *lines]))
    return 0


def run_whole(args, folder, sentences, columns):
    """(header, runs, rows of the table, no further lines) of every file, size and kind."""
    runs, kinds = [], [ALONE, *(Kind(n, True) for n in dict.fromkeys(args.workers))]
    for rows in args.corpus_rows:
        write_corpus(folder / str(rows), sentences, columns, rows)
    for file, rows, kind in itertools.product(args.aie_model_dir, args.corpus_rows, kinds):
        runs.append(measure(args, folder / str(rows), file, rows, kind))
        console.note(", ".join(map(str, line(runs[-1]))))
    return HEADER, runs, [line(each) for each in runs], []


def write_corpus(folder, sentences, columns, rows):
    """Parquet files of a key and the columns of a sentence."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir()
    count = min(FILES, rows)
    for number in range(count):
        keys = range(rows * number // count, rows * (number + 1) // count)
        chosen = [sentences[key % len(sentences)] for key in keys]
        texts = [chosen] if len(columns) == 1 else map(list, zip(*chosen))
        table = pyarrow.table({"key": keys, **dict(zip(columns, texts))})
        parquet.write_table(table, folder / f"{number}.parquet", row_group_size=1 << 16)


def command_line(args, file, corpus, output, kind):
    flags = [f"--aie_model_dir={file}", f"--input={corpus}", f"--output_dir={output}"]
    flags += [f"--part_rows={args.part_rows}", f"--threads={args.threads}"]
    flags += ["--ray=local", f"--workers={kind.workers}"] * kind.ray
    return [sys.executable, str(host.ROOT / "run_aie_corpus.py"), *flags]


def measure(args, corpus, file, rows, kind):
    """What a run of the script came to. Raises UserError unless each key is in its output once."""
    from pyarrow import parquet

    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with tempfile.TemporaryDirectory() as output:
        started = time.monotonic()
        with subprocess.Popen(command_line(args, file, corpus, output, kind), **pipes) as ran:
            with host.peak(ran.pid) as memory:
                said = ran.communicate()[1]
        seconds = time.monotonic() - started
        if ran.returncode:
            why = host.reason({"exit_code": ran.returncode, "stderr": said})
            raise UserError(f"{file}, {rows} rows: {why}; see the run's own message")
        seen = numpy.zeros(rows, numpy.int64)
        for path in Path(output).glob("*.parquet"):
            numpy.add.at(seen, parquet.read_table(path, columns=["key"]).column(0).to_numpy(), 1)
        if (seen != 1).any():
            key = int((seen != 1).argmax())
            raise UserError(f"{output}: key {key} is missing or there twice")
        summary = json.loads(Path(output, "_summary.json").read_text("utf-8"))
    run_of = {"file": str(file), "rows": rows, **kind._asdict(), "all_seconds": seconds}
    return {**run_of, "peak_bytes": max(memory, default=None), "summary": summary}


def line(ran):
    summary = ran["summary"]
    return (
        os.path.basename(ran["file"]),
        f"{ran['rows']:,}",
        str(Kind(ran["workers"], ran["ray"])),
        f"{summary['rows_per_second']:,.1f}",
        f"{summary['seconds']:.1f}",
        f"{summary['startup_seconds']:.1f}",
        f"{ran['all_seconds']:.1f}",
        f"{ran['peak_bytes'] / 1e6:,.0f}" if ran["peak_bytes"] else "-",
    )


def take_turns(args, folder, sentences, columns):
    """(header, runs, rows of the table, lines of ratios) of every file."""
    corpus, runs, table, lines = folder / "corpus", [], [], []
    write_many_parts(args, corpus, sentences, columns)
    for number, file in enumerate(args.aie_model_dir):
        rates = rates_of_turns(args, file, corpus, folder / f"file{number}")
        for kind, each in rates.items():
            runs.append({"file": str(file), **kind._asdict(), "rows_per_second": each})
            shown = (f"{of(each):,.1f}" for of in (statistics.median, min, max))
            table.append((os.path.basename(file), str(kind), *shown))
        lines += ratios(rates)
    return TURNS, runs, table, lines


def write_many_parts(args, folder, sentences, columns):
    """A corpus that no run comes to the end of: files of 8 parts each, under many names."""
    write_corpus(folder, sentences, columns, 8 * FILES * args.part_rows)
    parts = 16 * max(args.workers) * (args.parts + 3) * (args.rounds + 4)
    for path in list(folder.iterdir()):
        for number in range(parts // (8 * FILES)):
            os.link(path, folder / f"{path.stem}-{number}.parquet")


def rates_of_turns(args, file, corpus, folder):
    """{Kind: rows/s of each round}"""
    kinds = [Kind(n, ray) for n in dict.fromkeys((1, *args.workers)) for ray in (False, True)]
    rates, crews = {kind: [] for kind in kinds}, {}
    try:
        for kind in kinds:
            crews[kind] = Crew(args, kind, file, corpus, folder)
            crews[kind].ask(Member.is_ready)
            crews[kind].signal(signal.SIGSTOP)
        for _ in console.bar(range(args.rounds), desc="rounds", unit="round"):
            for kind in random.sample(kinds, len(kinds)):
                crews[kind].signal(signal.SIGCONT)
                rates[kind].append(sum(crews[kind].ask(Member.rate)))
                crews[kind].signal(signal.SIGSTOP)
    finally:
        for crew in crews.values():
            crew.close()
    return rates


def ratios(rates):
    """Lines, from {Kind: rows/s of each round}: one worker on Ray to none, more workers to one, and
    Ray to as many processes without it."""
    for kind, measured in rates.items():
        for base in dict.fromkeys((Kind(1, kind.ray), Kind(kind.workers, False))):
            if base != kind and base in rates:
                interval = readings.interval(readings.paired(rates[base], measured))
                middle, low, high = (f"{value:.3f}" for value in interval)
                yield f"{kind} / {base} = {middle} [{low}, {high}]"


class Crew:
    """The runs of a kind: one, which has its workers on Ray, or one a worker."""

    def __init__(self, args, kind, file, corpus, folder):
        self.kind, self.members = kind, []
        for number in range(1 if kind.ray else kind.workers):
            output = Path(f"{folder}-{kind.workers}{'ray' * kind.ray}{number}")
            command = command_line(args, file, corpus, output, kind)
            cores = number * args.threads, 0 if kind.ray else args.threads
            self.members.append(Member(command, output, args, kind, cores))

    def ask(self, question):
        """The answers of all members once each has one. Raises UserError where a run has ended."""
        for member in self.members:
            member.ended = []
        while not all(answers := [question(member) for member in self.members]):
            time.sleep(POLL)
            for member in self.members:
                if (code := member.ran.poll()) is not None:
                    done = {"exit_code": code, "stderr": member.log.read_text()}
                    raise UserError(f"{self.kind}: {host.reason(done)}")
        return answers

    def signal(self, sign):
        for pid in itertools.chain(*(host.family(member.ran.pid) for member in self.members)):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, sign)

    def close(self):
        self.signal(signal.SIGCONT)
        for member in self.members:
            member.ran.send_signal(signal.SIGINT)
            member.ran.wait()


class Member:
    """A run of the script, and when the parts of a turn ended."""

    def __init__(self, command, output, args, kind, cores):
        self.output, self.log, self.args = output, output.with_suffix(".log"), args
        self.workers, self.seen, self.ended = kind.workers if kind.ray else 1, set(), []
        given = {"stdout": subprocess.DEVNULL, "start_new_session": True}
        given["preexec_fn"] = partial(prepare, *cores)
        with open(self.log, "w") as log:
            self.ran = subprocess.Popen(command, stderr=log, **given)

    def note_ended(self):
        """Adds the times at which parts ended since the last look."""
        new = set(self.output.glob("part-*.parquet")) - self.seen
        self.ended += sorted(path.stat().st_mtime_ns / 1e9 for path in new)
        self.seen |= new

    def is_ready(self):
        """Whether each worker runs a part: Ray names a process after what it does."""
        self.note_ended()
        commands = [Path(f"/proc/{pid}/cmdline") for pid in host.family(self.ran.pid)]
        busy = sum(path.exists() and b"ray::Actor.run" in path.read_bytes() for path in commands)
        return bool(self.ended) and (self.workers == 1 or busy >= self.workers)

    def rate(self):
        """Rows/s from the moment when each worker had ended a part to when they had ended --parts
        more; None before that. Parts are all of --part_rows rows."""
        self.note_ended()
        counted, ended = self.workers * self.args.parts, self.ended[self.workers - 1 :]
        if len(ended) <= counted:
            return None
        return counted * self.args.part_rows / max(ended[counted] - ended[0], 1e-9)


def prepare(first, count):
    """In a member before it begins: it ends with this process, and keeps to its cores."""
    ctypes.CDLL(None).prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    machine.keep_to_cores(first, count)


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
