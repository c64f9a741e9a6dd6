"""Every task through both scripts, on generated sets in its own layout; tokens, segments, labels
and logits against albert_pytorch's processors and its unmodified model."""

import json
import math
import sys

import numpy
import pytest
from glue_sets import CHINESE, PAIRS, labels_of, pearson, write_model, write_names, write_set
from helpers import STAND_INS, fused_logits, python, read_results, refused, said

from albert_aie.albert import checkpoint
from albert_aie.base.shapes import Shape
from albert_aie.data import datasets
from albert_aie.data.tasks import TASKS

NAMES = [name for name, task in TASKS.items() if task.files]
SMALL = {"backend": "torchscript", "batch_size": 4, "max_seq_length": 32}
FAST = "CoLA", "STS-B", "MNLI", "LCQMC", "MRPC"  # the others by `make test-all`
CASES = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in NAMES]


@pytest.mark.parametrize("name", CASES)
def test_a_task_end_to_end(tmp_path, export, evaluate, name):
    """Logits within 1e-5 of the reference's on its own tokens, no flips, and every row scored."""
    model = write_model(tmp_path / "model", name)
    data = write_set(tmp_path / "data", name)
    told = tmp_path / "told.json"
    given = {"task_name": name, "pth_dir": model, "data_dir": data, "compare_cpu": True}
    run = export(**given, **SMALL, save_dir=tmp_path, compare_output=told)
    assert run.code == 0, run.err + run.out
    verdict = json.loads(told.read_text())
    assert verdict["max_abs"] < 1e-5 and verdict["flips"] == verdict["other_ids"] == 0
    assert verdict["sentences"] == 12 and verdict["metric"] == TASKS[name].metrics[0]

    file = tmp_path / "albert_seq32_bs4.pt"
    run = evaluate(**given, aie_model_dir=file, output_dir=tmp_path / "out")
    assert run.code == 0, run.err + run.out
    result, (header, *rows) = read_results(tmp_path / "out")
    assert result["sentences_scored"] == 12 and result["task"] == name
    assert list(result["metrics"]) == list(TASKS[name].metrics)
    table = [dict(zip(header, row)) for row in rows]
    assert len(table) == 12
    assert_metrics_are_those_of_the_table(result, table, TASKS[name])
    run = evaluate(aie_model_dir=file, data_dir=data, split="test", task_name=name)
    assert run.code == 0, run.err


def assert_metrics_are_those_of_the_table(result, table, task):
    """By plain sums over what predictions.tsv says."""
    if task.regression:
        x, y = ([float(row[key]) for row in table] for key in ("label", "prediction"))
        assert result["metrics"]["pearson"] == pytest.approx(pearson(x, y), abs=1e-5)
        return
    right = sum(row["label"] == row["prediction"] for row in table)
    assert (result["accuracy"]["correct"], result["accuracy"]["total"]) == (right, 12)
    if "f1" in task.metrics:
        assert result["metrics"]["f1"] == pytest.approx(f1(table, task.classes[1]))
    if "matthews" in task.metrics:
        assert result["metrics"]["matthews"] == pytest.approx(matthews(table, task.classes[1]))


def counts(table, positive):
    cells = [(row["label"] == positive, row["prediction"] == positive) for row in table]
    return [cells.count(cell) for cell in ((1, 1), (0, 1), (1, 0), (0, 0))]


def f1(table, positive):
    hit, false, missed, _ = counts(table, positive)
    return 2 * hit / (2 * hit + false + missed) if hit else 0.0


def matthews(table, positive):
    tp, fp, fn, tn = counts(table, positive)
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0


# Labels and tasks that do not meet


