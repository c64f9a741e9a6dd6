"""Figures of how good predictions are and what they took."""

import statistics

import numpy

from ..albert.flops import flops_per_row
from ..data import metrics
from ..run.evaluate import WARMUP, is_correct
from .schema import (
    BOOLEAN,
    NUMBER,
    NUMBER_OR_NULL,
    POSITIVE,
    Figure,
    array,
    described,
    record,
    whole,
)


def _accuracy(s):
    """k/n over all sentences: what was not scored is wrong, and so is a class that the data does
    not have."""
    random_weights = {"random_weights": s.saved.manifest["random_weights"]}
    if not s.measured or s.examples.task.regression:
        return random_weights
    logits, labels, task = s.evaluation.logits, s.examples.labels, s.examples.task
    k, n = int(is_correct(logits, labels).sum()), len(labels)
    other = [i for i, name in enumerate(s.examples.classes) if name not in task.classes]
    others = int((s.finite & numpy.isin(logits.argmax(1), other)).sum())
    return {**random_weights, "accuracy": {**metrics.accuracy(k, n), "other_classes": others}}


def _accuracy_line(r):
    if r["random_weights"]:
        return "none: the file holds random weights, for speed only"
    if "accuracy" not in r:
        return "" if r["metrics"] else "none: the split has no labels"
    line, others = metrics.accuracy_line(r["accuracy"]), r["accuracy"]["other_classes"]
    return f"{line}\n{others} predicted as a class that the data does not have" if others else line


def _metrics(s):
    """The task's metrics; null where one has no value."""
    names, logits = s.examples.task.metrics if s.measured else (), s.evaluation.logits
    return {"metrics": {name: metrics.measure(name, s.examples, logits) for name in names}}


def _throughput(s):
    """Of sentences that were sent singly a rate of its own: never beside figures of batches."""
    e = s.evaluation
    if e.single:
        return {"sentences_per_second": len(e.single) / e.end_to_end}
    scored = int(s.finite.sum())
    return {"samples_per_second": {"forward": scored / e.busy, "end_to_end": scored / e.end_to_end}}


def _of_batches(key, text):
    """A line of `text`, filled from the object at `key`; none of sentences that were sent singly,
    whose figures stand in a line of their own."""
    return lambda r: "" if "sentences_per_second" in r else text.format(**r[key])


def percentiles(values, *percents):
    """Nearest-rank percentiles, {"p50": ...}: the smallest value that at least so many % of all do
    not exceed."""
    ordered = numpy.percentile(values, percents, method="inverted_cdf").tolist()
    return {f"p{percent}": value for percent, value in zip(percents, ordered)}


def distribution(values):
    """Of a list of numbers. The deviation is that of the sample, 0 of a single number."""
    return {
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        **percentiles(values, 50, 90, 95, 99),
        "max": max(values),
    }


def _latency(s):
    """Of each batch's forward, or of each sentence that was sent singly from text to label."""
    e = s.evaluation
    times = [1000 * seconds for seconds in e.single or e.forward]
    counts = {"batches": len(e.forward), "warmup": WARMUP}
    return {"latency_ms": distribution(times), **counts, "latencies_ms": times}


def _single_line(r):
    if "sentences_per_second" not in r:
        return ""
    text = "mean {mean:.2f}, p50 {p50:.2f}, p90 {p90:.2f}, p95 {p95:.2f}, p99 {p99:.2f}, max "
    text = (text + "{max:.2f} ms a sentence, from text to label").format(**r["latency_ms"])
    return f"{text}\n{r['sentences_per_second']:.1f} sentences/s"


def _runs_line(r):
    text = f"{r['batches']} batches, after {r['warmup']} warm-up runs of each shape"
    if "sentences_per_second" in r:
        return text
    spread = "mean {mean:.1f}, deviation {deviation:.1f}, p95 {p95:.1f}, max {max:.1f} ms"
    return f"{text}\n{spread.format(**r['latency_ms'])}"


def _stages(s):
    e = s.evaluation
    stages = {"tokenize": e.tokenize, "copy_in": e.copy_in, "forward": e.busy}
    stages.update(copy_out=e.copy_out, end_to_end=e.end_to_end)
    return {"seconds": {"load": s.load, **stages}}


def _padding(s):
    positions = s.evaluation.positions
    return {
        "padding": 1 - s.evaluation.tokens / positions,
        "positions": positions,
        "sentences_per_row": len(s.finite) / s.evaluation.rows,
    }


