"""Backend onnx: the file for Ascend's atc and for ONNX Runtime, and what is proved of it without a
card. Nothing here ran on one."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy
import pytest
import torch
from conftest import shared
from glue_sets import write_model
from helpers import (
    ROOT,
    Run,
    change_weights,
    flags,
    logits,
    refused,
    rewrite,
    tokens,
    traced,
    write_checkpoint,
)

from albert_aie import backends
from albert_aie.albert import checkpoint, graph
from albert_aie.artifact import pt_file
from albert_aie.backends import onnx as engine
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape, packed
from albert_aie.data import datasets
from albert_aie.run import calibration
from albert_aie.run.compare import relative_error
from albert_aie.run.evaluate import evaluate as evaluated

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
checks = pytest.importorskip("albert_aie.backends.onnx_checks")  # they import onnx
half = pytest.importorskip("albert_aie.backends.onnx_half")
SHAPES = {"": Shape(4, 32), " packed": packed(4, 32)}
FILES = [precision + rows for precision in ("fp32", "fp16") for rows in SHAPES]


def model_of(path):
    return onnx.load(str(path.with_suffix(".onnx")))


@pytest.fixture(scope="module")
def module(tiny):
    """Our graph of the tiny checkpoint as torch's module, and inputs."""
    made = checkpoint.load(tiny)
    built = graph.build(made, "fused", Shape(4, 32), None, engine.form("fp32"))
    return built, graph.example_inputs(made.config, Shape(4, 32))


# What it computes


@pytest.mark.parametrize("rows", SHAPES)
@pytest.mark.parametrize("precision, limit", [("fp32", 1e-5), ("fp16", 2e-2)])
def test_logits_are_the_plain_graphs(onnx_files, tiny, sentences, precision, limit, rows):
    saved = pt_file.open_pt(onnx_files[precision + rows])
    made = checkpoint.load(tiny)
    encoded = tokens(made.tokenizer, sentences, length=32)
    wanted = logits(traced(made, Shape(4, 32)), encoded, Shape(4, 32))
    runner = backends.load(saved, saved.target)
    texts = datasets.read(sentences).sentences
    got = evaluated(runner, saved, made.tokenizer.load(), texts, warmup=0)
    assert relative_error(got.logits, wanted) <= limit
    assert set(got.shapes) == {SHAPES[rows]}
    assert runner.providers == ["CPUExecutionProvider"] and runner.precision == precision
    # the program that torch.jit.load gives is the fp32 trace, whatever the ONNX file is
    program = torch.jit.load(str(onnx_files[precision + rows]))
    assert relative_error(logits(program, encoded, SHAPES[rows]), wanted) <= 1e-5


@pytest.mark.parametrize(
    "precision, pack",
    [("fp32", False)]
    + [
        pytest.param(*given, marks=pytest.mark.slow)
        for given in (("fp32", True), ("fp16", False), ("fp16", True))
    ],
)
def test_pairs_of_the_real_mrpc_are_the_references(tmp_path, export, evaluate, precision, pack):
    """All 408 of dev, by --compare_cpu: in fp32 to 1e-5 and without a flip, in fp16 in its gate."""
    data, model = shared("GLUE") / "MRPC", write_model(tmp_path / "model", "MRPC", "hf")
    verdict = tmp_path / "verdict.json"
    change_weights(model, lambda state: state["classifier.bias"][1].add_(1.8))  # both classes come
    given = {"task_name": "MRPC", "data_dir": data}
    own = {"backend": "onnx", "precision": precision, "pack": pack, "batch_size": 8}
    own |= {"pth_dir": model, "save_dir": tmp_path / "f", "compare_output": verdict}
    run = export(**given, **own, max_seq_length=128, compare_cpu=True)
    assert run.code == 0 and "compare_cpu PASS" in run.said, run.out + run.err
    said = json.loads(verdict.read_text())
    assert said["sentences"] == 408 and said["flips"] == 0
    assert said["relative"] <= (1e-5 if precision == "fp32" else said["gate"]["relative"])
    assert evaluate(**given, aie_model_dir=tmp_path / "f", output_dir=tmp_path / "o").code == 0
    rows = (tmp_path / "o" / "predictions.tsv").read_text().splitlines()
    assert {"equivalent", "not_equivalent"} <= set("\t".join(rows).split("\t"))


