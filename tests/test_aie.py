"""The aie backend through the two scripts, on the strict double (tests/doubles): torch_aie where
torch is the Ascend stack's 2.0, mindietorch on current torch. Each call is a process of its own, as
the card's state is a process's."""

import json
import os

import helpers
import pytest
import torch
from doubles.strict_aie import build
from helpers import (
    DOUBLES,
    PACKAGE,
    ROOT,
    double_environment,
    flags,
    fused_logits,
    read_results,
    refused,
    tokens,
    traced,
)

from albert_aie.albert import fused, graph, references
from albert_aie.albert.checkpoint import load
from albert_aie.backends.aie import form
from albert_aie.base.shapes import Shape

# Operators that make or read shapes, or that are known to fail on a 310P (facts: torch_aie.md
# sections 6 and 7.3).
TROUBLE = {
    "aten::size", "aten::arange", "aten::expand", "aten::expand_as", "aten::div", "aten::isneginf",
    "aten::isinf", "aten::masked_fill", "aten::where", "aten::nonzero", "aten::dropout",
    "aten::scaled_dot_product_attention", "aten::Int",
}  # fmt: skip
STUB = ROOT / "tests" / "stub_upstream"  # albert_pytorch's interface without albert_pytorch
EXPORT, EVALUATE = "export_albert_aie", "run_aie_eval"
SMALL = {"batch_size": 4, "max_seq_length": 32}
FUSED = {"backend": "aie", "graph": "fused"}


def python(*arguments, env=None):
    """A python that can import the double; skips where the double cannot be built."""
    if build.missing():
        pytest.skip(build.missing())
    return helpers.python(*arguments, env={**double_environment(), **(env or {})})


def script(name, env=None, **options):
    return python("-m", name.replace("/", "."), *flags(**options), env=env)


def changed(change, name, env=None, **options):
    """The script in a process that executes `change` first."""
    code = f"import sys\n{change}\nimport {name}\nsys.exit({name}.main(sys.argv[1:]))"
    return python("-c", code, *flags(**options), env=env)


def export(pth_dir, save_dir, env=None, **options):
    return script(EXPORT, env, **{**FUSED, "pth_dir": pth_dir, "save_dir": save_dir, **options})


@pytest.fixture(scope="module")
def flow(tmp_path_factory, tiny, sst2):
    """Exported, compared in a fresh process and evaluated on all 872 rows, with the double's events
    of each process."""
    folder = tmp_path_factory.mktemp("aie")
    given = {"batch_size": 32, "max_seq_length": 64, "compare_cpu": True, "data_dir": sst2}
    exported = export(tiny, folder, env={"STRICT_AIE_EVENTS": str(folder / "export.log")}, **given)
    file = folder / "albert_seq64_bs32.pt"
    evaluated = script(EVALUATE, aie_model_dir=file, data_dir=sst2, output_dir=folder)
    return folder, file, exported, evaluated


def test_export_compares_in_a_fresh_process_and_all_872_rows_are_scored(flow):
    folder, _, exported, evaluated = flow
    assert exported.code == 0, exported.err
    assert "aie on npu (asked for)" in exported.out and "872 sentences" in exported.out
    assert "compare_cpu PASS" in exported.out
    assert evaluated.code == 0, evaluated.err
    assert "872 of 872 sentences scored" in evaluated.out
    assert "aie on npu:0, precision fp16 (as compiled)" in evaluated.out
    assert "fused graph" in evaluated.out
    report, _ = read_results(folder)
    assert report["batches"] == 28 and report["accuracy"]["total"] == 872
    manifest = report["manifest"]
    assert manifest["versions"][PACKAGE].endswith("strict.double")
    assert manifest["requires"] == [PACKAGE]


SWAP = """
import sys, numpy
from albert_aie import backends
from albert_aie.artifact import pt_file
from albert_aie.base.errors import UserError
from albert_aie.run import batching
saved = pt_file.open_pt(sys.argv[1])
runner = backends.get("aie").load(saved, backends.Target("aie", "npu", "fp16"))
encode = saved.tokenizer.load().encode
encoded = [encode(t, 64) for t in ("a fine film .", "dull and long", "no") * 11][:32]
batch = next(batching.batches(encoded, saved.shape))
right = runner.run(batch).logits
print(numpy.array_equal(runner.run(batch).logits, right))
for order in ((0, 2, 1), (1, 0, 2), (2, 1, 0)):
    ids, mask, types = (batch.inputs[i] for i in order)
    other = batch._replace(input_ids=ids, attention_mask=mask, token_type_ids=types)
    try:
        print(numpy.allclose(runner.run(other).logits, right, atol=1e-3))
    except UserError as error:
        print("out of range" in str(error) and "refused")
"""


