"""--precision int8: quantised at export, read back from the engine, held to its own gate."""

import json

import pytest
import torch

from albert_aie import compare


@pytest.mark.parametrize("flags", [[], ["--pack"]])
def test_int8_is_read_back_and_passes_its_gate(tmp_path, tiny, sst2, export, evaluate, flags):
    pytest.importorskip("nncf", reason="--precision int8 needs nncf")
    target = ["--backend", "openvino", "--precision", "int8", "--batch_size", 8, "--max_seq_length", 64]
    run = export("--pth_dir", tiny, "--data_dir", sst2, "--save_dir", tmp_path, "--compare_cpu", *target, *flags)
    assert run.code == 0 and "872 rows" in run.out and "(gate 8)" in run.out and "PASS" in run.out, run.out + run.err
    file = tmp_path / f"albert_seq64_bs8{'_packed' if flags else ''}.pt"
    run = evaluate("--aie_model_dir", file, "--data_dir", sst2, "--output_dir", tmp_path)
    assert "precision int8 (read back)" in run.out and "872 of 872 rows scored" in run.out
    manifest = json.loads((tmp_path / "eval.json").read_text())["manifest"]
    assert manifest["precision"] == "int8" and manifest["versions"]["nncf"]


def test_calibration_on_dev_is_said_aloud(tmp_path, tiny, sentences, export):
    pytest.importorskip("nncf", reason="--precision int8 needs nncf")
    target = ["--backend", "openvino", "--precision", "int8", "--batch_size", 2, "--max_seq_length", 32]
    run = export("--pth_dir", tiny, "--data_dir", sentences, "--save_dir", tmp_path, *target)
    assert run.code == 0 and "int8 ranges are taken from dev itself" in run.out


def test_int8_elsewhere_is_refused(tmp_path, tiny, export):
    run = export("--pth_dir", tiny, "--save_dir", tmp_path, "--backend", "torchscript", "--precision", "int8")
    assert run.code == 2 and "--precision int8 on --backend torchscript" in run.err and not list(tmp_path.iterdir())


def test_the_gates_of_every_precision_can_fail():
    """1,000 rows: one flip more than allowed, and accuracy lost without a flip too many."""
    reference = torch.tensor([[0.0, 1.0]] * 1000)
    for precision, allowed in (("fp32", 0), ("bf16", 5), ("fp16", 5), ("int8", 10)):
        for flips in (allowed, allowed + 1):
            got = reference.clone()
            got[:flips] = got[:flips].flip(1)
            result = compare.compare(got, reference, None, precision)
            assert result.flips == flips
            relative_ok = result.relative <= compare.GATES[precision].relative
            assert result.passed == (relative_ok and flips <= allowed)
    got = reference.clone()
    got[:8] = got[:8].flip(1)
    assert compare.compare(got, reference, [1] * 1000, "int8").passed is False  # 8 rows, all lost: 0.8 points
    assert compare.compare(got, reference, [0] * 4 + [1] * 996, "int8").passed is True  # 4 won, 4 lost
    assert compare.compare(got * float("nan"), reference, None, "int8").passed is False
