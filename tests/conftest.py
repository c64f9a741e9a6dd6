"""Shared fixtures: small and base-size random checkpoints in both layouts, SST-2, and the two scripts as functions."""

import json
import os
import shutil
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # tests side by side: one thread each, for torch's idle threads spin
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import sentencepiece
import torch

import export_albert_aie
import run_aie_eval
from albert_aie import checkpoint

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALBERT_SHARED", ROOT.parent / "shared")) / "data"
SPM = ROOT / "demo" / "checkpoint" / "spiece.model"
DOUBLES = ROOT / "tests" / "doubles"
# The lane with the Ascend stack's torch runs the double of torch_aie 6.3, the current one that of its successor.
PACKAGE = "torch_aie" if torch.__version__.startswith("2.0.") else "mindietorch"
TINY = {
    "vocab_size": sentencepiece.SentencePieceProcessor(model_file=str(SPM)).get_piece_size(),
    "embedding_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-12,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
    "num_labels": 2,
}
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count()))))


@pytest.fixture(scope="session")
def sst2():
    """The real SST-2 folder; read where it lies, never copied into the project."""
    folder = SHARED / "SST-2"
    if not folder.is_dir():
        pytest.skip(f"SST-2 is not at {folder}; set ALBERT_SHARED to the folder that holds data/SST-2")
    return folder


@pytest.fixture(scope="session")
def albert_files():
    """ALBERT's own 30k-clean.model and config.json."""
    folder = SHARED / "albert-base-v2"
    if not folder.is_dir():
        pytest.skip(f"ALBERT's files are not at {folder}; set ALBERT_SHARED to the folder that holds data/albert-base-v2")
    return folder


def double_environment(package=PACKAGE):
    """Environment of a process in which the strict double can be imported as `package`, and as nothing else."""
    own = DOUBLES / {"torch_aie": "torch_aie_63", "mindietorch": "mindietorch_100"}[package]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (DOUBLES, own))), "PYTHONWARNINGS": "ignore"}


def upstream_tree():
    """A clean checkout of albert_pytorch at 46de9ec, or a skip that says how to give one."""
    tree = os.environ.get("ALBERT_PYTORCH_DIR")
    if not tree:
        pytest.skip("needs a clean checkout of lonePatient/albert_pytorch at 46de9ec: set ALBERT_PYTORCH_DIR")
    return Path(tree)


def write_checkpoint(folder, config=TINY, layout="upstream", spm=SPM, dtype=None, **random):
    """A folder with random weights: `layout` upstream (zip or legacy pickle) or hf (safetensors)."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(spm, folder / ("30k-clean.model" if layout == "upstream" else "spiece.model"))
    raw = {**config} if layout == "upstream" else {**config, "model_type": "albert"}
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = checkpoint.draw(folder, **random).tensors
    if dtype:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    if layout == "hf":
        import safetensors.torch

        safetensors.torch.save_file(tensors, str(folder / "model.safetensors"))
    else:
        torch.save(
            checkpoint.to_upstream(tensors), folder / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "upstream"
        )
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "SST-2")


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "hf", layout="hf")


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """A small folder in GLUE's format, so that a test that needs no particular text runs anywhere."""
    folder = tmp_path_factory.mktemp("data")
    texts = [
        "a fine film .",
        "dull , dull and dull again",
        "it 's ``great'' fun",
        "no",
        "one of the best things i saw all year",
        "i left early and so should you ",
        "charming",
        "the plot makes no sense at all , not even once",
        "well acted",
        "poor",
        "a slow start but what an ending !",
    ]
    rows = [f"{text}\t{i % 2}" for i, text in enumerate(texts)]
    (folder / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    (folder / "test.tsv").write_text("\n".join(["index\tsentence", *(f"{i}\t{text}" for i, text in enumerate(texts))]) + "\n")
    return folder


class Run:
    """What a script did: its exit code and what it printed."""

    def __init__(self, code, captured):
        self.code, self.out, self.err = code, captured.out, captured.err


def refused(run, *words):
    """Whether a script did what it must on bad input: exit code 2 and one sentence, with these words in it."""
    assert run.code == 2
    assert run.err.startswith("error: ") and run.err.count("\n") == 1 and "Traceback" not in run.err
    for word in words:
        assert word in run.err
    return True


@pytest.fixture
def export(capfd):
    def run(*flags):
        capfd.readouterr()
        return Run(export_albert_aie.main([str(flag) for flag in flags]), capfd.readouterr())

    return run


@pytest.fixture
def evaluate(capfd):
    def run(*flags):
        capfd.readouterr()
        return Run(run_aie_eval.main([str(flag) for flag in flags]), capfd.readouterr())

    return run
