"""OpenVINO on x86 and Arm CPUs. A file is run without torch.

The IR of the traced module travels in the .pt. Its sizes are free, and its products' weights are
held in the precision that is computed in. When the first batch of a shape comes, the IR is reshaped
to it and compiled: as fast as one that was traced with that shape, and all shapes share the weights
that were read."""

import contextlib
import importlib
import importlib.util
import io
import sys

from ...base import machine
from ...base.choose_shapes import Grid
from ...base.errors import UserError, first_line
from ...base.shapes import INPUTS
from .. import ONE_STREAM, THREADS, Compiled, Unavailable
from . import int8

# OpenVINO and NNCF tell Google Analytics what they are used for, from a process that importing them
# forks and the end of a script waits for; without this package of theirs they do not.
sys.modules.setdefault("openvino_telemetry", None)

TITLE = "OpenVINO"
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": None}  # int8: see _hint
LOADS = "openvino"
GRAPH = "fused"
OPTIONS = (THREADS, ONE_STREAM._replace(maximum=THREADS.maximum))
CALIBRATED = ("int8",)
RECIPES = tuple(int8.RECIPES)  # of what stays in floating point, in order of speed
BLOBS = ("ir.xml", "ir.bin")
STEP = 4  # tokens between two lengths: fewer take as long as the next multiple (performance.md)
STEPS = {"int8": 8}  # for each length is a program of its own, of 60 MB
# AMX multiplies 16 rows at a time: 20 tokens take as long as 32, and 40 longer than 48.
TILES = {"bf16": 16, "int8": 16}
ALONE = 3  # lengths of an octave that are compiled each by itself, for a few texts need few


def unavailable(device):
    if reason := _not_importable():
        return reason
    import openvino
    import torch

    # From 2025 on its converter names a dtype that torch has since 2.1; running a converted file
    # needs no converter.
    if openvino.__version__.startswith("2024") or hasattr(torch, "float8_e4m3fn"):
        return None
    reason = f"OpenVINO {openvino.__version__} cannot convert from torch {torch.__version__}"
    return Unavailable(reason, "pip install openvino==2024.6.0", broken=True)


def _not_importable():
    try:
        import openvino  # noqa: F401

        return None
    except ImportError as error:
        is_installed = importlib.util.find_spec("openvino") is not None
        reason = f"OpenVINO cannot be imported ({first_line(error)})"
        return Unavailable(reason, "pip install openvino", broken=is_installed)


def candidates(device):
    return ("bf16", "fp32") if "BF16" in capabilities() else ("fp32",)


def capabilities():
    """What OpenVINO says that this CPU computes in, such as FP32, BF16, INT8."""
    import openvino

    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def check(target):
    _check_bf16(target.precision, "--precision bf16", "use --precision fp32")
    if target.precision == "int8":
        int8.nncf()


def _check_bf16(precision, what, fix):
    if precision == "bf16" and "BF16" not in capabilities():
        has = ", ".join(capabilities())
        raise UserError(f"{what}: this CPU has no bf16 instructions (OpenVINO lists {has}); {fix}")


def form(precision):
    from ...albert.fused import Form

    return Form(split_qkv=True, erf_gelu=precision != "fp32", free_sizes=True)


def grid(precision):
    steps = {**STEPS, **(TILES if "amx_tile" in machine.isa() else {})}
    return Grid(steps.get(precision, STEP), compiles=True)


def compile(module, inputs, target, calibration=None):
    import openvino

    from ...albert import graph
    from . import ir

    program = graph.trace(module, inputs)
    if module.free_sizes:
        model = ir.name_places(_convert(graph.trace(graph.Rows(module), inputs), inputs))
    else:
        model = _convert(program, inputs)
    for port, name in zip(model.inputs, INPUTS):
        port.get_tensor().set_names({name})
    model.output(0).get_tensor().set_names({"logits"})
    versions, options = {"openvino": openvino.__version__}, {}
    if target.precision == "int8":
        options["recipe"] = target.options.get("recipe") or int8.ALL
        batches = [dict(zip(INPUTS, batch.inputs)) for batch in calibration()]
        model, versions["nncf"] = int8.quantise(model, batches, options["recipe"])
    if target.precision == "bf16":
        ir.narrow(model)
        program = graph.trace(module.bfloat16(), inputs)
    operators = graph.operators(program)
    return Compiled(program, operators, versions, blobs=ir.serialise(model), options=options)


def _convert(program, inputs):
    import openvino

    with contextlib.redirect_stdout(io.StringIO()):  # it takes a --verbose of ours for its own
        return openvino.convert_model(program, example_input=inputs)


def forward(compiled, floating, device, batch):
    import openvino

    from . import ir

    model = ir.specialised(ir.read(*(compiled.blobs[name] for name in BLOBS)), batch.shape)
    hints = {"INFERENCE_PRECISION_HINT": PRECISIONS[floating], "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    inputs = dict(zip(INPUTS, batch.inputs))
    return lambda: request.infer(inputs)


def load(artifact, target):
    if reason := _not_importable():
        raise UserError(f"{artifact.path}: was compiled for openvino, but {reason}")
    from .runner import OpenVinoRunner

    what = f"{artifact.path} with precision bf16"
    _check_bf16(target.precision, what, "export it again with --precision fp32")
    return OpenVinoRunner(artifact, target)
