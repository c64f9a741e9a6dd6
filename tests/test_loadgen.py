"""benchmarks/loadgen.py: what is read from LoadGen's logs, and a short run of LoadGen itself."""

import json
from types import SimpleNamespace

import numpy
from helpers import Run, refused

from albert_aie.cli import console
from benchmarks import loadgen, traffic

SUMMARY = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Offline
Mode     : PerformanceOnly
Samples per second: 198.5
Result is : VALID
  Min duration satisfied : Yes

================================================
Test Parameters Used
================================================
samples_per_query : 872
"""


def test_what_an_accuracy_log_counts(tmp_path):
    """By the sentences' numbers, in whatever order; NaN is wrong."""
    logits = {2: [0.5, -1], 0: [-2, 3], 1: [float("nan"), 9]}
    log = [
        {"seq_id": n, "qsl_idx": i, "data": numpy.array(row, numpy.float32).tobytes().hex().upper()}
        for n, (i, row) in enumerate(logits.items())
    ]
    (tmp_path / "mlperf_log_accuracy.json").write_text(json.dumps(log))
    assert traffic.correct(tmp_path, [1, 1, 0]) == (2, 3)
    assert traffic.correct(tmp_path, [1, 1, 1]) == (1, 3)


def test_what_is_read_from_a_summary(tmp_path):
    (tmp_path / "mlperf_log_summary.txt").write_text(SUMMARY)
    assert traffic.read_summary(tmp_path) == {
        "SUT name": "PySUT",
        "Scenario": "Offline",
        "Mode": "PerformanceOnly",
        "Samples per second": "198.5",
        "Result is": "VALID",
        "Min duration satisfied": "Yes",
    }


def run(file, data_dir, output_dir, *scenarios):
    """Exit code of loadgen.py."""
    flags = ["--aie_model_dir", file, "--data_dir", data_dir, "--seconds", 1]
    flags += ["--output_dir", output_dir, "--scenarios", *scenarios]
    return console.main(loadgen.parse_args, loadgen.run, [*map(str, flags)])


def test_a_short_run_of_loadgen(tmp_path, tiny, sst2, sentences, export, capfd, monkeypatch):
    """Every scenario through one file. One second is short, but each must be valid, and its log
    must count what run_aie_eval.py counts."""
    given = {"pth_dir": tiny, "data_dir": sst2, "save_dir": tmp_path, "backend": "torchscript"}
    assert export(batch_size=4, max_seq_length=32, **given).code == 0
    capfd.readouterr()
    # single: its 90 % needs no more queries
    for name, change in (("SingleStream", {"queries": 100}), ("Offline", {"rounds": 2})):
        changed = loadgen.SCENARIOS[name]._replace(**change)
        monkeypatch.setitem(loadgen.SCENARIOS, name, changed)
    monkeypatch.setattr(loadgen, "RATE", 5)  # a busy machine may be slow when the rate is guessed
    code = run(tmp_path / "albert_seq32_bs4.pt", sentences, tmp_path / "logs", *loadgen.SCENARIOS)
    out = " ".join(capfd.readouterr().out.split())
    assert code == 0, out
    assert out.count("Result is : VALID") == 3 and out.count("as run_aie_eval.py counts") == 3
    assert "Offline over our own sentences/s" in out and "in 2 turns" in out
    for name in loadgen.SCENARIOS:
        assert (tmp_path / "logs" / name / "accuracy" / "mlperf_log_accuracy.json").stat().st_size


def test_queries_are_warmed_up_as_they_will_come():
    """One by one, in eights, or all at once; a sentence that comes alone is a row of its own."""
    calls = []
    classify = SimpleNamespace(evaluate=lambda texts, **how: calls.append((len(texts), how)))
    for size in (1, 8, loadgen.MANY):
        loadgen.warm_up(classify, ["text"] * 20, size)
    at_once = {"warmup": 0}
    assert calls == [(20, {"rows": "one at a time"}), *[(n, at_once) for n in (8, 8, 4, 20)]]
    assert loadgen.rows_for(["a"]) == "one at a time" and loadgen.rows_for("ab") == "chosen"


def test_an_accuracy_log_that_counts_otherwise_fails(
    tmp_path, monkeypatch, tiny, sentences, export
):
    given = {"pth_dir": tiny, "save_dir": tmp_path, "backend": "torchscript"}
    assert export(batch_size=1, max_seq_length=32, **given).code == 0
    monkeypatch.setattr(traffic, "correct", lambda *given: (0, 11))
    assert run(tmp_path, sentences, tmp_path / "logs", "SingleStream") == 1


def test_wrong_input_of_loadgen_is_one_sentence(tmp_path, capsys):
    code = run(tmp_path / "no.pt", tmp_path, tmp_path, "Offline")
    assert refused(Run(code, *capsys.readouterr()), "no.pt: no such file")
