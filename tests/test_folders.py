"""Checkpoint folders as they come: what users expect to work works, and what is no checkpoint is
told what it is."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import torch
from helpers import (
    SPM,
    TINY,
    change_weights,
    fused_logits,
    refused,
    small_vocabulary,
    tokens,
    write_checkpoint,
)

from albert_aie.albert import folders, references, weights
from albert_aie.albert.checkpoint import load
from albert_aie.albert.config import read_config
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0f9087\nsize 20564056\n"


def read(folder):
    """The raw state dict of an albert_pytorch folder."""
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def write(folder, state):
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def same(one, other):
    return one.layout == other.layout and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )


def configure(folder, **change):
    raw = {**TINY, **change}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def shard(folder, name="model.safetensors"):
    """Its weights in three shards and an index, as transformers writes them; the whole file is
    gone. Returns the shards' paths."""
    stem, _, suffix = name.partition(".")
    save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
    state = weights.read(folder / name)
    (folder / name).unlink()
    keys, mapped, paths = sorted(state), {}, []
    for number in range(3):
        part = {key: state[key] for key in keys[number::3]}
        paths.append(folder / f"{stem}-{number + 1:05}-of-00003.{suffix}")
        save(part, paths[-1])
        mapped.update({key: paths[-1].name for key in part})
    index = {"metadata": {"total_size": 1}, "weight_map": mapped}
    (folder / f"{name}.index.json").write_text(json.dumps(index))
    return paths


# What users expect to work


@pytest.mark.parametrize(
    "old, new",
    [
        ("", p)
        for p in ("module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod.model.")
    ]
    + [("bert.", "bert._orig_mod.")],  # torch.compile of the encoder alone
)
@pytest.mark.parametrize("layout", ["upstream", "hf"])
def test_prefixes_of_what_held_the_model_are_left_out(tmp_path, layout, old, new):
    folder = write_checkpoint(tmp_path, layout=layout)
    wanted = load(folder)

    def rename(state):
        for name in list(state):
            state[name.replace(old, new, 1)] = state.pop(name)

    assert same(load(change_weights(folder, rename)), wanted)


def test_two_models_in_one_file_are_refused(tmp_path, tiny):
    folder = Path(shutil.copytree(tiny, tmp_path / "c"))
    state = read(folder)
    state["module.classifier.bias"] = state["classifier.bias"] + 1
    with pytest.raises(UserError, match="holds classifier.bias more than once"):
        load(write(folder, state))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_read_like_one_file(tmp_path, tiny, tiny_hf, name):
    source = tiny_hf if name == "model.safetensors" else tiny
    folder = Path(shutil.copytree(source, tmp_path / "c"))
    first, *others = shard(folder, name)
    loaded = load(folder)
    assert same(loaded, load(source))
    configured = first.read_bytes()
    first.write_bytes(configured[:-1] + bytes([configured[-1] ^ 1]))
    with contextlib.suppress(UserError):  # a zip has CRCs and is refused, safetensors has none
        assert load(folder).sha256 != loaded.sha256


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda shards: shards[1].unlink(), "00002-of-00003.safetensors: no such"),
        (lambda shards: shutil.copy(*shards[:2]), "safetensors: does not hold the tensors"),
        (lambda shards: shards[2].write_bytes(LFS), "git lfs pull"),
        ("{", "not a readable JSON file"),
        ("[]", "names no weight files"),
        ('{"weight_map": {"a": "../x.bin"}}', "names no weight files"),
        ('{"weight_map": {"a": ["x"]}}', "names no weight files"),
        ('{"weight_map": {"a": "model.safetensors.index.json"}}', "names no weight files"),
    ],
)
def test_shards_that_are_not_whole_are_refused(tmp_path, tiny_hf, export, damage, words):
    folder = Path(shutil.copytree(tiny_hf, tmp_path / "c"))
    shards = shard(folder)
    if isinstance(damage, str):
        (folder / "model.safetensors.index.json").write_text(damage)
    else:
        damage(shards)
    assert refused(export(pth_dir=folder, save_dir=tmp_path / "out"), words)


