"""The Python surface of the double, for both names of the product. Every rule that is enforced
stands in ../README.md."""

import enum
import io
import json
import os
import re
import types

import torch

from . import build

SOCS = ("Ascend310P3", "Ascend910B3", "Ascend910B4")
# Not supported by this double's compiler: with require_full_compilation they are an error, without
# it they would run on the host. No list is published; these make or read shapes, or are known to
# fail on a 310P (facts sheet, section 6).
UNSUPPORTED = {
    "aten::size", "aten::arange", "aten::isneginf", "aten::isinf", "aten::nonzero", "aten::item",
    "aten::Int",
    "aten::masked_select", "aten::unique", "aten::scaled_dot_product_attention",
}  # fmt: skip
FP16_MAX = 65504.0


class TensorFormat(enum.Enum):
    UNKNOWN, NCHW, NHWC, ND, NC1HWC0 = range(5)


class dtype(enum.Enum):
    FLOAT, FLOAT16, INT32, INT64, BOOL = range(5)


TORCH_DTYPES = {
    dtype.FLOAT: torch.float32,
    dtype.FLOAT16: torch.float16,
    dtype.INT32: torch.int32,
    dtype.INT64: torch.int64,
    dtype.BOOL: torch.bool,
}
SCALAR_TYPES = {
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.bool: 11,
}  # c10::ScalarType


class Policy63(enum.Enum):
    FP32, FP16, PREF_FP32 = range(3)


class Policy100(enum.Enum):
    FP32, FP16, PREF_FP32, PREF_FP16 = range(4)


def fail(name):
    """Whether this fault is switched on for the process."""
    return name in os.environ.get("STRICT_AIE_FAULT", "").split(",")


def install(namespace, name, version, successor):
    """Fill the namespace of package `name`; `successor`: mindietorch 1.0.0, not torch_aie 6.3."""
    if fail("library"):
        raise ImportError(
            "libascendcl.so: cannot open shared object file: No such file or directory"
        )
    if fail("static_tls"):
        raise ImportError(
            "/usr/lib/aarch64-linux-gnu/libgomp.so.1: cannot allocate memory in static TLS block"
        )
    if fail("other_torch"):
        raise ImportError(
            "libtorch_aie.so: undefined symbol: _ZN3c106detail14torchCheckFailEPKcS2_jRKSs"
        )
    if fail("old_os"):
        raise ImportError(
            "/lib/aarch64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found "
            "(required by libtorch_aie.so)"
        )
    if fail("own_start"):
        raise AttributeError("module 'torch._C' has no attribute '_jit_flatten'")
    npu = types.ModuleType(f"{name}.npu")
    torch.utils.rename_privateuse1_backend("npu")
    if hasattr(torch, "_register_device_module"):
        # current torch looks for it when a tensor moves there
        npu.device_count = device_count
        npu.is_available, npu.current_device = (lambda: True), (lambda: 0)
        npu._is_in_bad_fork = lambda: False
        torch._register_device_module("npu", npu)
    build.load()
    policy = Policy100 if successor else Policy63
    npu.Stream, npu.stream, npu.default_stream = Stream, stream, lambda: Stream._default
    namespace.update(
        __version__=version,
        npu=npu,
        dtype=dtype,
        TensorFormat=TensorFormat,
        PrecisionPolicy=policy,
        _enums=types.SimpleNamespace(
            dtype=dtype, TensorFormat=TensorFormat, PrecisionPolicy=policy
        ),
        _compile_spec=types.SimpleNamespace(SUPPORT_SOC_NAME=SOCS),
        Input=Input100 if successor else Input63,
        compile=compile_100 if successor else compile_63,
        set_device=set_device,
        finalize=torch.ops.strict_aie.finalize,
    )


def device_count():
    return int(os.environ.get("STRICT_AIE_DEVICES", "1"))


def set_device(device):
    if type(device) is not int:
        raise TypeError(f"set_device wants an int, not {device!r}")
    if not 0 <= device < device_count():
        raise RuntimeError(
            f"device {device} of {device_count()}: aclrtSetDevice failed, error 107001"
        )
    torch.ops.strict_aie.set_device(device)


