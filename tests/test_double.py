"""The strict double of torch_aie and mindietorch refuses what a card would refuse.

Every rule is broken here on purpose; tests/doubles/README.md says where each comes from. The rules
run in one process per package, because what they are about (the device, finalize) is the state of a
process.
"""

import json
import os
import sys

import pytest
from doubles.strict_aie import build
from helpers import DOUBLES, double_environment
from helpers import python as fresh

SETUP = """
import io, json, sys, torch
import {package} as aie
ids = torch.tensor([[5, 6, 7], [8, 9, 4]], dtype=torch.int32)
mask = torch.ones(2, 3, dtype=torch.int32)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.linspace(-1, 1, 20).reshape(10, 2) + 1e-4)

    def forward(self, ids, mask):
        x = torch.nn.functional.embedding(ids, self.table)
        return (x * mask.unsqueeze(-1).to(x.dtype)).sum(1)

class Pair(Net):
    def forward(self, ids, mask):
        return (super().forward(ids, mask), mask)

class Named(Net):
    def forward(self, ids, mask):
        return {{"pooled": super().forward(ids, mask)}}

class Sized(torch.nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor):
        return torch.arange(ids.size(1)) + mask

def traced(module=None, inputs=None):
    module, inputs = (module or Net()).eval(), inputs or (ids, mask)
    return torch.jit.trace(module, inputs, check_trace=False, strict=False)

def spec(shape=(2, 3), **given):
    return aie.Input(shape, **{{"dtype": torch.int32, "format": aie.TensorFormat.ND, **given}})

def compiled(module=None, **options):
    given = {{"inputs": [spec(), spec()], "precision_policy": aie.PrecisionPolicy.FP16}}
    return aie.compile(module or traced(), **{{**given, **options}})

def engine_by_hand():
    program, shapes = io.BytesIO(), [[[2, 3], [2, 3]]]
    torch.jit.save(traced(), program)
    state = (program.getvalue(), "Ascend310P3", shapes, shapes, [3, 3])
    return torch.classes.strict_aie.Engine(state)

def run(program, *inputs):
    stream = aie.npu.Stream("npu:0")
    with aie.npu.stream(stream):
        answer = program(*inputs)
        stream.synchronize()
    return answer.cpu()

ND = aie.TensorFormat.ND
aie.set_device(0)
here = [ids.to("npu:0"), mask.to("npu:0")]
"""

