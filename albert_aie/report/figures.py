"""Figures from an evaluation: what eval.json holds, and the lines that are printed.

A figure is one row of FIGURES: the keys that it adds to eval.json and the line that shows them.
"""

import hashlib
import math
import statistics
from typing import Callable, NamedTuple

import numpy

from ..albert.flops import flops_per_row
from ..artifact.pt_file import Artifact
from ..base import machine
from ..base.encoding import texts
from ..base.shapes import Shape
from ..data.datasets import Examples
from ..data.metrics import METRICS, measure, wilson
from ..run.evaluate import WARMUP, Evaluation, finite, right
from . import results

NAMED = 3  # sentences without finite logits that are named


class Scored(NamedTuple):
    """All that figures are made of: an evaluation of `examples` by `runner`, which loaded `saved`
    in `load` seconds; `host` is what `hosted` says of where that was."""

    evaluation: Evaluation
    saved: Artifact
    runner: object
    examples: Examples
    load: float
    host: dict

    @property
    def finite(self):
        """Which sentences were scored: bool [sentences]."""
        return finite(self.evaluation.logits)

    @property
    def measured(self):
        """Whether labels say how good the predictions are: not those of random weights."""
        return self.examples.labels is not None and not self.saved.manifest["random_weights"]


class Figure(NamedTuple):
    """`values` makes keys of eval.json from a Scored, `line` the text to print from all of
    eval.json, "" where there is nothing to say. Lines of rows that are `detail` stand on the page
    of --report alone; `timed` ones are not of answers that were computed elsewhere."""

    name: str
    values: Callable
    line: Callable
    detail: bool = False
    timed: bool = False


def _file(s):
    return {
        "file": str(s.saved.path),
        "more_files": [str(each.path) for each in s.saved.siblings],
        "graph": s.saved.manifest["graph"],
        **s.saved.shape._asdict(),
    }


def _rows(s):
    """How rows were made, and of each shape how many batches it had and what their forward took."""
    e, times = s.evaluation, {}
    for shape, seconds in zip(e.shapes, e.forward):
        times.setdefault(shape, []).append(1000 * seconds)
    shapes = [
        {
            **shape._asdict(),
            "batches": len(taken),
            "forward_ms": {f"p{p}": percentile(taken, p) for p in (50, 90, 99)},
        }
        for shape, taken in sorted(times.items())
    ]
    if _om(s):
        for each in shapes:
            del each["forward_ms"]
    return {"rows": e.rows_are, "shapes": shapes}


MOST = 6  # shapes that are printed one a line


def _rows_line(r):
    shapes = r["shapes"]
    lines = [
        f"{each['batches']} x {each['batch_size']} x {each['max_seq_length']} tokens"
        + f", up to {each['slots']} sentences a row" * bool(each["slots"])
        + (
            ": forward p50 {p50:.1f}, p90 {p90:.1f}, p99 {p99:.1f} ms".format(**each["forward_ms"])
            if "forward_ms" in each
            else ""
        )
        for each in shapes
    ]
    if len(lines) > MOST:
        low, high = (each["max_seq_length"] for each in (shapes[0], shapes[-1]))
        lines = [f"{r['batches']} batches of {len(shapes)} shapes, {low} to {high} tokens"]
    return "\n".join([r["rows"], *lines])


def _engine(s):
    names = ("device", "precision", "precision_is", "threads", "streams")
    return {
        "backend": s.saved.manifest["backend"],
        **{name: getattr(s.runner, name) for name in names},
        **({"providers": s.runner.providers} if getattr(s.runner, "providers", None) else {}),
    }


def _om(s):
    """Where answers were computed elsewhere: what ais_bench has said of its own speed."""
    rates = getattr(s.runner, "rates", None)
    return {} if rates is None else {"om": {"ais_bench_rows_per_second": rates}}


def _om_line(r):
    if "om" not in r:
        return ""
    rates = r["om"]["ais_bench_rows_per_second"]
    said = ", ".join(f"{rate:g} rows/s ({part})" for part, rate in rates.items())
    return (
        "answers of an OM that was run elsewhere, read from its kit\n"
        f"ais_bench printed {said or 'no throughput'}: its own figure, not measured by this program"
    )


def _data(s):
    return {
        "task": s.examples.task.name,
        "data": str(s.examples.path),
        "classes": list(s.examples.classes),
        "sentences_scored": int(s.finite.sum()),
        "sentences_total": len(s.finite),
        "truncated": s.evaluation.truncated,
    }


