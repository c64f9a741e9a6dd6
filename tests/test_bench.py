"""benchmarks/: figures from readings made by hand, a run of a few engines, and the sweep."""

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, logits_in_this_process
from test_page import swept

import export_albert_aie
import run_aie_eval
from albert_aie.base.shapes import Shape
from albert_aie.cli import console
from albert_aie.run import evaluate as evaluating
from benchmarks import (
    cells,
    engines,
    host,
    peers,
    picture,
    plan,
    readings,
    scaling,
    sweep,
    tables,
    worker,
)


def engine(kind, precision="fp32", text=None, dense=None, **fields):
    """An entry of bench.json; `text`: seconds, sentences, flops, correct, flips."""
    entry = plan.Engine(kind, f"{kind} {precision}", precision, (), **fields).fields()
    entry.update(load=1.25, memory=700.4, dense=dense or {})
    if text:
        names = ("seconds", "sentences", "flops", "correct", "flips")
        entry["end_to_end"] = dict(zip(names, text), every=1)
    return entry


def hand_made():
    """Seconds a sentence in two rounds: baseline 1 and 2, peer 0.25 and 0.5, ours 0.125 and 0.125.
    The ceiling is 100 GFLOP/s. With two rounds the interval of a median is both ratios."""
    second = {"seconds": [2 * 2048**3 / 100e9] * 2}
    full_rows = {
        "plain": {"8": {"seconds": [0.5, 0.5], "flops": 35e9}},
        "packed": {"8": {"seconds": [0.55, 0.55], "flops": 36e9}},
        "peer": {"8": {"seconds": [1.0, 2.0], "flops": 40e9}},
    }
    ceiling = {**engine("ceiling"), "end_to_end": second}
    return {
        "nominal_flops_per_row": 5e9,
        "sentences_per_row": 4.5,
        "engines": [
            engine("transformers", text=([10.0, 20.0], 10, 90e9, 8, 0)),
            engine("transformers", compile=True, dense=full_rows["peer"]),
            engine("openvino", text=([20.0, 40.0], 80, 900e9, 60, 1), sorted=True, streams=2),
            engine("openvino", text=([40.0, 80.0], 80, 900e9, 60, 1), sorted=True, streams=1),
            engine("ours", dense=full_rows["plain"]),
            engine("ours", packed=True, dense=full_rows["packed"]),
            engine("ours", text=([10.0, 10.0], 80, 800e9, 59, 2), streams=2),
            engine("ours", text=([20.0, 20.0], 80, 800e9, 59, 2), streams=1),
            engine("ours", "bf16", text=([5.0, 5.0], 80, 800e9, 58, None)),
            ceiling,
        ],
    }


def test_every_figure_of_the_tables_by_hand():
    text = tables.tables(hand_made())
    rows = [
        "| transformers fp32, batch 8 | 0.8 (0.5 to 1.0) | 1.00 [1.00, 1.00] | 8/10 | 0 "
        "| 6 (6 %) | 1.2 | 700 |",
        "| openvino fp32, batch 8 | 3.0 (2.0 to 4.0) | 4.00 [4.00, 4.00] | 60/80 | 1 "
        "| 30 (30 %) | 1.2 | 700 |",
        "| **ours fp32** | 8.0 (8.0 to 8.0) | 12.00 [8.00, 16.00] | 59/80 | 2 "
        "| 80 (80 %) | 1.2 | 700 |",
        "| **ours bf16** | 16.0 (16.0 to 16.0) | 24.00 [16.00, 32.00] | 58/80 | - "
        "| 160 | 1.2 | 700 |",
    ]
    summary = text[text.index("Summary") :].split("\n")
    assert summary[4:8] == rows  # the searched shapes and streams that lost are left out
    assert all(row in text[: text.index("Dense")] for row in rows)
    assert "ceiling fp32: 100 GFLOP/s" in text
    assert "end to end fp32: ours fp32 / openvino fp32 = 3.000 [2.000, 4.000]" in text
    assert "end to end bf16" not in text
    assert "rows/s (range) | GFLOP/s executed (of ceiling) | GFLOP/s nominal, 5.00 " in text
    assert "| ours fp32 | 16.00 (16.00 to 16.00) | 70 (70 %) | 80 (80 %) |" in text
    assert "| transformers fp32 | 6.00 (4.00 to 8.00) | 27 (27 %) | 27 (27 %) |" in text
    assert "dense batch 8 fp32: ours fp32 / transformers fp32 = 3.000 [2.000, 4.000]" in text
    assert summary[-1] == "| fp32, batch 8 | 16.0 | 3.000 [2.000, 4.000] | 1.100 [1.100, 1.100] |"
    assert "packed (4.50 sentences a row)" in summary[-3]


def test_the_table_of_single_sentences_by_hand():
    """Each figure of ours against the peer that is best in that very figure: the means 20 and 40 ms
    against 40 and 60 of the one peer, p50 10 and 10 against 15 and 15 of the other."""

    def single(kind, mean, p50, p90):
        return of_text("one_at_a_time", engine(kind), mean=mean, p50=p50, p90=p90)

    engines = [
        single("ours", [0.02, 0.04], [0.01, 0.01], [0.08, 0.08]),
        single("openvino", [0.04, 0.06], [0.02, 0.02], [0.08, 0.08]),
        single("onnxruntime", [0.08, 0.08], [0.015, 0.015], [0.16, 0.16]),
    ]
    lines = tables.tables({**hand_made(), "engines": engines}).split("\n")
    assert [line for line in lines if line.startswith("| o")] == [
        "| onnxruntime fp32 | 80.00 | 15.00 | 160.00 | 60/80 | 1 | 1.2 | 700 |",
        "| openvino fp32 | 50.00 | 20.00 | 80.00 | 60/80 | 1 | 1.2 | 700 |",
        "| ours fp32 | 30.00 | 10.00 | 80.00 | 60/80 | 1 | 1.2 | 700 |",
    ]
    said = [line for line in lines if line.startswith("one at a time")]
    assert said == [
        "one at a time, mean, fp32: ours fp32 / openvino fp32 = 1.750 [1.500, 2.000]",
        "one at a time, p50, fp32: ours fp32 / onnxruntime fp32 = 1.500 [1.500, 1.500]",
        "one at a time, p90, fp32: ours fp32 / openvino fp32 = 1.000 [1.000, 1.000]",
    ]
    assert "Summary" not in lines


def of_text(setting, engine, **figures):
    """An engine with a reading of 80 sentences in two rounds."""
    made = {"sentences": 80, "every": 1, "predictions": [1] * 80, "correct": 60, "flips": 1}
    return {**engine, setting: {**made, **figures}}


def all_typed():
    """Ours takes 10 and 20 s for all and 20 and 20 ms for a text; the pipeline 40 and 40 s and
    40 and 80 ms; OpenVINO 20 and 20 s and 10 and 10 ms."""
    taken = {
        ("ours", "default"): ([10.0, 20.0], [0.02, 0.02]),
        ("pipeline", "fp32"): ([40.0, 40.0], [0.04, 0.08]),
        ("openvino", "fp32"): ([20.0, 20.0], [0.01, 0.01]),
    }
    engines = [
        of_text("as_typed", engine(*kind), seconds=seconds, single=single)
        for kind, (seconds, single) in taken.items()
    ]
    return {**hand_made(), "engines": engines}