# rule -> (what breaks it, the exception, words of its message)
RULES = {
    "input: two positionals": ("aie.Input((2, 3), (2, 3))", ValueError, "one positional"),
    "input: shape and min_shape": (
        "aie.Input((2, 3), min_shape=(1, 3))", ValueError, "either shape"),
    "input: min_shape alone": ("aie.Input(min_shape=(1, 3))", ValueError, "either shape"),
    "input: no shape": ("aie.Input(dtype=torch.int32)", ValueError, "no shape"),
    "input: shape of floats": ("spec((2.0, 3))", TypeError, "no tuple"),
    "input: rank 9": ("spec((1,) * 9)", ValueError, "rank 9"),
    "input: negative": ("spec((-1, 3))", ValueError, "a dimension"),
    "input: ranks differ": (
        "aie.Input(min_shape=(1,), max_shape=(1, 2), format=ND)", ValueError, "different rank"),
    "input: min above max": (
        "aie.Input(min_shape=(4, 3), max_shape=(2, 3), format=ND)", ValueError, "from 4 to 2"),
    "input: unknown keyword": ("spec(layout='x')", TypeError, "layout"),
    "input: dtype as a word": ("spec(dtype='int32')", TypeError, "dtype"),
    "input: dtype uint8": ("spec(dtype=torch.uint8)", TypeError, "dtype torch.uint8"),
    "input: format as a word": ("spec(format='ND')", TypeError, "format"),
    "input: NCHW of rank 2": ("spec(format=aie.TensorFormat.NCHW)", ValueError, "format=ND"),
    "device: a word": ("aie.set_device('npu:0')", TypeError, "int"),
    "device: a bool": ("aie.set_device(True)", TypeError, "int"),
    "device: out of range": ("aie.set_device(1)", RuntimeError, "device 1 of 1"),
    "device: another index": ("ids.to('npu:1')", RuntimeError, "npu:1"),
    "stream: an int": ("aie.npu.Stream(0)", TypeError, "device string"),
    "stream: no number": ("aie.npu.Stream('npu:x')", ValueError, "device string"),
    "stream: out of range": ("aie.npu.Stream('npu:1')", RuntimeError, "'npu:1' of 1"),
    "stream: a word": ("aie.npu.stream('npu:0')", TypeError, "wants a Stream"),
    "compile: inputs left out": ("aie.compile(traced())", TypeError, "inputs"),
    "compile: no Input": ("compiled(inputs=[(2, 3), (2, 3)])", TypeError, "list of Input"),
    "compile: an nn.Module": (
        "aie.compile(Net(), inputs=[spec(), spec()])", TypeError, "torch.jit.trace"),
    "compile: one Input too few": ("compiled(inputs=[spec()])", ValueError, "takes 2 inputs"),
    "compile: gears of different length": (
        "compiled(inputs=[[spec(), spec()], [spec()]])", ValueError, "takes 2 inputs"),
    "compile: unknown keyword": ("compiled(device='npu:0')", TypeError, "device"),
    "compile: precision as a word": (
        "compiled(precision_policy='FP16')", TypeError, "precision_policy"),
    "compile: unlisted chip": ("compiled(soc_version='Ascend310P4')", ValueError, "Ascend310P4"),
    "compile: level 3": ("compiled(optimization_level=3)", ValueError, "optimization_level 3"),
    "compile: int64 as it is": (
        "compiled(inputs=[spec(dtype=torch.int64), spec(dtype=torch.int64)])",
        RuntimeError, "truncate_long_and_double"),
    "compile: full, unsupported operator": (
        "compiled(traced(Sized()), require_full_compilation=True)", RuntimeError, "aten::arange"),
    "compile: full, a tuple at the end": (
        "compiled(traced(Pair()), require_full_compilation=True)", RuntimeError, "tuple"),
    "compile: full, a dict at the end": (
        "compiled(traced(Named()), require_full_compilation=True)", RuntimeError, "dict"),
    "forward: one input": ("compiled()(here[0])", RuntimeError, "missing value for argument 'x1'"),
    "forward: on the cpu": ("compiled()(ids, mask)", RuntimeError, "not on npu"),
    "forward: another dtype": (
        "compiled()(ids.long().to('npu:0'), here[1])", RuntimeError, "MIE08E000001"),
    "forward: a smaller batch": (
        "compiled()(ids[:1].to('npu:0'), mask[:1].to('npu:0'))", RuntimeError, "shapes"),
    "forward: floats by default": (
        "compiled(inputs=[aie.Input((2, 3), format=ND)] * 2)(*here)", RuntimeError, "MIE08E000001"),
    "forward: between two gears": (
        "compiled(inputs=[[spec((1, 3))] * 2, [spec((4, 3))] * 2])(*here)", RuntimeError, "shapes"),
    "forward: beyond the range": (
        "compiled(inputs=[aie.Input("
        "min_shape=(3, 3), max_shape=(8, 3), dtype=torch.int32, format=ND)] * 2)(*here)",
        RuntimeError, "shapes"),
    "forward: not contiguous": (
        "compiled()(here[0].as_strided((2, 3), (1, 2)), here[1])", RuntimeError, "not contiguous"),
    "forward: an id out of range": (
        "run(compiled(), (ids + 90).to('npu:0'), here[1])", RuntimeError, "out of range"),
    "npu: arithmetic": ("here[0] + 1", RuntimeError, "move the tensor to the cpu"),
    "npu: printing": ("print(here[0])", RuntimeError, "on npu"),
    "npu: numpy": ("here[0].numpy()", (RuntimeError, TypeError), "cpu"),
    "npu: another dtype": ("here[0].to(torch.float32)", RuntimeError, "npu"),
    "engine: by hand": ("engine_by_hand().run(here)", RuntimeError, "MIE08E010101"),
}  # fmt: skip
ONLY = {
    "torch_aie": {
        "input: unbounded": (
            "aie.Input(min_shape=(-1, 3), max_shape=(-1, 3))", ValueError, "a dimension"),
        "input: a name": ("spec(name='ids')", TypeError, "name"),
        "compile: positional inputs": (
            "aie.compile(traced(), [spec(), spec()])", TypeError, "positional"),
        "policy: PREF_FP16": ("aie.PrecisionPolicy.PREF_FP16", AttributeError, "PREF_FP16"),
    },
    "mindietorch": {
        "input: default format": (
            "aie.Input((2, 3), dtype=torch.int32)", ValueError, "give format=ND"),
        "compile: positional inputs": (
            "aie.compile(traced(), [spec(), spec()])", TypeError, "keyword"),
    },
}  # fmt: skip
CASES = [(package, rule) for package in ONLY for rule in {**RULES, **ONLY[package]}]