def test_both_scripts_print_and_write_what_ran(onnx_files, sentences, tiny, evaluate, tmp_path):
    """The providers in use stand in eval.json, as the session names them."""
    given = {"aie_model_dir": onnx_files["fp16 packed"], "data_dir": sentences, "pth_dir": tiny}
    run = evaluate(output_dir=tmp_path, compare_cpu=True, threads=1, **given)
    assert run.code == 0 and "precision fp16 (as compiled)" in run.said
    assert "1 stream(s), CPUExecutionProvider" in run.said
    report = json.loads((tmp_path / "eval.json").read_text())
    assert report["providers"] == ["CPUExecutionProvider"] and report["threads"] == 1
    assert report["rows"] == "compiled" and report["shapes"][0]["slots"] == 8


def test_inputs_may_be_int32(tiny, sentences, export, evaluate, tmp_path):
    given = {"backend": "onnx", "batch_size": 2, "max_seq_length": 16, "save_dir": tmp_path}
    given |= {"data_dir": tmp_path / "none", "compile": "input_dtype=int32"}
    run = export(pth_dir=tiny, **given)
    assert run.code == 0 and "not measured: no sentences" in run.said
    run = evaluate(aie_model_dir=tmp_path, data_dir=sentences, compare_cpu=True, pth_dir=tiny)
    assert run.code == 0 and not list(tmp_path.glob("*.onnx"))


def test_files_that_belong_together_are_written_both_or_not(tiny, sentences, export, tmp_path):
    (tmp_path / "albert_seq16_bs2.onnx").mkdir()
    given = {"backend": "onnx", "batch_size": 2, "max_seq_length": 16, "save_dir": tmp_path}
    run = export(pth_dir=tiny, data_dir=sentences, compile="onnx_file=true", **given)
    assert refused(run, "albert_seq16_bs2.onnx: cannot be written (is a folder)")
    assert [path.name for path in tmp_path.iterdir()] == ["albert_seq16_bs2.onnx"]


# Which backend is taken


def test_auto_never_takes_onnx_and_npu_stays_aie(monkeypatch):
    for name in backends.NAMES:
        reason = None if name == "onnx" else backends.Unavailable("not here", "-")
        monkeypatch.setattr(backends.get(name), "unavailable", lambda device, r=reason: r)
    for device in (None, "cpu", "cuda", "npu"):
        with pytest.raises(UserError, match="not here") as caught:
            backends.pick("auto", device)
        assert "onnx" not in str(caught.value)
        assert backends.pick("onnx", device)[:2] == ("onnx", device or "cpu")
    with pytest.raises(UserError, match="--backend aie --device npu"):
        backends.pick("auto", "npu")


@pytest.mark.parametrize(
    "device, packages, available, words",
    [
        ("cuda", {"onnxruntime": "1.32"}, ["CPU"], ["no CUDAExecutionProvider", "onnxruntime-gpu"]),
        ("npu", {"onnxruntime": "1.32"}, ["CPU"], ["no CANNExecutionProvider", "onnxruntime-cann"]),
        ("npu", {"onnxruntime-cann": "1.24.4"}, ["CANN"], ["libascendcl.so", "set_env.sh"]),
        ("cpu", {"onnxruntime": "1", "onnxruntime-gpu": "1"}, ["CPU"], ["one over another"]),
        ("cpu", {"onnxruntime-cann": "1.24.4"}, None, ["numpy below 2", 'pip install "numpy<2"']),
    ],
)
def test_a_provider_that_cannot_be_had_is_refused_before_the_work(
    monkeypatch, export, tiny, tmp_path, device, packages, available, words
):
    """The list of providers says what was built, not what loads."""
    listed = [f"{name}ExecutionProvider" for name in available or ()]
    monkeypatch.setattr(engine, "installed", lambda: packages)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(engine.numpy, "__version__", "1.26.4" if available else "2.4.0")
    missing = "libascendcl.so: cannot open shared object file"
    monkeypatch.setattr(engine, "_missing_library", lambda *_: missing)
    run = export(pth_dir=tiny, save_dir=tmp_path, backend="onnx", device=device)
    assert refused(run, *words) and not list(tmp_path.iterdir())


def test_a_session_that_falls_back_is_refused(onnx_files, monkeypatch):
    """ONNX Runtime goes on with its CPU where another provider cannot be had."""
    given, fake = {}, SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    def make(data, options, providers, enable_fallback):
        given.update(providers=providers, enable_fallback=enable_fallback, options=options)
        return fake

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    with pytest.raises(UserError, match="CANNExecutionProvider was asked for, but .* runs on CPU"):
        engine.session(b"", "npu", 1)
    key = "session.disable_cpu_ep_fallback"
    assert given["options"].get_session_config_entry(key) == "1"
    own = {"device_id": "1", "precision_mode": "must_keep_origin_dtype"}
    assert given["providers"] == [("CANNExecutionProvider", own)] and not given["enable_fallback"]


