"""Figures from an evaluation: what eval.json holds, and the lines that are printed."""

from typing import Callable, NamedTuple

from ..artifact.pt_file import Artifact
from ..base import machine
from ..data import metrics
from ..data.datasets import Examples
from ..run.evaluate import Evaluation, finite
from . import results, setting, speed


class Figure(NamedTuple):
    """`values` makes keys of eval.json from a Scored, `line` the text to print from all of
    eval.json, "" where there is nothing to say. Lines of rows that are `detail` stand on the page
    of --report alone; `timed` ones are not of answers that were computed elsewhere."""

    name: str
    values: Callable
    line: Callable
    detail: bool = False
    timed: bool = False


FIGURES = (
    Figure("file", setting.file, setting.file_line),
    Figure("engine", setting.engine, setting.engine_line),
    Figure("data", setting.data, setting.data_line),
    Figure("om", setting.om, setting.om_line),
    Figure("not scored", setting.not_scored, setting.not_scored_line),
    Figure("rows", setting.rows, setting.rows_line),
    Figure("accuracy", speed.accuracy, speed.accuracy_line),
    Figure("metrics", speed.task_metrics, lambda r: metrics.line(r["metrics"])),
    Figure("throughput", speed.throughput, speed.throughput_line, timed=True),
    Figure("latency", speed.latency, speed.latency_line, timed=True),
    Figure("single", lambda s: {}, speed.single_line, timed=True),
    Figure("runs", lambda s: {}, speed.runs_line, detail=True, timed=True),
    Figure("stages", speed.stages, speed.stages_line, detail=True, timed=True),
    Figure("padding", speed.padding, speed.padding_line, detail=True),
    Figure("compute", speed.compute, speed.compute_line, detail=True, timed=True),
    Figure("machine", lambda s: s.host, setting.machine_line, detail=True),
    Figure("digests", setting.digests, lambda r: ""),
)


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