@pytest.mark.parametrize("other", ["more", "fewer"])
def test_a_shard_holds_what_the_index_names_and_no_more(tmp_path, tiny_hf, other):
    """Else a tensor of another shard could be taken from it."""
    folder = Path(shutil.copytree(tiny_hf, tmp_path / "c"))
    first, second, *_ = shard(folder)
    state = safetensors.torch.load_file(second)
    name, tensor = next(iter(safetensors.torch.load_file(first).items()))
    state = {**state, name: tensor + 1} if other == "more" else dict(list(state.items())[1:])
    safetensors.torch.save_file(state, second)
    with pytest.raises(UserError, match=f"{second.name}: does not hold the tensors that model"):
        load(folder)


def test_a_folder_with_the_same_weights_twice_is_read(tmp_path, tiny_hf):
    folder = Path(shutil.copytree(tiny_hf, tmp_path / "c"))
    state = safetensors.torch.load_file(folder / "model.safetensors")
    write(folder, {"module." + name: tensor for name, tensor in state.items()})
    assert load(folder).sha256 == load(tiny_hf).sha256


@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_with_two_different_weights_is_refused(tmp_path, tiny_hf, export, sharded):
    """Which one is meant cannot be known."""
    folder = Path(shutil.copytree(tiny_hf, tmp_path / "c"))
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state["classifier.bias"] = state["classifier.bias"].flip(0)
    write(folder, state)
    if sharded:
        shard(folder, "pytorch_model.bin")
    run = export(pth_dir=folder, save_dir=tmp_path / "out")
    words = "model.safetensors and pytorch_model.bin", "hold different weights (classifier.bias)"
    assert refused(run, *words, "move away the one that is not meant")


@pytest.mark.parametrize(
    "more, added, fits",
    [(0, 0, True), (1, 0, True), (-1, 0, False), (72, 0, True), (73, 0, False), (74, 73, True)]
    + [(72 + 128, 73, True), (72 + 129, 73, False), (72, 72, True), (72 + 128, 72, False)],
)
def test_embedding_rows_beyond_the_pieces(tmp_path, more, added, fits):
    """19,000 pieces and the next multiple of 128, 19,072; with added tokens the next above both."""
    assert TINY["vocab_size"] == 19_000
    folder = write_checkpoint(tmp_path, layout="hf")
    path, rows = folder / "model.safetensors", TINY["vocab_size"] + more
    state, name = safetensors.torch.load_file(path), "albert.embeddings.word_embeddings.weight"
    table = torch.nn.functional.pad(state[name], (0, 0, 0, max(0, more)))[:rows]
    safetensors.torch.save_file({**state, name: table.clone()}, path)
    configure(folder, vocab_size=rows)
    if added:
        extra = {f"<{i}>": 19_000 + i for i in range(added)}
        (folder / "added_tokens.json").write_text(json.dumps(extra))
    if fits:
        assert load(folder).config.vocab_size == rows
    else:
        words = f"has {19_000 + added} pieces, .* vocab_size is {rows}"
        with pytest.raises(UserError, match=words):
            load(folder)


def test_filling_rows_change_no_logits(tmp_path, sentences):
    found = load(write_checkpoint(tmp_path, {**TINY, "vocab_size": 19_072}))
    encoded = tokens(found.tokenizer, sentences, length=32)
    wanted, _ = references.logits(found, encoded)
    got = fused_logits(found, encoded, Shape(4, 32))
    numpy.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_config_with_a_byte_order_mark_is_read(tmp_path, tiny, mark):
    folder = Path(shutil.copytree(tiny, tmp_path / "c"))
    path = folder / "config.json"
    path.write_bytes(mark + path.read_bytes())
    assert load(folder).config == load(tiny).config