def test_swapped_inputs_would_show(tmp_path, tiny, sst2, flow):
    """The file's own logits are those of (ids, mask, types): any other order is refused or gives
    other predictions."""
    _, file, _, _ = flow
    run = python("-c", f"import {PACKAGE}" + SWAP, file)
    assert run.code == 0, run.err
    assert run.out.split() == ["True", "False", "False", "refused"]


CLOCK = """
import time, types, torch
from albert_aie.backends import aie

def clock():
    torch.ops.strict_aie.event("clock")
    return time.perf_counter()

aie.time = types.SimpleNamespace(perf_counter=clock)
"""


def test_copies_and_forward_are_synchronised_before_a_clock_or_a_result_is_read(
    tmp_path, flow, sst2
):
    """In the order of the double's events: set_device first; per batch the clock, three copies in,
    a wait, the clock, forward, a wait, the clock, one copy out, the clock; finalize once, last."""
    _, file, _, _ = flow
    log = tmp_path / "events.log"
    env = {"STRICT_AIE_EVENTS": str(log)}
    run = changed(CLOCK, EVALUATE, env, aie_model_dir=file, data_dir=sst2)
    assert run.code == 0, run.err
    first, *batches, last = log.read_text().split()
    assert (first, last) == ("set_device", "finalize")
    copied = ["clock", *["copy_to_npu"] * 3, "synchronize"]
    batch = [*copied, "clock", "forward", "synchronize", "clock", "copy_to_cpu", "clock"]
    assert batches == batch * (28 + 3)


def test_a_card_other_than_the_first(tmp_path, tiny, sentences):
    given = {"data_dir": sentences, "device_id": 1, "env": {"STRICT_AIE_DEVICES": "2"}}
    run = export(tiny, tmp_path, compare_cpu=True, **SMALL, **given)
    assert run.code == 0 and "compare_cpu PASS" in run.out, run.out + run.err
    (file,) = tmp_path.glob("*.pt")
    run = script(EVALUATE, aie_model_dir=file, output_dir=tmp_path, **given)
    assert run.code == 0 and "aie on npu:1, precision fp16" in run.out, run.err
    assert read_results(tmp_path)[0]["device"] == "npu:1"


def test_compile_gets_keywords_that_both_packages_take(flow):
    folder, _, _, _ = flow
    lines = (folder / "export.log").read_text().splitlines()
    line = next(line for line in lines if line.startswith("compile "))
    assert json.loads(line[len("compile ") :]) == {
        "optimization_level": "0",
        "precision_policy": {"torch_aie": "Policy63", "mindietorch": "Policy100"}[PACKAGE]
        + ".FP16",
        "soc_version": "Ascend310P3",
    }


@pytest.mark.parametrize(
    "given, wanted",
    [
        pytest.param(
            {"compile": "input_dtype=int64"},
            {"truncate_long_and_double": True, "input_dtype": "int64"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"precision": "fp32", "compile": "require_full_compilation=true"},
            {"require_full_compilation": True, "input_dtype": "int32"},
            marks=pytest.mark.slow,
        ),
        ({"pack": True, "compile": "optimization_level=1"}, {"optimization_level": 1}),
    ],
)
def test_options_pass_the_comparison_and_stand_in_the_manifest(tmp_path, tiny, sst2, given, wanted):
    common = {"data_dir": sst2, "compare_cpu": True, "compare_rows": 60}
    run = export(tiny, tmp_path, batch_size=8, max_seq_length=64, **common, **given)
    assert run.code == 0 and "compare_cpu PASS" in run.out, run.out + run.err
    (file,) = tmp_path.glob("*.pt")
    run = script(EVALUATE, aie_model_dir=file, data_dir=sst2, output_dir=tmp_path)
    assert "872 of 872 sentences scored" in run.out, run.err
    manifest = read_results(tmp_path)[0]["manifest"]
    assert wanted.items() <= manifest["options"].items()


