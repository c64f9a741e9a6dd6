"""The precision is measured at export: bf16 must be worth its error, and a file that was timed on
another processor says so."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import rewrite

import export_albert_aie
from albert_aie import backends
from albert_aie.albert.checkpoint import load
from albert_aie.artifact import pt_file
from albert_aie.backends import Compiled, Target
from albert_aie.backends import openvino as openvino_backend
from albert_aie.backends import speed as chosen
from albert_aie.backends import torchscript as torchscript_backend
from albert_aie.base import choose_shapes, machine
from albert_aie.base.machine import take_turns
from albert_aie.base.shapes import Shape, full_batch
from albert_aie.data.tasks import SST2
from albert_aie.run.classifier import Classifier

ENGINES = {"openvino": openvino_backend, "torchscript": torchscript_backend}


class Clock:
    """Stands still but for what advances it."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def speed(monkeypatch):
    """speed(fp32=0.1, bf16=0.2): seconds of a call on a machine that has both, whatever this one
    has. Gives the list of calls, which fills."""

    def set_to(**seconds):
        clock, calls = Clock(), []

        def forward(compiled, floating, device, batch):
            def run():
                calls.append((floating, batch.shape))
                clock.now += seconds[floating] * (5 if len(calls) < 3 else 1)  # the first is slow

            return run

        for engine in ENGINES.values():
            monkeypatch.setattr(engine, "candidates", lambda device: ("bf16", "fp32"))
            monkeypatch.setattr(engine, "forward", forward)
        monkeypatch.setattr(openvino_backend, "capabilities", lambda: ["FP32", "BF16", "INT8"])
        monkeypatch.setattr(machine, "take_turns", partial(take_turns, clock=clock))
        return calls

    return set_to


def test_calls_take_turns_until_the_time_is_over():
    """The first turn is not counted; the median of the others is; at least three of them."""
    clock, calls = Clock(), []

    def run(name, *seconds):
        seconds = iter(seconds)

        def call():
            calls.append(name)
            clock.now += next(seconds)

        return call

    runs = {"a": run("a", 9, 1, 2, 6), "b": run("b", 9, 4, 4, 1)}
    assert take_turns(runs, 0, clock) == {"a": 2, "b": 4} and "".join(calls) == 4 * "ab"
    calls.clear()  # no longer than that where one is clearly faster in each counted turn
    runs = {"a": run("a", 9, 1, 1, 1), "b": run("b", 1, 3, 2.1, 3)}
    assert take_turns(runs, 99, clock) == {"a": 1, "b": 3} and "".join(calls) == 4 * "ab"
    calls.clear()
    runs = {"a": run("a", 9, 1, 1, 1, 1), "b": run("b", 9, 3, 1.9, 3, 99)}
    take_turns(runs, 99, clock)
    assert "".join(calls) == 5 * "ab"
    calls.clear()
    runs = {"a": run("a", 9, 1, 3, 1, 3, 1), "b": run("b", 9, 3, 1, 3, 1, 3)}  # not the same one
    take_turns(runs, 20, clock)
    assert "".join(calls) == 6 * "ab"
    calls.clear()
    runs = {"a": run("a", *10 * [0.5])}
    assert take_turns(runs, 2.9, clock) == {"a": 0.5} and calls.count("a") == 1 + 6


@pytest.mark.parametrize(
    "bf16, taken", [(0.53, "fp32"), (1.0, "fp32"), (1.05, "fp32"), (1.1, "bf16"), (1.3, "bf16")]
)
def test_a_narrow_precision_must_be_worth_its_error(bf16, taken):
    assert chosen.fastest({"bf16": bf16, "fp32": 1.0}) == taken
    assert chosen.fastest({"fp16": bf16, "fp32": 1.0})[2:] == taken[2:]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seconds, precision", [(0.188, "fp32"), (0.095, "fp32"), (0.08, "bf16")])
def test_what_export_takes_it_says_and_writes_down(
    tmp_path, tiny, export, speed, engine, seconds, precision
):
    calls, ratio = speed(fp32=0.1, bf16=seconds), 0.1 / seconds
    given = {"backend": engine, "batch_size": 32, "max_seq_length": 16}
    run = export(pth_dir=tiny, save_dir=tmp_path, **given)
    words = f"{precision} (speed on this machine: bf16 {ratio:.2f}, fp32 1.00)"
    assert run.code == 0 and words in run.said, run.out + run.err
    saved = pt_file.open_pt(tmp_path / "albert_seq16_bs32.pt")
    assert saved.manifest["precision"] == precision
    assert saved.manifest["measured"] == {
        "cpu": machine.cpu(),
        "times_as_fast": {"bf16": pytest.approx(ratio), "fp32": 1.0},
    }
    assert len(calls) >= 8 and set(calls) == {(p, Shape(16, 16, 4)) for p in ("fp32", "bf16")}


