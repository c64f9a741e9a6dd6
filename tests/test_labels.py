"""The scripts on models whose classes have other names, orders and numbers than the data's, and on
models without finite logits."""

import json

import pytest
import safetensors.torch
import torch
from helpers import TINY, read_results, refused, write_checkpoint

from albert_aie.artifact import pt_file
from albert_aie.text.sentencepiece_model import SentencePiece

SMALL = {"max_seq_length": 16, "batch_size": 4, "backend": "torchscript"}
FILE = "albert_seq16_bs4.pt"
TEXTS = ["fine", "dull film", "no", "charming", "poor"]


def checkpoint(folder, bias, names=None, weight=0.0):
    """A Hugging Face folder whose every sentence has the logits `bias`, whatever its words;
    `weight` fills the classifier's matrix."""
    id2label = {"id2label": {str(i): name for i, name in enumerate(names)}} if names else {}
    config = {**TINY, "num_hidden_layers": 1, "num_labels": len(bias), **id2label}
    write_checkpoint(folder, config, layout="hf")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["classifier.weight"].fill_(weight)
    tensors["classifier.bias"] = torch.tensor(bias)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    return folder


def data(folder, labels, name="dev.tsv"):
    folder.mkdir(exist_ok=True)
    lines = [f"{text}\t{label}" for text, label in zip(TEXTS, labels)]
    (folder / name).write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def four_negative(tmp_path_factory):
    """Sentences 0 to 3 are negative, the last one is positive."""
    return data(tmp_path_factory.mktemp("data"), [0, 0, 0, 0, 1])


# Classes: the first two negatives of the issue, and all ways around them.


@pytest.mark.parametrize(
    "bias, names, right",
    [
        ([1.0, 0.0], None, 4),  # always class 0, by position
        ([1.0, 0.0], ["LABEL_0", "LABEL_1"], 4),
        ([0.0, 1.0], ["POSITIVE", "NEGATIVE"], 4),  # always class 1, which is negative
        ([0.0, 1.0], ["Pos", "neg"], 4),
        ([1.0, 0.0], ["positive", "negative"], 1),
        ([1.0, 0.0, 0.0], ["negative", "neutral", "positive"], 4),
        ([0.0, 0.0, 1.0], ["neutral", "negative", "positive"], 1),
        ([0.0, 1.0, 0.0], ["negative", "neutral", "positive"], 0),
    ],
)
def test_accuracy_is_by_name(tmp_path, export, evaluate, four_negative, bias, names, right):
    """The reference and the file agree whatever the order, so PASS alone says nothing. A class that
    the data does not have is wrong, and counted."""
    folder = checkpoint(tmp_path / "model", bias, names)
    assert export(pth_dir=folder, save_dir=tmp_path, **SMALL).code == 0
    known = {"aie_model_dir": tmp_path / FILE, "data_dir": four_negative}
    run = evaluate(pth_dir=folder, compare_cpu=True, output_dir=tmp_path, **known)
    assert "compare_cpu PASS" in run.out
    assert f"accuracy    {right / 5:.4f} compiled, {right / 5:.4f} reference" in run.out
    report, (header, *rows) = read_results(tmp_path)
    assert f"{right / 5:.4f} ({right}/5)" in run.said and run.code == 0
    others = 0 if right else 5
    assert (report["accuracy"]["correct"], report["accuracy"]["other_classes"]) == (right, others)
    assert ("5 predicted as a class that the data does not have" in run.said) == (not right)
    assert [row[2] for row in rows] == 4 * ["negative"] + ["positive"]
    assert {row[1] for row in rows} == {{4: "negative", 1: "positive", 0: "neutral"}[right]}
    assert [name for name in header if name.startswith("logit_")] == [
        f"logit_{name}" for name in report["classes"]
    ]
    said = float(rows[0][header.index(f"logit_{rows[0][1]}")])
    assert said == max(bias)  # the prediction's own column


