"""Figures of how good predictions are and what they took."""

import statistics

import numpy

from ..albert.flops import flops_per_row
from ..data import metrics
from ..run.evaluate import WARMUP, is_correct


def accuracy(s):
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


def accuracy_line(r):
    if r["random_weights"]:
        return "none: the file holds random weights, for speed only"
    if "accuracy" not in r:
        return "" if r["metrics"] else "none: the split has no labels"
    line, others = metrics.accuracy_line(r["accuracy"]), r["accuracy"]["other_classes"]
    return f"{line}\n{others} predicted as a class that the data does not have" if others else line


def task_metrics(s):
    """The task's metrics; null where one has no value."""
    names, logits = s.examples.task.metrics if s.measured else (), s.evaluation.logits
    return {"metrics": {name: metrics.measure(name, s.examples, logits) for name in names}}


def throughput(s):
    """Of sentences that were sent singly a rate of its own: never beside figures of batches."""
    e = s.evaluation
    if e.single:
        return {"sentences_per_second": len(e.single) / e.end_to_end}
    scored = int(s.finite.sum())
    return {"samples_per_second": {"forward": scored / e.busy, "end_to_end": scored / e.end_to_end}}


def throughput_line(r):
    line = "forward {forward:.1f} samples/s, end to end {end_to_end:.1f} samples/s"
    return line.format(**r["samples_per_second"]) if "samples_per_second" in r else ""


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


def latency(s):
    """Of each batch's forward, or of each sentence that was sent singly from text to label."""
    e = s.evaluation
    times = [1000 * seconds for seconds in e.single or e.forward]
    counts = {"batches": len(e.forward), "warmup": WARMUP}
    return {"latency_ms": distribution(times), **counts, "latencies_ms": times}


def latency_line(r):
    line = "p50 {p50:.1f}, p90 {p90:.1f}, p99 {p99:.1f} ms a batch"
    return line.format(**r["latency_ms"]) if "samples_per_second" in r else ""


def single_line(r):
    if "sentences_per_second" not in r:
        return ""
    text = "mean {mean:.2f}, p50 {p50:.2f}, p90 {p90:.2f}, p95 {p95:.2f}, p99 {p99:.2f}, max "
    text = (text + "{max:.2f} ms a sentence, from text to label").format(**r["latency_ms"])
    return f"{text}\n{r['sentences_per_second']:.1f} sentences/s"


def runs_line(r):
    text = f"{r['batches']} batches, after {r['warmup']} warm-up runs of each shape"
    if "sentences_per_second" in r:
        return text
    spread = "mean {mean:.1f}, deviation {deviation:.1f}, p95 {p95:.1f}, max {max:.1f} ms"
    return f"{text}\n{spread.format(**r['latency_ms'])}"


def stages(s):
    e = s.evaluation
    before = {"load": s.load, "tokenize": e.tokenize, "copy_in": e.copy_in, "forward": e.busy}
    return {"seconds": {**before, "copy_out": e.copy_out, "end_to_end": e.end_to_end}}


def stages_line(r):
    line = "load {load:.2f}, tokenize {tokenize:.3f}, copy in {copy_in:.3f}, forward {forward:.2f}"
    line += ", copy out {copy_out:.3f}, end to end {end_to_end:.2f} s"
    return line.format(**r["seconds"])


def padding(s):
    positions = s.evaluation.positions
    return {
        "padding": 1 - s.evaluation.tokens / positions,
        "positions": positions,
        "sentences_per_row": len(s.finite) / s.evaluation.rows,
    }


def padding_line(r):
    share = f"{100 * r['padding']:.1f} % of {r['positions']:,} token positions"
    return f"{share} ({r['sentences_per_row']:.2f} sentences a row)"


def compute(s):
    config, e = s.saved.manifest["config"], s.evaluation
    each = (shape.batch_size * flops_per_row(config, shape.max_seq_length) for shape in e.shapes)
    total = sum(each) / 1e9
    return {"nominal_gflop_per_row": total / e.rows, "nominal_gflop_per_second": total / e.busy}


def compute_line(r):
    line = "{nominal_gflop_per_second:.0f} GFLOP/s nominal "
    return (line + "({nominal_gflop_per_row:.2f} GFLOP a row, the mean)").format(**r)