def test_files_that_belong_together_have_one_precision(tmp_path, tiny, export, speed, monkeypatch):
    """The first is timed, and those with other shapes follow it."""
    calls = speed(fp32=0.1, bf16=0.05)
    form = torchscript_backend.form("fp32")._replace(free_sizes=False)
    monkeypatch.setattr(torchscript_backend, "form", lambda precision: form)
    given = {"backend": "torchscript", "batch_size": [2, 4], "max_seq_length": 16}
    assert export(pth_dir=tiny, save_dir=tmp_path, **given).code == 0
    made = [pt_file.open_pt(tmp_path / f"albert_seq16_bs{size}.pt").manifest for size in (2, 4)]
    assert [one["precision"] for one in made] == ["bf16", "bf16"]
    assert {shape for _, shape in calls} == {Shape(2, 16)} and made[1]["measured"] is None


def test_what_is_asked_for_is_not_timed(tmp_path, tiny, export, speed):
    calls = speed(fp32=0.1, bf16=0.01)
    given = {"backend": "torchscript", "batch_size": 2, "max_seq_length": 16}
    run = export(pth_dir=tiny, save_dir=tmp_path, precision="fp32", **given)
    assert run.code == 0 and "speed on this machine" not in run.said
    manifest = pt_file.open_pt(tmp_path / "albert_seq16_bs2.pt").manifest
    assert (manifest["precision"], manifest["measured"], calls) == ("fp32", None, [])


@pytest.mark.parametrize("seconds, floating", [(0.188, "fp32"), (0.098, "bf16"), (0.05, "bf16")])
def test_what_int8_leaves_is_chosen_too(tiny, monkeypatch, speed, seconds, floating):
    calls = speed(fp32=0.1, bf16=seconds)
    compiled = Compiled(None, {}, {}, options={"recipe": "all"})
    monkeypatch.setattr(export_albert_aie, "compile_model", lambda *given: compiled)
    checkpoint = load(tiny).named(SST2, None)
    model = export_albert_aie.Model(checkpoint, "fused", True, [], [], "")
    target = Target("openvino", "cpu", "int8")
    made = export_albert_aie.build(model, target, Shape(8, 64), SST2, True)
    assert made.target == target and calls
    assert made.compiled.options == {"recipe": "all", "floating": floating}
    assert made.faster == {"bf16": pytest.approx(0.1 / seconds), "fp32": 1.0}


def saved(precision="fp32", cpu="EPYC", backend="openvino", device="cpu", **options):
    measured = cpu and {"cpu": cpu, "times_as_fast": {"bf16": 0.5, "fp32": 1.0}}
    return SimpleNamespace(
        path="a.pt",
        manifest={"measured": measured, "options": options, "precision": precision},
        target=Target(backend, device, precision),
        blob=str.encode,
        shape=Shape(32, 128),
        has_free_sizes=True,
    )


CHOSEN_ELSEWHERE = "a.pt: {} was chosen on EPYC, and this is Xeon"
AGAIN = "export the file again here"
INT8 = {"precision": "int8", "floating": "bf16"}


@pytest.mark.parametrize(
    "given, timed, ratios, note",
    [
        ({"cpu": "Xeon"}, True, None, None),
        ({"cpu": None}, True, None, None),
        ({"device": "cuda"}, True, None, None),
        ({}, False, None, f", where it was not timed; {AGAIN}"),
        ({"backend": "torchscript"}, True, None, f", where it was not timed; {AGAIN}"),
        ({}, True, (1.3, 1.0), f", where bf16 is 1.30 times as fast; {AGAIN}"),
        ({}, True, (1.05, 1.0), ", where an export would choose it too"),
        ({}, True, (0.53, 1.0), ", where an export would choose it too"),
        ({"precision": "bf16"}, True, (0.5, 1.0), f", where fp32 is 2.00 times as fast; {AGAIN}"),
        ({"precision": "bf16"}, True, (1.5, 1.0), ", where an export would choose it too"),
        (INT8, True, (0.8, 1.0), f", where fp32 is 1.25 times as fast; {AGAIN}"),
    ],
)
def test_a_file_that_was_timed_on_another_processor(monkeypatch, given, timed, ratios, note):
    """One note; an evaluation with figures times again."""
    calls = []

    def faster(name, compiled, device, batch):
        calls.append((name, sorted(compiled), device, batch.shape))
        blobs = {name: name.encode() for name in ("ir.xml", "ir.bin")}
        assert all(one.blobs == blobs for one in compiled.values())
        return dict(zip(("bf16", "fp32"), ratios))

    monkeypatch.setattr(machine, "cpu", lambda: "Xeon")
    monkeypatch.setattr(openvino_backend, "candidates", lambda device: ("bf16", "fp32"))
    monkeypatch.setattr(chosen, "faster", faster)
    file = saved(**given)
    own = given.get("floating") or given.get("precision", "fp32")
    wanted = "" if note is None else CHOSEN_ELSEWHERE.format(own) + note
    assert chosen.note_speed(file, timed) == wanted
    assert calls == ([("openvino", ["bf16", "fp32"], "cpu", Shape(4, 64, 16))] if ratios else [])