def _compute(s):
    config, e = s.saved.manifest["config"], s.evaluation
    each = (shape.batch_size * flops_per_row(config, shape.max_seq_length) for shape in e.shapes)
    total = sum(each) / 1e9
    return {"nominal_gflop_per_row": total / e.rows, "nominal_gflop_per_second": total / e.busy}


_SPREAD = ("mean", "deviation", "p50", "p90", "p95", "p99", "max")
_STAGES = ("load", "tokenize", "copy_in", "forward", "copy_out", "end_to_end")
_RATES = {
    "forward": described(NUMBER, "sentences scored / seconds in which a batch was computed"),
    "end_to_end": described(
        NUMBER, "sentences scored / seconds from the first sentence to the last prediction"
    ),
}
_LINE_RATES = "forward {forward:.1f} samples/s, end to end {end_to_end:.1f} samples/s"
_TIMES = "p50 {p50:.1f}, p90 {p90:.1f}, p99 {p99:.1f} ms a batch"
_SHARE = {**POSITIVE, "maximum": 1}
MEASURES = (
    Figure(
        "accuracy",
        _accuracy,
        _accuracy_line,
        {
            "random_weights": described(
                BOOLEAN, "true: predictions mean nothing, and there is no accuracy"
            ),
            "accuracy": record(
                {
                    "correct": whole(0),
                    "total": whole(1, "all sentences; what was not scored is wrong"),
                    "value": _SHARE,
                    "wilson95": array(NUMBER, minItems=2, maxItems=2),
                    "other_classes": whole(0, "predicted as a class that the data does not have"),
                },
                "missing without labels, with random weights and for a regression",
            ),
        },
        optional=("accuracy",),
    ),
    Figure(
        "metrics",
        _metrics,
        lambda r: metrics.line(r["metrics"]),
        {
            "metrics": {
                "description": "the task's metrics, by name; null: no value",
                "type": "object",
                "additionalProperties": NUMBER_OR_NULL,
            }
        },
    ),
    Figure(
        "throughput",
        _throughput,
        _of_batches("samples_per_second", _LINE_RATES),
        {
            "samples_per_second": record(_RATES),
            "sentences_per_second": {
                "description": "of sentences sent singly, in place of samples_per_second",
                "type": "number",
                "exclusiveMinimum": 0,
            },
        },
        optional=("samples_per_second", "sentences_per_second"),
        timed=True,
    ),
    Figure(
        "latency",
        _latency,
        _of_batches("latency_ms", _TIMES),
        {
            "latency_ms": record(
                dict.fromkeys(_SPREAD, POSITIVE),
                "of a batch, or of a sentence sent singly, from text to label, in milliseconds; "
                "percentiles by nearest rank",
            ),
            "batches": whole(1),
            "warmup": whole(0, "batches run before the clock starts; in no figure"),
            "latencies_ms": array(
                POSITIVE,
                "of every batch, in the order in which they were made, or of every sentence sent "
                "singly, in theirs",
                minItems=1,
            ),
        },
        timed=True,
    ),
    Figure("single", lambda s: {}, _single_line, {}, timed=True),
    Figure("runs", lambda s: {}, _runs_line, {}, detail=True, timed=True),
    Figure(
        "stages",
        _stages,
        lambda r: (
            "load {load:.2f}, tokenize {tokenize:.3f}, copy in {copy_in:.3f}, forward "
            "{forward:.2f}, copy out {copy_out:.3f}, end to end {end_to_end:.2f} s"
        ).format(**r["seconds"]),
        {
            "seconds": record(
                dict.fromkeys(_STAGES, POSITIVE),
                "stages overlap: their sum is more than end_to_end",
            )
        },
        detail=True,
        timed=True,
    ),
    Figure(
        "padding",
        _padding,
        lambda r: (
            f"{100 * r['padding']:.1f} % of {r['positions']:,} token positions "
            f"({r['sentences_per_row']:.2f} sentences a row)"
        ),
        {
            "padding": described(_SHARE, "share of token positions that held no token"),
            "positions": whole(1, "token positions computed"),
            "sentences_per_row": NUMBER,
        },
        detail=True,
    ),
    Figure(
        "compute",
        _compute,
        lambda r: (
            f"{r['nominal_gflop_per_second']:.0f} GFLOP/s nominal "
            f"({r['nominal_gflop_per_row']:.2f} GFLOP a row, the mean)"
        ),
        {
            "nominal_gflop_per_row": described(NUMBER, "of the matrix products of a whole row"),
            "nominal_gflop_per_second": NUMBER,
        },
        detail=True,
        timed=True,
    ),
)