def python(package, code, env=None):
    if build.missing():
        pytest.skip(build.missing())
    env = {**double_environment(package), **(env or {})}
    return fresh("-W", "ignore", "-c", code, env=env)


@pytest.fixture(scope="module")
def broken():
    """{package: {rule: [names of the exception's classes, message]}}"""
    result = {}
    for package, own in ONLY.items():
        rules = {rule: code for rule, (code, _, _) in {**RULES, **own}.items()}
        code = SETUP.format(package=package) + (
            f"rules, seen = {rules!r}, {{}}\n"
            "for rule, code in rules.items():\n"
            "    try:\n        exec(code)\n        seen[rule] = None\n"
            "    except Exception as error:\n"
            "        seen[rule] = [[kind.__name__ for kind in type(error).__mro__], str(error)]\n"
            "print('\\n' + json.dumps(seen))"
        )
        run = python(package, code)
        assert run.code == 0, run.err
        result[package] = json.loads(run.out.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    "package, rule", CASES, ids=[f"{package}-{rule}" for package, rule in CASES]
)
def test_a_broken_rule_is_refused(broken, package, rule):
    _, wanted, words = {**RULES, **ONLY[package]}[rule]
    seen = broken[package][rule]
    assert seen is not None, f"{rule}: was let through"
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    assert any(kind.__name__ in seen[0] for kind in wanted) and words in seen[1], seen


def printed(package, code):
    run = python(package, SETUP.format(package=package) + code)
    assert run.code == 0, run.err
    return run.out.splitlines()


RIGHT = """
wanted = traced()(ids, mask)
got = run(compiled(), *here)
print(torch.equal(got, wanted), torch.allclose(got, wanted, rtol=2e-3, atol=2e-3))
print(torch.equal(run(compiled(precision_policy=aie.PrecisionPolicy.FP32), *here), wanted))
outer, inner = aie.npu.Stream("npu:0"), aie.npu.Stream("npu:0")
with aie.npu.stream(outer):
    with aie.npu.stream(inner):
        pass
    late = compiled()(*here)
    inner.synchronize()
    print(bool(late.cpu().isnan().all()))
    outer.synchronize()
    print(torch.equal(late.cpu(), got))
swapped = run(compiled(), here[1], here[0])
print(torch.equal(swapped, got))
pair = compiled(traced(Pair()))(*here)
print(type(pair).__name__, len(pair))
print(run(compiled(inputs=[[spec((2, 3))] * 2, [spec((4, 3))] * 2]), *here).shape == wanted.shape)
wide = aie.Input(min_shape=(1, 3), max_shape=(8, 3), dtype=torch.int32, format=ND)
print(run(compiled(inputs=[wide, wide]), *here).shape == wanted.shape)
print(here[0].view(3, 2).cpu().tolist() == ids.view(3, 2).tolist(), here[0].shape == ids.shape)
long = [spec(dtype=torch.int64), spec(dtype=torch.int64)]
program = traced(inputs=(ids.long(), mask.long()))
program = compiled(program, inputs=long, truncate_long_and_double=True)
print(torch.equal(run(program, ids.long().to("npu:0"), mask.long().to("npu:0")), got))

class Masked(Net):
    lowest = -10000.0
    def forward(self, ids, mask):
        return super().forward(ids, mask) + ((1.0 - mask.float()) * self.lowest).sum()
class Lowest(Masked):
    lowest = torch.finfo(torch.float32).min
for module in (Masked(), Lowest()):
    print(bool(run(compiled(traced(module)), *here).isfinite().all()))
"""
UNBOUNDED = """
free = aie.Input(min_shape=(-1, 3), max_shape=(-1, 3), dtype=torch.int32, format=ND)
program = compiled(inputs=[free, free])
for rows in (1, 2):
    print(list(run(program, ids[:rows].to("npu:0"), mask[:rows].to("npu:0")).shape))
"""