TYPED_ROWS = [
    "| pipeline fp32 | 2.0 | 3.00 [2.00, 4.00] | 60.0 | 3.00 [2.00, 4.00] | 60/80 | 1 |",
    "| openvino fp32 | 4.0 | 1.50 [1.00, 2.00] | 10.0 | 0.50 [0.50, 0.50] | 60/80 | 1 |",
    "| **ours default** | 6.0 | - | 20.0 | - | 60/80 | 1 |",
]


def test_the_table_of_engines_as_typed_by_hand():
    """It stands first; the ratio is how many times as fast ours is, paired within a round."""
    both = [*hand_made()["engines"], *all_typed()["engines"]]
    text = tables.tables({**hand_made(), "engines": both})
    lines = [line for line in text.split("\n") if line.startswith("| ")]
    assert lines[0].startswith("| as typed | sentences/s | ours is | one text, ms | ours is |")
    assert lines[2:5] == [f"{line} 1.2 | 700 |" for line in TYPED_ROWS]
    assert lines[5].startswith("| engine | sentences/s (range)")
    assert "As typed" not in tables.tables(hand_made())


def test_without_ours_there_is_no_ratio_of_what_was_typed():
    report = all_typed()
    del report["engines"][0]
    first = next(iter(tables.typed_rows(report).values()))[1]
    assert first == "| pipeline fp32 | 2.0 | - | 60.0 | - | 60/80 | 1 |"


def test_of_two_runs_a_row_is_that_of_the_slower_one(tmp_path, capsys):
    """Ours is slower in the second run, OpenVINO in the first, each with its run's ratio."""
    second = all_typed()
    second["engines"][0]["as_typed"].update(seconds=[20.0, 20.0])
    second["engines"][2]["as_typed"].update(seconds=[10.0, 10.0])
    files, readme = [tmp_path / "1.json", tmp_path / "2.json"], tmp_path / "README.md"
    for file, report in zip(files, (all_typed(), second)):
        file.write_text(json.dumps(report))
    for order in (files, files[::-1]):
        readme.write_text(page_of("old"))
        assert script(tables, *order, "--readme", readme) == 0
        rows = {line.split(" | ")[0]: line for line in readme.read_text().split("\n")}
        assert rows["| openvino fp32"] == TYPED_ROWS[1]
        assert rows["| **ours default**"].startswith("| **ours default** | 4.0 | - |")


def page_of(rows):
    """A README with both pairs of markers around some rows."""
    blocks = [f"{begin}\n{rows}\n{tables.END}" for begin in tables.README]
    return "\n".join(["above", *blocks, "below", ""])


def test_no_figure_hangs_on_the_words_of_a_label():
    def cells(label):
        report = hand_made()
        for entry in report["engines"]:
            entry["label"] = label or entry["label"]
        lines = tables.tables(report).split("\n")
        return [line.split("|")[2:] for line in lines if line.startswith("| ")]

    for label in ("ours int8, packed 3 x 64", "OpenVINO bf16, sorted", "ceiling fp32", "?"):
        assert cells(label) == cells(None), label


def test_the_interval_holds_the_truth_and_narrows():
    generator = random.Random(1)
    noisy = [1.2 * generator.lognormvariate(0, 0.05) for _ in range(40)]
    middle, low, high = readings.interval(noisy)
    assert low < 1.2 < high and low < middle < high
    few = readings.interval(noisy[:5])
    assert few[2] - few[1] > high - low
    assert readings.interval([1.5]) == (1.5, 1.5, 1.5)
    assert readings.paired([1.0, 2.0], [2.0, 3.0]) == [2.0, 1.5]


def test_accuracy_and_flips_are_counted_on_the_sentences_that_an_engine_saw():
    engines = [
        {"kind": "ours", "end_to_end": {"every": 1, "predictions": [0] * 32}},
        {"kind": "transformers", "end_to_end": {"every": 8, "predictions": [1, 1, 0, 1]}},
        {"kind": "onnxruntime", "end_to_end": {"every": 1, "predictions": [1, 0] + [1] * 30}},
        {"kind": "ceiling", "end_to_end": {"seconds": [1.0]}},
    ]
    engines = [{"precision": "fp32", **engine} for engine in engines]
    readings.score(engines, [1, 0] * 16)
    ours, padded, whole, ceiling = (engine["end_to_end"] for engine in engines)
    assert (ours["correct"], ours["flips"]) == (16, 31)
    assert (padded["correct"], padded["flips"]) == (3, 1)
    assert (whole["correct"], whole["flips"]) == (17, 0)
    assert ceiling == {"seconds": [1.0]}
    readings.score(engines[:2], [1, 0] * 16)
    assert ours["flips"] is None  # no peer ran every sentence in fp32


def script(module, *flags):
    return console.main(module.parse_args, module.run, [str(flag) for flag in flags])


@pytest.fixture
def bench(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(hand_made()))
    return file


def test_the_rows_of_the_readmes(tmp_path, bench, capsys):
    """The table of what is typed comes first; one without readings stays as it is."""
    english, chinese = tmp_path / "README.md", tmp_path / "README.zh-CN.md"
    for file in (english, chinese):
        file.write_text(page_of("old"), encoding="utf-8")
    assert script(tables, bench, "--readme", english, chinese) == 0
    typed_begin, begin = tables.README
    rows = [
        "| --- | --- | --- | --- | --- | --- |",
        "| transformers fp32, batch 8 | 0.8 | 1.00 [1.00, 1.00] | - | 8/10 | 0 |",
        "| **ours fp32** | 8.0 | 12.00 [8.00, 16.00] | 3.000 [2.000, 4.000] | 59/80 | 2 |",
        "| **ours bf16** | 16.0 | 24.00 [16.00, 32.00] | - | 58/80 | - |",
        tables.END,
        "below",
        "",
    ]
    head = "| engine | sentences/s | x eager padded | x best peer | accuracy | flips |"
    above = ["above", typed_begin, "old", tables.END, begin]
    assert english.read_text().split("\n") == [*above, head, *rows]
    lines = chinese.read_text(encoding="utf-8").split("\n")
    assert "句/秒" in lines[5] and lines[6:] == rows
    before = english.read_text()
    assert script(tables, bench, "--readme", english) == 0 and english.read_text() == before
    bench.write_text(json.dumps(all_typed()))
    assert script(tables, bench, "--readme", english, chinese) == 0
    lines = english.read_text().split("\n")
    assert lines[4:7] == TYPED_ROWS and lines[8:] == [begin, head, *rows]
    assert "照文档输入" in chinese.read_text(encoding="utf-8")


def test_the_readmes_of_this_repository_have_a_place_for_each_table(tmp_path, bench, capsys):
    copies = [tmp_path / name for name in ("README.md", "README.zh-CN.md")]
    for copied in copies:
        copied.write_bytes((ROOT / copied.name).read_bytes())
    assert script(tables, bench, "--readme", *copies) == 0
    for copied in copies:
        text = copied.read_text(encoding="utf-8")
        places = [text.index(begin) for begin in tables.README]
        assert places == sorted(places) and "| **ours bf16** | 16.0 |" in text[places[1] :]