@pytest.mark.cann
def test_the_real_cann_provider_without_cann_is_refused_by_us(onnx_files, tmp_path):
    """It is listed as available, and ONNX Runtime would go on with its CPU."""
    python = os.environ.get("ALBERT_CANN_PYTHON")
    if not python:
        pytest.skip("name a Python that has onnxruntime-cann, numpy<2, sentencepiece and tqdm")
    path = rewrite(onnx_files["fp16"], tmp_path / "x.pt", {"device": "npu"})
    given = flags(aie_model_dir=path, text="a fine film")
    command = [python, str(ROOT / "run_aie_eval.py"), *given]
    done = subprocess.run(command, capture_output=True, text=True)
    assert refused(Run(done.returncode, done.stdout, done.stderr), "libascendcl.so", "set_env.sh")
    assert done.stdout == ""


PLACE = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 0
own = {"enable_cann_graph": "1", "enable_cann_subgraph": "1"}  # else it takes a graph whole, or not
providers = [("CANNExecutionProvider", own)]
onnxruntime.InferenceSession(sys.argv[1], options, providers=providers, enable_fallback=0)
"""


@pytest.fixture(scope="session")
def placed(tmp_path_factory):
    """Function of an ONNX file -> {provider: nodes left}, by the real provider's own partitioner on
    a stub of CANN's libraries; a piece is one node."""
    python, compiler = os.environ.get("ALBERT_CANN_PYTHON"), shutil.which("g++")
    if not python or not compiler:
        pytest.skip("name a Python that has onnxruntime-cann and numpy<2, and have g++")
    folder = tmp_path_factory.mktemp("stub")
    stub, names = ROOT / "tests" / "doubles" / "cann_stub.cc", ["ascendcl", "acl_op_compiler"]
    for name in (*names, "fmk_onnx_parser"):
        flags_ = ["-shared", "-fPIC", f"-Wl,-soname,lib{name}.so", "-o", folder / f"lib{name}.so"]
        subprocess.run([compiler, *flags_, stub], check=True)

    def placed(path):
        env = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
        given = {"env": env, "capture_output": True, "text": True}
        said = subprocess.run([python, "-c", PLACE, str(path)], **given).stderr
        found = re.findall(r"placed on \[(\w+)\]. Number of nodes: (\d+)", said)
        return {name: int(count) for name, count in found}

    return placed


@pytest.mark.cann
@pytest.mark.parametrize("name", FILES)
def test_the_real_cann_provider_takes_each_file_in_one_piece(onnx_files, placed, name):
    assert placed(onnx_files[name].with_suffix(".onnx")) == {"CANNExecutionProvider": 1}


@pytest.mark.cann
def test_the_real_cann_provider_leaves_opset_17_to_the_cpu_as_simulated(module, placed, tmp_path):
    (tmp_path / "17.onnx").write_bytes(engine.export(*module, opset=17))
    left = placed(tmp_path / "17.onnx")["CPUExecutionProvider"]
    model = onnx.load(str(tmp_path / "17.onnx"))
    checks.share_initialisers(model)
    assert left == len(checks.partition(model.graph)[1]) == 7


@pytest.mark.parametrize(
    "change, words",
    [
        ({"precision": "fp16"}, "its manifest says fp16, its ONNX file fp32"),
        ({"batch_size": 2}, "its ONNX file has"),
        ({"label_names": ["a", "b", "c"]}, "its ONNX file has"),
        ({"options": {"input_dtype": "int32"}}, "its ONNX file has"),
    ],
)
def test_a_manifest_that_is_not_its_files_is_refused(
    onnx_files, sentences, evaluate, tmp_path, change, words
):
    path = rewrite(onnx_files["fp32"], tmp_path / "x.pt", change)
    assert refused(evaluate(aie_model_dir=path, text="a fine film"), words)


# What is checked of the file


