"""What tells how good predictions are. A metric is one row of METRICS.

Labels and predictions are int64 [sentences] numbers of the task's classes, -1 where a prediction is
none of them (not finite, or a class that the data does not have), or float64 scores of a
regression."""

import math
import warnings
from functools import partial
from typing import Callable, NamedTuple

import numpy

from ..base.errors import need

NONE = -1


class Metric(NamedTuple):
    """`of` makes the value from labels and predictions; `package` is what that needs beside numpy,
    `distribution` its name at pip."""

    title: str
    of: Callable
    package: str = "numpy"
    distribution: str = "numpy"


def _accuracy(labels, predicted):
    return float((labels == predicted).mean())


def _f1(labels, predicted):
    """Of class 1, the one that MRPC and QQP look for. What is none of the classes is no 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels == 1, predicted == 1, zero_division=0))


def _matthews(labels, predicted):
    """0 where all labels or all predictions are alike, as scikit-learn has it."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predicted))


def _correlation(name, labels, predicted):
    from scipy import stats

    return float(getattr(stats, name)(labels, predicted)[0]) if len(labels) > 1 else math.nan


METRICS = {
    "accuracy": Metric("accuracy", _accuracy),
    "f1": Metric("F1", _f1, "sklearn", "scikit-learn"),
    "matthews": Metric("Matthews", _matthews, "sklearn", "scikit-learn"),
    "pearson": Metric("Pearson", partial(_correlation, "pearsonr"), "scipy", "scipy"),
    "spearman": Metric("Spearman", partial(_correlation, "spearmanr"), "scipy", "scipy"),
}


def check(task):
    """Raises UserError where a package that the task's metrics need is missing."""
    for metric in map(METRICS.get, task.metrics):
        need(f"{task.name}: its {metric.title}", metric.package, metric.distribution)


def measure(name, examples, logits):
    """The value of a metric for float32 [sentences, class] logits of Examples that have labels; NaN
    where it has none, for example a correlation of scores that are all alike. Of a regression what
    is not finite is left out, and counted elsewhere."""
    scored = numpy.isfinite(logits).all(1)
    if examples.task.regression:
        labels = numpy.asarray(examples.labels, numpy.float64)[scored]
        predicted = logits[scored, 0].astype(numpy.float64)
    else:
        classes = examples.task.classes
        number = numpy.array(
            [classes.index(name) if name in classes else NONE for name in examples.classes]
        )
        labels = number[numpy.asarray(examples.labels)]
        predicted = numpy.where(scored, number[logits.argmax(1)], NONE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input: the value is NaN or 0, and says it
        return METRICS[name].of(labels, predicted)


def accuracy(correct, total):
    """The accuracy of so many sentences, with its 95 % interval, as JSON has it."""
    counts = {"correct": correct, "total": total, "value": correct / total}
    return {**counts, "wilson95": list(wilson(correct, total))}


def accuracy_line(accuracy):
    """The same as text."""
    return ("{value:.4f} ({correct:,}/{total:,}), 95 % Wilson interval {0:.4f} to {1:.4f}").format(
        *accuracy["wilson95"], **accuracy
    )


def line(values):
    """Text of {name: value} of metrics but the accuracy, which has a line of its own."""
    return ", ".join(
        f"{METRICS[name].title} {f'{value:.4f}' if math.isfinite(value) else 'undefined'}"
        for name, value in values.items()
        if name != "accuracy"
    )


def wilson(correct, total, z=1.959964):
    """95 % Wilson score interval of correct/total (Wilson 1927): right also near 0 and 1, where
    k/n +- 2 sigma is not."""
    p = correct / total
    centre = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (centre - spread) / scale, (centre + spread) / scale