@pytest.mark.parametrize(
    "bias, names, said",
    [
        ([1.0, 0.0], ["bad", "good"], "the model's bad, good"),
        ([1.0, 0.0], ["LABEL_1", "LABEL_0"], "the model's LABEL_1, LABEL_0"),
        ([1.0, 0.0], ["1", "0"], "the model's 1, 0"),
        ([1.0, 0.0, 0.0], None, "the model's 0, 1, 2"),
        ([1.0, 0.0, 0.0], ["neg", "negative", "positive"], "the model's neg, negative, positive"),
    ],
)
def test_names_that_do_not_meet_are_refused_and_label_map_is_the_way_out(
    tmp_path, export, evaluate, four_negative, bias, names, said
):
    folder = checkpoint(tmp_path / "model", bias, names)
    options = {"pth_dir": folder, **SMALL}
    both = "classes are negative, positive", said, "--label_map"
    run = export(save_dir=tmp_path / "none", data_dir=four_negative, compare_cpu=True, **options)
    assert refused(run, "dev.tsv", *both) and not (tmp_path / "none").exists()
    assert export(save_dir=tmp_path, **options).code == 0
    known = {"aie_model_dir": tmp_path / FILE, "data_dir": four_negative}
    assert refused(evaluate(**known), "dev.tsv", *both)

    mapped = ",".join(f"{i}={name}" for i, name in enumerate(["negative", "positive", "none"]))
    mapped = mapped.rsplit(",", 3 - len(bias))[0]
    run = evaluate(**known, label_map=mapped, output_dir=tmp_path / "results")
    assert run.code == 0 and "0.8000 (4/5)" in run.said
    assert read_results(tmp_path / "results")[0]["classes"][:2] == ["negative", "positive"]


@pytest.mark.parametrize("second", ["neutral", "NEUTRAL", " neutral"])
def test_two_classes_of_one_name_are_refused(tmp_path, export, evaluate, second):
    """At export, where --label_map is the way out, and by --label_map itself: else probabilities
    would stand under the wrong header."""
    folder = checkpoint(tmp_path / "model", [1.0, 0.0, 0.0], ["neutral", "negative", second])
    options = {"pth_dir": folder, "save_dir": tmp_path, "task_name": "text", **SMALL}
    words = "classes 0 and 2 are both called", "--label_map 2=NAME"
    assert refused(export(**options), str(folder), *words)
    assert not (tmp_path / FILE).exists()
    assert refused(export(**options, label_map="2=negative"), "classes 1 and 2 are both called")
    assert export(**options, label_map="2=positive").code == 0
    known = {"aie_model_dir": tmp_path / FILE, "text": "a fine film"}
    words = "classes 0 and 1 are both called 'negative'", "--label_map 1=NAME"
    assert refused(evaluate(**known, label_map="0=negative,1=negative"), FILE, *words)
    assert refused(evaluate(**known, label_map="0=negative"), *words)
    assert evaluate(**known, label_map="0=negative,1=neutral").code == 0


@pytest.mark.parametrize("names", [None, ["entailment", "not_entailment"]])
def test_a_model_of_fewer_classes_than_its_task_is_refused_at_export(tmp_path, export, names):
    folder = checkpoint(tmp_path / "model", [1.0, 0.0], names)
    run = export(pth_dir=folder, save_dir=tmp_path, task_name="MNLI", **SMALL)
    words = "has 2 classes, but MNLI has 3 (contradiction, entailment, neutral)", "--task_name"
    assert refused(run, str(folder), *words) and not (tmp_path / FILE).exists()


def test_the_label_map_of_an_export_is_the_files(tmp_path, export, evaluate, four_negative):
    folder = checkpoint(tmp_path / "model", [0.0, 1.0], ["good", "bad"])
    mapped = {"label_map": "1=NEGATIVE,0=POSITIVE", **SMALL}
    options = {"save_dir": tmp_path, "data_dir": four_negative, "compare_cpu": True}
    run = export(pth_dir=folder, **options, **mapped)
    assert run.code == 0 and "0.8000 compiled, 0.8000 reference" in run.said
    saved = pt_file.open_pt(tmp_path / FILE)
    assert saved.manifest["label_names"] == ["POSITIVE", "NEGATIVE"]
    known = {"aie_model_dir": tmp_path / FILE, "data_dir": four_negative}
    assert "0.8000 (4/5)" in evaluate(**known).said
    assert "0.2000 (1/5)" in evaluate(**known, label_map="0=negative,1=positive").said