def test_an_mnli_model_of_hugging_face_without_names_is_not_guessed(tmp_path, export, evaluate):
    """albert_pytorch's order is certain, the hub's is not."""
    model = write_model(tmp_path / "hf", "MNLI", "hf")
    data = write_set(tmp_path / "data", "MNLI")
    given = {"task_name": "mnli", "pth_dir": model, "save_dir": tmp_path, **SMALL}
    words = "no names", "--label_map, such as 0=contradiction,1=entailment,2=neutral"
    assert refused(export(**given), *words)
    assert not list(tmp_path.glob("*.pt"))
    named = "0=entailment,1=neutral,2=contradiction"
    assert export(**given, label_map=named).code == 0
    file = tmp_path / "albert_seq32_bs4.pt"
    results = {}
    for name in ("mnli", "MNLI-MM"):  # one model, two sets
        out = tmp_path / name
        write_set(tmp_path / "data", "MNLI-MM")
        assert evaluate(aie_model_dir=file, data_dir=data, task_name=name, output_dir=out).code == 0
        results[name], _ = read_results(out)
    assert results["mnli"]["data"].endswith("dev_matched.tsv")
    assert results["MNLI-MM"]["data"].endswith("dev_mismatched.tsv")
    assert results["mnli"]["classes"] == ["entailment", "neutral", "contradiction"]


def test_labels_meet_by_name_whatever_the_models_order(tmp_path, export, evaluate):
    """The same weights under two orders of names: accuracies of a task with three classes are of
    different predictions, and each is that of its own table."""
    data = write_set(tmp_path / "data", "MNLI")
    given = {"task_name": "MNLI", "save_dir": tmp_path, **SMALL}
    seen = []
    for names in (TASKS["MNLI"].classes, ("entailment", "neutral", "contradiction")):
        model = write_names(write_model(tmp_path / names[0], "MNLI", "hf"), names)
        assert export(pth_dir=model, **given).code == 0
        out = tmp_path / f"out_{names[0]}"
        file = tmp_path / "albert_seq32_bs4.pt"
        assert evaluate(aie_model_dir=file, data_dir=data, output_dir=out).code == 0
        _, (_, *rows) = read_results(out)
        assert [row[2] for row in rows] == labels_of(TASKS["MNLI"], 12)
        seen.append([names.index(row[1]) for row in rows])
    assert seen[0] == seen[1]


def test_a_file_is_refused_on_another_task(compiled, evaluate):
    run = evaluate(aie_model_dir=compiled, task_name="cola")
    assert refused(run, "--task_name CoLA:", "was exported for SST-2")
    for spelling in ("SST-2", "sst2", "sst-2", "SST_2"):
        assert evaluate(aie_model_dir=compiled, task_name=spelling, text="fine").code == 0


@pytest.mark.parametrize(
    "name, config, words",
    [
        ("STS-B", {"num_labels": 2}, ["has 2 outputs, but STS-B is a regression"]),
        ("SST-2", {"num_labels": 1}, ["has one output", "STS-B", "--task_name"]),
        ("quora", {}, ["--task_name quora: is none of CoLA, SST-2"]),
        ("MRPC", {"type_vocab_size": 1}, ["type_vocab_size is 1", "MRPC has pairs", "--task_name"]),
    ],
)
def test_a_checkpoint_of_another_kind_of_task(tmp_path, export, name, config, words):
    model = write_model(tmp_path / "model", "SST-2", **config)
    assert refused(export(task_name=name, pth_dir=model, save_dir=tmp_path, **SMALL), *words)
    assert not list(tmp_path.glob("*.pt"))


def test_a_missing_package_of_a_metric_is_named_before_the_work(monkeypatch, tmp_path, export):
    monkeypatch.setitem(sys.modules, "scipy", None)
    model = write_model(tmp_path / "model", "STS-B")
    data = write_set(tmp_path / "data", "STS-B")
    given = {"pth_dir": model, "data_dir": data, "save_dir": tmp_path, **SMALL}
    run = export(task_name="STS-B", compare_cpu=True, **given)
    assert refused(run, "STS-B: its Pearson needs scipy; pip install scipy")
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("MNLI", "sentence1\tsentence2\tgold_label\na\tb\t0\n", "label '0' is not a class of MNLI"),
        ("RTE", "sentence1\tsentence2\tlabel\na\tb\tneutral\n", "'neutral' is not a class of RTE"),
        ("STS-B", "sentence1\tsentence2\tscore\na\tb\tnan\n", "label 'nan' is not a number"),
        ("STS-B", "sentence1\tsentence2\tscore\na\tb\thigh\n", "line 2: label 'high' is not a num"),
        ("CoLA", "gj04\t2\t\ta\n", "line 1: label '2' is not a class of CoLA (0 unacceptable, 1"),
        ("CoLA", "gj04\t1\ta\n", "line 1: 3 columns instead of 4"),
        ("LCQMC", "a\tb\n", "line 1: 2 columns instead of 3"),
    ],
)
def test_what_is_wrong_with_a_tasks_file(tmp_path, name, text, words):
    task = TASKS[name]
    (tmp_path / task.files["dev"]).write_text(text)
    assert words in said(datasets.read, tmp_path, "dev", task)


