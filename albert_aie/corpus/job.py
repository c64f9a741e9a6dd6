"""A run over a corpus: its plan, the parts that are left to do, its summary."""

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..base.errors import UserError
from ..base.files import json_text, write_text
from ..data import datasets, metrics, records
from . import planning, ray_workers, reading, summaries, worker


class Outcome(NamedTuple):
    """`done` is {Part: Done}, of earlier runs too; `failed` has (Part, why); `times` are {} where
    nothing was left to do."""

    done: dict
    failed: list
    times: dict


def make_plan(job, saved, inputs, form, note):
    """The Plan in the folder of a Job, if there is one of these Inputs and settings, else a new
    one, which is written where the Job holds the folder. `saved` is the Artifact."""
    task, names = saved.task, saved.classes(job.label_map)
    plan = earlier = planning.load(job.folder)
    if earlier:
        planning.check_inputs(earlier, inputs)
    else:
        layout = datasets.layout(task, *job.text_column or (), job.label_column)
        cut = reading.Cut(job.part_rows, layout, job.skip_bad_rows)
        plan = planning.make(inputs, form, cut)
    if not plan.schema.names:
        raise UserError(
            f"{inputs[0].path}: no row can be read; leave --on_bad_row skip out to see why"
        )
    table = records.Table(inputs[0].path, plan.schema.names, (), "")
    text = datasets.columns(table, task, job.text_column)
    label = job.label_column and records.column(table, [job.label_column], "--label_column")
    planning.check_text(plan, text)
    own, label_note = datasets.labelled(task.of(names), table, label, job.label_names)
    if label:
        metrics.check(task)
        datasets.Examples(own, inputs[0].path, [], [], [], own.classes).for_model(names)
        note(label_note)
    answers = ["score", "model"] if task.regression else ["label", "probability", "model"]
    settings = {
        "format": form,
        "part_rows": job.part_rows,
        "text_column": text,
        "label_column": label,
        "labels": list(own.labels),
        "model": saved.digest,
        "classes": list(names),
        "answer_columns": records.names_beside(plan.schema.names, answers),
    }
    if earlier:
        planning.check_settings(earlier, settings)
    plan = earlier or replace(plan, settings=settings)
    worker.check_no_others(job.folder, plan)
    if job.token and not earlier:
        planning.save(plan, job.folder)
    return plan


def read_done(job, plan, note):
    """{Part: Done} of what an earlier run has written."""
    done = {}
    with ThreadPoolExecutor() as pool:  # for the sha256 of each
        states = list(pool.map(partial(worker.read_done, job.folder, plan), plan.parts))
    for part, state in zip(plan.parts, states):
        path = worker.path_of(job.folder, plan, part)
        if state is None and path.exists():
            note(f"{path}: not as it was written; its part is run again")
        elif state and state.bad and not job.skip_bad_rows:
            raise UserError(
                f"{path}: rows were skipped in an earlier run; take --on_bad_row skip again, or "
                "another --output_dir"
            )
        elif state:
            done[part] = state
    if done:
        rows = sum(state.rows for state in done.values())
        note(f"{len(done)} of {len(plan.parts)} parts are there ({rows:,} rows)")
    return done


def run_parts(job, waiting, device, ray=None, workers=None, note=lambda text: None):
    """Run the Parts of the deque `waiting`, and what is added to it meanwhile, in this process, or
    by so many `workers` on Ray: yields as worker.run_in_process does."""
    files = [os.path.abspath(path) for path in job.files]
    job = job._replace(folder=os.path.abspath(job.folder), files=files)
    if ray:
        return ray_workers.on_ray(job, waiting, ray, device, workers, note)
    return worker.run_in_process(job, waiting)


def collect(results, waiting, done, progress, note):
    """Outcome of the Parts of the deque `waiting`, whose `results` come from run_parts, beside
    those that are `done`; `progress` is given the rows of each. A part that fails waits again, up
    to worker.ATTEMPTS times. Raises UserError for what stops the run."""
    done, tries, failed = dict(done), {}, []
    rows = workers = 0
    started, first = time.monotonic(), None
    if not waiting:
        return Outcome(done, failed, {})
    with contextlib.closing(results):
        for part, outcome, value in results:
            if outcome == "ready":
                first = first or time.monotonic()
                workers = max(workers, value)
                continue
            last = time.monotonic()  # not after the loop: Ray takes a second to end
            if outcome == "refused":
                raise UserError(value)
            if outcome == "done":
                done[part] = value
                rows += value.rows
                progress(value.rows)
                continue
            note(f"part {part.number} failed: {value}")
            tries[part] = tries.get(part, 0) + 1
            if tries[part] < worker.ATTEMPTS:
                waiting.append(part)
            else:
                failed.append((part, value))
    seconds = last - first
    rate = rows / seconds if seconds else None
    times = workers, first - started, seconds, rate
    return Outcome(done, failed, dict(zip(summaries.TIMES, times)))


def conclude(job, saved, plan, outcome, note):
    """The summary of a run, written to the folder beside the rows that were skipped."""
    ordered = [(part, outcome.done[part]) for part in plan.parts if part in outcome.done]
    summary = {
        "plan": plan.digest,
        **{key: plan.settings[key] for key in ("model", "text_column", "label_column")},
        "files": len(plan.inputs),
        "parts": len(plan.parts),
        "rows_planned": plan.rows,
        **summaries.counts([done for _, done in ordered]),
        **(outcome.times or summaries.last_times(job.folder, plan)),
        "failed": [
            {"part": part.number, "what": plan.describe(part), "why": why}
            for part, why in outcome.failed
        ],
    }
    if plan.settings["label_column"] and not outcome.failed:
        if saved.manifest["random_weights"]:
            note("random weights: no accuracy")
        else:
            task = saved.task.of(saved.classes(job.label_map))
            task = task._replace(labels=tuple(plan.settings["labels"]))
            summary.update(summaries.measure(job.folder, plan, task))
    summaries.write_skipped(job.folder, plan, ordered)
    write_text(Path(job.folder) / summaries.SUMMARY, json_text(summary))
    return summary