class Stream:
    _made = 0
    _default = None

    def __init__(self, device):
        torch.ops.strict_aie.check_not_finalized("Stream")
        if type(device) is not str:
            raise TypeError(f"Stream wants a device string such as 'npu:0', not {device!r}")
        index = re.fullmatch(r"npu:(\d+)", device)
        if not index:
            raise ValueError(f"Stream: {device!r} is no device string such as 'npu:0'")
        if int(index.group(1)) >= device_count():
            raise RuntimeError(f"Stream: {device!r} of {device_count()} device(s)")
        Stream._made += 1
        self.number = Stream._made

    def synchronize(self):
        torch.ops.strict_aie.synchronize(self.number)


Stream._default = Stream.__new__(Stream)
Stream._default.number = 0


class stream:
    """`with stream(s):` work goes to s; the stream before comes back at the end, nested or after an
    error too."""

    def __init__(self, wanted):
        if not isinstance(wanted, Stream):
            raise TypeError(f"stream wants a Stream, not {wanted!r}")
        self.wanted = wanted

    def __enter__(self):
        torch.ops.strict_aie.check_not_finalized("stream")
        self.before = torch.ops.strict_aie.set_stream(self.wanted.number)

    def __exit__(self, *_):
        torch.ops.strict_aie.set_stream(self.before)


class Input63:
    """One input's shape, a single one or from min_shape to max_shape, and its dtype: FLOAT unless
    given."""

    default_format, unbounded = TensorFormat.ND, False
    known = {"shape", "min_shape", "max_shape", "dtype", "format"}

    def __init__(self, *args, **kwargs):
        if set(kwargs) - self.known:
            raise TypeError(f"Input: unknown {sorted(set(kwargs) - self.known)}")
        if len(args) > 1 or (args and "shape" in kwargs):
            raise ValueError("Input: one positional argument at most, the shape")
        shape = args[0] if args else kwargs.get("shape")
        low, high = kwargs.get("min_shape"), kwargs.get("max_shape")
        one, both = shape is not None, low is not None and high is not None
        neither = low is None and high is None
        if not (neither or (both and not one)):
            raise ValueError("Input: either shape, or min_shape and max_shape together")
        if shape is None and low is None:
            raise ValueError("Input: no shape")
        self.low, self.high = (
            self._checked(x) for x in ((shape, shape) if low is None else (low, high))
        )
        if len(self.low) != len(self.high):
            raise ValueError("Input: min_shape and max_shape of different rank")
        for least, most in zip(self.low, self.high):
            free = self.unbounded and least == most == -1 and shape is None
            if not free and not 0 <= least <= most:
                raise ValueError(f"Input: a dimension from {least} to {most}")
        given = kwargs.get("dtype", dtype.FLOAT)
        self.dtype = TORCH_DTYPES.get(given, given) if isinstance(given, dtype) else given
        if self.dtype not in SCALAR_TYPES:
            raise TypeError(f"Input: dtype {given!r}")
        self.format = kwargs.get("format", self.default_format)
        if not isinstance(self.format, TensorFormat):
            raise TypeError(f"Input: format {self.format!r}")
        if self.format != TensorFormat.ND and len(self.low) != 4:
            raise ValueError(
                f"Input: format {self.format.name} has four dimensions, the shape "
                f"{len(self.low)}; give format=ND"
            )

    @staticmethod
    def _checked(shape):
        if not isinstance(shape, (tuple, list)) or not all(type(n) is int for n in shape):
            raise TypeError(f"Input: shape {shape!r} is no tuple, list or torch.Size of int")
        if len(shape) > 8:
            raise ValueError(f"Input: rank {len(shape)}, at most 8")
        return list(shape)


class Input100(Input63):
    default_format, unbounded, known = TensorFormat.NCHW, True, Input63.known | {"name"}


def compile_63(module, *, inputs=None, **options):
    return _compile(
        module,
        inputs,
        Policy63,
        options,
        {"allow_tensor_replace_int", "min_block_size", "torch_executed_ops"},
    )


def compile_100(module, ir="default", inputs=None, **options):
    if ir not in ("default", "ts", "torchscript"):
        raise TypeError(
            f"compile: ir {type(ir).__name__} is none of 'default', 'ts', 'torchscript'; "
            "inputs goes by keyword"
        )
    known = {
        "allow_tensor_replace_int",
        "min_block_size",
        "torch_executed_ops",
        "default_buffer_size_vec",
    }
    return _compile(module, inputs, Policy100, options, known)