def test_the_picture_shows_the_medians_and_their_accuracy(tmp_path, bench, capsys):
    """Bars as long as the medians of hand_made(): 0.75, 3 and 8 sentences/s in fp32, 16 in bf16."""
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    bars = picture.bars_of(hand_made())
    assert [bar and (bar[0], bar[1], bar[3]) for bar in bars] == [
        ("transformers fp32", False, "0.8  (8/10 right)"),
        ("openvino fp32", False, "3.0  (60/80 right)"),
        ("ours fp32", True, "8.0  (59/80 right)"),
        None,
        ("ours bf16", True, "16.0  (58/80 right)"),
    ]
    picture.draw_bars(axes, bars, "here")
    widths = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in axes.patches}
    assert widths == {0: 0.75, 1: 3, 2: 8, 4: 16}
    ranges = [list(line.get_xdata()) for line in axes.get_lines()]
    assert ranges == [[0.5, 1], [2, 4], [8, 8], [16, 16]]
    bench.write_text(json.dumps({**hand_made(), "machine": {"cpu": "EPYC", "cores": 2}}))
    svg = tmp_path / "speed.svg"
    assert script(picture, bench, svg) == 0 and "wrote" in capsys.readouterr().out
    assert "16.0  (58/80 right)" in svg.read_text() and "2 cores of EPYC" in svg.read_text()
    assert svg.read_text().index("prefers-color-scheme") < svg.read_text().index("58/80")


@pytest.mark.parametrize(
    "plot, words",
    [
        ("throughput", ("batch size, rows", "sentences a second", "fp32 padded 64")),
        ("latency", ("batch size, rows", "milliseconds a batch", "int8 chosen 64")),
        ("accuracy", ("accuracy", "sentences a second, end to end", "int8 padded")),
    ],
)
def test_the_pictures_of_a_sweep(tmp_path, capsys, plot, words):
    file, svg = tmp_path / "sweep.json", tmp_path / "sweep.svg"
    file.write_text(json.dumps(swept()))
    assert script(picture, file, svg, "--plot", plot) == 0
    assert all(word in svg.read_text() for word in words), svg.read_text()
    file.write_text(json.dumps({**swept(), "results": []}))
    before = svg.read_text()
    assert script(picture, file, svg, "--plot", plot) == 2 and svg.read_text() == before


@pytest.mark.parametrize(
    "seconds, text",
    [
        (None, "{}"),
        (None, "[1]"),
        (None, '{"engines": [], "machine": {"cpu": "", "cores": 2}}'),
        ([], None),
        ([0.0, 0.0], None),
    ],
)
def test_a_picture_of_nothing_is_refused_and_the_old_one_kept(tmp_path, capsys, seconds, text):
    file, svg = tmp_path / "x.json", tmp_path / "speed.svg"
    report = {**hand_made(), "machine": {"cpu": "EPYC", "cores": 2}}
    report["engines"][0]["end_to_end"]["seconds"] = seconds
    file.write_text(text or json.dumps(report))
    svg.write_text("old")
    assert script(picture, file, svg) == 2 and svg.read_text() == "old"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("wrong", ["", "{begin}\n{begin}"])
def test_a_readme_without_its_markers_is_named_and_none_is_written(
    tmp_path, bench, capsys, wrong, number
):
    good, bad, begin = tmp_path / "README.md", tmp_path / "OTHER.md", list(tables.README)[number]
    good.write_text(page_of("old"))
    bad.write_text(page_of("old").replace(begin, wrong.format(begin=begin)))
    before = bad.read_text()
    assert script(tables, bench, "--readme", good, bad) == 2
    error = capsys.readouterr().err
    assert str(bad) in error and begin in error and error.count("\n") == 1
    bad.write_text(page_of("old").replace(tables.END, ""))
    assert script(tables, bench, "--readme", good, bad) == 2
    assert good.read_text() == page_of("old") and before.count(begin) != 1


def test_readings_without_sentences_leave_the_readme_as_it_is(tmp_path, bench, capsys):
    report = hand_made()
    report["engines"] = [e for e in report["engines"] if "end_to_end" not in e]
    bench.write_text(json.dumps(report))
    readme = tmp_path / "README.md"
    readme.write_text(page_of("old"))
    assert script(tables, bench, "--readme", readme) == 2 and readme.read_text() == page_of("old")
    assert script(tables, bench) == 0 and "dense batch 8 fp32" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "no json", "[]", "{}", '{"engines": [{"kind": "ours"}]}'])
def test_tables_of_what_peers_did_not_write_are_refused(tmp_path, capsys, text):
    file = tmp_path / "readings.json"
    if text:
        file.write_text(text)
    assert script(tables, file) == 2
    error = capsys.readouterr().err
    assert "no readings of benchmarks/peers.py" in error and error.count("\n") == 1


@pytest.fixture
def small_run(tmp_path, tiny, sst2, capsys):
    """run(flags): (the engines of bench.json, what was printed) of a run of peers.py."""
    pytest.importorskip("openvino"), pytest.importorskip("onnxruntime")
    if not hasattr(torch, "float8_e4m3fn"):
        pytest.skip("OpenVINO's converter and transformers' masks do not fit on torch 2.0")

    def run(*flags):
        flags = [*flags, "--pth_dir", tiny, "--data_dir", sst2, "--rounds", 2]
        assert script(peers, *flags, "--output", tmp_path / "bench.json") == 0
        printed = capsys.readouterr().out
        return json.loads((tmp_path / "bench.json").read_text())["engines"], printed

    return run


@pytest.mark.slow
def test_a_small_run_end_to_end(small_run, tmp_path, capsys):
    words = ["OpenVINO fp32, sorted, 1 stream", "ours fp32", "padded to 128"]
    flags = ["--sentences", 64, "--precision", "fp32", "--batch_size", 2, "--seconds", 0]
    engines, printed = small_run(*flags, "--engines", *words)
    assert [(e["kind"], e["packed"], e["sorted"]) for e in engines] == [
        ("transformers", False, False),
        ("openvino", False, True),
        ("ours", False, False),
        ("ours", True, False),
    ]
    padded, openvino, ours, packed = engines
    for entry in (e["end_to_end"] for e in (padded, openvino, ours)):
        assert len(entry["seconds"]) == 2 and entry["flips"] == 0 and entry["flops"] > 0
    assert openvino["end_to_end"]["correct"] == ours["end_to_end"]["correct"]
    assert (padded["end_to_end"]["sentences"], ours["end_to_end"]["sentences"]) == (8, 64)
    each = [e["end_to_end"]["flops"] / e["end_to_end"]["sentences"] for e in (padded, ours)]
    assert each[1] < each[0] / 3
    for entry in (ours, packed):
        assert list(entry["dense"]) == ["2"] and len(entry["dense"]["2"]["seconds"]) == 2
    assert "end_to_end" not in packed
    assert "end to end fp32: ours fp32" in printed and "dense batch 2 fp32: ours" in printed
    assert script(tables, tmp_path / "bench.json") == 0
    assert capsys.readouterr().out.strip() in printed