def _not_scored(s):
    indices, sentences = s.examples.indices, s.examples.sentences
    first = numpy.flatnonzero(~s.finite)[:NAMED]
    return {"not_scored": [{"index": indices[i], "sentence": sentences[i]} for i in first]}


def _not_scored_line(r):
    count = r["sentences_total"] - r["sentences_scored"]
    if not count:
        return ""
    first = [f"{x['index']}: {' / '.join(texts(x['sentence']))[:40]!r}" for x in r["not_scored"]]
    plural = "s" if count > 1 else ""
    return "\n".join([f"{count} sentence{plural} without finite logits, the first:", *first])


def _accuracy(s):
    """k/n over all sentences: what was not scored is wrong, and so is a class that the data does
    not have."""
    random_weights = {"random_weights": s.saved.manifest["random_weights"]}
    if not s.measured or s.examples.task.regression:
        return random_weights
    logits, labels, task = s.evaluation.logits, s.examples.labels, s.examples.task
    k, n = int(right(logits, labels).sum()), len(labels)
    other = [i for i, name in enumerate(s.examples.classes) if name not in task.classes]
    others = int((s.finite & numpy.isin(logits.argmax(1), other)).sum())
    accuracy = {"correct": k, "total": n, "value": k / n, "wilson95": list(wilson(k, n))}
    return {**random_weights, "accuracy": {**accuracy, "other_classes": others}}


def _accuracy_line(r):
    if r["random_weights"]:
        return "none: the file holds random weights, for speed only"
    if "accuracy" not in r:
        return "" if r["metrics"] else "none: the split has no labels"
    a = r["accuracy"]
    low, high = a["wilson95"]
    line = (
        f"{a['value']:.4f} ({a['correct']}/{a['total']}), 95 % Wilson interval {low:.4f} to "
        f"{high:.4f}"
    )
    if not a["other_classes"]:
        return line
    return f"{line}\n{a['other_classes']} predicted as a class that the data does not have"


def _metrics(s):
    """The task's metrics; null where one has no value."""
    names = s.examples.task.metrics if s.measured else ()
    return {"metrics": {n: measure(n, s.examples, s.evaluation.logits) for n in names}}


def _metrics_line(r):
    shown = [name for name in r["metrics"] if name != "accuracy"]  # which has a line of its own
    values = {name: r["metrics"][name] for name in shown}
    told = {name: f"{x:.4f}" if math.isfinite(x) else "undefined" for name, x in values.items()}
    return ", ".join(f"{METRICS[name].title} {value}" for name, value in told.items())


def _throughput(s):
    scored, e = int(s.finite.sum()), s.evaluation
    if e.single:
        return {}
    rates = {"forward": scored / e.busy, "end_to_end": scored / e.end_to_end}
    return {"samples_per_second": rates}


def distribution(values):
    """Of a list of numbers. The deviation is that of the sample, 0 of a single number."""
    return {
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        **{f"p{p}": percentile(values, p) for p in (50, 90, 95, 99)},
        "max": max(values),
    }


def _latency(s):
    """Of batches."""
    counts = {"batches": len(s.evaluation.forward), "warmup": WARMUP}
    if s.evaluation.single:
        return counts
    batches = [1000 * seconds for seconds in s.evaluation.forward]
    return {"latency_ms": distribution(batches), **counts, "batch_latencies_ms": batches}


def _one_at_a_time(s):
    """Of sentences that were sent singly, from text to label; never beside figures of batches."""
    if not s.evaluation.single:
        return {}
    sentences = [1000 * seconds for seconds in s.evaluation.single]
    single = {
        "latency_ms": distribution(sentences),
        "sentences_per_second": len(sentences) / s.evaluation.end_to_end,
        "sentence_latencies_ms": sentences,
    }
    return {"one_at_a_time": single}


def _one_at_a_time_line(r):
    if "one_at_a_time" not in r:
        return ""
    single = r["one_at_a_time"]
    text = "mean {mean:.2f}, p50 {p50:.2f}, p90 {p90:.2f}, p95 {p95:.2f}, p99 {p99:.2f}, max "
    text = (text + "{max:.2f} ms a sentence, from text to label").format(**single["latency_ms"])
    return f"{text}\n{single['sentences_per_second']:.1f} sentences/s"


def _runs_line(r):
    text = f"{r['batches']} batches, after {r['warmup']} warm-up runs of each shape"
    if "latency_ms" not in r:
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


