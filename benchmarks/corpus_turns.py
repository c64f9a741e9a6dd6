#!/usr/bin/env python
"""What a further worker of run_aie_corpus.py brings, and what Ray costs, start-up excluded.

    python benchmarks/corpus_turns.py --aie_model_dir packed.pt --data_dir SST-2

Four runs stay loaded: one process, one worker on Ray, --workers on Ray, and as many processes
without Ray, which know nothing of each other: what those reach together is what the machine gives
to so many, and what Ray can be held to. A process without Ray keeps to --threads cores of its own,
as a worker on Ray does. They take turns of a few seconds, in random order, and
whoever has no turn is stopped (SIGSTOP), so that what the machine does meanwhile meets all of them.
In a turn each worker runs a part before the clock starts and one after it ends: none is idle while
rows are counted. Ratios are paired within a round, with the 95 % bootstrap interval of their
median.
"""

import contextlib
import itertools
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import deque
from multiprocessing import get_context
from pathlib import Path

import run_aie_corpus
from albert_aie.artifact import pt_file
from albert_aie.base import files, process
from albert_aie.base.errors import UserError
from albert_aie.base.files import json_text
from albert_aie.cli import arguments, console, parsing
from albert_aie.corpus import job, ray_workers, reading, worker
from albert_aie.data import datasets
from benchmarks import cells, host, readings, scaling