@pytest.mark.slow
def test_a_small_run_of_single_sentences(small_run):
    """Every kind of engine. All predict alike."""
    flags = ["--sentences", 24, "--precision", "fp32", "--settings", "one_at_a_time"]
    engines, printed = small_run(*flags)
    kinds = ["transformers"] * 2 + ["onnxruntime"] + ["openvino"] * 2 + ["ours"]
    assert [entry["kind"] for entry in engines] == kinds
    for entry in (engine["one_at_a_time"] for engine in engines):
        assert len(entry["mean"]) == 2 and entry["p50"][0] <= entry["p90"][0]
        assert entry["sentences"] == 24 and entry["flips"] == 0
    assert "one at a time, mean, fp32: ours fp32 /" in printed


@pytest.mark.slow
def test_a_small_run_of_engines_as_typed(small_run):
    """Each by its own defaults predicts the same."""
    engines, printed = small_run("--sentences", 24, "--settings", "as_typed")
    kinds = ["pipeline", "pipeline", "onnxruntime", "openvino", "ours"]
    assert [entry["kind"] for entry in engines] == kinds
    for entry in (engine["as_typed"] for engine in engines):
        assert len(entry["seconds"]) == len(entry["single"]) == 2 and entry["sentences"] == 24
        assert entry["flips"] == 0 and entry["seconds"][0] > entry["single"][0] > 0
    assert "| **ours as typed** |" in printed


def test_ids_that_differ_are_counted(monkeypatch):
    class Words:
        def encode(self, text, length):
            return SimpleNamespace(ids=[len(word) for word in text.split()])

    def theirs(text):
        return {"input_ids": [len(word) for word in text.split(",")]}

    import transformers

    given = SimpleNamespace(from_pretrained=lambda folder: theirs)
    monkeypatch.setattr(transformers, "AutoTokenizer", given)
    (note,) = plan.notes_on_ids("folder", Words(), ["one", "a b", "c d"])
    assert "other ids than ours for 2 of 3 sentences" in note
    assert plan.notes_on_ids("folder", Words(), ["one"]) == []


@pytest.mark.parametrize("left, code", [("none", 2), ("broken", 1), ("broken and good", 1)])
def test_an_engine_that_fails_is_named_and_the_others_are_kept(
    tmp_path, tiny, sst2, capsys, monkeypatch, left, code
):
    """Where none is left, as where none of what was asked for runs here, the old file stays."""
    made_from = {"broken": {"file": "nowhere.pt"}, "good": {"pth_dir": tiny}}
    kinds = {"broken": "ours", "good": "transformers"}
    chosen = [
        plan.Engine(kind, label, "fp32", plan.DENSE, made_from=made_from[label])
        for label, kind in kinds.items()
        if label in left
    ]
    monkeypatch.setattr(plan, "engines", lambda args, folder: (chosen, ["no card"]))
    output = tmp_path / "bench.json"
    output.write_text("an hour's work")
    flags = ["--pth_dir", tiny, "--data_dir", sst2, "--output", output, "--sentences", 8]
    flags += ["--rounds", 1, "--seconds", 0, "--batch_size", 8]
    assert script(peers, *flags) == code
    out, err = capsys.readouterr()
    assert ("FAILED      broken: UserError: nowhere.pt" in out) == ("broken" in left)
    if "good" in left:
        report = json.loads(output.read_text())
        assert len(report["failed"]) == 1 and [e["label"] for e in report["engines"]] == ["good"]
        return
    words = {"broken": "no engine was measured; nothing was written", "none": "none of the engines"}
    assert words[left] in err
    assert output.read_text() == "an hour's work" and "wrote" not in out


class Canned(worker.Worker):
    """Answers by hand; the reading with the number `ends` is a Ctrl+C."""

    ends, asked = 0, 0

    def __init__(self, spec):
        self.pool = SimpleNamespace(submit=self.submit, shutdown=lambda: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "ProcessPoolExecutor", lambda *_, **__: self.pool)
            super().__init__(spec)

    def submit(self, call, job, *given):
        if job in (worker.dense, worker.sentences, worker.singles):
            Canned.asked += 1
            if Canned.asked == self.ends:
                raise KeyboardInterrupt
        number = float(Canned.asked)
        of_texts = {worker.sentences: (number, [0] * 8), worker.singles: ([number] * 8, [0] * 8)}
        return SimpleNamespace(result=lambda: of_texts.get(job, number))


@pytest.mark.parametrize(
    "setting, ends, kept",
    [
        ("dense", 8, {"a": [3.0, 5.0], "b": [4.0, 6.0]}),  # 1 and 2 warm up
        ("end_to_end", 7, {"a": [2.0, 4.0], "b": [3.0, 5.0]}),  # 1 warms up ours, the search none
        ("one_at_a_time", 8, {"a": [3.0, 5.0], "b": [4.0, 6.0]}),
        ("as_typed", 14, {"a": [6.0, 10.0], "b": [8.0, 12.0]}),  # 1 to 4 warm up
        ("dense", 4, {}),
        ("end_to_end", 1, {}),
        ("one_at_a_time", 3, {}),
        ("as_typed", 7, {}),
    ],
)
def test_a_run_that_is_ended_keeps_its_whole_rounds(
    tmp_path, tiny, sst2, capsys, monkeypatch, setting, ends, kept
):
    """Readings are their numbers here, so that none of a broken round can pass for a whole one."""
    kinds = {"a": "openvino", "b": "ours"}
    specs = [plan.Engine(kinds[n], n, "fp32", (setting,), batch_size=8) for n in kinds]
    monkeypatch.setattr(plan, "engines", lambda args, folder: (specs, []))
    monkeypatch.setattr(worker, "Worker", Canned)
    monkeypatch.setattr(Canned, "ends", ends)
    monkeypatch.setattr(Canned, "asked", 0)
    monkeypatch.setattr(peers.random, "Random", lambda seed: InOrder())
    output = tmp_path / "bench.json"
    output.write_text("of another run")
    flags = ["--pth_dir", tiny, "--data_dir", sst2, "--sentences", 8, "--batch_size", 8]
    assert script(peers, *flags, "--settings", setting, "--output", output) == 130
    assert "rounds that were whole" in (error := capsys.readouterr().err) or not kept, error
    if not kept:
        assert "nothing was written" in error and output.read_text() == "of another run"
        return
    figure = {"one_at_a_time": "p90", "as_typed": "single"}.get(setting, "seconds")
    read = {e["label"]: e[setting] for e in json.loads(output.read_text())["engines"]}
    assert {name: each.get("8", each)[figure] for name, each in read.items()} == kept


class InOrder(random.Random):
    def __init__(self):
        super().__init__(0)

    def shuffle(self, items):
        items.sort(key=lambda step: step[0].spec.label)

    def sample(self, items, count):
        return list(items)

    def random(self):
        return 0.5