def test_a_wrong_constant_fails_the_comparison(tmp_path, tiny, sentences):
    """A mask of finfo.min is infinite in fp16 and makes NaN of every logit: exit 1, not a file that
    looks fine."""
    change = "from albert_aie.albert import fused; fused.MASKED = -3.4028234663852886e38"
    folders = {"pth_dir": tiny, "save_dir": tmp_path, "data_dir": sentences}
    run = changed(change, EXPORT, compare_cpu=True, **folders, **FUSED, **SMALL)
    assert run.code == 1 and "compare_cpu FAIL" in run.out, run.err


@pytest.mark.parametrize("slots", [0, 4])
@pytest.mark.parametrize("written", [graph.PLAIN, form("fp16")])
def test_the_fused_graph_holds_no_operator_known_to_trouble(tiny, slots, written):
    checkpoint, shape = load(tiny), Shape(4, 32, slots)
    module = graph.build(checkpoint, "fused", shape, form=written)
    inputs = graph.example_inputs(checkpoint.config, shape, torch.int32)
    assert not TROUBLE & set(graph.operators(graph.trace(module, inputs)))


def test_every_product_with_a_weight_has_two_dimensions(tiny, monkeypatch):
    checkpoint, ranks, real = load(tiny), [], torch.nn.functional.linear

    def linear(x, *weights):
        ranks.append(x.dim())
        return real(x, *weights)

    monkeypatch.setattr(fused.F, "linear", linear)
    module = graph.build(checkpoint, "fused", Shape(4, 32), form=form("fp16"))
    module(*graph.example_inputs(checkpoint.config, Shape(4, 32)))
    assert len(ranks) == 4 * checkpoint.config.num_hidden_layers + 2 and set(ranks) == {2}


def test_the_mask_is_expanded_once(tiny, monkeypatch):
    """To [batch, 1, seq, seq] by one addition, as the vendor's ONNX route has it; every layer but
    the last adds that."""
    checkpoint, real, masks, additions = load(tiny), fused.FusedAlbert._layer, [], []

    def layer(*given):
        masks.append([*map(int, given[-2].shape)])
        return real(*given)

    monkeypatch.setattr(fused.FusedAlbert, "_layer", layer)
    for written in (graph.PLAIN, form("fp16")):
        program = traced(checkpoint, Shape(4, 32), form=written)
        additions.append(graph.operators(program)["aten::add"])
    assert additions[1] == additions[0] + 1
    assert masks == [[4, 1, 1, 32]] * 2 + [[4, 1, 32, 32]] * 2


def test_the_upstream_graph_returns_the_reference_s_logits_bare(tiny, sentences):
    checkpoint = load(tiny)
    program = traced(checkpoint, Shape(4, 32), "upstream", STUB)
    answer = program(*graph.example_inputs(checkpoint.config, Shape(4, 32)))
    assert isinstance(answer, torch.Tensor)
    assert (TROUBLE - {"aten::div"}).isdisjoint(graph.operators(program))
    encoded = tokens(checkpoint.tokenizer, sentences)
    reference, name = references.logits(checkpoint, encoded)
    assert "transformers" in name
    got = fused_logits(checkpoint, encoded, Shape(4, 32), "upstream", STUB)
    torch.testing.assert_close(got, reference, rtol=0, atol=1e-5)


TUPLE = """
from albert_aie.albert.graph import UpstreamAlbert
bare = UpstreamAlbert.forward
UpstreamAlbert.forward = lambda *inputs: (bare(*inputs),)
"""


def test_the_default_graph_is_upstream_s_and_compiles_in_full_unless_it_ends_in_a_tuple(
    tmp_path, tiny, sentences
):
    full = "require_full_compilation=true"
    given = {"backend": "aie", "compile": full, "compare_cpu": True, **SMALL}
    given.update(prefix_dir=STUB, pth_dir=tiny, save_dir=tmp_path, data_dir=sentences)
    run = changed(TUPLE, EXPORT, **given)
    assert run.code == 2 and "tuple" in run.err, run.out + run.err
    assert not list(tmp_path.iterdir())
    run = script(EXPORT, **given)
    assert run.code == 0 and "upstream graph, fp16" in run.out, run.out + run.err
    assert "compare_cpu PASS" in run.out


