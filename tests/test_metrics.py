"""The metrics, on rows whose answer was worked out by hand."""

import math
import sys

import numpy
import pytest
from glue_sets import pearson

from albert_aie.base.errors import UserError
from albert_aie.data import metrics
from albert_aie.data.datasets import Examples
from albert_aie.data.tasks import TASKS


def examples(task, labels, classes=None):
    numbers = list(range(len(labels)))
    return Examples(
        TASKS[task], "dev.tsv", numbers, labels, numbers, classes or TASKS[task].classes
    )


def predicting(numbers, classes=2):
    """Logits whose largest is that of these classes; None: not finite."""
    logits = numpy.zeros((len(numbers), classes), numpy.float32)
    for row, number in enumerate(numbers):
        logits[row, number or 0] = 1 if number is not None else math.nan
    return logits


def measured(given, logits, *names):
    return [metrics.measure(name, given, logits) for name in names]


LABELS = [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
GUESSES = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1]


def test_metrics_of_twelve_rows_worked_out_by_hand():
    """5 hits, 2 missed, 2 false, 3 rightly not: accuracy 8/12, F1 10/14, Matthews (15 - 4) / 35."""
    given, logits = examples("MRPC", LABELS), predicting(GUESSES)
    found = measured(given, logits, "accuracy", "f1", "matthews")
    assert found == pytest.approx([8 / 12, 10 / 14, 11 / 35])


def test_metrics_look_for_the_tasks_class_1_wherever_the_model_has_it():
    """The same rows by a model whose class 0 is `equivalent`, and one that has a third class."""
    names = ("equivalent", "not_equivalent")
    turned = examples("MRPC", [1 - label for label in LABELS], names)
    logits = predicting([1 - guess for guess in GUESSES])
    assert metrics.measure("f1", turned, logits) == pytest.approx(10 / 14)
    third = ("unsure", "not_equivalent", "equivalent")
    given = examples("MRPC", [label + 1 for label in LABELS], third)
    logits = predicting([guess + 1 for guess in GUESSES[:11]] + [0], 3)
    # the last is neither a hit nor false: 10 / (10 + 1 + 2)
    assert measured(given, logits, "f1", "accuracy") == pytest.approx([10 / 13, 8 / 12])


def test_what_was_not_scored_is_wrong_in_every_metric():
    """The first hit is lost: 4 hits, 3 missed, 2 false, 3 rightly not. F1 8/13. Matthews of three
    classes, one of them never a label, from Gorodkin's sums: c 7, s 12, predicted 6, 5 and 1,
    labels 7, 5 and 0: 7*12 - 6*7 - 5*5 over the root of (144 - 36 - 25 - 1) (144 - 49 - 25)."""
    given = examples("MRPC", LABELS)
    logits = predicting([None, *GUESSES[1:]])
    found = measured(given, logits, "accuracy", "f1", "matthews")
    assert found == pytest.approx([7 / 12, 8 / 13, 17 / math.sqrt(82 * 70)])


def test_correlations_of_twelve_rows_worked_out_by_hand():
    """Scores 0 to 11 against the same with the last two exchanged: both differ by 1 from the
    diagonal twice. Spearman 1 - 6 * 2 / (12 * 143); Pearson is the same, for these are ranks."""
    given = examples("STS-B", [float(i) for i in range(12)], ("score",))
    scores = numpy.array([[*range(10), 11, 10]], numpy.float32).T
    wanted = 1 - 12 / (12 * 143)
    assert measured(given, scores, "spearman", "pearson") == pytest.approx([wanted, wanted])
    # cubes keep the ranks: Spearman stays, Pearson does not
    other = pearson(given.labels, (scores[:, 0] ** 3).tolist())
    assert measured(given, scores**3, "spearman", "pearson") == pytest.approx([wanted, other])


def test_a_correlation_of_scores_that_are_all_alike_has_no_value(recwarn):
    """And nothing is said of it on stderr."""
    alike = numpy.ones((3, 1), numpy.float32)
    for labels in ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0]):
        given = examples("STS-B", labels, ("score",))
        assert all(map(math.isnan, measured(given, alike, "pearson", "spearman")))
    assert not recwarn.list


def test_metrics_of_one_class_or_of_no_hit_are_0():
    none = [0] * 4
    given = examples("MRPC", [1] * 4)
    assert measured(given, predicting(none), "f1", "matthews", "accuracy") == [0.0] * 3
    assert metrics.measure("f1", examples("MRPC", none), predicting(none)) == 0.0


def test_a_correlation_of_one_sentence_has_no_value_and_of_two_it_is_1():
    one = examples("STS-B", [1.0], ("score",))
    two = examples("STS-B", [1.0, 2.0], ("score",))
    scores = numpy.array([[3.0], [5.0]], numpy.float32)
    for name in ("pearson", "spearman"):
        assert math.isnan(metrics.measure(name, one, scores[:1]))
        assert metrics.measure(name, two, scores) == pytest.approx(1.0)
        assert type(metrics.measure(name, two, scores)) is float


def test_scores_that_are_not_finite_are_left_out_of_a_correlation():
    given = examples("STS-B", [1.0, 9.0, 2.0, 3.0], ("score",))
    scores = numpy.array([[1.0], [numpy.nan], [2.0], [3.0]], numpy.float32)
    assert metrics.measure("pearson", given, scores) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "task, package, words",
    [
        ("MRPC", "sklearn", "MRPC: its F1 needs scikit-learn; pip install scikit-learn"),
        ("STS-B", "scipy", "STS-B: its Pearson needs scipy; pip install scipy"),
    ],
)
def test_a_package_that_is_missing_is_named_before_the_work(monkeypatch, task, package, words):
    metrics.check(TASKS[task])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"^{words}$"):
        metrics.check(TASKS[task])
    metrics.check(TASKS["SST-2"])


def test_what_each_metric_needs_and_is_called():
    known = {name: metric[:1] + metric[2:] for name, metric in metrics.METRICS.items()}
    assert known == {
        "accuracy": ("accuracy", "numpy", "numpy"),
        "f1": ("F1", "sklearn", "scikit-learn"),
        "matthews": ("Matthews", "sklearn", "scikit-learn"),
        "pearson": ("Pearson", "scipy", "scipy"),
        "spearman": ("Spearman", "scipy", "scipy"),
    }
    metrics.check(TASKS["MRPC"])