@pytest.mark.slow
def test_a_run_that_is_terminated_takes_its_engines_with_it(tmp_path, tiny, sst2):
    flags = ["--pth_dir", tiny, "--data_dir", sst2, "--sentences", "8", "--rounds", "100000"]
    flags += ["--settings", "one_at_a_time", "--engines", "transformers eager fp32"]
    output = tmp_path / "bench.json"
    started = [sys.executable, "-m", "benchmarks.peers", *map(str, flags), "--output", str(output)]
    ran = subprocess.Popen(started, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)
    time.sleep(40)  # its engine is there, and some rounds are done
    ran.terminate()
    _, error = ran.communicate(timeout=60)
    assert ran.returncode == 130 and b"rounds that were whole" in error, error
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # Python's own resource tracker ends a moment later
            os.killpg(ran.pid, 0)
            time.sleep(0.1)
    (engine,) = json.loads(output.read_text())["engines"]
    assert len(engine["one_at_a_time"]["mean"]) >= 1


def test_only_the_engines_that_were_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "unusable", lambda: {"bf16": "no bf16 here", "fp16": "no GPU"})
    monkeypatch.setattr(plan, "export", lambda args, folder, engine: "file.pt")
    monkeypatch.setattr(plan, "calibration", lambda args: [[2, 3]])
    args = SimpleNamespace(pth_dir="P", settings=["end_to_end"], precision=["bf16", "int8"])
    args.engines = ["OpenVINO", "ours"]
    chosen, notes = plan.engines(args, tmp_path)
    assert notes == ["no bf16 here"] and {engine.precision for engine in chosen} == {"int8"}
    ran = [(e.kind, e.streams, e.backend) for e in chosen]
    assert ran[:2] == [("openvino", 1, ""), ("openvino", 2, "")]
    assert ran[2:] == [("ours", 0, ""), ("ours", 0, "onnx")]
    assert chosen[0].made_from == {"pth_dir": "P", "calibration": [[2, 3]]}
    assert chosen[2].made_from == {"pth_dir": "P", "file": "file.pt"}
    args.settings, args.engines = ["as_typed"], None
    monkeypatch.setattr(plan, "hugging_face_folder", lambda args, folder: "folder")
    chosen, _ = plan.engines(args, tmp_path)
    assert [(e.kind, e.precision) for e in chosen] == [("openvino", "default"), ("ours", "default")]


def test_the_files_that_are_exported_one_a_precision(monkeypatch, tmp_path):
    """Dense rows, single sentences and all of them run one file; as typed no flag is given."""
    calls = []

    def export(name, *flags):
        calls.append([flag.split("=")[0] for flag in flags])
        folder = Path(flags[-1].split("=", 1)[1])
        folder.mkdir(), (folder / "albert_seq128_bs32.pt").touch()
        return {"exit_code": 0}

    monkeypatch.setattr(plan, "unusable", lambda: {"fp16": "no GPU"})
    monkeypatch.setattr(host, "script", export)
    given = {"pth_dir": "P", "data_dir": "D", "settings": plan.SETTINGS, "engines": ["ours"]}
    args = SimpleNamespace(precision=["fp32", "bf16"], **given)
    chosen, _ = plan.engines(args, tmp_path)
    files = {(engine.precision, engine.made_from["file"]) for engine in chosen}
    assert len(chosen) == 6 and len(files) == 4
    own = ["--pth_dir", "--data_dir", "--save_dir"]
    shaped = ["--backend", "--device", "--precision", *own]
    compiled = [*shaped[:3], "--pack", "--batch_size", "--max_seq_length", *own]
    assert calls == [own, shaped, shaped, compiled]


DEMO = "--data_dir . --pth_dir demo/checkpoint"
# 40 workers on two cores would never all be ready
TURNS = "--aie_model_dir a.pt --data_dir D --workers 4000 --threads 2 --rounds 2"
TAKE = "error: --workers 4000, --threads 2: take 8000 cores, and this process"