def hosted(device, command):
    """Where an evaluation on `device` by the command line `command` was made, and the most memory
    that this process held: keys of eval.json."""
    return {
        "machine": machine.describe((device,)),
        "versions": machine.versions(),
        "command": list(command),
        "peak_memory_bytes": machine.peak_memory(),
    }


def _machine_line(r):
    m, peak = r["machine"], r["peak_memory_bytes"]
    line = f"{m['cpu']}, {m['cores']} core(s): {' '.join(m['isa'])}"
    return line if peak is None else f"{line}\npeak memory {peak / 1e6:.0f} MB"


def _digests(s):
    """sha256 of what went in and of predictions.tsv, so that one which does not belong to its
    eval.json (a process was killed between the two renames) can be told."""
    m, predictions = s.saved.manifest, results.table(s.evaluation.logits, s.examples)
    return {
        "digests": {
            "file": s.saved.digest,
            "checkpoint": m["source"].get("sha256"),
            "tokenizer": s.saved.tokenizer.sha256,
            "data": s.examples.sha256,
        },
        "predictions_sha256": hashlib.sha256(predictions).hexdigest(),
    }


FIGURES = (
    Figure(
        "file",
        _file,
        lambda r: (
            "\n".join([r["file"], *r["more_files"]])
            + f"\n{r['graph']} graph, exported for {Shape(*(r[n] for n in Shape._fields))}"
        ),
    ),
    Figure(
        "engine",
        _engine,
        lambda r: (
            f"{r['backend']} on {r['device']}, precision {r['precision']} ({r['precision_is']})\n"
            f"{r['threads']} thread(s), {r['streams']} stream(s)"
            + "".join(f", {name}" for name in r.get("providers", ()))
        ),
    ),
    Figure(
        "data",
        _data,
        lambda r: (
            f"{r['data']}\n{r['sentences_scored']} of {r['sentences_total']} sentences scored, "
            f"{r['truncated']} truncated"
        ),
    ),
    Figure("om", _om, _om_line),
    Figure("not scored", _not_scored, _not_scored_line),
    Figure("rows", _rows, _rows_line),
    Figure("accuracy", _accuracy, _accuracy_line),
    Figure("metrics", _metrics, _metrics_line),
    Figure(
        "throughput",
        _throughput,
        lambda r: (
            "forward {forward:.1f} samples/s, end to end {end_to_end:.1f} samples/s".format(
                **r["samples_per_second"]
            )
            if "samples_per_second" in r
            else ""
        ),
        timed=True,
    ),
    Figure(
        "latency",
        _latency,
        lambda r: (
            "p50 {p50:.1f}, p90 {p90:.1f}, p99 {p99:.1f} ms a batch".format(**r["latency_ms"])
            if "latency_ms" in r
            else ""
        ),
        timed=True,
    ),
    Figure("single", _one_at_a_time, _one_at_a_time_line, timed=True),
    Figure("runs", lambda s: {}, _runs_line, detail=True, timed=True),
    Figure(
        "stages",
        _stages,
        lambda r: (
            "load {load:.2f}, tokenize {tokenize:.3f}, copy in {copy_in:.3f}, forward "
            "{forward:.2f}, "
            "copy out {copy_out:.3f}, end to end {end_to_end:.2f} s"
        ).format(**r["seconds"]),
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
        detail=True,
    ),
    Figure(
        "compute",
        _compute,
        lambda r: (
            f"{r['nominal_gflop_per_second']:.0f} GFLOP/s nominal "
            f"({r['nominal_gflop_per_row']:.2f} GFLOP a row, the mean)"
        ),
        detail=True,
        timed=True,
    ),
    Figure("machine", lambda s: s.host, _machine_line, detail=True),
    Figure("digests", _digests, lambda r: ""),
)


def report(scored):
    """What eval.json holds, as eval.schema.json describes it. Rates are all sentences over all
    seconds, never a mean of rates; seconds unless named ms."""
    result = {"schema_version": results.SCHEMA_VERSION}
    for figure in FIGURES:
        if not (figure.timed and "om" in result):
            result.update(figure.values(scored))
    return {**result, "manifest": scored.saved.manifest}


def lines(report, detail=False):
    """(name, text) of each line to print, or of all lines."""
    figures = [f for f in FIGURES if not (f.timed and "om" in report)]
    shown = [(f.name, f.line(report)) for f in figures if detail or not f.detail]
    return [(name, line) for name, line in shown if line]


def percentile(values, percent):
    """Nearest-rank percentile: the smallest value that at least `percent` % of all do not
    exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