PARTS = 64  # of the corpus; they are run again and again
HEADER = ("run", "rows/s of a turn, median", "least", "most")


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument
    whole = {"type": parsing.at_least(1), "metavar": "N"}
    add("--aie_model_dir", required=True, metavar="FILE.pt", help="file to run")
    add("--data_dir", required=True, help="the task's folder; rows are of its train file")
    add("--workers", default=2, help="the more (default: 2)", **whole)
    add("--threads", default=1, help="of each worker (default: 1)", **whole)
    add("--part_rows", default=500, help="rows of a part (default: 500)", **whole)
    add("--parts", default=2, help="that a worker runs in a turn (default: 2)", **whole)
    add("--rounds", default=24, help="(default: 24)", **whole)
    add("--output", metavar="FILE", help="write machine, versions and every turn as JSON")
    add("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(argv)


def run(args):
    arguments.check_outputs(args.output)
    needed, here = args.workers * args.threads, ray_workers.cores()
    if needed > here:  # they would wait for each other and never all be ready
        raise UserError(
            f"--workers {args.workers}, --threads {args.threads}: take {needed} cores, and this "
            f"process has {here}; take fewer"
        )
    task = pt_file.open_pt(args.aie_model_dir).task
    sentences = datasets.read(args.data_dir, "train", task).sentences
    kinds = [
        scaling.Kind(n, ray) for n in dict.fromkeys((1, args.workers)) for ray in (False, True)
    ]
    rates = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        corpus_folder = Path(folder, "corpus")
        scaling.write_corpus(corpus_folder, sentences, task.text, PARTS * args.part_rows)
        crews = {}
        try:
            for kind in kinds:
                crews[kind] = Crew(args, kind, corpus_folder, Path(folder))
                crews[kind].turn()
                crews[kind].stop()
            for _ in console.bar(range(args.rounds), desc="rounds", unit="round"):
                for kind in random.sample(kinds, len(kinds)):
                    crews[kind].go_on()
                    rates[kind].append(crews[kind].turn())
                    crews[kind].stop()
        finally:
            for crew in crews.values():
                crew.close()
    if args.output:
        turns = [{**kind._asdict(), "rows_per_second": rates[kind]} for kind in kinds]
        told = {"machine": host.machine(), "command": args.command, "runs": turns}
        with files.replacing(args.output) as temporary:
            temporary.write_text(json_text(told), encoding="utf-8")
    table = [
        (str(kind), *(f"{of(rates[kind]):,.1f}" for of in (statistics.median, min, max)))
        for kind in kinds
    ]
    print("\n".join((cells.markdown if args.markdown else cells.aligned)(HEADER, table)))
    print("\n".join(ratios(rates)))
    return 0


def ratios(rates):
    """Lines, from {Kind: rows/s of each round}: one worker on Ray to none, more workers to one, and
    Ray to as many processes without it."""
    for kind, measured in rates.items():
        for base in dict.fromkeys((scaling.Kind(1, kind.ray), scaling.Kind(kind.workers, False))):
            if base != kind and base in rates:
                paired = [one / other for one, other in zip(measured, rates[base])]
                middle, low, high = (f"{value:.3f}" for value in readings.interval(paired))
                yield f"{kind} / {base} = {middle} [{low}, {high}]"


class Crew:
    """The processes of a kind: one, which has its workers on Ray, or one a worker."""

    def __init__(self, args, kind, corpus_folder, folder):
        self.kind, self.members = kind, []
        context = get_context("spawn")
        for number in range(1 if kind.ray else kind.workers):
            output = folder / f"{kind.workers}{'ray' * kind.ray}{number}"
            flags = scaling.flags(args, args.aie_model_dir, corpus_folder, output, kind)
            mine, theirs = context.Pipe()
            workers = kind.workers if kind.ray else 1
            given = theirs, flags, workers, args.parts, None if kind.ray else number
            member = context.Process(target=serve, args=given)
            member.start()
            theirs.close()
            self.members.append((member, mine))

    def turn(self):
        """Rows/s of all workers together."""
        for _, pipe in self.members:
            pipe.send("turn")
        try:
            told = [pipe.recv() for _, pipe in self.members]
        except EOFError:
            raise UserError(f"{self.kind}: its process ended; see its message") from None
        for why in told:
            if isinstance(why, str):
                raise UserError(f"{self.kind}: {why}")
        return sum(told)

    def signal(self, sign):
        for member, _ in self.members:
            for pid in scaling.family(member.pid):
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(pid, sign)

    def stop(self):
        self.signal(signal.SIGSTOP)

    def go_on(self):
        self.signal(signal.SIGCONT)

    def close(self):
        self.go_on()
        for _, pipe in self.members:
            pipe.close()
        for member, _ in self.members:
            member.join()


def serve(pipe, flags, workers, parts, number):
    """A process of a Crew: answers each message with the rows/s of a turn, or says why not, until
    the pipe is closed. `number` is its number among processes at once."""
    process.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    args = run_aie_corpus.parse_args(flags)
    if number is not None:
        keep_to(number, args.threads)
    with contextlib.suppress(EOFError):
        try:
            _serve(pipe, args, workers, parts)
        except UserError as error:
            pipe.send(str(error))


def _serve(pipe, args, workers, parts):
    run_aie_corpus.check(args)
    saved = pt_file.open_all(args.aie_model_dir)
    target = arguments.target(args, saved)
    with worker.locked(args.output_dir) as token:
        work = run_aie_corpus.job_of(args, target)._replace(token=token)
        plan = job.make_plan(work, saved, *reading.find(args.input, None), console.note)
        waiting, again = deque(), itertools.cycle(plan.parts)
        results = job.run_parts(work, waiting, target.device, args.ray, args.workers, console.note)
        with contextlib.closing(results):
            begin(results, waiting, again, workers)
            while pipe.recv():
                waiting.extend(itertools.islice(again, workers * (parts + 2)))
                pipe.send(rate(results, workers, parts))


def begin(results, waiting, parts, workers):
    """Run some of the endless `parts` until each worker is ready, and none of them is left."""
    ready, left = 0, workers
    waiting.extend(itertools.islice(parts, workers))
    while ready < workers or left:
        if not left:  # results would end
            waiting.append(next(parts))
            left += 1
        outcome, _ = told(results)
        ready += outcome == "ready"
        left -= outcome == "done"


def rate(results, workers, parts, clock=time.monotonic):
    """Rows/s from the moment when each worker had ended a part to when they had ended `parts` more,
    of workers * (parts + 2) that are run."""
    ended = []
    while len(ended) < workers * (parts + 2):
        outcome, value = told(results)
        if outcome == "done":
            ended.append((clock(), value.rows))
    (start, _), *counted = ended[workers - 1 : workers * (parts + 1)]
    return sum(rows for _, rows in counted) / (counted[-1][0] - start)


def told(results):
    """("ready", how many workers) or ("done", corpus.Done). Raises UserError for a part that
    failed."""
    part, outcome, value = next(results)
    if outcome in ("failed", "refused"):
        raise UserError(f"part {part.number}: {value}")
    return outcome, value


def keep_to(number, threads):
    """Gives this process cores that no other of its number has, as workers on Ray get them: engines
    pin their threads, and would pin those of all processes to the same cores."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number * threads :][:threads] or cores)


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