@pytest.mark.parametrize("name", FILES)
def test_each_file_passes_its_checks(onnx_files, name):
    model = model_of(onnx_files[name])
    assert pt_file.open_pt(onnx_files[name]).blob("model.onnx") == model.SerializeToString()
    line = checks.check(model, 14)
    assert "opset 14" in line and "1 piece" in line and "no chip in particular" in line
    assert checks.partition(model.graph) == (1, [])
    weights = [t for t in model.graph.initializer if numpy.prod(t.dims) > 1000]
    half = name.startswith("fp16")
    assert {t.data_type for t in weights} == {10 if half else 1}
    assert [p.type.tensor_type.elem_type for p in model.graph.output] == [1]


def fingerprints(model):
    """{hash of a large initialiser's sorted numbers: names}: no order of axes hides a twin."""
    found = {}
    for tensor in model.graph.initializer:
        values = numpy.sort(onnx.numpy_helper.to_array(tensor), axis=None)
        if values.nbytes >= checks.LARGE:
            found.setdefault(hashlib.sha256(values).hexdigest(), []).append(tensor.name)
    return found


@pytest.mark.parametrize("name", FILES)
def test_no_weight_stands_twice_in_any_order_of_axes(onnx_files, name):
    """K and V of the last layer are read by heads, of the others as matrices."""
    model = model_of(onnx_files[name])
    assert [names for names in fingerprints(model).values() if len(names) > 1] == []
    weights = {tensor.name for tensor in model.graph.initializer}
    read = [n.op_type for n in model.graph.node if n.input[:1] and n.input[0] in weights]
    assert read.count("Reshape") == 2 and read.count("Transpose") == 0


