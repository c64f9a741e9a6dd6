"""Either layout becomes one Checkpoint; what is dangerous, damaged or foreign is refused."""

import json
import os
import pickle
import shutil
import tarfile

import pytest
import torch
from helpers import TINY, change_weights, refused, write_checkpoint

from albert_aie.albert.checkpoint import load
from albert_aie.albert.config import read_config
from albert_aie.albert.layouts import to_upstream
from albert_aie.albert.references import transformers_model
from albert_aie.base.errors import UserError


def test_both_layouts_and_formats_give_the_same_checkpoint(tmp_path, tiny, tiny_hf):
    legacy = write_checkpoint(tmp_path / "legacy", layout="upstream-legacy-pickle")
    shutil.copy(tiny / "30k-clean.model", legacy)
    loaded = [load(folder) for folder in (tiny, tiny_hf, legacy)]
    assert [c.layout for c in loaded] == ["albert_pytorch", "huggingface", "albert_pytorch"]
    for name, tensor in loaded[0].tensors.items():
        for other in loaded[1:]:
            torch.testing.assert_close(tensor, other.tensors[name], rtol=0, atol=1e-6)


def test_the_shift_of_upstreams_classifier_is_folded_into_the_bias(tiny, tiny_hf):
    raw = torch.load(tiny / "pytorch_model.bin", weights_only=True)
    folded = load(tiny).tensors["classifier.bias"]
    torch.testing.assert_close(
        folded, raw["classifier.bias"] + 0.1 * raw["classifier.weight"].sum(1)
    )
    back = to_upstream(load(tiny_hf).tensors)
    assert back.keys() == raw.keys()
    torch.testing.assert_close(back["classifier.bias"], raw["classifier.bias"])


def test_transformers_own_folder_loads(tmp_path, tiny):
    """Saved by the library itself, with its buffers, names and id2label."""
    model = transformers_model(load(tiny))
    model.config.id2label = {0: "bad", 1: "good"}
    model.save_pretrained(tmp_path)
    shutil.copy(tiny / "30k-clean.model", tmp_path / "spiece.model")
    loaded = load(tmp_path)
    assert loaded.layout == "huggingface" and loaded.config.label_names == ("bad", "good")


def test_half_precision_weights_and_pretraining_heads_are_accepted(tmp_path):
    folder, head = write_checkpoint(tmp_path, dtype=torch.float16), torch.zeros(TINY["vocab_size"])
    change_weights(folder, lambda state: state.update({"predictions.bias": head}))
    assert {t.dtype for t in load(folder).tensors.values()} == {torch.float32}


