"""The OM kit: ONNX Runtime stands in for atc and ais_bench, by names that run.sh finds. What passes
here has run on no card."""

import json
import os
import shutil
import subprocess
import sys

import numpy
import pytest
from helpers import ROOT, refused

from albert_aie.artifact import pt_file
from albert_aie.backends import onnx as engine
from albert_aie.base.errors import UserError
from albert_aie.run import om_kit

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
onnx_gears = pytest.importorskip("albert_aie.backends.onnx_gears")

ATC = """#!/bin/sh
echo "$@" >> ../atc.txt
cp model.onnx model.om
"""
AIS_BENCH = """
import argparse, pathlib, numpy, onnxruntime
parser = argparse.ArgumentParser()
for name in ("model", "input", "output", "output_dirname", "outfmt", "batchsize"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--dymDims")
args = parser.parse_args()
session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
folders = [pathlib.Path(folder) for folder in args.input.split(",")]
results = pathlib.Path(args.output, args.output_dirname)
results.mkdir()
for path in sorted(folders[0].iterdir()):  # the first input names the output
    arrays = [numpy.load(folder / path.name) for folder in folders]
    feeds = dict(zip([port.name for port in session.get_inputs()], arrays))
    sizes = ";".join(f"{name}:{','.join(map(str, array.shape))}" for name, array in feeds.items())
    free = any(isinstance(size, str) for port in session.get_inputs() for size in port.shape)
    assert args.dymDims == (sizes if free else None), (args.dymDims, sizes)
    numpy.save(results / f"{path.stem}_0.npy", session.run(None, feeds)[0])
print("[INFO] -----------------Performance Summary------------------")
print("[INFO] throughput 1000*batchsize.mean(4)/NPU_compute_time.mean(2.0): 2000.0")
"""


