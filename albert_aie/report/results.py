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
    """The bytes of predictions.tsv. Where the logits are not finite there is no prediction; that of
    a regression is its logit."""
    names = examples.classes
    values = [[f"{x:.6f}" for x in row] for row in logits.tolist()]
    if examples.task.regression:
        columns, labels = [], examples.labels
        predicted, values = [row[0] for row in values], [[]] * len(values)
    else:
        columns = [f"logit_{name}" for name in names]
        labels = [names[label] for label in examples.labels or ()]
        predicted = [names[number] for number in logits.argmax(1)]
    sides = ["sentence1", "sentence2"] if examples.task.is_pair else ["sentence"]
    rows = [["index", "prediction", "label", *columns, *sides]]
    given = examples.indices, predicted, finite(logits), labels or [""] * len(values), values
    for index, prediction, scored, label, logit, sentence in zip(*given, examples.sentences):
        prediction = prediction if scored else ""
        rows.append([_cell(str(index)), prediction, label, *logit, *map(_cell, texts(sentence))])
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


def _cell(text):
    """A text in a table: those of CSV and JSON can hold tabs and line ends."""
    return re.sub("[\t\r\n]", " ", text)