def test_names_that_would_break_a_table_are_refused(tmp_path, export, evaluate, four_negative):
    folder = checkpoint(tmp_path / "model", [1.0, 0.0], ["nega\ttive", "posi\ntive"])
    run = export(pth_dir=folder, save_dir=tmp_path, **SMALL)
    assert refused(run, "class 0 is called 'nega\\ttive'", "--label_map 0=NAME")
    run = export(pth_dir=folder, save_dir=tmp_path, label_map="0=neg,1=pos", **SMALL)
    assert run.code == 0


@pytest.mark.parametrize(
    "value", ["", "0", "0=", "=negative", "x=negative", "-1=a", "0=a,0=b", "0=a,"]
)
def test_a_label_map_that_is_none_is_one_sentence(tmp_path, evaluate, value):
    assert refused(evaluate(label_map=value), "--label_map")


# NaN and infinity


def test_an_overflowing_model_is_no_prediction_and_exit_1(
    tmp_path, export, evaluate, four_negative
):
    """All logits are infinite or NaN: once accuracy 0.0000 of predictions 0, and exit 0."""
    folder = checkpoint(tmp_path / "model", [0.0, 0.0], weight=3e38)
    assert export(pth_dir=folder, save_dir=tmp_path, **SMALL).code == 0
    known = {"aie_model_dir": tmp_path / FILE, "data_dir": four_negative}
    compared = {"pth_dir": folder, "compare_cpu": True, "compare_output": tmp_path / "it.json"}
    run = evaluate(output_dir=tmp_path, **known, **compared)
    assert "compare_cpu FAIL" in run.out and run.err == ""
    assert "label flips 5 (gate 0)" in run.said and "not finite 5 of the sentences" in run.said
    verdict = json.loads((tmp_path / "it.json").read_text(), parse_constant=pytest.fail)
    assert (verdict["passed"], verdict["not_finite"], verdict["relative"]) == (False, 5, None)
    report, (_, *rows) = read_results(tmp_path)
    assert run.code == 1 and "0 of 5 sentences scored" in run.said and "(0/5)" in run.said
    assert [row[1] for row in rows] == 5 * [""]
    assert (
        "5 sentences without finite logits, the first: 0: 'fine' 1: 'dull film' 2: 'no'" in run.said
    )
    assert [named["index"] for named in report["not_scored"]] == [0, 1, 2]


def test_sentences_without_finite_logits_are_counted_beside_the_others(
    tmp_path, export, evaluate, four_negative
):
    """One word's embedding overflows, so that "dull film" alone has no logits."""
    folder = checkpoint(tmp_path / "model", [1.0, 0.0])
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    word = SentencePiece((folder / "spiece.model").read_bytes()).encode("dull")[0][1]
    tensors["albert.embeddings.word_embeddings.weight"][word] = 3e38
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    assert export(pth_dir=folder, save_dir=tmp_path, **SMALL).code == 0
    known = {"aie_model_dir": tmp_path / FILE, "data_dir": four_negative}
    run = evaluate(output_dir=tmp_path, pth_dir=folder, compare_cpu=True, padded=True, **known)
    assert run.code == 1 and "4 of 5 sentences scored" in run.said
    assert "1 sentence without finite logits, the first: 1: 'dull film'" in run.said
    assert "0.6000 (3/5)" in run.said and "label flips 1 (gate 0)" in run.said
    _, (_, *rows) = read_results(tmp_path)
    assert [row[1] for row in rows] == ["negative", "", "negative", "negative", "negative"]
    assert [row[2] for row in rows] == 4 * ["negative"] + ["positive"]
    # It shares a row with the others, and takes none of them with it.
    run = evaluate(**known)
    assert run.code == 1 and "4 of 5 sentences scored" in run.said and "(3/5)" in run.said