def test_the_note_is_printed_once_and_only_figures_cost_time(
    tmp_path, tiny, sentences, export, evaluate, monkeypatch
):
    """Through both scripts, with the real programs: each candidate of the file is run."""
    turns = []
    monkeypatch.setattr(openvino_backend, "candidates", lambda device: ("int8", "fp32"))
    # its double, that runs anywhere
    monkeypatch.setitem(openvino_backend.PRECISIONS, "int8", "f32")

    def take_turns(runs, seconds):
        turns.append([*runs])
        assert all(run() is not None for run in runs.values()) and seconds == 2
        return {"int8": 0.5, "fp32": 0.25}

    file = tmp_path / "albert_seq16_bs4.pt"
    given = {"backend": "openvino", "batch_size": 4, "max_seq_length": 16, "precision": "fp32"}
    assert export(pth_dir=tiny, save_dir=tmp_path, **given).code == 0
    other = rewrite(file, tmp_path / "other.pt", {"measured": {"cpu": "EPYC", "times_as_fast": {}}})
    monkeypatch.setattr(machine, "take_turns", take_turns)
    run = evaluate(aie_model_dir=other, data_dir=sentences)
    assert run.code == 0 and "where an export would choose it too" in run.err, run.err
    assert len(turns) == 1
    run = evaluate(aie_model_dir=other, text="a fine film")
    assert run.code == 0 and "where it was not timed" in run.err and len(turns) == 1
    assert evaluate(aie_model_dir=file, data_dir=sentences).err == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_compiled_shape_is_timed_as_it_is(tiny, engine, monkeypatch):
    """albert_pytorch's graph has one shape and no packed rows: its own batch is what is timed."""
    shape, backend = Shape(2, 16), backends.get(engine)
    model = export_albert_aie.Model(load(tiny).named(SST2, None), "fused", False, [], [], "")
    form = backend.form("fp32")._replace(free_sizes=False)
    monkeypatch.setattr(backend, "form", lambda precision: form)
    compiled = export_albert_aie.compile_model(model, Target(engine, "cpu", "fp32"), shape)
    batch = full_batch(choose_shapes.timed(shape, False))
    assert batch.shape == shape
    backend.forward(compiled, "fp32", "cpu", batch)()


def test_a_precision_that_onednn_lacks_is_computed_by_torch_itself():
    """Its weights cannot be laid out for kernels that do not take them: the program stays."""
    linear = torch.nn.Linear(8, 8).double()
    given = torch.ones(2, 8, dtype=torch.float64)
    program = torch.jit.freeze(torch.jit.trace(linear.eval(), given))
    before = str(program.graph)
    torchscript_backend.prepare(program, "cpu", "fp64")
    assert str(program.graph) == before and torch.equal(program(given), linear(given))


def test_torch_compiles_no_kernels_of_its_own_for_a_shape(export, tiny, tmp_path):
    """torch 2.0.1 would take 0.3 s for each."""
    small = {"backend": "torchscript", "batch_size": 1, "max_seq_length": 16, "precision": "fp32"}
    assert export(pth_dir=tiny, save_dir=tmp_path, **small).code == 0
    torch.jit.set_fusion_strategy([("STATIC", 2)])
    with Classifier(tmp_path / "albert_seq16_bs1.pt"):
        assert torch.jit.set_fusion_strategy([("STATIC", 0)]) == [("STATIC", 0)]


@pytest.mark.parametrize("bf16, taken", [(0.2, "fp32"), (0.01, "bf16")])
def test_the_program_is_that_of_the_precision_that_was_taken(speed, monkeypatch, bf16, taken):
    speed(fp32=0.1, bf16=bf16)

    def compile_model(model, target, shape):
        return SimpleNamespace(precision=target.precision)

    monkeypatch.setattr(export_albert_aie, "compile_model", compile_model)
    target = Target("torchscript", "cpu", "bf16", {})
    model = SimpleNamespace(free_sizes=True)
    made = export_albert_aie.build(model, target, Shape(4, 32), SST2, chosen=False)
    assert made.target.precision == made.compiled.precision == taken
