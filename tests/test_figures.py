"""Every figure that is printed, on evaluations made by hand, with answers worked out by hand."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy
import pytest

from albert_aie.albert import flops, references
from albert_aie.albert.flops import flops_per_row
from albert_aie.base import machine
from albert_aie.base.encoding import Encoded
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape
from albert_aie.data import metrics
from albert_aie.data.datasets import Examples
from albert_aie.data.tasks import SST2, TASKS
from albert_aie.report import figures, results, speed
from albert_aie.run import compare
from albert_aie.run.compare import Comparison
from albert_aie.run.evaluate import Evaluation

NAN, INF = math.nan, math.inf
SCHEMA = json.loads(results.SCHEMA.read_text(encoding="utf-8"))
ALBERT_BASE = {
    "embedding_size": 128,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_labels": 2,
}
MANIFEST = {
    "backend": "openvino",
    "graph": "fused",
    "label_names": ["NEGATIVE", "POSITIVE"],
    "random_weights": False,
    "config": ALBERT_BASE,
    "source": {"sha256": "5" * 64},
    "sha256": "9" * 64,
}
MACHINE = {"platform": "Linux", "cpu": "EPYC", "cores": 2, "isa": ["avx2", "fma"]}
HOST = {
    "machine": {**MACHINE, "memory_bytes": 8_000_000_000, "load": 0.5, "card": None},
    "versions": {"albert_aie": "1", "python": "3.9", "openvino": None},
    "command": ["run_aie_eval.py", "--json"],
    "peak_memory_bytes": 123_600_000,
}
RUNNER = SimpleNamespace(
    device="cpu", precision="bf16", precision_is="read back", threads=3, streams=2
)
SENTENCES = ["a fine film", "dull", "no", "charming", "an overflow"]


DATA = (
    b'[["a fine film", "dull", "no", "charming", "an overflow"], '
    b'["negative", "negative", "negative", "positive", "negative"]]'
)
TABLE = (
    b"index\tprediction\tlabel\tlogit_negative\tlogit_positive\tsentence\n"
    b"10\tnegative\tnegative\t2.000000\t1.000000\ta fine film\n"
    b"11\tpositive\tnegative\t0.000000\t1.000000\tdull\n"
    b"12\tnegative\tnegative\t3.000000\t0.500000\tno\n"
    b"13\tpositive\tpositive\t0.000000\t5.000000\tcharming\n"
    b"14\t\tnegative\tnan\t1.000000\tan overflow\n"
)


def examples(labels=(0, 0, 0, 1, 0), classes=SST2.classes):
    indices = [str(10 + i) for i in range(len(SENTENCES))]
    labels = None if labels is None else list(labels)
    return Examples(SST2, "data/dev.tsv", SENTENCES, labels, indices, classes)


def labelled(labels):
    """Examples of the four sentences of REFERENCE."""
    return Examples(SST2, "dev.tsv", list("abcd"), labels, list(range(4)), SST2.classes)


def evaluation(**changed):
    """5 sentences of which 4 have finite logits, in 10 batches of 4 rows of 128 tokens: so that no
    two counts are the same. argmax() of the last is 0, which is its label."""
    made = {
        "logits": numpy.array([[2, 1], [0, 1], [3, 0.5], [0, 5], [NAN, 1]], numpy.float32),
        "tokens": 1280,
        "truncated": 1,
        "rows_are": "chosen",
        "shapes": 10 * [Shape(4, 128, 16)],
        "tokenize": 0.25,
        "copy_in": 0.125,
        "forward": [0.1, 0.02, 0.09, 0.03, 0.08, 0.04, 0.07, 0.05, 0.06, 0.01],
        "copy_out": 0.0625,
        "busy": 0.5,  # their sum is 0.55: two streams
        "end_to_end": 2.0,
    }
    return Evaluation(**{**made, **changed})


def report_of(evaluated=None, given=None, **manifest):
    saved = SimpleNamespace(
        path="a.pt",
        manifest={**MANIFEST, **manifest},
        shape=Shape(4, 128, 16),
        shapes=(Shape(4, 128, 16),),
        siblings=(),
        digest="9" * 64,
        tokenizer=SimpleNamespace(sha256="7" * 64),
    )
    evaluated, given = evaluated or evaluation(), given or examples()
    return figures.collect(figures.Scored(evaluated, saved, RUNNER, given, 1.5, HOST))


# The report


def test_every_printed_line():
    """samples/s: 4 scored in 0.5 s and 2 s. Percentiles of 10, 20, ... 100 ms by nearest rank: the
    5th, 9th, 10th and 10th, their mean 55, and the squares of their distances from it add up to
    8250: the deviation is sqrt(8250 / 9). Padding: 1280 of 40 x 128. Compute: 40 rows of 22.37
    GFLOP in 0.5 s."""
    assert figures.lines(report_of(), detail=True) == [
        ("file", "a.pt\nfused graph, exported for batch 4 x 128 tokens, up to 16 sentences a row"),
        ("engine", "openvino on cpu, precision bf16 (read back)\n3 thread(s), 2 stream(s)"),
        ("data", "data/dev.tsv\n4 of 5 sentences scored, 1 truncated"),
        ("not scored", "1 sentence without finite logits, the first:\n14: 'an overflow'"),
        (
            "rows",
            "chosen\n10 x 4 x 128 tokens, up to 16 sentences a row: forward p50 50.0, p90 90.0, "
            "p99 100.0 ms",
        ),
        ("accuracy", "0.6000 (3/5), 95 % Wilson interval 0.2307 to 0.8824"),
        ("throughput", "forward 8.0 samples/s, end to end 2.0 samples/s"),
        ("latency", "p50 50.0, p90 90.0, p99 100.0 ms a batch"),
        (
            "runs",
            "10 batches, after 3 warm-up runs of each shape\n"
            "mean 55.0, deviation 30.3, p95 100.0, max 100.0 ms",
        ),
        (
            "stages",
            "load 1.50, tokenize 0.250, copy in 0.125, forward 0.50, copy out 0.062, "
            "end to end 2.00 s",
        ),
        ("padding", "75.0 % of 5,120 token positions (0.12 sentences a row)"),
        ("compute", "1790 GFLOP/s nominal (22.37 GFLOP a row, the mean)"),
        ("machine", "EPYC, 2 core(s): avx2 fma\npeak memory 124 MB"),
    ]


def test_the_last_five_stand_on_the_page_alone():
    names = [name for name, _ in figures.lines(report_of())]
    assert names == "file/engine/data/not scored/rows/accuracy/throughput/latency".split("/")


def test_every_key_of_eval_json():
    interval = pytest.approx([0.230724, 0.882379], abs=1e-6)
    shape = {"batch_size": 4, "max_seq_length": 128, "slots": 16}
    latency = {"p50": 50, "p90": 90, "p95": 100, "p99": 100, "max": 100}
    latency.update(mean=55, deviation=math.sqrt(8250 / 9))
    assert report_of() == {
        "schema_version": 3,
        "file": "a.pt",
        "more_files": [],
        "graph": "fused",
        **shape,
        "rows": "chosen",
        "shapes": [
            {
                **shape,
                "batches": 10,
                "forward_ms": pytest.approx({"p50": 50, "p90": 90, "p99": 100}),
            }
        ],
        "backend": "openvino",
        "device": "cpu",
        "precision": "bf16",
        "precision_is": "read back",
        "threads": 3,
        "streams": 2,
        "task": "SST-2",
        "data": "data/dev.tsv",
        "classes": ["negative", "positive"],
        "sentences_scored": 4,
        "sentences_total": 5,
        "truncated": 1,
        "not_scored": [{"index": "14", "sentence": "an overflow"}],
        "random_weights": False,
        "accuracy": {
            "correct": 3,
            "total": 5,
            "value": 0.6,
            "wilson95": interval,
            "other_classes": 0,
        },
        "metrics": {"accuracy": 0.6},
        "samples_per_second": {"forward": 8.0, "end_to_end": 2.0},
        "latency_ms": pytest.approx(latency),
        "latencies_ms": pytest.approx([100, 20, 90, 30, 80, 40, 70, 50, 60, 10]),
        "batches": 10,
        "warmup": 3,
        "seconds": {
            "load": 1.5,
            "tokenize": 0.25,
            "copy_in": 0.125,
            "forward": 0.5,
            "copy_out": 0.0625,
            "end_to_end": 2.0,
        },
        "padding": 0.75,
        "positions": 5120,
        "sentences_per_row": 0.125,
        "nominal_gflop_per_row": 22.373600256,
        "nominal_gflop_per_second": 1789.88802048,
        **HOST,
        "digests": {
            "file": "9" * 64,
            "checkpoint": "5" * 64,
            "tokenizer": "7" * 64,
            "data": hashlib.sha256(DATA).hexdigest(),
        },
        "predictions_sha256": hashlib.sha256(TABLE).hexdigest(),
        "manifest": MANIFEST,
    }


def test_sentences_one_at_a_time_have_figures_of_their_own():
    """Ten sentences of 10, 20, ... 100 ms in 2 s; no figure of a batch stands beside them."""
    single = [0.1, 0.02, 0.09, 0.03, 0.08, 0.04, 0.07, 0.05, 0.06, 0.01]
    made = report_of(evaluation(single=single))
    told = dict(figures.lines(made, detail=True))
    assert told["single"] == (
        "mean 55.00, p50 50.00, p90 90.00, p95 100.00, p99 100.00, max 100.00 ms a sentence, from "
        "text to label\n5.0 sentences/s"
    )
    assert told["runs"] == "10 batches, after 3 warm-up runs of each shape"
    assert not {"throughput", "latency"} & set(told)
    assert "samples_per_second" not in made
    assert made["latencies_ms"] == [1000 * s for s in single]


def test_rows_positions_and_compute_of_several_shapes():
    """3 batches of 4 rows of 128 and 5 of 1 row of 16: 12 + 5 rows, 1536 + 80 positions, and
    FLOPs of each row's own length. Of each shape its batches and the percentiles of their own."""
    shapes = 5 * [Shape(1, 16, 0)] + 3 * [Shape(4, 128, 16)]
    forward = [0.005, 0.001, 0.003, 0.002, 0.004, 0.07, 0.09, 0.08]
    made = evaluation(shapes=shapes, forward=forward, tokens=808)
    assert (made.rows, made.positions) == (17, 1616)
    shown = report_of(made)
    assert shown["padding"] == 0.5 and shown["sentences_per_row"] == 5 / 17
    flops = 12 * flops_per_row(MANIFEST["config"], 128) + 5 * flops_per_row(MANIFEST["config"], 16)
    assert shown["nominal_gflop_per_second"] == pytest.approx(flops / 1e9 / 0.5)
    assert shown["nominal_gflop_per_row"] == pytest.approx(flops / 1e9 / 17)
    found = [(*list(each.values())[:4], *each["forward_ms"].values()) for each in shown["shapes"]]
    assert found == [(1, 16, 0, 5, 3, 5, 5), (4, 128, 16, 3, 80, 90, 90)]
    assert dict(figures.lines(shown, detail=True))["rows"] == (
        "chosen\n5 x 1 x 16 tokens: forward p50 3.0, p90 5.0, p99 5.0 ms\n"
        "3 x 4 x 128 tokens, up to 16 sentences a row: forward p50 80.0, p90 90.0, p99 90.0 ms"
    )
    many = evaluation(shapes=[Shape(1, 4 * n) for n in range(1, 11)], rows_are="one at a time")
    line = "one at a time\n10 batches of 10 shapes, 4 to 40 tokens"
    report = report_of(many)
    assert dict(figures.lines(report, detail=True))["rows"] == line
    untimed = {**report, "om": {"ais_bench_rows_per_second": {}}}
    del untimed["batches"]
    assert dict(figures.lines(untimed))["rows"] == line


