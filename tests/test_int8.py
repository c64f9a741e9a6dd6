"""--precision int8: quantised at export, read back from the engine, held to its own gate."""

import json

import numpy
import pytest
from helpers import needs_nncf

from albert_aie import compare
from albert_aie.datasets import Examples
from albert_aie.tasks import SST2

INT8 = {"backend": "openvino", "precision": "int8"}


@pytest.mark.parametrize("pack", [False, True])
def test_int8_is_read_back_and_passes_its_gate(tmp_path, tiny, sst2, export, evaluate, pack):
    needs_nncf()
    given = {**INT8, "batch_size": 8, "max_seq_length": 64, "pack": pack, "compare_cpu": True}
    run = export(pth_dir=tiny, data_dir=sst2, save_dir=tmp_path, **given)
    assert run.code == 0 and "872 sentences" in run.out and "(gate 8)" in run.out, run.out + run.err
    assert "compare_cpu PASS" in run.out
    file = tmp_path / f"albert_seq64_bs8{'_packed' if pack else ''}.pt"
    run = evaluate(aie_model_dir=file, data_dir=sst2, output_dir=tmp_path)
    assert "precision int8 (read back)" in run.out and "872 of 872 sentences scored" in run.out
    manifest = json.loads((tmp_path / "eval.json").read_text())["manifest"]
    assert manifest["precision"] == "int8" and manifest["versions"]["nncf"]


def test_calibration_on_dev_is_said_aloud(tmp_path, tiny, sentences, export):
    needs_nncf()
    given = {**INT8, "batch_size": 2, "max_seq_length": 32}
    run = export(pth_dir=tiny, data_dir=sentences, save_dir=tmp_path, **given)
    assert run.code == 0 and "int8 ranges are taken from dev itself" in run.err


def test_int8_elsewhere_is_refused(tmp_path, tiny, export):
    run = export(pth_dir=tiny, save_dir=tmp_path, backend="torchscript", precision="int8")
    assert run.code == 2 and "--precision int8 on --backend torchscript" in run.err
    assert not list(tmp_path.iterdir())


def test_the_gates_of_every_precision_can_fail():
    """1,000 sentences: one flip more than allowed, and accuracy lost without a flip too many."""
    reference = numpy.array([[0, 1]] * 1000, numpy.float32)

    def compared(flips, precision, labels=None):
        got = reference.copy()
        got[:flips] = reference[:flips, ::-1]
        numbers = list(range(1000))
        examples = Examples(SST2, "dev.tsv", numbers, labels, numbers, SST2.classes)
        return compare.compare(got, reference, examples, precision)

    for precision, allowed in (("fp32", 0), ("bf16", 5), ("fp16", 5), ("int8", 10)):
        for flips in (allowed, allowed + 1):
            result = compared(flips, precision)
            assert result.flips == flips
            relative_ok = result.relative <= compare.GATES[precision].relative
            assert result.passed == (relative_ok and flips <= allowed)
    assert compared(8, "int8", [1] * 1000).passed is False  # 8, all lost: 0.8 points
    assert compared(8, "int8", [0] * 4 + [1] * 996).passed is True  # 4 won, 4 lost
    nothing = reference * numpy.nan
    assert compare.compare(nothing, reference, None, "int8").passed is False