@pytest.mark.upstream
def test_the_patched_upstream_graph_compares_and_holds_no_operator_known_to_trouble(
    tmp_path, tiny, sst2, patched_tree
):
    given = {"graph": "upstream", "prefix_dir": patched_tree, "data_dir": sst2, "batch_size": 8}
    given.update(max_seq_length=64, compare_cpu=True, compile="require_full_compilation=true")
    run = export(tiny, tmp_path, **given)
    assert run.code == 0, run.out + run.err
    assert "albert_pytorch in" in run.said and "872 sentences" in run.said
    file = tmp_path / "albert_seq64_bs8.pt"
    run = script(EVALUATE, aie_model_dir=file, data_dir=sst2, output_dir=tmp_path)
    assert "872 of 872 sentences scored" in run.out and "upstream graph" in run.out, run.err
    operators = read_results(tmp_path)[0]["manifest"]["operators"]
    # division by sqrt(64) and the (absent) dropout are upstream's own; both are plain arithmetic to
    # a compiler
    assert (TROUBLE - {"aten::div", "aten::dropout"}).isdisjoint(operators)
    assert operators["aten::softmax"] == 3


@pytest.mark.slow
def test_the_published_batch_sizes_in_one_sweep(tiny, sentences):
    given = {"pth_dir": tiny, "data_dir": sentences, "no_compare_cpu": True}
    run = script("benchmarks/sweep", max_seq_length=32, **given, **FUSED)
    assert run.code == 0, run.out + run.err
    rows = [line.split()[2] for line in run.out.splitlines() if line.startswith("fp16 padded ")]
    assert rows == ["1", "4", "8", "16", "32", "64"]
    assert "aie on npu:0" in run.out and "11 of 11 sentences scored in each" in run.out
    assert "predictions identical between cells" in run.out


@pytest.mark.slow
def test_the_report_to_send_in(tmp_path, tiny, sentences):
    file = tmp_path / "report.json"
    given = {"pth_dir": tiny, "data_dir": sentences, **FUSED}
    given.update(max_seq_length=32, device_id=0, output=file)
    run = script("benchmarks/sweep", batch_size=[1, 8], **given)
    assert run.code == 0, run.out + run.err
    report = json.loads(file.read_text())
    for result, batch_size in zip(report["results"], (1, 8)):
        assert result["cell"][3] == batch_size and result["comparison"]["passed"]
        assert result["evaluations"][0]["sentences_scored"] == 11
    assert report["machine"]["packages"][PACKAGE] and report["machine"]["card"] is None
    file.unlink()
    run = script("benchmarks/sweep", {"STRICT_AIE_FAULT": "compile"}, batch_size=[1], **given)
    assert run.code == 1 and "Create infer builder failed" in run.out
    report = json.loads(file.read_text())
    assert "Create infer builder failed" in report["results"][0]["error"]


WHEEL = {"torch_aie": "torch 2.0.1 on Python 3.9", "mindietorch": "torch 2.1 or 2.6"}[PACKAGE]
IMPORTS = {  # fault of the wheel -> words of the one sentence
    "library": ["libascendcl.so", "source /usr/local/Ascend/"],  # CANN is not sourced
    "static_tls": ["export LD_PRELOAD="],
    "other_torch": ["built for another torch", WHEEL],
    "old_os": ["GLIBC_2.34", "newer OS image"],
    "own_start": ["installed but cannot be imported", "_jit_flatten"],
}
IN_TURN = """
import os, sys, export_albert_aie
for fault in os.environ["FAULTS"].split():
    os.environ["STRICT_AIE_FAULT"] = fault
    print(export_albert_aie.main(sys.argv[1:]), flush=True)
"""
FAILURES = {  # options, environment -> words of the one sentence
    "no wheel": (
        {}, {"PYTHONPATH": ""},
        ["neither torch_aie nor mindietorch is installed", "pip install torch_aie-"],
    ),
    "unknown chip": (
        {"soc_version": "Ascend310"}, {},
        ["failed for Ascend310:", "Ascend310P3", "npu-smi info"],
    ),
    "no such card": ({"device_id": 1}, {}, ["--device_id 1:", "npu-smi info lists the cards"]),
    "compiler": (
        {}, {"STRICT_AIE_FAULT": "compile"},
        ["Create infer builder failed", "aten::linear", "TORCH_AIE_LOG_LEVEL=0", "torch_aie_log"],
    ),
    "bf16": ({"precision": "bf16"}, {}, ["--precision bf16", "fp16, fp32"]),
}  # fmt: skip
MINIMAL = {"batch_size": 2, "max_seq_length": 16}


