"""Wrong input, through the scripts: one sentence that names the file and the cure, exit code 2,
nothing half-written."""

import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, TINY, flags, python, refused, write_checkpoint

from albert_aie.base.errors import WHY, UserError, refusing, system_reason

README = ROOT / "README.md"
SMALL = {"batch_size": 2, "max_seq_length": 16}  # albert_seq16_bs2.pt


@pytest.mark.parametrize(
    "given, words",
    [
        ({"pth_dir": "./nowhere"}, ["nowhere: no such folder", "demo/checkpoint"]),
        ({"pth_dir": README}, ["is a file"]),
        ({"batch_size": 0}, ["--batch_size 0"]),
        ({"max_seq_length": 2}, ["--max_seq_length 2", "3 or more"]),
        ({"max_seq_length": 513}, ["--max_seq_length 513", "512 positions"]),
        ({"compare_cpu": True, "compare_rows": 0}, ["--compare_rows 0"]),
        ({"spm_model_file": "nowhere.model"}, ["nowhere.model: no such file"]),
        ({"spm_model_file": README}, ["not a sentencepiece model"]),
        (
            {"graph": "upstream", "prefix_dir": "nowhere"},
            ["nowhere: not an albert_pytorch checkout", "--graph fused"],
        ),
        ({"backend": "openvino", "device": "cuda"}, ["does not run on --device cuda"]),
        ({"backend": "torchscript", "precision": "fp16", "device": "cpu"}, ["no fp16 kernels"]),
        ({"slots": 3}, ["--slots: on openvino and torchscript the file chooses", "leave the flag"]),
        ({"max_seq_length": "auto"}, ["--max_seq_length auto: on openvino", "16 32 64 128"]),
        ({"max_seq_length": "some"}, ["--max_seq_length some", "not a whole number"]),
        (
            {"backend": "torchscript", "pack": True},
            ["--pack: on this backend the file chooses its rows by itself", "leave --pack out"],
        ),
        (
            {"backend": "openvino", "batch_size": [1, 8]},
            ["--batch_size: on this backend the file chooses", "name one --batch_size"],
        ),
        (
            {"backend": "torchscript", "max_seq_length": [16, 64]},
            ["--max_seq_length: on this backend", "name one --batch_size and --max_seq_length"],
        ),
        ({"pack": True, "graph": "upstream"}, ["one sentence a row"]),
        ({"compare_cpu": True, "data_dir": "nowhere"}, ["dev.tsv: no such file", "demo/SST-2"]),
        ({"compare_rows": 5}, ["--compare_rows", "--compare_cpu"]),
        ({"compare_output": "x.json"}, ["--compare_output", "--compare_cpu"]),
        ({"batch_size": "many"}, ["--batch_size many", "not a whole number"]),
        ({"precision": "fp8"}, ["--precision", "invalid choice: 'fp8'"]),
        ({"no_such_flag": 1}, ["unrecognized arguments: --no_such_flag=1"]),
    ],
)
def test_flags_of_export(tmp_path, tiny, export, given, words):
    run = export(**{"pth_dir": tiny, "save_dir": tmp_path / "out", **SMALL, **given})
    assert refused(run, *words) and not (tmp_path / "out").exists()


def test_a_checkpoint_without_config_weights_or_vocabulary(tmp_path, tiny, export):
    for missing, words in (
        ("config.json", "config.json: no such file"),
        ("pytorch_model.bin", "neither model.safetensors nor"),
        ("30k-clean.model", "--tokenizer"),
    ):
        folder = tmp_path / missing
        shutil.copytree(tiny, folder)
        (folder / missing).unlink()
        assert refused(export(pth_dir=folder, save_dir=tmp_path), words)
    (folder / "config.json").write_text("{")
    assert refused(export(pth_dir=folder, save_dir=tmp_path), "not a readable JSON file")


def test_cut_weights_and_a_program_for_weights(tmp_path, tiny, export):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny, folder)
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert refused(export(pth_dir=folder, save_dir=tmp_path), "pytorch_model.bin: cut short")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(weights))
    assert refused(export(pth_dir=folder, save_dir=tmp_path), "holds a TorchScript program")