@pytest.mark.parametrize("name", ["fp32 packed", "fp16"])
def test_onnx_runtime_folds_what_reads_a_weight_before_a_provider_is_asked(
    onnx_files, name, tmp_path
):
    """By its basic optimisations, which run before graphs are cut among providers: nothing of
    constants alone is left there."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "basic.onnx")
    data = model_of(onnx_files[name]).SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    graph_ = onnx.load(options.optimized_model_filepath).graph
    weights = {tensor.name for tensor in graph_.initializer}
    alone = {node.op_type for node in graph_.node if weights.issuperset(node.input)}
    assert alone <= {"Cast"}  # of what its CPU has no fp16 kernel for
    assert sum(list(tensor.dims) == [4, 16, 64] for tensor in graph_.initializer) == 1
    assert sum(list(tensor.dims) == [4, 64, 16] for tensor in graph_.initializer) == 1


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("first", ["matrix", "heads"])
def test_a_weight_with_other_axes_is_read_from_the_one_that_stands(axes, first):
    """Whatever the order in which the exporter has written them."""
    heads = numpy.random.default_rng(0).normal(size=(3, 8, 24)).astype(numpy.float32)
    both = {"matrix": heads.reshape(24, 24), "heads": heads.transpose(axes).copy()}
    names = [first, *(name for name in both if name != first)]
    tensors = [onnx.numpy_helper.from_array(both[name], name) for name in names]
    value = onnx.helper.make_tensor_value_info
    ports = [value(f"{name}_out", 1, both[name].shape) for name in both]
    nodes = [onnx.helper.make_node("Mul", [name, "x"], [f"{name}_out"]) for name in both]
    graph_ = onnx.helper.make_graph(nodes, "g", [value("x", 1, [])], ports, tensors)
    model = onnx.helper.make_model(graph_, opset_imports=[onnx.helper.make_opsetid("", 14)])
    model.ir_version = 8
    assert [(one.first, one.second) for one in checks.repeated(graph_)] == [("matrix", "heads")]
    checks.share_initialisers(model)
    assert [tensor.name for tensor in model.graph.initializer] == ["matrix"]
    onnx.checker.check_model(model, full_check=True)
    made = engine.session(model.SerializeToString(), "cpu")
    for got, wanted in zip(made.run(None, {"x": numpy.array(1, numpy.float32)}), both.values()):
        assert numpy.array_equal(got, wanted)


def other_domain(model):
    next(node for node in model.graph.node if node.op_type == "Tanh").domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


def free_rows(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def twin(model, turned=False):
    """A matrix stands there again, or by heads with its axes in another order."""
    matrix = next(t for t in model.graph.initializer if t.dims == [64, 64] and len(t.raw_data) > 1)
    values = onnx.numpy_helper.to_array(matrix)
    values = values.reshape(4, 16, 64).transpose(2, 0, 1).copy() if turned else values
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "twin"))


@pytest.mark.parametrize(
    "plant, words",
    [
        (other_domain, "com.microsoft::Tanh at opset 14 is not in the table of ATC"),
        (free_rows, "sizes that are not numbers: input_ids"),
        (twin, "weights twice: .* as twin"),
        (lambda model: twin(model, turned=True), "weights twice: .* as twin"),
        (lambda model: model.graph.initializer.pop(0), "is not valid"),
        (lambda model: setattr(model.opset_import[0], "version", 13), "of opset 13, not 14"),
    ],
)
def test_a_planted_fault_is_refused_with_the_reason(onnx_files, plant, words):
    model = model_of(onnx_files["fp32"])
    plant(model)
    with pytest.raises(UserError, match=words):
        checks.check(model, 14)


def test_an_operator_outside_a_table_is_refused():
    """LayerNormalization is ATC's from 17 on and never the provider's."""
    make = onnx.helper.make_node
    for kind, opset, table in (
        ("Mish", 14, "ATC plugins"),
        ("LayerNormalization", 17, "CANN provider"),
        ("GreaterOrEqual", 11, "ATC plugins"),
        ("Split", 19, ""),
    ):
        words = f"{kind} at opset {opset} is not in the table of {table}"
        with pytest.raises(UserError, match=words):
            checks.check_operators(SimpleNamespace(node=[make(kind, ["x"], ["y"])]), opset)
    checks.check_operators(SimpleNamespace(node=[make("GreaterOrEqual", ["x"], ["y"])]), 12)


def test_opset_17_is_cut_into_pieces_and_refused(module):
    """LayerNorm is one operator there: 2 in each of the 3 layers and that of the embeddings."""
    model = onnx.load_from_string(engine.export(*module, opset=17))
    checks.share_initialisers(model)
    pieces, left = checks.partition(model.graph)
    assert left == 7 * ["LayerNormalization"] and pieces == 8
    with pytest.raises(UserError, match="opset 17, not 14"):
        checks.check(model, 14)
    with pytest.raises(UserError, match="LayerNormalization at opset 17"):
        checks.check(model, 17)


@pytest.mark.parametrize(
    "asked, split_qkv, opset, words",
    [
        (14, True, 18, "LayerNormalization at opset 18 .* of CANN provider"),  # 14 is not heard
        (17, True, 17, "LayerNormalization at opset 17 .* of CANN provider"),
        (17, False, 17, "is not valid: .*num_outputs"),  # of opset 18, on a Split
    ],
)
def test_the_dynamo_exporters_file_is_refused(tiny, asked, split_qkv, opset, words):
    pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs onnxscript")
    made, shape = checkpoint.load(tiny), Shape(4, 32)
    form = engine.form("fp32")._replace(split_qkv=split_qkv)
    built = graph.build(made, "fused", shape, None, form)
    ports = {"input_names": list(engine.INPUTS), "output_names": ["logits"]}
    given = built, graph.example_inputs(made.config, shape)
    model = torch.onnx.export(*given, dynamo=True, opset_version=asked, **ports).model_proto
    with pytest.raises(UserError, match=f"opset {opset}, not 14"):
        checks.check(model, 14)
    with pytest.raises(UserError, match=words):
        checks.check(model, opset)


def test_what_the_dynamo_exporter_writes_at_17_is_refused_without_it(module):
    """Made by hand, for onnxscript may not be here: an attribute of opset 18 on a Split."""
    model = onnx.load_from_string(engine.export(*module, opset=17))
    parts = onnx.helper.make_node("Split", ["input_ids"], ["a", "b"], axis=1, num_outputs=2)
    model.graph.node.insert(0, parts)
    with pytest.raises(UserError, match="is not valid: .*num_outputs"):
        checks.check(model, 17)


def test_a_node_of_constants_alone_is_left_to_the_cpu():
    make = onnx.helper.make_node
    weight = onnx.numpy_helper.from_array(numpy.ones(3, numpy.float32), "w")
    nodes = [make("Add", ["x", "w"], ["a"]), make("Neg", ["w"], ["b"]), make("Add", "ab", ["y"])]
    assert checks.partition(SimpleNamespace(node=nodes, initializer=[weight])) == (2, ["Neg"])


# The room that fp16 leaves


def test_room_is_the_largest_of_each_kind_and_says_where(module):
    """Against the module's own parts, computed by hand for its first LayerNorm."""
    built, inputs = module
    room = half.measure_room(built, [], inputs)
    x = built.word[inputs[0]] + built.position + built.token_type[inputs[2]]
    squares = (x - x.mean(-1, keepdim=True)).square().max().item()
    watch, ones = half.Watch(), torch.ones(x.shape[-1])
    with watch:
        torch.nn.functional.layer_norm(x, ones.shape, ones)
        assert watch.largest[half.VARIANCE] == (pytest.approx(squares), "the embeddings")
        torch.nn.functional.layer_norm(1000 * x, ones.shape, ones)
    assert watch.largest[half.VARIANCE] == (pytest.approx(1e6 * squares), "layer 1")
    assert [*room.largest][:3] == ["LayerNorm variance", "attention score", "GELU input"]
    assert len(room.powers) == 7 and "random tokens" in room.text()