@pytest.mark.parametrize(
    "module, flags, words",
    [
        (peers, DEMO.replace(" . ", " nowhere "), "no such file"),
        (peers, "--data_dir .", "--pth_dir"),
        (peers, f"{DEMO} --rounds 0", "must be 1 or more"),
        (peers, f"{DEMO} --seconds -1", "--seconds -1: must be 0 or more"),
        (peers, f"{DEMO} --seconds nan", "--seconds nan: must be 0 or more"),
        (peers, f"{DEMO} --engines ours nobody", "--engines nobody: no engine has it in its label"),
        (peers, f"{DEMO} --output /proc/none/b", "/proc/none/b: cannot be written"),
        (scaling, TURNS, TAKE),
    ],
)
def test_wrong_input_is_one_sentence(capsys, monkeypatch, module, flags, words):
    monkeypatch.chdir(ROOT)
    assert script(module, *flags.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


# The sweep, on two scripts that do what a plan says for each batch size.
EXPORT = """
import json, sys
from pathlib import Path
given = dict(flag[2:].split("=", 1) for flag in sys.argv[1:] if "=" in flag)
here, folder = Path(__file__).parent, Path(given["save_dir"])
plan = json.loads((here / "plan.json").read_text())[given["batch_size"]]
with open(here / "calls.txt", "a") as calls:
    print(*sys.argv[1:], file=calls)
print("compare_cpu", plan.get("prints", "PASS"))
if "passed" in plan:
    Path(given["compare_output"]).write_text(json.dumps({"passed": plan["passed"]}))
if "pt" in plan:
    (folder / "file.pt").write_text(json.dumps([given.get("precision", "fp16"), *plan["pt"]]))
print(plan.get("stderr", "note        a note"), file=sys.stderr)
sys.exit(plan.get("exit", 0))
"""
EVALUATE = """
import json, sys
from pathlib import Path
given = dict(flag[2:].split("=", 1) for flag in sys.argv[1:] if "=" in flag)
here, folder, file = Path(__file__).parent, Path(given["output_dir"]), Path(given["aie_model_dir"])
saved = json.loads(file.read_text()) if file.exists() else sys.exit("error: no such file")
precision, *classes = saved
if not classes:
    sys.exit("error: no classes")
turns = here / "turns.txt"
turn = len(turns.read_text()) if turns.exists() else 0
turns.write_text("x" * (turn + 1))
inputs = here / "inputs.txt"  # whatever the checkpoint is now
digests = {"checkpoint": inputs.read_text() if inputs.exists() else "c", "tokenizer": "t"}
digests["data"] = "d"
names = ["score"] if (here / "regression").exists() else ["0", "1"]
e = {"classes": names, "digests": digests, "precision": precision, "metrics": {}}
e.update(sentences_scored=3, sentences_total=3)
e.update(backend="aie", device="npu:0", threads=1, max_seq_length=128)
e.update(accuracy={"correct": 2, "total": 3, "value": 2 / 3}, latency_ms={"p50": 7.46 + turn})
e.update(samples_per_second={"forward": 100.126, "end_to_end": 90.0 + turn % 3})
(folder / "eval.json").write_text(json.dumps(e))
rows = [f"{i}\\t{c}\\t0\\ta\\u2028sentence" for i, c in enumerate(classes)]
(folder / "predictions.tsv").write_text("\\n".join(["header", *rows]) + "\\n", encoding="utf-8")
"""
GOOD = {"passed": True, "pt": [0, 1, 1]}


@pytest.fixture
def planted(tmp_path, monkeypatch, capsys):
    """Runs the sweep over a plan {batch size: what the export does}; `rows` are the cells of its
    table, line by line."""

    def run(plan, *flags):
        folder = tmp_path / "scripts"
        folder.mkdir(exist_ok=True)
        (folder / "export_albert_aie.py").write_text(EXPORT)
        (folder / "run_aie_eval.py").write_text(EVALUATE)
        (folder / "plan.json").write_text(json.dumps(plan))
        calls, turns = folder / "calls.txt", folder / "turns.txt"
        calls.unlink(missing_ok=True), turns.unlink(missing_ok=True)
        monkeypatch.setattr(host, "ROOT", folder)
        monkeypatch.setattr(sweep, "check_export", lambda *_: None)  # asks the real script
        code = script(sweep, "--data_dir", "D", "--markdown", *flags, "--batch_size", *plan)
        out, err = capsys.readouterr()
        rows = [line[2:-2].split(" | ") for line in out.split("\n") if line.startswith("| ")]
        calls = calls.read_text().split("\n")[:-1] if calls.exists() else []
        return SimpleNamespace(code=code, out=out, err=err, rows=rows, calls=calls)

    return run


def row(batch_size, gate="PASS", end_to_end="90.0", p50=7.46, precision="fp32", length=64):
    shape = [precision, "padded", f"{batch_size} x {length}"]
    return [*shape, "0.6667", "2/3", "100.1", end_to_end, f"{p50:.1f}", gate]


FP32 = ["--precision", "fp32", "--max_seq_length", 64]


def test_the_rows_of_cells_and_the_file_to_send_in(tmp_path, planted):
    output = tmp_path / "report.json"
    flags = ["--backend", "aie", "--device_id", 1, "--soc_version", "X", "--output", output]
    run = planted({1: GOOD, 8: GOOD}, *flags, *FP32)
    assert run.code == 0 and run.rows[0] == cells.WHOLE[:-1]
    assert run.rows[2:] == [row(1), row(8, end_to_end="91.0", p50=8.46)]
    assert "aie on npu:0, 1 thread(s)\n3 of 3 sentences scored in each" in run.out
    assert "predictions identical between cells of one precision and length" in run.out
    given = "--backend=aie --compare_cpu --compare_output="
    assert all("--soc_version X" in call and given in call for call in run.calls)
    assert all("--data_dir=D --device_id=1" in call for call in run.calls)
    report = json.loads(output.read_text())
    assert report["machine"]["packages"]["torch"] and "card" in report["machine"]
    assert [r["cell"] for r in report["results"]] == [["fp32", "padded", 64, n] for n in (1, 8)]
    first = report["results"][0]
    assert first["comparison"] == {"passed": True} and "--soc_version" in report["command"]
    assert first["evaluations"][0]["sentences_scored"] == 3 and len(first["evaluations"]) == 1
    assert first["predictions"] == "0\t1\t1"
    assert "compare_cpu PASS" in first["export"]["stdout"] and first["evaluate"]["exit_code"] == 0


def test_every_combination_is_a_cell_in_the_order_of_the_flags(planted):
    flags = ["--precision", "fp32", "bf16", "--rows", "padded", "packed", "--max_seq_length"]
    run = planted({1: GOOD, 8: GOOD}, *flags, 64, 32)
    wanted = [
        [precision, rows, f"{batch_size} x {length}"]
        for precision in ("fp32", "bf16")
        for rows in ("padded", "packed")
        for length in (64, 32)
        for batch_size in (1, 8)
    ]
    assert [line[:3] for line in run.rows[2:]] == wanted
    for (precision, rows, shape), call in zip(wanted, run.calls):
        size, length = shape.split(" x ")
        assert f"--batch_size={size} --max_seq_length={length} --precision={precision}" in call
        assert ("--pack" in call) == (rows == "packed")


def test_repetitions_are_shown_by_their_median_and_range(planted):
    """90, 91 and 92 sentences/s: the median, and half of their range; 7.46, 8.46 and 9.46 ms."""
    run = planted({4: GOOD}, *FP32, "--rounds", 3)
    assert run.rows[2:] == [row(4, end_to_end="91.0 ±1.0", p50=8.46)]
    assert len(run.calls) == 1


def test_a_sweep_that_was_stopped_goes_on(tmp_path, planted, monkeypatch):
    """What is finished is not run again, what failed is; the table has all. So it is for a sweep
    of more cells."""
    output, real = tmp_path / "report.json", host.script

    def script(name, *flags):
        if "--batch_size=8" in flags:
            raise KeyboardInterrupt
        return real(name, *flags)

    flags = [*FP32, "--output", output]
    monkeypatch.setattr(host, "script", script)
    run = planted({1: GOOD, 4: {"exit": 2}, 8: GOOD}, *flags)
    assert run.code == 130 and len(run.calls) == 2 and run.rows == []
    monkeypatch.setattr(host, "script", real)
    run = planted({1: GOOD, 4: GOOD, 8: GOOD, 2: GOOD}, *flags)
    assert run.code == 0 and "1 of 4 cells are in " in run.err
    assert [call.split("--batch_size=")[1][0] for call in run.calls] == ["4", "8", "2"]
    assert [line[2] for line in run.rows[2:]] == ["1 x 64", "4 x 64", "8 x 64", "2 x 64"]
    run = planted({1: GOOD, 8: GOOD}, *flags)
    assert run.code == 0 and run.calls == [] and len(run.rows) == 4
    run = planted({1: GOOD}, *flags, "--rounds", 2)
    assert run.code == 2 and "holds a sweep with another repeat; name another file" in run.err
    held = json.loads(output.read_text())
    for wrong in ({}, [], {**held, "results": [{}]}, {**held, "results": [{"cell": [1]}]}):
        output.write_text(json.dumps(wrong))
        run = planted({1: GOOD}, *flags)
        assert run.code == 2 and "holds no sweep" in run.err and not run.calls
        assert json.loads(output.read_text()) == wrong


def test_a_sweep_does_not_go_on_with_another_checkpoint_or_data(tmp_path, planted):
    """Neither where a file changed in the folders that are named, nor where a cell says so."""
    output, data, checkpoint = tmp_path / "o.json", tmp_path / "data", tmp_path / "checkpoint"
    for folder in (data, checkpoint):
        folder.mkdir()
        (folder / "a").write_text("one")
    flags = [*FP32, "--output", output, "--pth_dir", checkpoint, "--data_dir", data]
    run = planted({1: GOOD}, *flags)
    assert run.code == 0 and f"--pth_dir={checkpoint}" in run.calls[0]
    assert planted({1: GOOD}, *flags).calls == []
    before = output.read_bytes()
    for folder, name in ((data, "data_dir"), (checkpoint, "pth_dir")):
        (folder / "a").write_text("other")
        run = planted({1: GOOD, 2: GOOD}, *flags)
        assert run.code == 2 and f"holds a sweep with another {name}; name" in run.err
        assert not run.calls and output.read_bytes() == before
        (folder / "a").write_text("one")
        stat = json.loads(before)["settings"][name][1][0]
        os.utime(folder / "a", ns=(stat[2], stat[2]))
    inputs = tmp_path / "scripts" / "inputs.txt"
    inputs.write_text("another")
    run = planted({1: GOOD, 2: GOOD}, *flags)
    assert run.code == 2 and "has cells of another checkpoint; name another --output" in run.err
    assert output.read_bytes() == before


def done_with(batch_size, predictions=None, **evaluation):
    """A finished (cell, result)."""
    evaluations = [{"precision": "fp32", **evaluation}]
    cell = cells.Cell("fp32", "padded", 64, batch_size)
    return cell, {"evaluations": evaluations, "predictions": predictions}


def test_predictions_that_differ_between_cells(planted, tmp_path):
    """Of one precision and length: longer rows may see more of a sentence. A regression has none to
    agree on, for scores of two shapes differ in their last digits, and neither has one cell."""
    differing = {1: GOOD, 8: {**GOOD, "pt": [0, 1, 0]}}
    run = planted(differing, *FP32)
    assert run.code == 1
    assert "predictions of fp32 at 64 tokens DIFFER between cells in 1 of 3 sentences" in run.out
    run = planted(differing, "--precision", "bf16")
    assert run.code == 0 and "predictions of bf16 at 128 tokens DIFFER between" in run.out
    (tmp_path / "scripts" / "regression").touch()
    run = planted(differing, *FP32)
    assert run.code == 0 and "predictions" not in run.out
    done = [done_with(n, text) for n, text in ((1, "0\t1"), (8, "0\t1"), (16, None))]
    assert cells.disagreements(done) == {("fp32", 64): 0} and cells.disagreements(done[1:]) == {}
    assert cells.disagreements([done_with(1, "1\t1"), *done[1:]]) == {("fp32", 64): 1}


def test_time_left(planted, monkeypatch):
    """Three cells of a minute each, as the clock says."""
    clock = iter([0.0, 60.0, 120.0, 180.0])
    monkeypatch.setattr(sweep.time, "monotonic", lambda: next(clock))
    run = planted({1: GOOD, 2: {"exit": 2, "stderr": "error: no card"}, 4: GOOD}, *FP32)
    assert [line[12:] for line in run.err.splitlines()] == [
        "1 of 3: fp32 padded 1 x 64 90.0 sentences/s end to end, 2 min left",
        "2 of 3: fp32 padded 2 x 64 failed (no card), 1 min left",
        "3 of 3: fp32 padded 4 x 64 91.0 sentences/s end to end, none left",
    ]


def test_published_figures_stand_beside_ours_where_batch_and_length_match(planted):
    """On aie alone, of padded rows of 128 tokens, and marked."""
    flags = ["--max_seq_length", 64, 128, "--rows", "padded", "packed"]
    run = planted({8: GOOD, 3: GOOD}, *flags)
    assert run.rows[0][-1] == "310P3*" and "* samples/s that the vendor published" in run.out
    shown = {(line[1], line[2]): line[9] for line in run.rows[2:]}
    assert shown.pop(("padded", "8 x 128")) == "1020.8" and set(shown.values()) == {""}
    assert "310P3" not in planted({8: GOOD}, *FP32).out


def test_the_verdict_is_read_from_the_comparison_s_file_and_not_from_words(planted):
    failed = {**GOOD, "passed": False}
    run = planted({1: failed, 2: {**failed, "exit": 1}, 4: GOOD}, *FP32)
    assert run.code == 1 and [line[8] for line in run.rows[2:]] == ["FAIL", "FAIL", "PASS"]
    run = planted({1: {**GOOD, "prints": "FAIL"}}, *FP32)
    assert run.code == 0 and run.rows[2:] == [row(1)]


TRACEBACK = 'Traceback (most recent call last):\n  File "x", line 1\n    f(|)\nValueError: a|b\nx'
FAILURES = {  # what the export does -> what is said
    "a crash that exits 1": ({"exit": 1, "stderr": TRACEBACK}, "ValueError: a|b"),
    "a crash after the verdict": ({**GOOD, "exit": 1, "stderr": TRACEBACK}, "ValueError: a|b"),
    "its own error": ({"exit": 2, "stderr": "note  x\nerror: no card\n"}, "no card"),
    "killed without a word": ({"exit": 137, "stderr": ""}, "exit code 137"),
    "no comparison": ({"pt": [1]}, "export_albert_aie.py wrote no comparison"),
    "the evaluation": ({"passed": True, "pt": []}, "no classes"),
    "no file": ({"passed": True}, "no such file"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_cell_that_fails_shows_why_and_the_others_go_on(tmp_path, planted, failure):
    plan, words = FAILURES[failure]
    output = tmp_path / "report.json"
    run = planted({1: plan, 8: GOOD}, *FP32, "--output", output)
    assert run.code == 1 and run.rows[2:] == [row(8)]
    assert f"\nfp32 padded 1 x 64: error: {words}\n" in run.out
    results = json.loads(output.read_text())["results"]
    assert results[0]["error"] == words and "error" not in results[1]


def test_the_report_is_there_before_the_next_cell_begins(tmp_path, planted, monkeypatch):
    output, seen = tmp_path / "report.json", []
    real = host.script

    def script(name, *flags):
        done = json.loads(output.read_text())["results"] if output.exists() else []
        seen.append([result["cell"][3] for result in done])
        return real(name, *flags)

    monkeypatch.setattr(host, "script", script)
    planted({1: GOOD, 4: GOOD, 8: {"exit": 2}}, "--output", output)
    assert seen == [[], [], [1], [1], [1, 4]]
    assert [r["cell"][3] for r in json.loads(output.read_text())["results"]] == [1, 4, 8]


@pytest.mark.parametrize("scored", [[5, 3, 4], [3, 5, 4], [4, 5, 3]])
def test_the_cell_with_the_fewest_scored_sentences_is_told(scored):
    given = {"backend": "openvino", "device": "cpu", "threads": 2, "sentences_total": 5}
    done = [done_with(1, sentences_scored=count, **given) for count in scored]
    assert "3 of 5 sentences scored in the worst" in list(cells.summary(done))
    alike = [done[scored.index(5)]]
    assert "5 of 5 sentences scored in each" in list(cells.summary(alike))


def test_rows_of_a_peer_have_a_mask_of_their_own_lengths():
    ids, mask, types = engines.padded([[2, 7, 3], [2, 3]], 4)
    assert ids.tolist() == [[2, 7, 3, 0], [2, 3, 0, 0]] and not types.any()
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    "spec, flops",
    [  # of rows of lengths 5, 9 and 3, in batches of 2; a token is a FLOP
        ({"sorted": False}, 3 * 128),
        ({"sorted": True}, 2 * 5 + 9),
        ({"sorted": True, "multiple": 8}, 2 * 8 + 16),
    ],
)
def test_the_flops_of_a_peer_by_hand(monkeypatch, spec, flops):
    monkeypatch.setattr(engines, "flops_per_row", lambda config, length: length)
    peer = object.__new__(engines.Peer)
    peer.spec, peer.batch_size = plan.Engine("onnxruntime", "", "fp32", (), **spec), 2
    peer.config = SimpleNamespace()
    assert peer.flops([5, 9, 3]) == flops


@pytest.mark.parametrize("slots, flops", [(0, 6), (2, 3)])
def test_the_flops_of_our_file_are_those_of_whole_batches(monkeypatch, slots, flops):
    """Four sentences in batches of 3 rows, one or two a row."""
    monkeypatch.setattr(engines, "executed_flops_per_row", lambda config, shape: 1)
    file = object.__new__(engines.Ours)
    file.config, file.saved = {}, SimpleNamespace(shapes=(Shape(3, 64, slots),))
    file.runner = SimpleNamespace(grid=None, streams=1)
    assert file.flops([10, 10, 10, 10]) == flops


def test_the_table_of_a_terminal_has_80_columns():
    """With a card's rates, repetitions and the published figures beside them."""
    same = {"precision": "fp16", "backend": "aie", "latency_ms": {"p50": 7.84}}
    same["accuracy"] = {"value": 0.9282, "correct": 809, "total": 872}
    speeds = [{"forward": 1020.77 + i, "end_to_end": 1015.5 + i} for i in range(4)]
    evaluations = [{**same, "samples_per_second": speed} for speed in speeds]
    cell = cells.Cell("fp16", "padded", 128, 8)
    done = [(cell, {"evaluations": evaluations, "comparison": {"passed": True}})]
    assert cells.aligned(*cells.table(done, cells.TERMINAL)) == [
        "file                 accuracy  forward/s  end to end/s  p50 ms  gate  310P3*",
        "fp16 padded 8 x 128  0.9282    1022.3     1017.0 ±1.5   7.8     PASS  1020.8",
    ]


def test_without_the_comparison(planted):
    run = planted({1: {"pt": [1, 1, 0]}}, *FP32, "--no_compare_cpu", "--device", "cuda")
    assert run.code == 0 and run.rows[2:] == [row(1, gate="-")]
    assert "--compare" not in run.calls[0] and "--device cuda" in run.calls[0]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--save_dir=x"], "--save_dir=x: the sweep sets this flag itself"),
        (["--pack"], "--pack: the sweep sets this flag itself"),
        (["--max_seq_length", "long"], "long: not a whole number"),
        (["--rounds", "0"], "0: must be 1 or more"),
        (["--precision", "fp64"], "invalid choice: 'fp64'"),
        (["--output", str(ROOT)], "cannot be written"),
    ],
)
def test_a_sweep_that_cannot_begin_is_one_sentence(planted, flags, words):
    run = planted({1: GOOD}, *flags)
    assert run.code == 2 and words in run.err and run.err.count("\n") == 1 and not run.calls


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, words",
    [
        (["--no_such_flag", "1"], "unrecognized arguments: --no_such_flag"),
        (["--graph", "other"], "invalid choice: 'other'"),
        (["--streams", "2"], "--streams"),  # a flag of run_aie_eval.py
        (["--graph", "upstream", "--prefix_dir", "nowhere"], "nowhere: not an albert_pytorch"),
        (["--backend", "aie"], "neither torch_aie nor mindietorch is installed"),
        (["--backend", "openvino", "--device", "cuda"], "--device cuda"),
    ],
)
def test_what_no_cell_can_be_made_with_is_said_once_before_the_first(
    monkeypatch, tiny, capsys, flags, words
):
    monkeypatch.setattr(sweep, "measure", lambda *_: pytest.fail("a cell was tried"))
    given = ["--data_dir", "D", "--pth_dir", tiny, "--batch_size", 1, 8, *flags]
    assert script(sweep, *given) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and words in err and err.count("\n") == 1 and not out