def test_the_pretrained_folder_that_fits_is_taken(tmp_path, tiny):
    """albert_pytorch's prev_trained_model/ may hold several models."""
    folder = Path(shutil.copytree(tiny, tmp_path / "c"))
    (folder / "30k-clean.model").unlink()
    tree = tmp_path / "tree"
    names = [tree / "prev_trained_model" / name / "30k-clean.model" for name in ("a", "b", "c")]
    for path in names:
        path.parent.mkdir(parents=True)
    first, second, third = names
    first.write_bytes(small_vocabulary())
    with pytest.raises(UserError, match=r"has \d\d pieces"):
        load(folder, upstream_dir=tree)
    shutil.copy(SPM, second)
    third.write_bytes(b"no vocabulary of ALBERT's")
    assert load(folder, upstream_dir=tree).tokenizer.path == second
    shutil.copy(SPM, third)  # the same vocabulary again
    assert load(folder, upstream_dir=tree).tokenizer.path == second
    third.write_bytes(SPM.read_bytes().replace("\u2581film".encode(), "\u2581qxzj".encode()))
    with pytest.raises(UserError, match="different ones fit it .* --tokenizer"):
        load(folder, upstream_dir=tree)
    assert load(folder, tokenizer_file=third, upstream_dir=tree).tokenizer.path == third


def test_the_folders_own_vocabulary_is_not_passed_over(tmp_path, tiny):
    """If it does not fit something is wrong, whatever prev_trained_model/ holds."""
    folder = Path(shutil.copytree(tiny, tmp_path / "c"))
    (folder / "30k-clean.model").write_bytes(small_vocabulary())
    other = tmp_path / "tree" / "prev_trained_model" / "a" / "30k-clean.model"
    other.parent.mkdir(parents=True)
    shutil.copy(SPM, other)
    with pytest.raises(UserError, match=r"has \d\d pieces"):
        load(folder, upstream_dir=tmp_path / "tree")


def test_a_checkpoint_from_before_the_shift_keeps_its_bias(
    tmp_path, tiny, tiny_hf, sentences, export, evaluate
):
    """albert_pytorch before 2020-01-01: the export has a flag, the .pt knows it from then on."""
    old = load(tiny, shift=False)
    torch.testing.assert_close(old.tensors["classifier.bias"], read(tiny)["classifier.bias"])
    assert not same(old, load(tiny))
    small = {"save_dir": tmp_path, "batch_size": 4, "max_seq_length": 32, "backend": "torchscript"}
    assert export(pth_dir=tiny, no_shift=True, **small).code == 0
    given = {"data_dir": sentences, "pth_dir": tiny, "compare_cpu": True}
    run = evaluate(aie_model_dir=tmp_path / "albert_seq32_bs4.pt", **given)
    assert run.code == 0 and "compare_cpu PASS" in run.said
    run = export(pth_dir=tiny_hf, no_shift=True, **small)
    assert refused(run, "--no_shift", "huggingface's layout, which never adds 0.1")


# What is no checkpoint


def test_a_git_lfs_pointer_says_git_lfs_pull(tmp_path, tiny, tiny_hf, export, evaluate, sentences):
    for source, name in (
        (tiny, "pytorch_model.bin"),
        (tiny_hf, "model.safetensors"),
        (tiny, "30k-clean.model"),
        (tiny, "config.json"),
    ):
        folder = Path(shutil.copytree(source, tmp_path / name))
        (folder / name).write_bytes(LFS)
        run = export(pth_dir=folder, save_dir=tmp_path / "out")
        assert refused(run, f"{name}: is a Git-LFS pointer", "run git lfs pull")
    path = tmp_path / "albert_seq32_bs4.pt"
    path.write_bytes(LFS)
    assert refused(evaluate(aie_model_dir=path, data_dir=sentences), "git lfs pull")