@pytest.mark.parametrize("package", ONLY)
def test_what_is_right_is_let_through(package):
    """One process: the right answer after synchronize and NaN before, fp16 rounding, tuples, gears,
    ranges, nested streams; a mask of -10000, while finfo.min is infinite in fp16; the successor
    takes a dimension without bounds."""
    lines = printed(package, RIGHT + UNBOUNDED * (package == "mindietorch"))
    assert lines[:10] == [
        "False True", "True", "True", "True", "False", "tuple 2", "True", "True", "True True",
        "True",
    ]  # fmt: skip
    assert lines[10:12] == ["True", "False"]
    assert lines[12:] == ["[1, 2]", "[2, 2]"] * (package == "mindietorch")


@pytest.mark.parametrize("package", ONLY)
def test_a_compiled_file_needs_the_package_its_chip_and_a_living_process(package, tmp_path):
    file = tmp_path / "program.pt"
    printed(package, f"compiled().save({str(file)!r})")
    load = f"torch.jit.load({str(file)!r})"
    done = python(package, f"import torch; {load}")
    assert done.code == 1 and "strict_aie" in done.err
    early = f"""
import torch, {package}
try:
    torch.ones(1).to("npu:0")
except RuntimeError as error:
    print(error)
"""
    code = early + SETUP.format(package=package) + f"{load}(*here)"
    done = python(package, code, env={"STRICT_AIE_SOC": "Ascend910B4"})
    assert done.code == 1 and "compiled for Ascend310P3" in done.err
    assert "before set_device()" in done.out
    late = [
        "program(*here)", "ids.to('npu:0')", "here[0].cpu()", "aie.set_device(0)", "aie.finalize()",
        "compiled()", "aie.npu.Stream('npu:0')", "with aie.npu.stream(stream): pass", load,
    ]  # fmt: skip
    answer, *lines = printed(
        package,
        f"""
program, stream = {load}, aie.npu.Stream("npu:0")
print(run(program, *here).isfinite().all().item())
aie.finalize()
for late in {late!r}:
    try:
        exec(late)
        print("let through:", late)
    except RuntimeError as error:
        told = "after finalize()" in str(error) or "finalize() twice" in str(error)
        print("refused" if told else error)
""",
    )
    assert answer == "True" and lines == ["refused"] * len(late)


def test_what_its_build_lacks_is_said_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "folder", lambda: tmp_path)  # as before the first build
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for tool, cure in (("g++", "apt install g++"), ("ninja", "pip install ninja")):
        assert cure in build.missing()
        (tmp_path / tool).touch(0o755)
    assert not build.missing()


def test_every_rule_stands_in_the_readme():
    text = (DOUBLES / "README.md").read_text(encoding="utf-8")
    missing = [
        rule for own in ONLY.values() for rule in {**RULES, **own} if f"`{rule}`" not in text
    ]
    assert not missing
    assert os.path.isdir(DOUBLES / "strict_aie")