@pytest.fixture(scope="session")
def tools(tmp_path_factory):
    """The environment in which run.sh finds stand-ins."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "ais_bench").mkdir()
    (folder / "ais_bench" / "__main__.py").write_text(AIS_BENCH)
    (folder / "atc").write_text(ATC)
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name in ("atc", "python3"):
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny, sentences, tools):
    """(files, kit that was run) of two lengths in fp16."""
    import export_albert_aie

    folder = tmp_path_factory.mktemp("kit")
    line = f"--backend onnx --precision fp16 --batch_size 4 --max_seq_length 8 32 --pth_dir {tiny} "
    line += f"--data_dir {sentences} --save_dir {folder / 'files'} --om_kit {folder / 'om'}"
    assert export_albert_aie.main(line.split()) == 0
    done = subprocess.run(
        ["sh", str(folder / "om" / "run.sh")], env=tools, capture_output=True, text=True
    )
    assert done.returncode == 0 and "throughput" in done.stdout, done.stderr
    return folder / "files", folder / "om"


@pytest.fixture
def kit(made, tmp_path):
    return made[0], shutil.copytree(made[1], tmp_path / "om")


def test_it_is_scored_as_the_file_is(kit, tiny, sentences, evaluate, tmp_path):
    """The predictions of run_aie_eval.py, the gate of --compare_cpu, and no figure of time."""
    files, om = kit
    given = {"aie_model_dir": files, "data_dir": sentences, "compare_cpu": True, "pth_dir": tiny}
    own = evaluate(output_dir=tmp_path / "own", **given)
    page = tmp_path / "report.html"
    read = evaluate(output_dir=tmp_path / "om_out", om_results=om, report=page, **given)
    assert own.code == read.code == 0, read.err
    tables = [(tmp_path / name / "predictions.tsv").read_bytes() for name in ("own", "om_out")]
    assert tables[0] == tables[1]
    assert "own figure, not measured by this program" in read.said and "2000 rows/s" in read.said
    assert "samples/s" not in read.said and "GFLOP" not in read.said and " ms" not in read.said
    assert "compare_cpu PASS" in read.said
    report = json.loads((tmp_path / "om_out" / "eval.json").read_text())
    rates = {"albert_seq8_bs4": 2000.0, "albert_seq32_bs4": 2000.0}
    assert report["om"] == {"ais_bench_rows_per_second": rates} and "seconds" not in report
    assert "Confusion matrix" in page.read_text() and "Latency" not in page.read_text()


def test_the_kit_holds_what_the_owner_of_a_card_needs(kit):
    _, om = kit
    said = (om / "run.sh").read_text()
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = ";".join(f"{name}:4,-1" for name in names)
    assert (
        "atc --framework=5 --input_format=ND --model=model.onnx --output=model "
        f'--soc_version=Ascend310P3 --precision_mode_v2=origin --input_shape="{inputs}" '
        '--dynamic_dims="8,8,8;32,32,32" --log=error'
    ) in said
    for length in (8, 32):
        assert f'--dymDims "{";".join(f"{name}:4,{length}" for name in names)}"' in said
        ids = numpy.load(om / f"albert_seq{length}_bs4" / "inputs" / "input_ids" / "00000.npy")
        assert ids.shape == (4, length) and ids.dtype == numpy.int64
    assert len((om / "README.md").read_text().splitlines()) <= 12
    assert (om / "atc.txt").read_text().count("--framework=5") == 1


def test_one_file_for_several_lengths_is_at_each_the_static_one(made):
    """To the last digit, though only its weights stand once: the length is free there alone."""
    files, om = made
    merged = onnxruntime.InferenceSession(str(om / "gears_bs4" / "model.onnx"))
    assert {tuple(port.shape) for port in merged.get_inputs()} == {(4, "length")}
    for length in (8, 32):
        saved = pt_file.open_pt(files / f"albert_seq{length}_bs4.pt")
        own = engine.session(saved.blob("model.onnx"), "cpu")
        ids = numpy.arange(12 * length).reshape(3, 4, length) % 50 + 5
        feeds = dict(zip(engine.INPUTS, (ids[0], ids[1] % 2, ids[2] % 2)))
        assert numpy.array_equal(merged.run(None, feeds)[0], own.run(None, feeds)[0])


def test_files_that_differ_in_more_than_their_length_are_an_om_each(made, monkeypatch):
    files, _ = made
    blobs = {
        length: pt_file.open_pt(files / f"albert_seq{length}_bs4.pt").blob("model.onnx")
        for length in (8, 32)
    }
    other = onnx.load_from_string(blobs[8])
    expand = next(tensor for tensor in other.graph.initializer if tensor.name == "expand")
    expand.name = "another"  # so the longer one's is taken for all lengths
    for node in other.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "another" if name == "expand" else name
    with pytest.raises(UserError, match="no one ONNX file for several lengths, at 8"):
        onnx_gears.merge({**blobs, 8: other.SerializeToString()}, engine.INPUTS, 14)
    monkeypatch.setattr(onnx_gears, "merge", refuse)
    models = list(om_kit._models(pt_file.open_all([files])))
    assert [name for name, _, _ in models] == ["albert_seq8_bs4", "albert_seq32_bs4"]
    assert [data for _, _, data in models] == list(blobs.values())


def refuse(*_):
    raise UserError("no one file")


def swap(results):
    """Two outputs change their names."""
    first, second = sorted(results.iterdir())[:2]
    first.rename(results / "x")
    second.rename(first)
    (results / "x").rename(second)


def turn(results):
    path = results / "00000_0.npy"
    numpy.save(path, numpy.load(path).T)


DAMAGES = {
    "missing": (lambda results: (results / "00001_0.npy").unlink(), "00001_0.npy: is missing"),
    "not run": (shutil.rmtree, "00000_0.npy: is missing"),
    "one too many": (lambda results: (results / "7.npy").touch(), "7.npy: is of no batch"),
    "cut short": (lambda results: os.truncate(results / "00001_0.npy", 150), "is cut short"),
    "of another order": (swap, "answers of another batch"),
    "of other axes": (turn, "holds (2, 4) float32, not logits of (4, 2)"),
    "no kit": (lambda results: (results.parents[1] / "kit.json").unlink(), "no kit.json"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_outputs_that_are_not_whole_are_refused(kit, sentences, evaluate, tmp_path, name):
    files, om = kit
    damage, words = DAMAGES[name]
    damage(om / "albert_seq32_bs4" / "results")
    given = {"data_dir": sentences, "om_results": om, "output_dir": tmp_path / "o"}
    run = evaluate(aie_model_dir=files, **given)
    assert refused(run, words) and not list(tmp_path.glob("o/*"))


def test_a_kit_of_another_file_or_other_data_is_refused(
    kit, onnx_files, sentences, evaluate, tmp_path
):
    files, om = kit
    run = evaluate(aie_model_dir=onnx_files["fp16"], data_dir=sentences, om_results=om)
    assert refused(run, "made from another file")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\na fine film\t1\n")
    run = evaluate(aie_model_dir=files, data_dir=tmp_path, om_results=om)
    assert refused(run, "made from other data")
    for more in ({"one_at_a_time": True, "data_dir": sentences}, {"text": "a fine film"}):
        run = evaluate(aie_model_dir=files, om_results=om, **more)
        assert refused(run, "--om_results")


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"backend": "openvino", "om_kit": "new"}, "--om_kit: an OM is made of an ONNX file"),
        ({"backend": "onnx", "om_kit": str(ROOT / "demo")}, "is there already"),
        ({"backend": "onnx", "soc_version": "Ascend910B"}, "--soc_version"),
    ],
)
def test_a_kit_that_cannot_be_is_refused_before_the_work(export, tiny, tmp_path, flags, words):
    run = export(pth_dir=tiny, save_dir=tmp_path, **flags)
    assert refused(run, words) and not list(tmp_path.iterdir())


def test_packed_rows_go_into_a_kit_too(tiny, sentences, export, evaluate, tools, tmp_path):
    given = {"backend": "onnx", "pack": True, "batch_size": 1, "max_seq_length": 32}
    om = tmp_path / "om"
    run = export(pth_dir=tiny, data_dir=sentences, save_dir=tmp_path / "f", om_kit=om, **given)
    assert run.code == 0 and subprocess.run(["sh", str(om / "run.sh")], env=tools).returncode == 0
    (file,) = (tmp_path / "f").glob("*.pt")
    assert "token_type_ids:1,32" in (om / "atc.txt").read_text()  # static: no gear
    assert "dynamic_dims" not in (om / "atc.txt").read_text()
    read = {"aie_model_dir": file, "data_dir": sentences}
    for name, more in ("own", {}), ("om_out", {"om_results": om}):
        assert evaluate(output_dir=tmp_path / name, **read, **more).code == 0
    tables = [(tmp_path / name / "predictions.tsv").read_bytes() for name in ("own", "om_out")]
    assert tables[0] == tables[1]
