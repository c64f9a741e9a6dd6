"""MLPerf's LoadGen: one run of it, and what it wrote."""

import json
from pathlib import Path

import numpy

from albert_aie.run.evaluate import is_correct


def drive(scenario, issue, count, folder, accuracy=False, **settings):
    """The summary of one run of a scenario over `count` sentences, whose logs go to `folder`.
    issue(samples) gets those of each query, and has `respond` called for each. `settings` are
    LoadGen's TestSettings, times in the units that their names end with."""
    import mlperf_loadgen as lg

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = lg.TestSettings()
    wanted.scenario = getattr(lg.TestScenario, scenario)
    wanted.mode = lg.TestMode.AccuracyOnly if accuracy else lg.TestMode.PerformanceOnly
    for name, value in settings.items():
        setattr(wanted, name, value)
    logs = lg.LogSettings()
    logs.log_output.outdir, logs.log_output.copy_summary_to_stdout = str(folder), False
    logs.enable_trace = False
    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)
    try:
        lg.StartTestWithLogSettings(system, library, wanted, logs)
    finally:
        lg.DestroyQSL(library), lg.DestroySUT(system)
    return read_summary(folder)


def respond(samples, logits):
    """Answers samples with the logits, float32 [samples, class], or [class] of a single one."""
    import mlperf_loadgen as lg

    logits = numpy.ascontiguousarray(logits, numpy.float32)  # lives until LoadGen has copied it
    size = logits.nbytes // len(samples)
    answers = [
        lg.QuerySampleResponse(sample.id, logits.ctypes.data + i * size, size)
        for i, sample in enumerate(samples)
    ]
    lg.QuerySamplesComplete(answers)


def answers(folder):
    """{sentence: float32 logits} of an accuracy log, whose data are in hexadecimal."""
    log = json.loads((Path(folder) / "mlperf_log_accuracy.json").read_text(encoding="utf-8"))
    return {
        entry["qsl_idx"]: numpy.frombuffer(bytes.fromhex(entry["data"]), numpy.float32)
        for entry in log
    }


def correct(folder, labels):
    """(right, sentences) of an accuracy log."""
    logits = answers(folder)
    numbers = sorted(logits)
    scored = is_correct(numpy.array([logits[i] for i in numbers]), [labels[i] for i in numbers])
    return int(scored.sum()), len(numbers)


def read_summary(folder):
    """{name: value} of LoadGen's summary up to its settings; {} where it wrote none, as after a run
    for accuracy."""
    text = (Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    lines = text.split("Test Parameters Used")[0].splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(" *"): value.strip() for name, _, value in pairs}