def test_cola_with_a_header_is_read_as_well(tmp_path):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    assert datasets.read(tmp_path, "dev", TASKS["CoLA"]).sentences == ["fine"]


# Against albert_pytorch itself

PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from model import tokenization_albert
from model.configuration_albert import AlbertConfig
from model.modeling_albert import AlbertForSequenceClassification
from processors import (
    glue_convert_examples_to_features, glue_output_modes, glue_processors)

model_dir, data, task, vocabulary, length = sys.argv[2:]
given = {"vocab_file": None, "spm_model_file": None}
given["vocab_file" if vocabulary.endswith(".txt") else "spm_model_file"] = vocabulary
tokenizer = tokenization_albert.FullTokenizer(do_lower_case=True, **given)
processor, mode = glue_processors[task](), glue_output_modes[task]
examples = processor.get_dev_examples(data)
features = glue_convert_examples_to_features(
    examples, tokenizer, max_seq_length=int(length), label_list=processor.get_labels(),
    output_mode=mode)
model = AlbertForSequenceClassification.from_pretrained(
    model_dir, config=AlbertConfig.from_pretrained(model_dir)).eval()
batch = [torch.tensor([getattr(f, name) for f in features])
         for name in ("input_ids", "attention_mask", "token_type_ids")]
with torch.no_grad():
    logits = model(batch[0], attention_mask=batch[1], token_type_ids=batch[2])[0]
print(json.dumps({
    "ids": [f.input_ids[: f.input_len] for f in features],
    "types": [f.token_type_ids[: f.input_len] for f in features],
    "labels": [f.label for f in features],
    "classes": processor.get_labels(),
    "logits": logits.tolist()}))
"""


@pytest.mark.upstream
@pytest.mark.parametrize("length", [64, 11])
@pytest.mark.parametrize("name", NAMES)
def test_ids_labels_and_logits_are_the_unmodified_albert_pytorchs(
    upstream_tree, tmp_path, name, length
):
    task = TASKS[name]
    folder = write_model(tmp_path / "model", name)
    data = write_set(tmp_path / "data", name)
    found = checkpoint.load(folder).named(task)
    examples = datasets.read(data, "dev", task).for_model(found.config.label_names)
    tokenizer = found.tokenizer.load()
    encoded = [tokenizer.encode(sentence, length) for sentence in examples.sentences]
    code = ["-W", "ignore", "-c", STAND_INS + PROCESS]
    given = upstream_tree, folder, data, name.lower(), found.tokenizer.path, length
    run = python(*code, *given, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert run.code == 0, run.err
    theirs = json.loads(run.out.splitlines()[-1])
    assert [sentence.ids for sentence in encoded] == theirs["ids"]
    assert [segments(sentence) for sentence in encoded] == theirs["types"]
    assert examples.labels == theirs["labels"]
    shapes = [Shape(4, length)] + [Shape(4, 128, 16)] * (length == 64)
    for shape in shapes:
        got = fused_logits(found, encoded, shape)
        numpy.testing.assert_allclose(got, theirs["logits"], rtol=0, atol=1e-5)


def segments(sentence):
    second = len(sentence.ids) if sentence.second is None else sentence.second
    return [int(place >= second) for place in range(len(sentence.ids))]


def test_the_generated_sets_have_what_makes_tokens_differ():
    """Accents, quotes, digits with a comma; Latin letters and full-width marks in Chinese."""
    english, chinese = "".join(map("".join, PAIRS)), "".join(map("".join, CHINESE))
    assert all(mark in english for mark in ("é", "``", "1994,"))
    assert all(mark in chinese for mark in ("？", "?", "iPhone", "《", "\u3000", "……"))