def _compile(module, inputs, policies, options, ignored):
    torch.ops.strict_aie.event(
        "compile " + json.dumps({k: str(v) for k, v in sorted(options.items())})
    )
    precision = options.pop("precision_policy", policies.PREF_FP32)
    soc, level = options.pop("soc_version", "Ascend310P3"), options.pop("optimization_level", 0)
    full = options.pop("require_full_compilation", False)
    narrow = options.pop("truncate_long_and_double", False)
    if set(options) - ignored:
        raise TypeError(f"compile: unknown {sorted(set(options) - ignored)}")
    if not isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"compile wants a ScriptModule, not {type(module).__name__}: use torch.jit.trace"
        )
    if not isinstance(inputs, (list, tuple)) or not inputs:
        raise TypeError("compile: inputs wants a list of Input, or a list of such lists")
    several = isinstance(inputs[0], (list, tuple))
    gears = [list(gear) for gear in inputs] if several else [list(inputs)]
    if not all(isinstance(one, Input63) for gear in gears for one in gear):
        raise TypeError("compile: inputs wants a list of Input, or a list of such lists")
    if not isinstance(precision, policies):
        raise TypeError(f"compile: precision_policy {precision!r}")
    if soc not in SOCS:
        raise ValueError(f"compile: soc_version {soc!r} is not supported")
    if type(level) is not int or level not in (0, 1, 2):
        raise ValueError(f"compile: optimization_level {level!r}")
    if fail("compile"):
        raise RuntimeError("Create infer builder failed, please check MindIE-RT log")
    wanted = len(list(module.graph.inputs())) - 1
    if any(len(gear) != wanted for gear in gears):
        raise ValueError(
            f"compile: forward takes {wanted} inputs, given {[len(gear) for gear in gears]}"
        )
    dtypes = [one.dtype for one in gears[0]]
    if torch.int64 in dtypes and not narrow:
        raise RuntimeError("compile: an int64 input needs truncate_long_and_double=True")
    program = _copy(module)
    graph = program.inlined_graph
    if full:
        unsupported = sorted(UNSUPPORTED & {node.kind() for node in graph.nodes()})
        if unsupported:
            raise RuntimeError(f"require_full_compilation: {', '.join(unsupported)} not supported")
        kinds = [output.type().kind() for output in graph.outputs()]
        if any("Tuple" in kind or "Dict" in kind for kind in kinds):
            raise RuntimeError(
                "require_full_compilation: the last operator builds a tuple or a dict"
            )
    if precision is policies.FP16:
        _round_to_fp16(graph)
    buffer = io.BytesIO()
    torch.jit.save(program, buffer)
    lowest, highest = (
        [[getattr(one, end) for one in gear] for gear in gears] for end in ("low", "high")
    )
    engine = torch.ops.strict_aie.engine(
        (buffer.getvalue(), soc, lowest, highest, [SCALAR_TYPES[one] for one in dtypes])
    )
    return _script(engine, wanted, next(graph.outputs()).type())


def _copy(module):
    """A frozen copy, on which constants are nodes of the graph; the caller's module stays."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    copy = torch.jit.load(buffer).eval()
    return torch.jit.freeze(copy) if list(copy.parameters()) + list(copy.buffers()) else copy


def _round_to_fp16(graph):
    """Tensors and the scalars of arithmetic become what fp16 makes of them: beyond 65504 that is
    infinity."""
    arithmetic = {
        "aten::add",
        "aten::sub",
        "aten::rsub",
        "aten::mul",
        "aten::div",
        "aten::masked_fill",
        "aten::full",
    }
    for node in graph.findAllNodes("prim::Constant"):
        if not node.hasAttribute("value"):
            continue
        kind = node.kindOf("value")
        if kind == "t" and node.t("value").is_floating_point():
            value = node.t("value")
            value.copy_(value.to(torch.float16).to(value.dtype))
        elif kind == "f" and any(use.user.kind() in arithmetic for use in node.output().uses()):
            node.f_("value", float(torch.tensor(node.f("value")).to(torch.float16)))


def _script(engine, count, output):
    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.engine = engine

    names = ", ".join(f"x{i}" for i in range(count))
    typed = ", ".join(f"x{i}: Tensor" for i in range(count))
    answer = "results[0]"
    if output.kind() == "TupleType":  # a tuple stays a tuple
        answer = "(" + "".join(f"results[{i}], " for i in range(len(output.elements()))) + ")"
    scripted = torch.jit.script(Program().eval())
    scripted.define(
        f"def forward(self, {typed}):\n    results = self.engine.run([{names}])\n"
        f"    return {answer}\n"
    )
    return scripted
