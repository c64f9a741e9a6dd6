"""What stands in the output of a run over a corpus: counts, accuracy, and the rows that were
skipped. All of it is read from the files of the parts."""

import contextlib
import json
from collections import Counter
from pathlib import Path

import numpy

from ..base.files import replacing
from ..data import datasets, metrics
from . import worker

SUMMARY, SKIPPED = "_summary.json", "_skipped.tsv"
TIMES = ("workers", "startup_seconds", "seconds", "rows_per_second")


def counts(done):
    """Sums over a list of corpus.Done."""
    return {
        "rows": sum(one.rows for one in done),
        "rows_written": sum(one.written for one in done),
        "skipped": sum(len(one.bad) for one in done),
        "truncated": sum(one.cut for one in done),
        "not_scored": sum(one.unanswered for one in done),
    }


def write_skipped(folder, plan, pairs):
    """Path of _skipped.tsv, a line for each bad row of (Part, Done) pairs; None where none is."""
    path = Path(folder) / SKIPPED
    if not any(done.bad for _, done in pairs):
        return None
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(b"file\trow\twhy\n")
        for part, done in pairs:
            for number, why in done.bad:
                cells = (plan.path_of(part), str(number), why)
                line = "\t".join(" ".join(cell.split("\t")) for cell in cells)
                line = line.replace("\r", " ").replace("\n", " ") + "\n"
                file.write(line.encode(errors="backslashreplace"))
    return path


def last_times(folder, plan):
    """{name of TIMES: what the last run of a Plan has in its summary, else None}."""
    summary = {}
    with contextlib.suppress(OSError, ValueError):
        summary = json.loads((Path(folder) / SUMMARY).read_text(encoding="utf-8"))
    own = isinstance(summary, dict) and summary.get("plan") == plan.digest
    return {name: summary.get(name) if own else None for name in TIMES}


def measure(folder, plan, task):
    """{"accuracy", "metrics", "unlabelled"} of all rows of the output, as run_aie_eval.py has them
    of one file; {} where no row has a label.

    Labels and answers are read from the parts, in their order. Classes are counted, so that their
    memory does not grow with the corpus; a metric other than accuracy holds 16 bytes a row."""
    if task.regression:
        columns = numpy.concatenate([*map(_scores, _columns(folder, plan))])
        if set(columns[:, 1]) == {float(datasets.NO_LABEL)}:
            return {}
        return {"metrics": _metrics(task.metrics, columns[:, 1], columns[:, 0])}
    counted, unlabelled = Counter(), 0
    for (answer, label), count in _counted(folder, plan).items():
        number = datasets.number(label, task)
        if number is None:  # -1: the rows of a test file have none
            unlabelled += count
            continue
        predicted = None if answer is None else task.number(answer)
        counted[number, metrics.NONE if predicted is None else predicted] += count
    if not counted:
        return {}
    correct = sum(count for (label, answer), count in counted.items() if label == answer)
    names = [name for name in task.metrics if name != "accuracy"]
    values = {}
    if names:
        repeats = list(counted.values())
        labels, answers = (numpy.repeat(side, repeats) for side in zip(*counted))
        values = _metrics(names, labels, answers)
    accuracy = metrics.accuracy(correct, sum(counted.values()))
    return {"accuracy": accuracy, "metrics": values, "unlabelled": unlabelled}


def _metrics(names, labels, answers):
    return {name: metrics.METRICS[name].of(labels, answers) for name in names}


def _columns(folder, plan):
    """Of each part a pyarrow Table of its `answer` and its `label`, whatever they are called."""
    from pyarrow import parquet

    names = [plan.settings["answer_columns"][0], plan.settings["label_column"]]
    for part in plan.parts:
        path = worker.path_of(folder, plan, part)
        with open(path, "rb") as file:
            table = parquet.ParquetFile(file, page_checksum_verification=True).read(names)
        yield table.select(names).rename_columns(["answer", "label"])


def _counted(folder, plan):
    """{(answer, label): rows}"""
    counted = Counter()
    for table in _columns(folder, plan):
        for row in table.group_by(["answer", "label"]).aggregate([([], "count_all")]).to_pylist():
            counted[row["answer"], row["label"]] += row["count_all"]
    return counted


def _scores(table):
    """float64 [rows, 2] of a Table's answers and labels, without rows that have no answer."""
    pairs = zip(*(column.to_pylist() for column in table.columns))
    answered = [(answer, float(label)) for answer, label in pairs if answer is not None]
    return numpy.array(answered).reshape(-1, 2)


def lines(summary):
    """(name, text) of each line to print."""
    text = f"{summary['rows_written']:,} of {summary['rows_planned']:,} written"
    for key, what in (
        ("skipped", "skipped"),
        ("truncated", "cut to the file's length"),
        ("not_scored", "without an answer, for their logits are not finite"),
    ):
        text += f"; {summary[key]:,} {what}" * bool(summary[key])
    yield "rows", text
    if summary["rows_per_second"]:
        workers = f"{summary['workers']} worker{'s'[: summary['workers'] != 1]}"
        yield (
            "rate",
            f"{summary['rows_per_second']:,.1f} rows/s over {summary['seconds']:,.1f} s by "
            f"{workers} (start-up of {summary['startup_seconds']:.1f} s apart)",
        )
    accuracy = summary.get("accuracy") or {}
    if accuracy.get("total"):
        unlabelled = f"; {summary['unlabelled']:,} rows without a label"
        text = metrics.accuracy_line(accuracy)
        yield "accuracy", text + unlabelled * bool(summary["unlabelled"])
    if values := metrics.line(summary.get("metrics") or {}):
        yield "metrics", values
    for failed in summary["failed"]:
        yield "failed", f"part {failed['part']}: {failed['what']}: {failed['why']}"
