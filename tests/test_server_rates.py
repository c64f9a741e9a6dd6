"""LoadGen's Server scenario: how the highest rate is found, and what each server answers."""

import itertools
import json
import queue
import threading
import time
from types import SimpleNamespace

import numpy
import pytest

from albert_aie import Classifier
from albert_aie.cli import console
from benchmarks import loadgen, picture, server_rates, servers, traffic
from benchmarks.plan import Engine

TEXTS = [f"a {'very ' * (i % 7)}fine film {i}" for i in range(40)]


@pytest.mark.parametrize("true", [14, 47.3, 100, 1234])
@pytest.mark.parametrize("start", [40, 100])
def test_the_highest_rate_is_found_to_a_step(true, start):
    asked = []

    def meets_bound(rate):
        asked.append(rate)
        return rate <= true

    found = server_rates.highest(meets_bound, start, 5)
    assert found <= true < 1.001 * server_rates.STEP * found and len(asked) < 18


def test_a_server_that_never_meets_the_bound_has_no_rate():
    asked = []
    assert server_rates.highest(lambda rate: asked.append(rate), 100, 10) == 0
    assert 5 < len(asked) < 9 and min(asked) == 10


class Numbers:
    """An engine whose row of a text is its number; `calls` are what it was given at a time."""

    def __init__(self, server):
        self.spec = Engine("", "", "", (), server=server)
        self.calls, self.start = [], threading.Event()

    def sentences(self, texts):
        self.start.wait(10)
        self.calls.append(texts)
        return numpy.array([[float(text.split()[-1])] for text in texts], numpy.float32)


def answered(server, texts, begin=lambda: None):
    """The first number of the row of each text; begin() is called when all were sent."""
    rows = [queue.SimpleQueue() for _ in texts]
    for text, row in zip(texts, rows):
        server.send(text, row.put)
    begin()
    numbers = [float(row.get(timeout=30)[0]) for row in rows]
    server.close()
    assert all(row.empty() for row in rows)
    return numbers


@pytest.mark.parametrize("name, most", [("lock", 1), ("threads", 1), ("batcher", servers.TOGETHER)])
def test_turns_answer_each_text_with_its_own_row(name, most):
    engine = Numbers(name)
    rows = answered(servers.SERVERS[name](engine), TEXTS, engine.start.set)
    assert rows == [float(i) for i in range(len(TEXTS))]
    assert max(map(len, engine.calls)) == most and sum(map(len, engine.calls)) == len(TEXTS)


def test_a_server_of_ours_gives_what_classifier_gives(made_by):
    with Classifier(made_by["openvino"], streams=1) as classify:
        classify._batcher._limit = 5  # more wait, and are not lost
        engine = SimpleNamespace(classify=classify, spec=Engine("", "", "", (), server="shared"))
        rows = answered(servers.SERVERS["shared"](engine), TEXTS)
        classify._batcher._limit = 99
        wanted = [list(answer.probabilities.values())[0] for answer in classify(TEXTS)]
        assert rows == pytest.approx(wanted, abs=1e-5)
        ratios = servers.callers(engine, TEXTS, rounds=2)
    assert len(ratios) == 2 and min(ratios) > 0


def test_a_run_of_loadgen_against_a_server(tmp_path):
    """One second of it: what is read are LoadGen's own figures; each answer is in the log."""
    engine = Numbers("batcher")
    engine.start.set()
    found = servers.probe(engine, TEXTS, tmp_path, 200, 1, 130)
    assert 100 < found["completed"] < 300 and found["rate"] == 200 and found["seconds"] == 1
    assert 0 < found["p50"] <= found["p99"]
    # 200 queries are too few for LoadGen to know a 99th percentile
    assert found["valid"] is False
    assert servers.probe(engine, TEXTS, tmp_path / "a", 400, 1, 130, accuracy=True) == {}
    assert {i: float(row[0]) for i, row in traffic.answers(tmp_path / "a").items()} == {
        i: float(i) for i in range(len(TEXTS))
    }


