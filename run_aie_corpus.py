#!/usr/bin/env python
"""albert_seq{S}_bs{B}.pt + a corpus -> the same rows with label and probability, each exactly once,
on this machine or on a Ray cluster.

python run_aie_corpus.py --aie_model_dir=X.pt --input 'corpus/*.parquet' --output_dir=labelled
python run_aie_corpus.py --aie_model_dir=X.pt --input corpus --output_dir=labelled --ray local
"""

import contextlib
import os
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from albert_aie.artifact import pt_file
from albert_aie.backends import speed
from albert_aie.base import machine
from albert_aie.base.errors import UserError, need
from albert_aie.base.shapes import describe
from albert_aie.cli import arguments, console, parsing
from albert_aie.corpus import planning, ray_workers, reading, summaries, worker
from albert_aie.data import datasets, metrics, records

TOLD = 60  # seconds between two lines of progress where stderr is no terminal


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument_group("file and data").add_argument
    arguments.add_files(add)
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="PATTERN",
        help="files, folders, patterns such as 'corpus/*.parquet', or URLs that pyarrow knows",
    )
    add(
        "--input_format",
        choices=tuple(reading.FORMATS),
        help="default: by the suffix",
    )
    arguments.add_text_column(add)
    add("--label_column", metavar="NAME", help="column of the labels, for the accuracy")
    add("--output_dir", required=True, help="a Parquet file a part is written here")
    arguments.add_label_map(add)
    arguments.add_label_names(add)
    add(
        "--part_rows",
        type=parsing.at_least(1),
        default=planning.PART_ROWS,
        metavar="N",
        help="most rows of a part, which bounds memory and what is run again after a kill "
        "(default: %(default)s)",
    )
    add(
        "--on_bad_row",
        choices=("fail", "skip"),
        default="fail",
        help="a row without text, or that cannot be read: stop there, or list it in "
        f"{summaries.SKIPPED} (default: fail)",
    )
    add("--dry_run", action="store_true", help="print the parts; nothing is run or written")
    add = parser.add_argument_group("workers").add_argument
    add(
        "--ray",
        metavar="local|auto|HOST:PORT",
        help="run the parts on Ray: started here, or a cluster (default: in this process)",
    )
    add(
        "--workers",
        type=parsing.at_least(1),
        metavar="N",
        help="with --ray (default: one a card, else one a node)",
    )
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
    inputs, form = reading.find(args.input, args.input_format, console.note)
    planning.check_outside(inputs, args.output_dir)
    if args.dry_run:
        show(planned(args, saved, inputs, form), args.output_dir)
        return 0

    with worker.locked(args.output_dir) as token:
        plan = planned(args, saved, inputs, form)
        found = look(args, plan)
        job = job_of(args, token, target)
        tell_plan(plan, saved)
        done, tally, clock = work(args, job, plan, target.device, found)
        summary = conclude(args, saved, plan, done, tally, clock)
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


def planned(args, saved, inputs, form):
    """The Plan in the output folder, if there is one of this input and these settings, else a new
    one."""
    task = saved.task
    plan = planning.load(args.output_dir)
    if plan:
        planning.check_inputs(plan, inputs)
        made = plan
    else:
        layout = records.Layout(task.columns, args.text_column or task.text)
        cut = reading.Cut(args.part_rows, layout, args.on_bad_row == "skip")
        made = planning.make(inputs, form, cut)
    names = saved.classes(args.label_map)
    table = records.Table(inputs[0].path, made.schema.names, (), "")
    text = datasets.columns(table, task, args.text_column)
    label = args.label_column and records.column(table, [args.label_column], "--label_column")
    planning.check_text(made, text)
    own, note = datasets.labelled(task.of(names), table, label, args.label_names)
    if label:
        metrics.check(task)
        datasets.Examples(own, inputs[0].path, [], [], [], own.classes).for_model(names)
        console.note(note)
    settings = {
        "format": form,
        "part_rows": args.part_rows,
        "text_column": text,
        "label_column": label,
        "labels": list(own.labels),
        "model": saved.digest,
        "classes": list(names),
        "answer_columns": worker.answer_columns(made.schema, task),
    }
    if plan:
        planning.check_settings(plan, settings)
        return plan
    made = made._replace(settings=settings)
    if not args.dry_run:
        planning.save(made, args.output_dir)
    return made


def job_of(args, token, target):
    """The corpus.Job of a run that holds the output folder with `token`."""
    return worker.Job(
        os.path.abspath(args.output_dir),
        token,
        [os.path.abspath(path) for path in args.aie_model_dir],
        args.label_map,
        target.options,
        args.on_bad_row == "skip",
    )