def test_a_sweep_begins_where_some_cells_can_be_made(monkeypatch, capsys, tiny):
    """--pack is refused with upstream's graph; padded rows are not."""
    tried, tree = [], ROOT / "tests" / "stub_upstream"
    note = lambda cell, *_: tried.append(cell.rows) or {"error": "not measured"}  # noqa: E731
    monkeypatch.setattr(sweep, "measure", note)
    flags = ["--pth_dir", tiny, "--backend", "torchscript", "--graph", "upstream"]
    flags += ["--prefix_dir", tree, "--rows", "packed", "padded", "--batch_size", 1]
    assert script(sweep, "--data_dir", "D", *flags) == 1 and tried == ["packed", "padded"]


def in_this_process(name, *flags):
    """In place of host.script."""
    main = {"export_albert_aie.py": export_albert_aie, "run_aie_eval.py": run_aie_eval}[name].main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*flags])
    return {"exit_code": code, "stdout": out.getvalue(), "stderr": err.getvalue()}


def test_a_real_sweep(tiny, sentences, capsys, tmp_path, monkeypatch):
    """Eight cells in 80 columns; the second time nothing is run. What the scripts are as processes,
    the test above has seen."""
    monkeypatch.setattr(host, "script", in_this_process)
    monkeypatch.setattr(evaluating, "logits_in_fresh_process", logits_in_this_process)
    flags = ["--data_dir", sentences, "--pth_dir", tiny, "--output", tmp_path / "sweep.json"]
    flags += ["--backend", "torchscript", "--max_seq_length", 32, 64, "--batch_size", 1, 4]
    flags += ["--rows", "padded", "chosen", "--rounds", 2]
    assert script(sweep, *flags) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.split("\n") if line.startswith("fp32")]
    assert len(rows) == 8 and all(row.endswith("  PASS") for row in rows)
    assert max(map(len, printed.split("\n"))) <= 80
    assert "torchscript on cpu" in printed and "11 of 11 sentences scored in each" in printed
    assert "predictions identical between cells" in printed
    held = (tmp_path / "sweep.json").read_bytes()
    assert script(sweep, *flags) == 0 and capsys.readouterr().out == printed
    again = json.loads((tmp_path / "sweep.json").read_bytes())
    assert again["results"] == json.loads(held)["results"]
    given = ["--data_dir", sentences, "--batch_size", 4, "--pth_dir", "nowhere"]
    assert script(sweep, *given) == 1
    assert "padded 4 x 128: error: nowhere: no such folder" in capsys.readouterr().out


@pytest.mark.skipif(
    sys.version_info < (3, 10),
    reason="the quantiser of ONNX Runtime 1.19 breaks the file: logits are off by half",
)
def test_our_onnx_file_in_int8_is_the_file_with_its_products_quantised(onnx_files):
    texts = ["a fine film", "dull and slow", "no", "charming, and very well acted"]
    logits = {}
    for precision in ("fp32", "int8"):
        spec = plan.Engine("ours", "", precision, (), backend="onnx", packed=True)
        spec.made_from["file"] = str(onnx_files["fp32 packed"])
        engine = engines.Ours(spec)
        logits[precision] = engine.sentences(texts)
        engine.classify.close()
    difference = abs(logits["int8"] - logits["fp32"]).max()
    assert 0 < difference < 0.1 * abs(logits["fp32"]).max()