def test_folders_that_are_not_a_checkpoints(tmp_path, tiny, export):
    lora, run, repository = (tmp_path / name for name in ("lora", "run", "models--org--name"))
    lora.mkdir()
    (lora / "adapter_config.json").write_text("{}")
    (lora / "adapter_model.safetensors").write_bytes(b"")
    shutil.copytree(tiny, run / "checkpoint-1234")
    shutil.copytree(tiny, repository / "snapshots" / "0f9087")
    shutil.copytree(tmp_path / repository.name, tmp_path / "home" / "hub" / repository.name)
    for folder, words in (
        (lora, ["a LoRA adapter", "merge_and_unload"]),
        (run, ["checkpoints of a training run", "run/checkpoint-1234"]),
        (repository, ["a model of the Hugging Face cache", "snapshots/0f9087"]),
        (tmp_path / "home" / "hub", ["holds the Hugging Face cache", "snapshots/0f9087"]),
        (tmp_path / "home", ["holds the Hugging Face cache", "snapshots/0f9087"]),
    ):
        given = export(pth_dir=folder, save_dir=tmp_path / "out")
        assert refused(given, f"{folder}: holds", *words)
    for folder in (lora, run):  # with a config.json of their own, but no weights
        shutil.copy(tiny / "config.json", folder)
        assert refused(export(pth_dir=folder, save_dir=tmp_path / "out"), f"{folder}: holds")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"model_type": "\\ud800"}', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
        (b"\xff\xfe{\x00}\x00", "can't decode"),
        (b"", "not a readable JSON file"),
        (b"7", "not a JSON object"),
    ],
)
def test_a_config_that_is_no_json_of_any_use(tmp_path, tiny, export, content, words):
    folder = Path(shutil.copytree(tiny, tmp_path / "c"))
    (folder / "config.json").write_bytes(content)
    assert refused(export(pth_dir=folder, save_dir=tmp_path / "out"), "config.json: ", words)


def test_the_published_sizes_are_all_taken(tmp_path):
    """base to xxlarge."""
    for hidden, layers, heads in ((768, 12, 12), (1024, 24, 16), (2048, 24, 16), (4096, 12, 64)):
        sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "vocab_size": 30_000}
        sizes |= {"num_hidden_layers": layers, "num_attention_heads": heads, "embedding_size": 128}
        assert read_config(configure(tmp_path, **sizes) / "config.json").hidden_size == hidden


@pytest.mark.parametrize("form", ["classifier.0.", "classifier.out_proj.", "module.classifier.1."])
def test_a_classifier_of_another_form_is_told_as_that(tmp_path, tiny, export, form):
    folder = Path(shutil.copytree(tiny, tmp_path / "c"))
    state = {name.replace("classifier.", form): tensor for name, tensor in read(folder).items()}
    run = export(pth_dir=write(folder, state), save_dir=tmp_path / "out")
    assert refused(run, "its classifier is no single linear layer", form.replace("module.", ""))


UNREADABLE = ("config.json", "pytorch_model.bin", "model.safetensors", "30k-clean.model")


@pytest.mark.parametrize("name", [*UNREADABLE, "albert_seq32_bs4.pt"])
def test_a_file_without_read_permission_is_told_as_that(
    tmp_path, tiny, tiny_hf, export, evaluate, sentences, name, monkeypatch
):
    """root may read everything, so the refusal is the open call's own, made here."""
    folder = Path(shutil.copytree(tiny_hf if "safe" in name else tiny, tmp_path / "c"))
    real = open

    def guarded(path, *given, **options):
        if isinstance(path, (str, os.PathLike)) and str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *given, **options)

    monkeypatch.setattr("builtins.open", guarded)
    if name.endswith(".pt"):
        (tmp_path / name).touch()
        run = evaluate(aie_model_dir=tmp_path / name, data_dir=sentences)
    else:
        run = export(pth_dir=folder, save_dir=tmp_path / "out")
    assert refused(run, f"{name}: cannot be read (Permission denied)", "permissions")


def test_the_hubs_shards_are_fetched_too(tmp_path, tiny_hf, monkeypatch):
    """With transformers' cache stood in for by a folder."""
    transformers = pytest.importorskip("transformers.utils")
    source = Path(shutil.copytree(tiny_hf, tmp_path / "hub"))
    shard(source)
    cache = tmp_path / "cache"
    cache.mkdir()

    def cached_file(repository, name, **_):
        if not (source / name).is_file():
            raise OSError(f"{repository} does not appear to have a file named {name}")
        return shutil.copy(source / name, cache)

    monkeypatch.setattr(transformers, "cached_file", cached_file)
    monkeypatch.setattr(folders, "_hub_answers", lambda: True)
    assert same(load("org/name"), load(tiny_hf))
    (source / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors could not be fetched"):
        load("org/name")
