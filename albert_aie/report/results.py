"""What an evaluation leaves in a folder: eval.json and predictions.tsv."""

import re
from pathlib import Path

from ..base.encoding import texts
from ..base.files import json_text, replacing
from ..run.evaluate import finite

RESULTS = ("eval.json", "predictions.tsv")
SCHEMA_VERSION = 3  # of eval.json, as eval.schema.json has it
SCHEMA = Path(__file__).with_name("eval.schema.json")


def paths(folder):
    """Of its two files; none where it is None."""
    return [Path(folder) / name for name in RESULTS] if folder else []


def write(folder, report, logits, examples):
    """eval.json (a report of these) and predictions.tsv, each whole or not at all; renamed only
    when both are written. Returns their paths. Raises UserError if they cannot be written."""
    whole, rows = paths(folder)
    with replacing(whole) as first, replacing(rows) as second:
        second.write_bytes(table(logits, examples))
        first.write_bytes(json_text(report).encode())
    return [whole, rows]


def table(logits, examples):
    """The bytes of predictions.tsv."""
    rows = ["\t".join(map(str, row)) for row in _predictions(logits, examples)]
    return ("\n".join(rows) + "\n").encode()


def _predictions(logits, examples):
    """Rows of predictions.tsv, its header first; no prediction where the logits are not finite. A
    regression's prediction is its logit."""
    names, regression = examples.classes, examples.task.regression
    columns = [] if regression else [f"logit_{name}" for name in names]
    pair = ["sentence1", "sentence2"] if examples.task.is_pair else ["sentence"]
    yield ["index", "prediction", "label", *columns, *pair]
    values = [[f"{x:.6f}" for x in row] for row in logits.tolist()]
    if regression:
        predicted = [row[0] if scored else "" for row, scored in zip(values, finite(logits))]
        labels, values = examples.labels, [[]] * len(values)
    else:
        predicted = [
            names[number] if scored else ""
            for number, scored in zip(logits.argmax(1), finite(logits))
        ]
        labels = [names[label] for label in examples.labels or ()]
    columns = examples.indices, predicted, labels or [""] * len(predicted), values
    for index, prediction, label, numbers, sentence in zip(*columns, examples.sentences):
        yield [_cell(str(index)), prediction, label, *numbers, *map(_cell, texts(sentence))]


def _cell(text):
    """A text in a table: those of CSV and JSON can hold tabs and line ends."""
    return re.sub("[\t\r\n]", " ", text)