def test_what_is_read_of_a_run(monkeypatch, tmp_path):
    shares = {"50.00": 2e6, "90.00": 7e6, "99.00": 9.5e6, "99.90": 30e6}
    summary = {f"{share} percentile latency (ns)": str(ns) for share, ns in shares.items()}
    summary.update({"Result is": "VALID", "Completed samples per second": "41.50"})
    asked = {}

    def drive(scenario, issue, count, folder, accuracy, **settings):
        asked.update(settings)
        return summary

    monkeypatch.setattr(servers.traffic, "drive", drive)
    found = servers.probe(Numbers("lock"), TEXTS, tmp_path, 42, 60, 130)
    read = {"valid": True, "p50": 2.0, "p99": 9.5, "completed": 41.5}
    assert found == {"rate": 42, "seconds": 60, **read}
    assert asked["server_target_latency_ns"] == 130_000_000 and asked["server_target_qps"] == 42
    assert asked["min_duration_ms"] == 60_000


class FakeWorker:
    """Holds the bound up to 50 texts a second, and LoadGen calls runs valid up to 45."""

    error = None

    def __init__(self, spec):
        pass

    def ask(self, job, *given):
        if job is servers.capacity:
            return 80.0
        _, _, rate, seconds, bound, accuracy = given
        self.last = rate
        fine = {"p50": 20.0, "p99": bound if rate <= 50 else 2.0 * bound}
        return {} if accuracy else dict(rate=rate, seconds=seconds, valid=rate <= 45, **fine)


def test_a_short_run_that_misses_the_bound_once_is_too_fast(monkeypatch, tmp_path):
    """The longer ones are few and minutes each; none is made of fewer texts than can be valid."""
    late = itertools.cycle([0, 200])

    class Shaky(FakeWorker):
        def ask(self, job, *given):
            found = super().ask(job, *given)
            return (
                {**found, "p99": next(late), "valid": False} if isinstance(found, dict) else found
            )

    monkeypatch.setattr(server_rates.worker, "Worker", Shaky)
    args = SimpleNamespace(output_dir=tmp_path, target_latency_ms=130, seconds=60)
    one = server_rates.Attempt(Engine("ours", "ours: a/b", "fp32", ()), args)
    one.search(TEXTS)
    assert one.rate == 0 and one.probes
    one.rate = 30
    one.confirm(TEXTS)
    assert one.best is None and min(run["rate"] for run in one.probes) * 60 >= 458.9
    assert one.result(TEXTS, [])["error"] == "no run at 7.7 texts/s or more was valid"


@pytest.mark.parametrize("start", [None, 30])
def test_a_rate_is_sought_in_short_runs_and_confirmed_in_a_long_one(
    start, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(server_rates.worker, "Worker", FakeWorker)
    args = SimpleNamespace(output_dir=tmp_path, target_latency_ms=130, seconds=60)
    one = server_rates.Attempt(Engine("ours", "ours: a/b", "fp32", ()), args)
    one.search(TEXTS)
    assert 50 / server_rates.STEP < one.rate <= 50
    assert {each["seconds"] for each in one.probes} == {10}
    one.rate = start or one.rate  # too high, or far too low
    one.confirm(TEXTS)
    assert one.best["valid"] and 45 / server_rates.STEP < one.best["rate"] <= 45
    assert one.worker.last == one.best["rate"]  # the run for accuracy
    assert one.best["seconds"] == 60 and one.folder.parent == tmp_path / "Server"
    assert "80.0/s" in capsys.readouterr().out


RESULT = {"precision": "fp32", "error": None, "sentences": 200, "correct": 150, "p50": 9, "p99": 99}
OURS = {**RESULT, "kind": "ours", "label": "o", "completed": 60.0, "differ": 0}
OURS["callers"] = [0.9, 0.9]


def test_the_best_peer_of_the_precision_is_what_ours_is_compared_with(capsys):
    changes = (
        {"label": "slow", "completed": 30.0},
        {"label": "best", "completed": 40.0},
        {"label": "other", "completed": 99.0, "precision": "int8"},
        {"label": "failed", "completed": 99.0, "error": "no run was valid"},
    )
    results = [*({**RESULT, "kind": "openvino", **change} for change in changes), OURS]
    for entry in results:
        server_rates.tell(entry, results)
    out = " ".join(capsys.readouterr().out.split())
    assert "o: 60.0 queries/s VALID; p50 9.0 ms, p99 99.0 ms; 150/200 right, 0 labels" in out
    assert "1.50 of the best peer's queries/s (best); 32 callers: 0.90 [0.90, 0.90]" in out
    assert "FAILED failed: no run was valid" in out


@pytest.mark.parametrize(
    "change, good",
    [
        ({}, True),
        ({"error": "no run was valid"}, False),
        ({"differ": 1}, False),
        ({"precision": "int8", "differ": 2}, True),
        ({"precision": "int8", "differ": 3}, False),
        ({"kind": "openvino", "differ": 99}, True),
    ],
)
def test_an_answer_that_is_not_ours_fails(change, good):
    assert server_rates.good({**OURS, **change}) is good


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--pth_dir=demo", "--scenarios=Offline"], "--scenarios Offline: wants an exported file"),
        (["--aie_model_dir=a.pt", "--precision=fp32"], "--precision: is of --pth_dir"),
        ([], "one of the arguments --aie_model_dir --pth_dir is required"),
    ],
)
def test_flags_that_mean_nothing_are_refused(flags, sentence, tmp_path, capsys):
    flags = [*flags, "--data_dir=x", f"--output_dir={tmp_path}"]
    assert console.main(loadgen.parse_args, loadgen.run, flags) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow  # five minutes: six servers are made, and LoadGen runs some fifty times