def test_a_wheel_that_cannot_be_imported_says_its_cure(tmp_path, tiny):
    """All faults in one process: an import that failed leaves nothing behind."""
    given = flags(backend="aie", graph="fused", pth_dir=tiny, save_dir=tmp_path, **MINIMAL)
    run = python("-c", IN_TURN, *given, env={"FAULTS": " ".join(IMPORTS)})
    codes, errors = run.out.split(), run.err.splitlines(keepends=True)
    assert len(codes) == len(errors) == len(IMPORTS), run.out + run.err
    for code, error, words in zip(codes, errors, IMPORTS.values()):
        assert refused(helpers.Run(int(code), "", error), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failure_says_its_cure(tmp_path, tiny, fault):
    given, environment, words = FAILURES[fault]
    log, out = tmp_path / "events.log", tmp_path / "out"
    env = {"STRICT_AIE_EVENTS": str(log), **environment}
    assert refused(export(tiny, out, env, **MINIMAL, **given), *words)
    assert not out.exists() or not list(out.iterdir())
    events = log.read_text().split() if log.exists() else []
    assert ("set_device" in events) == ("finalize" in events)  # also after an error
    assert events.count("finalize") <= 1


def test_torch_npu_beside_torch_aie_is_refused(tmp_path, tiny):
    (tmp_path / "torch_npu").mkdir()
    (tmp_path / "torch_npu" / "__init__.py").write_text("")
    path = os.pathsep.join(map(str, (tmp_path, DOUBLES, DOUBLES / "torch_aie_63")))
    run = export(tiny, tmp_path / "out", {"PYTHONPATH": path}, **MINIMAL)
    assert run.code == 2 and "pip uninstall torch_npu" in run.err


def test_auto_without_a_card_says_what_it_took_instead_and_why(tmp_path, tiny):
    given = {"pth_dir": tiny, "save_dir": tmp_path, "precision": "fp32", **MINIMAL}
    run = script(EXPORT, {"PYTHONPATH": ""}, **given)
    assert run.code == 0, run.err
    assert "not aie on npu: neither torch_aie nor mindietorch is installed" in run.said
    run = script(EXPORT, {"STRICT_AIE_FAULT": "library"}, **given)
    assert run.code == 0, run.out + run.err
    assert "libascendcl.so" in run.said and "ascend-toolkit/set_env.sh" in run.said
    run = script(EXPORT, graph="fused", **given)
    assert run.code == 0, run.err
    assert "aie on npu (the first in the order of preference)" in run.said


def test_a_ladder_is_a_file_a_shape_with_the_same_predictions(tmp_path, tiny, sst2, flow):
    """The compiler takes one shape: three files, one run, what one file predicted."""
    folder, _, _, _ = flow
    lines = (sst2 / "dev.tsv").read_text(encoding="utf-8").split("\n")[: 1 + 150]
    (tmp_path / "dev.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    given = {"batch_size": [1, 8], "max_seq_length": [24, 64], "data_dir": tmp_path}
    given.update(compare_cpu=True, compare_rows=40)
    run = export(tiny, tmp_path, **given)
    names = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert names == [f"albert_seq{n}_bs{b}.pt" for n in (24, 64) for b in (1, 8)], run.err
    assert run.code == 0 and run.said.count("compare_cpu PASS") == 2
    for single in (False, True):
        out = tmp_path / str(single)
        given = {"data_dir": tmp_path, "output_dir": out, "one_at_a_time": single}
        run = script(EVALUATE, aie_model_dir=tmp_path, **given)
        assert run.code == 0 and "150 of 150 sentences scored" in run.said, run.err
        (made, rows), (_, wanted) = read_results(out), read_results(folder)
        assert [row[1] for row in rows] == [row[1] for row in wanted[: 1 + 150]]
    assert len(made["more_files"]) == 3
    assert sum(s["batches"] for s in made["shapes"] if s["batch_size"] == 1) == 150


def test_a_file_of_the_other_package_or_chip_is_refused(tmp_path, flow, sentences):
    _, file, _, _ = flow
    other = {"torch_aie": "mindietorch", "mindietorch": "torch_aie"}[PACKAGE]
    given = {"aie_model_dir": file, "data_dir": sentences}
    run = script(EVALUATE, double_environment(other), **given)
    assert run.code == 2 and f"compiled by {PACKAGE}, but {other}" in run.err
    run = script(EVALUATE, {"STRICT_AIE_SOC": "Ascend910B4"}, **given)
    assert run.code == 2 and "compiled for Ascend310P3, this chip is another" in run.err, run.err