def test_cuda_without_a_gpu(tmp_path, tiny, export, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused(export(pth_dir=tiny, save_dir=tmp_path, device="cuda"), "no CUDA device")


@pytest.mark.parametrize(
    "given, words",
    [
        ({"batch_size": 8}, ["--batch_size 8", "compiled for 4"]),
        ({"max_seq_length": 128}, ["--max_seq_length 128", "compiled for 32"]),
        ({"task_name": "MRPC"}, ["--task_name MRPC"]),
        ({"spm_model_file": "nowhere.model"}, ["nowhere.model: no such file"]),
        ({"spm_model_file": README}, ["sha256"]),
        ({"data_dir": "nowhere"}, ["dev.tsv: no such file"]),
        ({"compare_cpu": True}, ["--pth_dir"]),
        ({"streams": 0}, ["--streams 0", "must be 1"]),
        ({"streams": 2}, ["--streams 2", "torchscript on cpu"]),
        ({"threads": -1}, ["--threads -1"]),
        ({"device_id": 1}, ["--device_id", "torchscript on cpu"]),
        ({"compare_output": "x.json"}, ["--compare_output", "--compare_cpu"]),
        ({"no_such_flag": 1}, ["unrecognized arguments: --no_such_flag=1"]),
        ({"aie_model_dir": "nowhere.pt"}, ["nowhere.pt: no such file"]),
    ],
)
def test_flags_of_evaluate(tmp_path, compiled, sentences, evaluate, given, words):
    common = {"aie_model_dir": compiled, "data_dir": sentences, "output_dir": tmp_path / "out"}
    run = evaluate(**{**common, **given})
    assert refused(run, *words) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "dev.tsv: is empty"),
        ("sentence\tlabel\na\t1\n\nb\t0\n", "dev.tsv, line 3: 1 column instead"),
        ("sentence\tlabel\na film\t1\nanother\t7\n", "dev.tsv, line 3: label '7' is not a class"),
    ],
)
def test_a_broken_tsv_is_named_with_its_line(tmp_path, compiled, evaluate, content, words):
    (tmp_path / "dev.tsv").write_text(content)
    run = evaluate(aie_model_dir=compiled, data_dir=tmp_path, output_dir=tmp_path / "out")
    assert refused(run, words) and not (tmp_path / "out").exists()


def test_evaluate_refuses_before_it_computes(tmp_path, compiled, sentences, evaluate):
    """A checkpoint that is not there or of another architecture: nothing is evaluated or
    written."""
    given = {"aie_model_dir": compiled, "data_dir": sentences}
    given.update(output_dir=tmp_path / "out", compare_cpu=True)
    run = evaluate(pth_dir=tmp_path / "nowhere", **given)
    assert refused(run, "no such folder") and run.out == "" and not (tmp_path / "out").exists()
    other = write_checkpoint(tmp_path / "other", {**TINY, "num_hidden_layers": 2})
    run = evaluate(pth_dir=other, **given)
    assert refused(run, "num_hidden_layers is 2, but")
    assert run.out == "" and not (tmp_path / "out").exists()


def test_a_path_that_no_system_takes(tmp_path, tiny, export):
    run = export(pth_dir=tiny, save_dir=tmp_path, spm_model_file="x" * 5000)
    assert refused(run, "File name too long")


SCRIPT = ROOT / "export_albert_aie.py"


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.parametrize(
    "backend, words",
    [("torchscript", "could not be written"), ("openvino", "cannot be written there")],
)
def test_a_full_disk_leaves_the_old_file(tmp_path, tiny, backend, words):
    old = tmp_path / "albert_seq16_bs2.pt"
    old.write_bytes(b"the old file")
    given = flags(pth_dir=tiny, save_dir=tmp_path, backend=backend, precision="fp32", **SMALL)
    assert refused(python(SCRIPT, *given, preexec_fn=limit_files), words)
    assert os.listdir(tmp_path) == [old.name] and old.read_bytes() == b"the old file"


SLOW = """
import sys, time, torch, export_albert_aie
def save(*given, **more):
    print("written", flush=True)
    time.sleep(60)
torch.jit.save = save
sys.exit(export_albert_aie.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_leaves_the_old_file(tmp_path, tiny, how):
    """Stopped in the middle of writing: held up when the temporary file is there."""
    old = tmp_path / "albert_seq16_bs2.pt"
    old.write_bytes(b"the old file")
    given = flags(pth_dir=tiny, save_dir=tmp_path, backend="torchscript", precision="fp32", **SMALL)
    command = [sys.executable, "-c", SLOW, *given]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "written\n":
            break
    assert len(os.listdir(tmp_path)) == 2
    process.send_signal(how)
    code = process.wait(timeout=30)
    process.stdout.close()
    assert code == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert old.read_bytes() == b"the old file"
    if how == signal.SIGINT:
        assert os.listdir(tmp_path) == [old.name]
    else:  # a hidden file stays, and the next export succeeds beside it
        assert python(SCRIPT, *given).code == 0
        left = [name for name in os.listdir(tmp_path) if not name.startswith(".")]
        assert left == [old.name] and old.stat().st_size > 100_000


def test_a_pre_trained_model_without_classifier(tmp_path, export):
    folder = write_checkpoint(tmp_path)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(
        {k: v for k, v in state.items() if "classifier" not in k}, folder / "pytorch_model.bin"
    )
    assert refused(export(pth_dir=folder, save_dir=tmp_path), "without a classifier")


def test_what_a_library_raises_becomes_one_sentence():
    """Of the kinds that are named, or of any; a UserError says more already, and Ctrl-C is none."""
    with pytest.raises(UserError, match=r"^{}: wrong \(first\); mend it$") as refusal:
        with refusing(f"{{}}: wrong ({WHY}); mend it", ValueError):
            raise UnicodeError("first\nsecond")
    assert refusal.value.__suppress_context__
    with pytest.raises(UserError, match="^x: No space left$"):
        with refusing(f"x: {WHY}", reason=system_reason):
            raise OSError(28, "No space left", "x")
    for raised in (UserError("its own"), KeyboardInterrupt()):
        with pytest.raises(type(raised)) as passed, refusing("another"):
            raise raised
        assert passed.value is raised
    with pytest.raises(OSError), refusing("another", ValueError):
        raise OSError