def test_all_servers_in_one_run(tmp_path, tiny, sst2, capfd):
    pytest.importorskip("onnxruntime")
    flags = [f"--pth_dir={tiny}", f"--data_dir={sst2}", "--scenarios=Server", "--seconds=4"]
    flags += ["--precision", "fp32", f"--output_dir={tmp_path}"]
    code = console.main(loadgen.parse_args, loadgen.run, flags)
    out = capfd.readouterr().out
    assert code == 0, out
    found = json.loads((tmp_path / server_rates.OUTPUT).read_text())["servers"]
    assert {entry["server"] for entry in found} == set(servers.SERVERS)
    assert len({entry["correct"] for entry in found}) == 1 and out.count("VALID") == 6


@pytest.mark.parametrize("whole, ratio", [(0.4, 1), (0.04, 0.1)])
def test_callers_are_compared_with_one_call(monkeypatch, whole, ratio):
    """40 texts of 0.02 s each, two at a time, are 0.4 s."""
    monkeypatch.setattr(servers, "CALLERS", 2)

    def classify(given):
        time.sleep(whole if isinstance(given, list) else 0.02)

    (found,) = servers.callers(SimpleNamespace(classify=classify), TEXTS, rounds=1)
    assert ratio / 2 < found < ratio * 2


def test_a_server_has_a_colour_and_a_precision_a_line():
    figure = pytest.importorskip("matplotlib.figure")
    kinds = [("a fp32", "fp32"), ("a bf16", "bf16"), ("b fp32, 2", "fp32"), ("b fp32", "fp32")]
    probes = [{"rate": 30, "p99": 90}]
    entries = [{**OURS, "label": one, "precision": p, "probes": probes} for one, p in kinds]
    axes = figure.Figure().subplots()
    picture.latency(axes, entries, 130)
    lines = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines[:4]}
    assert len({*lines.values()}) == 4 and len({colour for colour, _ in lines.values()}) == 3
    assert lines["a fp32"][0] == lines["a bf16"][0] and lines["a bf16"][1] == "--"


def test_the_picture_has_the_better_run_at_each_rate(tmp_path):
    """A point a rate, from the slowest on; a server that failed is left out."""
    figure = pytest.importorskip("matplotlib.figure")
    runs = [(50, 200), (40, 150), (40, 120), (30, 90)]
    probes = [{"rate": rate, "p99": p99} for rate, p99 in runs]
    entry = {**OURS, "server": "shared", "probes": probes}
    report = {"bound": 130, "servers": [entry, {**entry, "label": "failed", "error": "none"}]}
    size, draw, *given = picture.served(report)
    axes = figure.Figure(figsize=size).subplots()
    draw(axes, *given)
    line, bound = axes.lines
    assert line.get_xydata().tolist() == [[30, 90], [40, 120], [50, 200]]
    assert line.get_label() == "o" and set(bound.get_ydata()) == {130}
    (tmp_path / "server.json").write_text(json.dumps(report))
    paths = [str(tmp_path / "server.json"), str(tmp_path / "a.svg")]
    assert console.main(picture.parse_args, picture.run, [*paths, "--plot=server"]) == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()