def look(args, plan):
    """{Part: Done} of what an earlier run has written."""
    found = {}
    with ThreadPoolExecutor() as pool:  # for the sha256 of each
        states = list(pool.map(partial(worker.look, args.output_dir, plan), plan.parts))
    for part, done in zip(plan.parts, states):
        path = worker.path_of(args.output_dir, plan, part)
        if done is None and path.exists():
            console.note(f"{path}: not as it was written; its part is run again")
        elif done and done.bad and args.on_bad_row == "fail":
            raise UserError(
                f"{path}: rows were skipped in an earlier run; take --on_bad_row skip again, or "
                "another --output_dir"
            )
        elif done:
            found[part] = done
    if found:
        rows = sum(done.rows for done in found.values())
        console.note(f"{len(found)} of {len(plan.parts)} parts are there ({rows:,} rows)")
    return found


def tell_plan(plan, saved):
    parts, files = len(plan.parts), len(plan.inputs)
    console.say(
        "corpus",
        f"{files:,} file{'s'[: files != 1]}, {plan.bytes / 1e6:,.1f} MB, {plan.rows:,} rows in "
        f"{parts:,} part{'s'[: parts != 1]} of at most {plan.settings['part_rows']:,}",
    )
    target = saved.target
    where = f"{target.backend} on {target.device}, {target.precision}"
    console.say("model", f"{saved.path}, {where}, {describe(saved.shapes)}")


def show(plan, folder):
    for part in plan.parts:
        console.say(f"part {part.number}", plan.told(part))
    files = len(plan.inputs)
    text = f"{files:,} file{'s'[: files != 1]}, {plan.rows:,} rows; nothing was written"
    console.say("corpus", text)


def work(args, job, plan, device, found):
    """Run what is not `found`: ({Part: Done} of all, the Tally, times)."""
    waiting = deque(part for part in plan.parts if part not in found)
    done, tally = dict(found), worker.Tally(len(waiting))
    clock = {"started": time.monotonic(), "first": None, "rows": 0, "workers": 0}
    if not waiting:
        return done, tally, clock
    results = answers(args, job, waiting, device)
    left = sum(part.span.rows for part in waiting)
    progress = Progress(plan.rows, plan.rows - left)
    with contextlib.closing(results), progress.bar:
        for part, outcome, value in results:
            if outcome == "ready":
                clock["first"] = clock["first"] or time.monotonic()
                clock["workers"] = max(clock["workers"], value)
                continue
            clock["last"] = time.monotonic()  # here: Ray takes a second to end
            tally.add(part, outcome, value, waiting)
            if outcome == "done":
                done[part] = value
                clock["rows"] += value.rows
                progress.add(value.rows)
            else:
                console.note(f"part {part.number} failed: {value}")
    return done, tally, clock


def answers(args, job, waiting, device):
    """Run the Parts of the deque `waiting`, and what is added to it meanwhile, here or on Ray:
    yields as corpus.here does."""
    if args.ray:
        return ray_workers.on_ray(job, waiting, args.ray, device, args.workers, console.note)
    return worker.here(job, waiting)


class Progress:
    """A bar on a terminal, else a line now and then: rows, rows/s, time left."""

    def __init__(self, rows, before):
        self.rows, self.before, self.now = rows, before, before
        self.started = self.told = time.monotonic()
        self.bar = console.bar(total=rows, initial=before, desc="rows", unit="row")

    def add(self, rows):
        self.now += rows
        self.bar.update(rows)
        here = time.monotonic()
        if self.bar.disable and here - self.told >= TOLD:
            rate = (self.now - self.before) / (here - self.started)
            left = (self.rows - self.now) / rate / 60
            console.note(
                f"{self.now:,} of {self.rows:,} rows, {rate:,.0f} rows/s, {left:,.0f} min left"
            )
            self.told = here


def times(clock):
    """Of a run; {} of one that had nothing to do."""
    if not clock["first"]:
        return {}
    seconds = clock["last"] - clock["first"]
    return {
        "workers": clock["workers"],
        "startup_seconds": clock["first"] - clock["started"],
        "seconds": seconds,
        "rows_per_second": clock["rows"] / seconds if seconds else None,
    }


def conclude(args, saved, plan, done, tally, clock):
    """What the run came to, written to the output folder."""
    ordered = [(part, done[part]) for part in plan.parts if part in done]
    summary = {
        "plan": plan.digest,
        **{key: plan.settings[key] for key in ("model", "text_column", "label_column")},
        "files": len(plan.inputs),
        "parts": len(plan.parts),
        "rows_planned": plan.rows,
        **summaries.counts([one for _, one in ordered]),
        **(times(clock) or summaries.last_times(args.output_dir, plan)),
        "failed": [
            {"part": part.number, "what": plan.told(part), "why": why} for part, why in tally.failed
        ],
    }
    if plan.settings["label_column"] and not tally.failed:
        if saved.manifest["random_weights"]:
            console.note("random weights: no accuracy")
        else:
            task = saved.task.of(saved.classes(args.label_map))
            task = task._replace(labels=tuple(plan.settings["labels"]))
            summary.update(summaries.measured(args.output_dir, plan, task))
    summaries.write_skipped(args.output_dir, plan, ordered)
    summaries.write_summary(args.output_dir, summary)
    return summary


def main(argv=None):
    """Exit code; command.main says what each means."""
    return console.main(parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