@pytest.mark.parametrize("shape", [Shape(4, 32), packed(2, 32)])
def test_room_is_measured_on_every_calibration_sentence(tiny, monkeypatch, shape):
    """Plain rows are as long as the longest beside them, but for the first, which are padded."""
    made, seen = checkpoint.load(tiny), []
    built = graph.build(made, "fused", shape, None, engine.form("fp32"))
    forward = type(built).forward
    monkeypatch.setattr(
        type(built), "forward", lambda self, *x: seen.append(x) or forward(self, *x)
    )
    texts = [f"{'so ' * (i % 7)}a film of {i} minutes" for i in range(60)]
    batches = calibration.batches(made.tokenizer.load(), texts, [shape])
    inputs = graph.example_inputs(made.config, shape)
    before = built(*inputs)
    room = half.measure_room(built, batches, inputs)
    assert room.source == "60 calibration sentences" and torch.equal(built(*inputs), before)
    rows = {tuple(row[row > 0].tolist()) for ids, *_ in seen[1:-1] for row in ids}
    wanted = {tuple(row[row > 0].tolist()) for batch in batches for row in batch.input_ids}
    assert rows == wanted
    lengths = [ids.shape[1] for ids, *_ in seen[1:-1]]
    assert lengths[0] == 32 and (set(lengths) == {32} if shape.slots else max(lengths[1:]) < 32)


def scaled(folder, factor, names):
    """A checkpoint of which some weights are larger."""

    def enlarge(state):
        for name in state:
            if any(part in name for part in names):
                state[name] *= factor

    return change_weights(write_checkpoint(folder, layout="hf"), enlarge)


def test_a_checkpoint_that_overflows_fp16_survives_by_the_scaled_form(
    tmp_path, sentences, export, evaluate
):
    """The FFN's output, and with it the deviations, reach thousands: their squares millions."""
    folder = scaled(tmp_path / "hf", 2e4, ["ffn_output"])
    given = {"backend": "onnx", "batch_size": 4, "max_seq_length": 32, "precision": "fp16"}
    run = export(pth_dir=folder, data_dir=sentences, save_dir=tmp_path, compare_cpu=True, **given)
    assert run.code == 0, run.err
    variance = float(run.said.split("LayerNorm variance ")[1].split()[0].replace(",", ""))
    assert variance > 10 * half.LARGEST and "compare_cpu PASS" in run.said


def test_one_that_no_scale_saves_is_refused_by_name(tmp_path, sentences, export):
    folder = scaled(tmp_path / "hf", 1e6, ["ffn.weight", "ffn.bias"])
    given = {"backend": "onnx", "batch_size": 4, "max_seq_length": 32, "precision": "fp16"}
    run = export(pth_dir=folder, data_dir=sentences, save_dir=tmp_path / "x", **given)
    assert run.code == 1 and not list(tmp_path.glob("x/*"))
    assert "no room for the GELU input of layer" in run.err and "--precision fp32" in run.err


def test_scaled_norms_are_the_same_function(onnx_files, monkeypatch):
    """To the last digits of fp32; only an epsilon that fp16 can hold adds to that."""
    feeds = dict(zip(engine.INPUTS, numpy.ones((3, 4, 32), numpy.int64)))

    def run(powers, least):
        model = model_of(onnx_files["fp32"])
        monkeypatch.setattr(half, "LEAST", least)
        half.scale_norms(model.graph, powers)
        assert sum(node.op_type == "Mul" for node in model.graph.node) == plain + sum(powers) // 5
        return engine.session(model.SerializeToString(), "cpu").run(None, feeds)[0]

    plain = sum(n.op_type == "Mul" for n in model_of(onnx_files["fp32"]).graph.node)
    wanted = run(7 * [0], 0)
    assert numpy.abs(run(7 * [5], 0) - wanted).max() <= 1e-6 * numpy.abs(wanted).max()
    assert numpy.abs(run([5, 0, 5, 0, 0, 0, 0], 2.0**-24) - wanted).max() > 1e-6
