"""Shared fixtures: small random checkpoints in both layouts, SST-2, albert_pytorch, and the two
scripts as functions."""

import json
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # tests side by side: one thread each, idle ones spin
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import jsonschema
import pytest
import torch
from helpers import (
    EVAL_SCHEMA,
    ROOT,
    SHARED,
    Run,
    export_file,
    flags,
    logits_in_this_process,
    write_checkpoint,
)

import export_albert_aie
import run_aie_eval
from albert_aie.base import machine
from albert_aie.run import evaluate as evaluating

# a shell ignores Ctrl-C in what it starts with &, and every process that a test starts would too
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count()))))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session", autouse=True)
def one_turn_of_each_precision():
    """An export in this process calls each precision once and takes the last, fp32, instead of
    timing them for two seconds."""

    def take_turns(runs, seconds):
        for run in runs.values():
            run()
        return {name: float(len(runs) - place) for place, name in enumerate(runs)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "take_turns", take_turns)
        yield


def shared(name):
    folder = SHARED / name
    if not folder.is_dir():
        cure = f"set ALBERT_SHARED to the folder that holds data/{name}"
        pytest.skip(f"{folder} is not there; {cure}")
    return folder


@pytest.fixture(scope="session")
def sst2():
    """The real SST-2 folder; read where it lies, never copied into the project."""
    return shared("SST-2")


@pytest.fixture(scope="session")
def albert_files():
    """ALBERT's own 30k-clean.model and config.json."""
    return shared("albert-base-v2")


@pytest.fixture(scope="session")
def upstream_tree(tmp_path_factory):
    """A copy of the checkout of albert_pytorch at 46de9ec, or a skip that says how to give one."""
    tree = os.environ.get("ALBERT_PYTORCH_DIR")
    if not tree:
        checkout = "a clean checkout of lonePatient/albert_pytorch at 46de9ec"
        pytest.skip(f"needs {checkout}: set ALBERT_PYTORCH_DIR")
    names = (".git", "__pycache__", "dataset", "prev_trained_model", "outputs")
    folder = tmp_path_factory.mktemp("clean") / "albert_pytorch"
    return Path(shutil.copytree(tree, folder, ignore=shutil.ignore_patterns(*names)))


@pytest.fixture(scope="session")
def patched_tree(tmp_path_factory, upstream_tree):
    """The same with albert.patch applied. A test that writes there makes a copy of its own."""
    folder = tmp_path_factory.mktemp("patched") / "albert_pytorch"
    shutil.copytree(upstream_tree, folder, ignore=shutil.ignore_patterns("__pycache__"))
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}  # no part of a repository
    command = ["git", "apply", str(ROOT / "albert.patch")]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "SST-2")


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "hf", layout="hf")


@pytest.fixture(scope="session")
def made_by(tmp_path_factory, tiny):
    """{backend: a good .pt of 4 x 32 in fp32}, which is not to be changed."""
    made = {}
    for backend in ("torchscript", "openvino"):
        given = {"backend": backend, "precision": "fp32", "batch_size": 4, "max_seq_length": 32}
        made[backend] = export_file(tmp_path_factory.mktemp(backend), pth_dir=tiny, **given)
    return made


@pytest.fixture(scope="session")
def compiled(made_by):
    return made_by["torchscript"]


@pytest.fixture(scope="session")
def onnx_files(tmp_path_factory, tiny, sentences):
    """{name: a good .pt of backend onnx} of 4 x 32, which is not to be changed; the ONNX file lies
    beside it."""
    made = {}
    for name in ("fp32", "fp32 packed", "fp16", "fp16 packed"):
        precision, *packed = name.split()
        given = {"backend": "onnx", "precision": precision, "pack": bool(packed)}
        given |= {"batch_size": 4, "max_seq_length": 32, "compile": "onnx_file=true"}
        given["data_dir"] = sentences
        folder = tmp_path_factory.mktemp("onnx")
        assert export_albert_aie.main(flags(pth_dir=tiny, save_dir=folder, **given)) == 0
        (made[name],) = folder.glob("*.pt")
    return made


@pytest.fixture(scope="session")
def saved_by(tmp_path_factory):
    """Function of "version/name" -> that checkpoint's folder, which is not to be changed."""
    folder = tmp_path_factory.mktemp("transformers")
    for path in sorted((ROOT / "tests" / "golden").glob("transformers-*.tar.xz")):
        version = path.name[len("transformers-") : -len(".tar.xz")]
        with tarfile.open(path) as archive:
            archive.extractall(folder / version)
    return folder.joinpath


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """A small folder in GLUE's format, so that a test of no particular text runs anywhere."""
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
    dev = [f"{text}\t{i % 2}" for i, text in enumerate(texts)]
    test = [f"{i}\t{text}" for i, text in enumerate(texts)]
    (folder / "dev.tsv").write_text("\n".join(["sentence\tlabel", *dev]) + "\n")
    (folder / "test.tsv").write_text("\n".join(["index\tsentence", *test]) + "\n")
    return folder


@pytest.fixture(scope="session")
def file_of(tmp_path_factory):
    """Function of a task's name -> a small exported file for it (corpora.write_file)."""
    from corpora import write_file

    files = {}

    def file_of(name):
        if name not in files:
            files[name] = write_file(tmp_path_factory.mktemp("corpora"), name)
        return files[name]

    return file_of


@pytest.fixture
def export(capfd):
    """export_albert_aie.py in this process: export(pth_dir=tiny, batch_size=4) -> Run. What it
    compares with the reference is computed in this process too, unless `fresh`."""

    def run(fresh=False, **options):
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            if not fresh:
                patch.setattr(evaluating, "logits_in_fresh_process", logits_in_this_process)
            code = export_albert_aie.main(flags(**options))
        return Run(code, *capfd.readouterr())

    return run


@pytest.fixture
def evaluate(capfd):
    """run_aie_eval.py in this process, in the same way; its eval.json is what the schema says."""

    def run(**options):
        capfd.readouterr()
        done = Run(run_aie_eval.main(flags(**options)), *capfd.readouterr())
        if options.get("output_dir") and done.code in (0, 1):
            written = Path(options["output_dir"], "eval.json").read_text(encoding="utf-8")
            jsonschema.validate(json.loads(written), EVAL_SCHEMA)
        return done

    return run