def test_a_single_batch_has_no_deviation():
    made = report_of(evaluation(forward=[0.25], shapes=[Shape(4, 128, 16)]))
    wanted = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), 250)
    assert made["latency_ms"] == {**wanted, "deviation": 0}


def test_the_digest_of_the_data_is_of_sentences_and_names_of_labels():
    """Not of the order of the model's classes, of indices or of a file."""
    given = examples()
    turned = given.for_model(("positive", "negative"))
    assert turned.labels == [1, 1, 1, 0, 1] and turned.sha256 == given.sha256
    assert replace(given, path="x", indices=list("abcde")).sha256 == given.sha256
    for other in (examples(None), examples((0, 0, 0, 1, 1)), given.first(4)):
        assert other.sha256 != given.sha256
    scores = Examples(TASKS["STS-B"], "d", [("a", "b")], [1.5], [0], ("score",))
    assert scores.sha256 == hashlib.sha256(b'[[["a", "b"]], [1.5]]').hexdigest()


def test_eval_json_is_what_its_schema_says():
    """Every key is described, and no other is allowed."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    whole = json.loads(results.json_text(report_of()))
    validator.validate(whole)
    further = {"comparison", "sentences_per_second", "om", "providers"}
    assert set(SCHEMA["properties"]) == {*whole, *further}
    timed = {"latency_ms", "latencies_ms", "batches", "warmup", "seconds"}
    timed |= {"samples_per_second", "nominal_gflop_per_row", "nominal_gflop_per_second"}
    assert set(SCHEMA["required"]) == set(whole) - {"accuracy"} - timed
    single = json.loads(results.json_text(report_of(evaluation(single=[0.5, 0.25]))))
    validator.validate(single)
    assert not validator.is_valid({**whole, **single}), "batches and single sentences in one"
    assert not validator.is_valid({k: whole[k] for k in whole if k != "samples_per_second"})
    for wrong in ({"further": 1}, {"schema_version": 2}, {"slots": -1}, {"machine": {}}):
        assert not validator.is_valid({**whole, **wrong})
    unlabelled = json.loads(results.json_text(report_of(given=examples(None))))
    validator.validate(unlabelled)


def test_the_schema_in_the_tree_is_that_of_the_rows_of_figures():
    made = results.json_text(figures.schema())
    how = "run python -m albert_aie.report.figures"
    assert results.SCHEMA.read_text(encoding="utf-8") == made, how


def test_where_an_evaluation_was_made(monkeypatch, tmp_path):
    """Only the tool of the device's vendor is asked; a machine without one has no card."""
    cpuinfo, status = tmp_path / "cpuinfo", tmp_path / "status"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: EPYC\nflags\t\t: fpu avx2 fma sse\n")
    status.write_text("VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\n")
    read = {"/proc/cpuinfo": cpuinfo, "/proc/self/status": status}
    monkeypatch.setattr(machine, "Path", lambda path: read.get(path, Path(path)))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("npu-smi", "nvidia-smi"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $1"\n')
        (tmp_path / name).chmod(0o755)
    for device, card in (("cpu", None), ("npu", "npu-smi info\n"), ("cuda", "nvidia-smi -L\n")):
        made = figures.hosted(device, ("a.py", "-x"))
        assert made["machine"]["cpu"] == "EPYC" and made["machine"]["isa"] == ["avx2", "fma"]
        assert made["machine"]["card"] == card and made["command"] == ["a.py", "-x"]
        assert made["peak_memory_bytes"] == 2048 * 1024
        assert made["versions"]["numpy"] == numpy.__version__
        assert made["versions"]["mindietorch"] is None
    assert machine.describe()["card"] == "npu-smi info\n"
    (tmp_path / "npu-smi").write_text("no program")
    assert machine.describe(("npu",))["card"] is None
    cpuinfo.unlink(), status.unlink()
    assert machine.describe()["isa"] == [] and machine.peak_memory() is None


def test_accuracy_counts_what_was_not_scored_and_classes_that_the_data_lacks():
    """Of five: one right, one wrong, two of a class that the data does not have (one of them
    would be right if classes were numbers of the data), one without logits."""
    logits = [[0, 9, 1], [0, 1, 9], [9, 0, 1], [9, 0, 1], [9, NAN, 0]]
    given = examples([1, 1, 2, 1, 0], ("neutral", "negative", "positive"))
    made = report_of(evaluation(logits=numpy.array(logits, numpy.float32)), given)
    assert made["accuracy"]["correct"] == 1 and made["accuracy"]["other_classes"] == 2
    line = dict(figures.lines(made))["accuracy"]
    assert line.startswith("0.2000 (1/5), 95 % Wilson interval ")
    assert line.endswith("\n2 predicted as a class that the data does not have")


def test_no_accuracy_without_labels_or_with_random_weights():
    made = report_of(given=examples(None))
    assert "accuracy" not in made and made["random_weights"] is False
    assert ("accuracy", "none: the split has no labels") in figures.lines(made)
    made = report_of(random_weights=True)
    assert "accuracy" not in made and made["random_weights"] is True
    said = "none: the file holds random weights, for speed only"
    assert ("accuracy", said) in figures.lines(made)


def test_the_first_three_without_finite_logits_are_named():
    logits = numpy.array([[1, NAN], [INF, 0], [1, 0], [0, -INF], [NAN, NAN]], numpy.float32)
    made = report_of(evaluation(logits=logits))
    line = "4 sentences without finite logits, the first:\n10: 'a fine film'\n11: 'dull'"
    assert ("not scored", line + "\n13: 'charming'") in figures.lines(made)
    made = {**made, "sentences_total": 5, "sentences_scored": 3}
    made["not_scored"] = [{"index": "7", "sentence": "x" * 39 + "yz"}]  # 40 letters are printed
    line = f"2 sentences without finite logits, the first:\n7: '{'x' * 39}y'"
    assert ("not scored", line) in figures.lines(made)
    whole = report_of(evaluation(logits=numpy.zeros((5, 2), numpy.float32)))
    assert whole["not_scored"] == [] and "not scored" not in dict(figures.lines(whole))


@pytest.mark.parametrize(
    "correct, total, low, high",
    [  # roots x of (k/n - x)^2 = 1.959964^2 x (1 - x) / n, solved in decimals
        (0, 10, 0.0, 0.277533),
        (8, 10, 0.490162, 0.943318),
        (10, 10, 0.722467, 1.0),
        (810, 872, 0.909894, 0.944141),
    ],
)
def test_wilson_intervals(correct, total, low, high):
    assert metrics.wilson(correct, total) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(
    "values, percent, wanted",
    [
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([3.0, 1.0], 50, 1.0),
        ([3.0, 1.0], 51, 3.0),
        ([2.0, 3.0, 1.0], 50, 2.0),
        ([float(i) for i in range(1, 101)], 90, 90.0),
        ([float(i) for i in range(1, 101)], 99, 99.0),
        ([float(i) for i in range(1, 102)], 99, 100.0),
        ([5.0, 6.0], 0, 5.0),
    ],
)
def test_percentiles_are_nearest_rank(values, percent, wanted):
    assert speed.percentiles(values, percent) == {f"p{percent}": wanted}


def test_flops_of_a_row_of_8_tokens():
    """hidden 4, embeddings 2, FFN 8, 3 layers, 2 labels: a token 2 x 4 + 3 x (4 x 16 + 2 x 32) =
    392, attention 3 x 2 x 64 x 4 = 1536, pooler 16, classifier 8; 2 x (8 x 392 + 1560)."""
    config = {"embedding_size": 2, "hidden_size": 4, "num_hidden_layers": 3}
    config.update(intermediate_size=8, num_labels=2)
    assert flops.flops_per_row(config, 8) == 9392
    assert flops.flops_per_row(ALBERT_BASE, 128) == 22_373_600_256


def test_predictions_tsv_and_eval_json(tmp_path):
    given, evaluated = examples(), evaluation()
    paths = results.write(tmp_path / "new", report_of(), evaluated.logits, given)
    assert paths == [tmp_path / "new" / "eval.json", tmp_path / "new" / "predictions.tsv"]
    assert paths[1].read_bytes() == TABLE
    written = json.loads(paths[0].read_text(encoding="utf-8"))
    digest = hashlib.sha256(paths[1].read_bytes()).hexdigest()
    assert written["sentences_total"] == 5 and written["predictions_sha256"] == digest
    results.write(tmp_path, report_of(), evaluated.logits, examples(None))
    lines = (tmp_path / "predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "10\tnegative\t\t2.000000\t1.000000\ta fine film"


def test_json_is_strict_and_plain():
    assert results.json_text({"path": "\udcff"}) == '{\n "path": "\\udcff"\n}\n'
    text = results.json_text({"a": NAN, "b": [INF, (-INF, 1.5)], "é": {"c": 1}})
    assert text.endswith("}\n") and '"é"' in text and '\n "a": null,\n' in text
    assert json.loads(text) == {"a": None, "b": [None, [None, 1.5]], "é": {"c": 1}}


# The comparison

REFERENCE = numpy.array([[1, 0], [0, 2], [3, 0], [0, 4]], numpy.float32)


def test_every_figure_of_a_comparison():
    """Centred, the reference's squares add up to 0.5 + 2 + 4.5 + 8 = 15. 10 added to both logits
    of the first sentence moves nothing; 0.5 to one of the second moves both centred ones by 0.25:
    sqrt(2 / 16 / 15). Cosines: 11 / sqrt(221) and 4 / (2 sqrt(4.25)), 1 and 1."""
    got = REFERENCE + numpy.array([[10, 10], [0.5, 0], [0, 0], [0, 0]], numpy.float32)
    made = compare.compare(got, REFERENCE, labelled([0, 1, 1, 1]), "int8", "by hand", "eye")
    known = {
        "sentences": 4,
        "not_finite": 0,
        "relative": pytest.approx(math.sqrt(0.125 / 15)),
        "flips": 0,
        "max_abs": 10.0,
        "mean_abs": 20.5 / 8,
        "worst_cosine": pytest.approx(11 / math.sqrt(221)),
        "metric": "accuracy",
        "value": 0.75,
        "reference_value": 0.75,
        "regression": False,
        "precision": "int8",
        "reference": "by hand",
        "tokenizer": "eye",
        "other_ids": 0,
    }
    assert made == Comparison(**known)
    assert list(made.lines()) == [
        ("reference", "by hand, 4 sentences"),
        ("tokens", "by eye\nother ids in 0 sentences (gate 0)"),
        ("difference", "relative 9.13e-02 (gate none), label flips 0 (gate 0)"),
        ("accuracy", "0.7500 compiled, 0.7500 reference (gate 0.5 points lost)"),
        ("compare_cpu", "PASS"),
    ]
    gates = {"relative": INF, "flips": 0.01, "loss": 0.005, "ties": 0.0}
    further = {"ties": 0, "settled": None, "allowed_flips": 0, "allowed_ties": 0}
    assert made.verdict() == {"passed": True, **known, **further, "gate": gates}


def test_a_flip_costs_the_accuracy_of_the_side_that_is_wrong():
    got = REFERENCE.copy()
    got[3] = got[3, ::-1]
    made = compare.compare(got, REFERENCE, labelled([0, 1, 1, 1]), "fp32")
    assert (made.flips, made.value, made.reference_value) == (1, 0.5, 0.75)
    assert made.lost == 0.25 and not made.passed
    lines = dict(made.lines())
    assert lines["difference"].endswith("(gate 1e-04), label flips 1 (gate 0)")
    assert lines["accuracy"] == "0.5000 compiled, 0.7500 reference (gate 0.01 points lost)"
    assert lines["compare_cpu"] == "FAIL"
    unlabelled = compare.compare(got, REFERENCE, labelled(None), "fp32")
    assert unlabelled.lost == 0.0 and "accuracy" not in dict(unlabelled.lines())
    assert (unlabelled.metric, unlabelled.value, unlabelled.reference_value) == (None, None, None)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_sentence_without_finite_logits_on_either_side_is_a_flip_and_wrong(value, side):
    """The first of four: in its place argmax() is the label whatever stands there."""
    sides = [REFERENCE.copy(), REFERENCE.copy()]
    sides[side][0] = [value, value]
    made = compare.compare(*sides, labelled([0, 1, 0, 1]), "int8")
    assert (made.flips, made.not_finite, made.passed) == (1, 1, False)
    assert (made.value, made.reference_value) == ((0.75, 1.0), (1.0, 0.75))[side]
    said = "1 of the sentences; each counts as a label flip"
    assert dict(made.lines())["not finite"] == said


def test_the_reference_runs_sentences_by_length_and_answers_in_their_order(monkeypatch):
    """The shortest two first, padded with 0 to the longer of both; the mask says where words are.
    Logits: the first id after [CLS], and the tokens under the mask."""
    ran = []

    def model(ids, attention_mask, token_type_ids):
        ran.append((ids.tolist(), attention_mask.tolist(), token_type_ids.tolist()))
        import torch

        return (torch.stack([ids[:, 1].float(), attention_mask.sum(1).float()], 1),)

    monkeypatch.setattr(references, "transformers_model", lambda _: model)
    checkpoint = SimpleNamespace(config=SimpleNamespace(num_labels=2))
    told = []

    def progress(steps, **options):
        told.append(options)
        return steps

    encoded = [Encoded(ids) for ids in ([2, 11, 5, 5, 3], [2, 12, 3], [2, 13, 5, 3])]
    got, name = references.logits(checkpoint, encoded, None, 2, progress)
    assert ran == [
        ([[2, 12, 3, 0], [2, 13, 5, 3]], [[1, 1, 1, 0], [1, 1, 1, 1]], 2 * [4 * [0]]),
        ([[2, 11, 5, 5, 3]], [5 * [1]], [5 * [0]]),
    ]
    assert (got.tolist(), got.dtype) == ([[11, 5], [12, 3], [13, 4]], "float32")
    assert name == "transformers' ALBERT, eager fp32"
    assert told == [{"desc": "CPU reference", "total": 2, "unit": "batch"}]
    encoded = [Encoded([2, 10 + i, 3]) for i in range(17)]
    assert references.logits(checkpoint, encoded)[0][:, 0].tolist() == list(range(10, 27))
    assert [len(ids) for ids, _, _ in ran[2:]] == [16, 1]


@pytest.mark.parametrize("labels, random", [(None, False), ([0, 1], False), ([0, 1], True)])
def test_a_comparison_with_the_reference(monkeypatch, labels, random):
    """Ids of ours and of the reference's own tokenizer; labels unless the weights are random."""

    class Ours:
        def encode(self, text, max_seq_length=None):
            return Encoded([2, len(text), max_seq_length, 3])

    logits = numpy.array([[1, 0], [0, 1]], numpy.float32)
    asked = []

    def reference_logits(*given, **options):
        asked.append((given, options))
        return logits, "by hand"

    def theirs(sentence, length):
        return Encoded([2, len(sentence), length, 3 if len(sentence) < 3 else 4])

    monkeypatch.setattr(references, "logits", reference_logits)
    monkeypatch.setattr(references, "tokenizer", lambda *given: (theirs, f"{given}"))
    saved = SimpleNamespace(
        shape=Shape(1, 8),
        tokenizer=SimpleNamespace(load=Ours),
        manifest={"precision": "int8", "random_weights": random},
    )
    checkpoint = SimpleNamespace(tokenizer="file")
    given = Examples(SST2, "dev.tsv", ["ab", "abc"], labels, [0, 1], SST2.classes)
    reference = compare.reference_of(saved, checkpoint, given, "tree", len)
    (made,) = compare.against_reference([logits], reference, saved, given)
    wanted = [Encoded([2, 2, 8, 3]), Encoded([2, 3, 8, 4])]
    assert asked == [((checkpoint, wanted, "tree"), {"progress": len})]
    assert (made.precision, made.reference) == ("int8", "by hand")
    assert made.tokenizer == "('file', 'tree')"
    assert made.other_ids == 1 and not made.passed
    assert made.value == (1.0 if labels and not random else None)


def comparison(**changed):
    zeros = "not_finite relative flips max_abs mean_abs other_ids".split()
    accuracy = {"metric": "accuracy", "value": 0.9, "reference_value": 0.9, "regression": False}
    made = {"sentences": 1000, "worst_cosine": 1.0, **dict.fromkeys(zeros, 0), **accuracy}
    return Comparison(**{**made, "precision": "fp32", "reference": "", "tokenizer": "", **changed})


@pytest.mark.parametrize(
    "precision, relative, flips, value",
    [  # the largest that passes, of 1,000 sentences
        ("fp32", 1e-4, 0, 0.9),
        ("bf16", 2e-2, 5, 0.8951),
        ("fp16", 2e-2, 5, 0.8951),
        ("int8", 1e9, 10, 0.8951),
    ],
)
def test_the_gate_of_each_precision(precision, relative, flips, value):
    at = {"precision": precision, "relative": relative, "flips": flips, "value": value}
    assert comparison(**at).passed and comparison(**at).allowed_flips == flips
    beyond = [{"other_ids": 1}, {"flips": flips + 1}, {"value": value - 0.001}, {"relative": NAN}]
    beyond += [{"relative": relative * 1.001}] if precision != "int8" else []
    for change in beyond:
        assert not comparison(**{**at, **change}).passed, change
    assert comparison(**{**at, "sentences": 199, "flips": 0}).allowed_flips == flips * 199 // 1000


# Of 100 sentences whose logits are 2 apart, so that 1 is the root mean square of the centred ones:
# a tie is a margin of the reference of at most 0.02.
TIED = numpy.tile(numpy.array([[1, -1]], numpy.float32), (100, 1))


def compared(margins, precision="bf16", labels=None, sentences=100, moved=0.02):
    """Comparison of TIED, whose first sentences have these margins, with the same where these have
    moved to the other label."""
    reference = TIED[:sentences].copy()
    reference[: len(margins), 0] = [m / 2 for m in margins]
    reference[: len(margins), 1] = [-m / 2 for m in margins]
    got = reference.copy()
    got[: len(margins)] += numpy.array([-moved, moved], numpy.float32)
    return compare.compare(got, reference, labelled(labels), precision)


@pytest.mark.parametrize(
    "margins, ties, flips, passed",
    [
        ([], 0, 0, True),
        ([0.0195], 1, 0, True),
        ([0.0], 0, 0, True),  # equal: the first of them, and moved to the second
        ([0.0205], 0, 1, False),
        ([0.019, 0.019], 2, 0, False),  # 1 of 100 may be
    ],
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_flip_at_a_tie_is_counted_apart(precision, margins, ties, flips, passed):
    made = compared(margins, precision, [0] * 100)
    ties += margins == [0.0]
    assert (made.ties, made.flips, made.passed) == (ties, flips, passed)
    assert made.allowed_ties == 1 and made.allowed_flips == 0
    assert made.value == (100 - len(margins)) / 100 and made.reference_value == 1
    assert made.settled == ((100 - flips) / 100 if ties else None)
    assert made.lost == flips / 100
    said = dict(made.lines()).get("ties", "")
    assert said.startswith(f"{ties} more labels differ") * bool(ties) == bool(ties)
    assert said.endswith("(gate 1)") == bool(ties)


def test_ties_are_at_most_1_percent_and_at_least_one_sentence():
    for sentences, allowed in ((1, 1), (99, 1), (199, 1), (200, 2), (872, 8)):
        assert comparison(precision="bf16", sentences=sentences).allowed_ties == allowed
        assert comparison(precision="bf16", sentences=sentences, ties=allowed).passed
        assert not comparison(precision="bf16", sentences=sentences, ties=allowed + 1).passed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_fp32_and_int8_know_no_ties(precision):
    made = compared([0.001], precision)
    assert (made.ties, made.flips, made.allowed_ties) == (0, 1, 0)
    assert not comparison(precision=precision, ties=1).passed


def test_wrong_logits_fail_whatever_is_tied():
    """A reference of ties alone that is exchanged; logits three times as large; a lost sentence."""
    tied = numpy.tile(numpy.array([[0.001, -0.001]], numpy.float32), (100, 1))
    assert not compare.compare(tied[:, ::-1], tied, None, "bf16").passed
    tied[0] = 5, -5  # one alone is sure: the others are ties, and all of them change
    made = compare.compare(numpy.where(tied == 5, tied, -tied), tied, None, "bf16")
    assert made.ties > made.allowed_ties and not made.passed
    assert not compare.compare(3 * TIED, TIED, None, "bf16").passed
    reference = TIED.copy()
    reference[0] = 0.001, 0  # a tie, which a sentence without finite logits is none of
    lost = reference.copy()
    lost[0] = 1, NAN
    made = compare.compare(lost, reference, None, "bf16")
    assert (made.ties, made.flips, made.passed) == (0, 1, False)


def test_a_constant_in_all_logits_makes_no_ties():
    """0.5 is a sure margin where the centred logits are 1, whatever stands before them."""
    reference = TIED + numpy.float32(100)
    reference[0] = 100.25, 99.75
    got = reference.copy()
    got[0] = 99.75, 100.25
    made = compare.compare(got, reference, None, "bf16")
    assert (made.ties, made.flips) == (0, 1)


def test_the_precisions_with_a_gate():
    assert sorted(compare.GATES) == ["bf16", "fp16", "fp32", "int8"]


# What an engine is said to be


def test_openvino_is_read_back(monkeypatch, tmp_path):
    """An engine that takes fp32, 1 thread and 1 stream, whatever it is asked for."""
    ov = pytest.importorskip("openvino")
    try:
        from openvino import opset13 as ops
    except ImportError:  # 2024
        from openvino.runtime import opset13 as ops

    from albert_aie.backends import Target, openvino
    from albert_aie.backends.openvino import runner as openvino_runner

    real = ov.Core()
    given = [ops.parameter([2, 3], numpy.int64) for _ in openvino.INPUTS]
    for port, name in zip(given, openvino.INPUTS):
        port.output(0).get_tensor().set_names({name})
    total = ops.convert(ops.add(ops.add(given[0], given[1]), given[2]), "f32")
    weight = ops.constant(numpy.ones((3, 2), numpy.float32))
    model = ov.Model([ops.matmul(total, weight, False, False)], given, "tiny")
    ov.save_model(model, tmp_path / "ir.xml", compress_to_fp16=False)

    class Stubborn:
        read_model, get_property = real.read_model, real.get_property

        def compile_model(self, model, device, asked):
            own = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
            return real.compile_model(model, device, {**own, "NUM_STREAMS": 1})

    monkeypatch.setattr(ov, "Core", Stubborn)
    saved = SimpleNamespace(
        path="a.pt",
        blob=lambda name: (tmp_path / name).read_bytes(),
        own_shape=Shape(2, 3),
        shape=Shape(2, 3),
        has_free_sizes=False,
        logits_shape=lambda shape: (2, 2),
        manifest={"precision": "bf16", "options": {}},
    )
    target = Target("openvino", "cpu", "bf16", {"threads": 2, "streams": 2})
    runner = openvino_runner.OpenVinoRunner(saved, target)
    said = runner.precision, runner.threads, runner.streams, runner.precision_is
    assert said == ("fp32", 1, 1, "read back")


@pytest.mark.parametrize("dtype, name", [("float32", "fp32"), ("bfloat16", "bf16")])
def test_torchscript_is_read_back(dtype, name):
    """The program's own weights count, and a manifest that says something else is refused."""
    import torch

    from albert_aie.backends import Target, torchscript

    linear = torch.nn.Linear(3, 3).to(getattr(torch, dtype)).eval()
    program = torch.jit.trace(linear, torch.ones(2, 3, dtype=getattr(torch, dtype)))
    saved = SimpleNamespace(
        path="a.pt",
        program=lambda device: torch.jit.freeze(program),
        shape=Shape(2, 3),
        has_free_sizes=True,
        manifest={"precision": name},
    )
    target = Target("torchscript", "cpu", name, {})
    runner = torchscript.load(saved, target)
    assert (runner.precision, runner.precision_is, runner.streams) == (name, "read back", 1)
    assert runner.threads == torch.get_num_threads()
    saved.manifest["precision"] = "fp16"
    with pytest.raises(UserError, match="its manifest says fp16"):
        torchscript.load(saved, target)


# Pairs and regressions


def test_the_tables_of_pairs_and_of_a_regression(tmp_path):
    """Tabs and line ends, which a user's own texts can have, are blanks in a table."""
    pairs = Examples(
        TASKS["RTE"],
        "dev.tsv",
        [("a\tb", "c\nd"), ("e\r", "f\x85")],
        [1, 0],
        ["7", "8"],
        ("not_entailment", "entailment"),
    )
    logits = numpy.array([[0.5, -1], [NAN, 0]], numpy.float32)
    results.write(tmp_path, {}, logits, pairs)
    assert (tmp_path / "predictions.tsv").read_text(encoding="utf-8").split("\n") == [
        "index\tprediction\tlabel\tlogit_not_entailment\tlogit_entailment\tsentence1\tsentence2",
        "7\tnot_entailment\tentailment\t0.500000\t-1.000000\ta b\tc d",
        "8\t\tnot_entailment\tnan\t0.000000\te \tf\x85",
        "",
    ]
    scores = Examples(TASKS["STS-B"], "d", [("a", "b"), ("c", "d")], [1.5, 0.0], [0, 1], ("score",))
    logits = numpy.array([[2.25], [INF]], numpy.float32)
    for labels, shown in (([1.5, 0.0], ["1.5", "0.0"]), (None, ["", ""])):
        given = replace(scores, labels=labels)
        paths = results.write(tmp_path, {"a": NAN}, logits, given)
        assert paths == [tmp_path / "eval.json", tmp_path / "predictions.tsv"]
        table = (tmp_path / "predictions.tsv").read_bytes()
        assert table.decode().split("\n") == [
            "index\tprediction\tlabel\tsentence1\tsentence2",
            f"0\t2.250000\t{shown[0]}\ta\tb",
            f"1\t\t{shown[1]}\tc\td",
            "",
        ]
        assert json.loads((tmp_path / "eval.json").read_text()) == {"a": None}


def test_the_lines_of_a_regression_and_of_several_metrics():
    scores = numpy.array([[1.0], [2], [3], [4], [5]], numpy.float32)
    given = Examples(TASKS["STS-B"], "d", SENTENCES, [1.0, 2, 3, 4, 5], list(range(5)), ("score",))
    made = report_of(evaluation(logits=scores), given)
    assert made["task"] == "STS-B" and "accuracy" not in made
    assert made["metrics"] == {"pearson": pytest.approx(1), "spearman": pytest.approx(1)}
    told = dict(figures.lines(made))
    assert told["metrics"] == "Pearson 1.0000, Spearman 1.0000" and "accuracy" not in told
    alike = dict(figures.lines(report_of(evaluation(logits=scores * 0), given)))
    assert alike["metrics"] == "Pearson undefined, Spearman undefined"
    unlabelled = report_of(evaluation(logits=scores), replace(given, labels=None))
    assert unlabelled["metrics"] == {}
    assert dict(figures.lines(unlabelled))["accuracy"] == "none: the split has no labels"
    pair = Examples(TASKS["MRPC"], "d", SENTENCES, [1, 0, 1, 1, 0], [0] * 5, TASKS["MRPC"].classes)
    # predicted 0, 1, 0, 1 and none: one hit, one false, two missed
    assert dict(figures.lines(report_of(given=pair)))["metrics"] == "F1 0.4000"


def test_a_pair_without_finite_logits_is_named_by_both_texts():
    texts = [("a", "b")] * 4 + [("a fine film", "an overflow")]
    given = Examples(TASKS["MRPC"], "d", texts, [1, 0, 1, 1, 0], list("abcde"), ("x", "y"))
    line = dict(figures.lines(report_of(given=replace(given, classes=TASKS["MRPC"].classes))))
    assert line["not scored"].endswith("e: 'a fine film / an overflow'")


def test_every_figure_of_a_regressions_comparison():
    """Not centred: the difference is 0.5 of sqrt(1 + 4 + 9); nothing flips, no flips are printed.
    The reference is the labels; exchanging the order of two scores costs correlation."""
    reference = numpy.array([[1], [2], [3]], numpy.float32)
    given = Examples(TASKS["STS-B"], "d", list("abc"), [1.0, 2.0, 3.0], [0, 1, 2], ("score",))
    made = compare.compare(reference + [[0], [0.5], [0]], reference, given, "bf16", "eye", "I")
    assert made.relative == pytest.approx(0.5 / math.sqrt(14)) and made.flips == 0
    assert (made.metric, made.regression) == ("pearson", True)
    assert made.reference_value == pytest.approx(1)
    # deviations -7/6, 1/3, 5/6 of scores 1, 2.5, 3
    assert made.value == pytest.approx(2 / math.sqrt(2 * (49 + 4 + 25) / 36))
    lines = dict(made.lines())
    assert lines["difference"] == "relative 1.34e-01 (gate 2e-02)"
    assert lines["Pearson"] == "0.9608 compiled, 1.0000 reference (gate 0.5 points lost)"
    assert not made.passed and made.allowed_flips == 0
    same = compare.compare(reference, reference, given, "fp32")
    assert same.passed and same.relative == 0.0


def test_a_correlation_without_a_value_is_nothing_that_could_be_lost():
    """Where all labels are alike the reference has none; a compiled file that alone has none has
    lost it."""
    scores = numpy.array([[1], [2], [3]], numpy.float32)
    given = Examples(TASKS["STS-B"], "d", list("abc"), [5.0, 5.0, 5.0], [0, 1, 2], ("score",))
    made = compare.compare(scores, scores, given, "fp32")
    assert made.passed and made.lost == 0 and math.isnan(made.reference_value)
    assert not compare.compare(scores + 1, scores, given, "fp32").passed
    given = replace(given, labels=[1.0, 2.0, 3.0])
    close, flat = 1 + scores / 1000, numpy.full((3, 1), 1.002, numpy.float32)
    assert not compare.compare(flat, close, given, "bf16").passed
