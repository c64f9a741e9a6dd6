#!/usr/bin/env python
"""albert_seq{S}_bs{B}.pt + a corpus -> the same rows with label and probability, each exactly once,
on this machine or on a Ray cluster.

python run_aie_corpus.py --aie_model_dir=X.pt --input 'corpus/*.parquet' --output_dir=labelled
python run_aie_corpus.py --aie_model_dir=X.pt --input corpus --output_dir=labelled --ray local
"""

import sys
import time
from collections import deque
from functools import partial

from albert_aie.artifact import pt_file
from albert_aie.backends import speed
from albert_aie.base import machine
from albert_aie.base.errors import UserError, need
from albert_aie.base.shapes import describe
from albert_aie.cli import arguments, console, parsing
from albert_aie.corpus import job, planning, ray_workers, reading, summaries, worker

INTERVAL = 60  # seconds between two lines of progress where stderr is no terminal


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument_group("file and data").add_argument
    add("--aie_model_dir", **arguments.FILES)
    text = "files, folders, patterns such as 'corpus/*.parquet', or URLs that pyarrow knows"
    add("--input", nargs="+", required=True, metavar="PATTERN", help=text)
    add("--input_format", choices=tuple(reading.FORMATS), help="default: by the suffix")
    add("--text_column", **arguments.TEXT_COLUMN)
    add("--label_column", metavar="NAME", help="column of the labels, for the accuracy")
    add("--output_dir", required=True, help="a Parquet file a part is written here")
    add("--label_map", **arguments.LABEL_MAP)
    add("--label_names", **arguments.LABEL_NAMES)
    whole = {"type": parsing.at_least(1), "metavar": "N"}
    text = (
        "most rows of a part, which bounds memory and what is run again after a kill (default: "
        "%(default)s)"
    )
    add("--part_rows", **whole, default=planning.PART_ROWS, help=text)
    text = (
        "a row without text, or that cannot be read: stop there, or list it in "
        f"{summaries.SKIPPED} (default: fail)"
    )
    add("--on_bad_row", choices=("fail", "skip"), default="fail", help=text)
    add("--dry_run", **arguments.ON, help="print the parts; nothing is run or written")
    add = parser.add_argument_group("workers").add_argument
    text = "run the parts on Ray: started here, or a cluster (default: in this process)"
    add("--ray", metavar="local|auto|HOST:PORT", help=text)
    add("--workers", **whole, help="with --ray (default: one a card, else one a node)")
    arguments.add_options(parser, "evaluate")
    return parser.parse_args(argv)


def run(args):
    need("run_aie_corpus.py", "pyarrow")
    check(args)
    saved = pt_file.open_all(args.aie_model_dir)
    target = arguments.target(args, saved)
    console.note(speed.note_speed(saved, timed=False))
    for shape in saved.shapes:
        machine.check_memory(shape, target.device, saved.manifest["config"]["intermediate_size"])
    planning.check_not_read(args.output_dir, args.input)
    inputs, form = reading.find(args.input, args.input_format, console.note)
    planning.check_outside(inputs, args.output_dir)
    plain = ("label_map", "part_rows", "text_column", "label_column", "label_names")
    given = {name: getattr(args, name) for name in plain}
    given.update(options=target.options, skip_bad_rows=args.on_bad_row == "skip")
    work = worker.Job(args.output_dir, "", args.aie_model_dir, **given)
    if args.dry_run:
        plan = job.make_plan(work, saved, inputs, form, console.note)
        for part in plan.parts:
            console.say(f"part {part.number}", plan.describe(part))
        console.say("corpus", f"{count_files(plan)}, {plan.rows:,} rows; nothing was written")
        return 0

    with worker.locked(work.folder) as token:
        work = work._replace(token=token)
        plan = job.make_plan(work, saved, inputs, form, console.note)
        done = job.read_done(work, plan, console.note)
        say_plan(plan, saved)
        waiting = deque(part for part in plan.parts if part not in done)
        results = job.run_parts(work, waiting, target.device, args.ray, args.workers, console.note)
        progress = Progress(plan.rows, sum(state.rows for state in done.values()))
        with progress.bar:
            outcome = job.collect(results, waiting, done, progress.add, console.note)
        summary = job.conclude(work, saved, plan, outcome, console.note)
    for name, line in summaries.lines(summary):
        console.say(name, line)
    console.say("wrote", args.output_dir)
    return 1 if summary["failed"] or summary["not_scored"] else 0


def check(args):
    """Raises UserError for flags that contradict each other or a package that is missing."""
    if args.ray:
        ray_workers.check(args.ray)
    elif args.workers:
        raise UserError("--workers: means something with --ray only; add --ray local")
    if args.label_names and not args.label_column:
        raise UserError("--label_names: means something with --label_column only; add it")
    if "://" in args.output_dir:
        raise UserError(
            f"--output_dir {args.output_dir}: must be a folder, for parts are renamed there; copy "
            "it to the URL afterwards"
        )
    if args.ray and getattr(args, "device_id", None) is not None:
        raise UserError("--device_id: Ray gives each worker its card; leave it out")


def say_plan(plan, saved):
    parts = len(plan.parts)
    console.say(
        "corpus",
        f"{count_files(plan)}, {plan.bytes / 1e6:,.1f} MB, {plan.rows:,} rows in "
        f"{parts:,} part{'s'[: parts != 1]} of at most {plan.settings['part_rows']:,}",
    )
    target = saved.target
    where = f"{target.backend} on {target.device}, {target.precision}"
    console.say("model", f"{saved.path}, {where}, {describe(saved.shapes)}")


def count_files(plan):
    files = len(plan.inputs)
    return f"{files:,} file{'s'[: files != 1]}"


class Progress:
    """A bar on a terminal, else a line now and then: rows, rows/s, time left."""

    def __init__(self, rows, before):
        self.rows, self.before, self.now = rows, before, before
        self.started = self.printed = time.monotonic()
        self.bar = console.bar(total=rows, initial=before, desc="rows", unit="row")

    def add(self, rows):
        self.now += rows
        self.bar.update(rows)
        clock = time.monotonic()
        if self.bar.disable and clock - self.printed >= INTERVAL:
            rate = (self.now - self.before) / (clock - self.started)
            left = (self.rows - self.now) / rate / 60
            console.note(
                f"{self.now:,} of {self.rows:,} rows, {rate:,.0f} rows/s, {left:,.0f} min left"
            )
            self.printed = clock


main = partial(console.main, parse_args, run)  # gives the exit code


if __name__ == "__main__":
    sys.exit(main())