BIAS = "bert.pooler.dense.bias"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop(BIAS), "missing albert.pooler.bias"),
        (lambda s: s.update({"bert.extra": torch.zeros(1)}), "unexpected albert.extra"),
        (lambda s: s.update({BIAS: torch.zeros(63)}), r"misshapen albert.pooler.bias is \(63,\)"),
        (lambda s: s.update({BIAS: torch.zeros(64, dtype=torch.int32)}), "torch.int32"),
        (lambda s: s.update({BIAS: torch.full((64,), float("nan"))}), "NaN"),
        (lambda s: [s.pop(k) for k in list(s) if "classifier" in k], "without a classifier"),
        (
            lambda s: [s.update({k.replace("bert.", "gpt."): s.pop(k)}) for k in list(s)],
            "keys of another model",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, words):
    folder = change_weights(write_checkpoint(tmp_path), change)
    with pytest.raises(UserError, match=words):
        load(folder)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_hidden_groups": 2}, "num_hidden_groups is 2"),
        ({"inner_group_num": 2}, "inner_group_num is 2"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish'"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"embedding_size": 64}, "embedding_size equals"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"problem_type": "multi_label_classification"}, "is 'multi_label_classification'; only a"),
        ({"problem_type": "regression"}, "'regression', but the model has 2 output"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "has 1 output"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is {'0': [1]}"),
        ({"num_hidden_groups": True}, "num_hidden_groups is True"),
        ({"inner_group_num": None}, "inner_group_num is None"),
        ({"ln_type": "preln"}, "ln_type is 'preln'"),
        ({"share_type": "none"}, "share_type is 'none'"),
        ({"embedding_size": None}, "embedding_size is None"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12'"),
        ({"hidden_act": None}, "hidden_act is None"),
        ({"num_labels": 3, "id2label": {"0": "bad", "1": "good"}}, "is 3, but id2label has 2 (bad"),
        ({"num_labels": 0}, "num_labels is 0; a classifier has 2"),
        ({"num_labels": 10**9}, "num_labels is 1000000000"),
        ({"num_labels": 2.0}, "num_labels is 2.0"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers is 100000; at most 128"),
        ({"vocab_size": 10**9}, "3.2e+10 parameters"),
        ({"hidden_size": 4 * 10**30}, "parameters"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps is inf"),
        ({"layer_norm_eps": 1.0}, "layer_norm_eps is 1.0"),
        ({"layer_norm_eps": True}, "layer_norm_eps is True"),
        ({"hidden_act": ["gelu"] * 10_000}, "hidden_act is ['gelu', "),
    ],
)
def test_a_config_we_cannot_run_is_refused_by_name(tmp_path, change, words):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TINY, **change}))
    with pytest.raises(UserError) as error:
        read_config(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ") and words in said and len(said) < 400


@pytest.mark.parametrize(
    "said",
    [
        {"problem_type": None, "position_embedding_type": None, "pruned_heads": None},
        {"problem_type": "single_label_classification", "pruned_heads": {}},
        {"problem_type": "regression", "num_labels": 1, "position_embedding_type": "absolute"},
        {"ln_type": "postln", "share_type": "all"},
    ],
)
def test_a_config_that_says_what_is_run_is_read(tmp_path, said):
    folder = write_checkpoint(tmp_path, {**TINY, **said})
    assert load(folder).config.num_labels == said.get("num_labels", 2)


@pytest.mark.parametrize(
    "label2id, names",
    [
        ({"positive": 0, "negative": 1}, ("positive", "negative")),
        ({"LABEL_0": 0, "LABEL_1": 1}, ("LABEL_0", "LABEL_1")),
        ({"good": 1, "bad": 1}, ("LABEL_0", "LABEL_1")),
        ([["positive"]], ("LABEL_0", "LABEL_1")),
    ],
)
def test_names_that_stand_in_label2id_alone_are_the_models(tmp_path, label2id, names):
    path, filled_in = tmp_path / "config.json", {"0": "LABEL_0", "1": "LABEL_1"}
    path.write_text(json.dumps({**TINY, "id2label": filled_in, "label2id": label2id}))
    assert read_config(path).label_names == names
    own = {"0": "bad", "1": "good"}
    path.write_text(json.dumps({**TINY, "id2label": own, "label2id": label2id}))
    assert read_config(path).label_names == ("bad", "good")


def test_what_a_config_does_not_say_is_as_in_transformers(tmp_path):
    """And what it says is followed."""
    from transformers import AlbertConfig

    path, usual = tmp_path / "config.json", AlbertConfig()
    names = ("hidden_act", "layer_norm_eps")
    path.write_text(json.dumps({name: TINY[name] for name in TINY if name not in names}))
    config = read_config(path)
    assert (config.hidden_act, config.layer_norm_eps) == ("gelu_new", 1e-12)
    assert (config.hidden_act, config.layer_norm_eps) == (usual.hidden_act, usual.layer_norm_eps)
    path.write_text(json.dumps({**TINY, "hidden_act": "relu", "layer_norm_eps": 1e-5}))
    config = read_config(path)
    assert (config.hidden_act, config.layer_norm_eps) == ("relu", 1e-5)
    names = {"2": "c", "0": "a", "1": "b"}  # by their numbers, not as they stand there
    path.write_text(json.dumps({**TINY, "num_labels": 3, "id2label": names}))
    assert read_config(path).label_names == ("a", "b", "c")


@pytest.mark.parametrize("layout", ["upstream", "hf"])
def test_layer_norms_of_a_converted_tensorflow_checkpoint(tmp_path, layout):
    """gamma and beta: the same model, and never both names for one tensor."""
    folder = write_checkpoint(tmp_path, layout=layout)
    wanted, norms = load(folder).tensors, []

    def rename(state):
        norms.extend(name for name in state if "norm" in name.lower())
        for name in norms:
            parent, _, last = name.rpartition(".")
            state[f"{parent}.{'gamma' if last == 'weight' else 'beta'}"] = state.pop(name)

    found = load(change_weights(folder, rename)).tensors
    assert len(norms) == 6 and all(torch.equal(found[name], wanted[name]) for name in wanted)
    change_weights(folder, lambda state: state.update({norms[0]: torch.zeros(32)}))
    with pytest.raises(UserError, match="more than once"):
        load(folder)


class _Shell:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class _Program(torch.nn.Module):
    def forward(self, x):
        return x + 1


def _write_legacy(path, shell):
    torch.save({"a": shell}, path, _use_new_zipfile_serialization=False)


def _write_tar(path, shell):
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")


@pytest.mark.parametrize(
    "write, words",
    [
        (lambda path, shell: path.write_bytes(pickle.dumps({"a": shell}, 2)), "pytorch_model.bin:"),
        (lambda path, shell: torch.save({"a": shell}, path), "its pickle wants to run code"),
        (_write_legacy, "refused: its pickle wants to run code"),
        (lambda path, _: torch.jit.script(_Program()).save(str(path)), "holds a TorchScript"),
        (_write_tar, "a tar archive"),
        (lambda path, _: path.write_bytes(path.read_bytes()[:-2000]), "cut short"),
        (lambda path, _: path.write_bytes(b"hello"), "neither a torch zip nor a torch pickle"),
        (lambda path, _: path.write_bytes(b""), "neither a torch zip nor a torch pickle"),
        (lambda path, _: torch.save([1, 2], path), "not a state dict"),
        (lambda path, _: torch.save({0: torch.ones(2)}, path), "not a state dict"),
        (lambda path, _: torch.save({"gpt.weight": torch.ones(2)}, path), "keys of another model"),
    ],
)
def test_a_dangerous_or_damaged_weight_file_is_refused_and_not_run(tmp_path, export, write, words):
    folder = write_checkpoint(tmp_path / "c")
    write(folder / "pytorch_model.bin", _Shell(tmp_path / "was_run"))
    run = export(pth_dir=folder, save_dir=tmp_path / "out")
    assert refused(run, "pytorch_model.bin", words)
    assert not (tmp_path / "was_run").exists() and not (tmp_path / "out").exists()


def test_a_cut_safetensors_file_is_refused(tmp_path, export):
    folder = write_checkpoint(tmp_path / "c", layout="hf")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    run = export(pth_dir=folder, save_dir=tmp_path / "out")
    assert refused(run, "not a whole safetensors file") and not (tmp_path / "out").exists()


def test_the_sentencepiece_model_is_looked_for_in_the_tree_last(tmp_path):
    folder = write_checkpoint(tmp_path / "c")
    inside = tmp_path / "tree" / "prev_trained_model" / "albert_base_v2" / "30k-clean.model"
    inside.parent.mkdir(parents=True)
    shutil.move(str(folder / "30k-clean.model"), str(inside))
    with pytest.raises(UserError, match="--tokenizer"):
        load(folder)
    assert load(folder, upstream_dir=tmp_path / "tree").tokenizer.path == inside
    assert load(folder, tokenizer_file=inside).tokenizer.path == inside


def test_a_vocabulary_of_another_size_is_refused(tmp_path, albert_files):
    folder = write_checkpoint(tmp_path)
    words = f"has 30000 pieces, but the checkpoint's vocab_size is {TINY['vocab_size']}"
    with pytest.raises(UserError, match=words):
        load(folder, tokenizer_file=albert_files / "30k-clean.model")


def test_a_hub_id_without_network_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="as a hub id config.json could not be fetched"):
        load("nobody/albert-base-v2-of-nowhere")
