"""Figures from an evaluation: what eval.json holds, and the lines that are printed.

A figure is one row of setting.py or speed.py: the keys that it adds to eval.json with their JSON
Schema, and the line that shows them. `python -m albert_aie.report.figures` writes
eval.schema.json."""

from typing import NamedTuple

from ..artifact.pt_file import Artifact
from ..base import machine
from ..base.files import json_text
from ..data.datasets import Examples
from ..run.evaluate import Evaluation, finite
from . import results, setting, speed
from .schema import schema_of

FIGURES = (*setting.BEFORE, *speed.MEASURES, *setting.AFTER)


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


def hosted(device, command):
    """Where an evaluation on `device` by the command line `command` was made, and the most memory
    that this process held: keys of eval.json."""
    return {
        "machine": machine.describe((device,)),
        "versions": machine.versions(),
        "command": list(command),
        "peak_memory_bytes": machine.peak_memory(),
    }


def collect(scored):
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


def schema():
    """The JSON Schema of eval.json."""
    return schema_of(FIGURES, results.SCHEMA_VERSION)


if __name__ == "__main__":
    results.SCHEMA.write_text(json_text(schema()), encoding="utf-8")
