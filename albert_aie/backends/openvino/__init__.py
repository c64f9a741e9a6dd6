"""OpenVINO on x86 and Arm CPUs.

At export the traced module is converted; the IR travels in the .pt beside the TorchScript. Its
sizes are free, and its products' weights are held in the precision that is computed in (OpenVINO's
own saver would make fp16 of them). When the first batch of a shape comes, the IR is reshaped to it
and compiled: as fast as one that was traced with that shape, and all shapes share the weights that
were read. The precision is chosen at export, always explicit, and read back from the compiled
model. int8 is decided at export: NNCF quantises the IR from the activations that it sees on
calibration sentences. A file is run without torch."""

import contextlib
import importlib
import importlib.util
import io
import queue
import sys
import threading
import time
from functools import cached_property

import numpy

from ...base import machine
from ...base.choose_shapes import SINGLE, Grid, choose, octave
from ...base.errors import UserError, first_line, last_line
from ...base.machine import THREADS
from .. import (
    Compiled,
    Option,
    Output,
    Unavailable,
    check_precision,
    check_shape,
    contradiction,
    settings,
)
from . import int8, ir

# OpenVINO and NNCF tell Google Analytics what they are used for, from a process that importing them
# forks and the end of a script waits for; without this package of theirs they do not.
sys.modules.setdefault("openvino_telemetry", None)

TITLE = "OpenVINO"
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": None}  # int8: see _hint
LOADS = "openvino"
GRAPH = "fused"
OPTIONS = (
    Option("threads", "threads, on a CPU", ("evaluate",), minimum=1, maximum=THREADS),
    Option("streams", "batches computed at a time", ("evaluate",), minimum=1, maximum=THREADS),
)
RECIPES = tuple(int8.RECIPES)  # of what stays in floating point, in order of speed
BLOBS = ("ir.xml", "ir.bin")
STEP = 4  # tokens between two lengths: fewer take as long as the next multiple (performance.md)
# AMX multiplies 16 rows at a time: 20 tokens take as long as 32, and 40 longer than 48. A length in
# int8 is a program of its own, of 60 MB.
STEPS = {"int8": 8}
TILES = {"bf16": 16, "int8": 16}
# A few texts need few lengths: so many of an octave are compiled each by itself, in a part of a
# second.
ALONE = 3
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def unavailable(device):
    reason = _not_importable()
    if reason is None:
        import openvino
        import torch

        # From 2025 on its converter names a dtype that torch has since 2.1; running a converted
        # file
        # needs no converter.
        if not openvino.__version__.startswith("2024") and not hasattr(torch, "float8_e4m3fn"):
            reason = Unavailable(
                f"OpenVINO {openvino.__version__} cannot convert from torch {torch.__version__}",
                "pip install openvino==2024.6.0",
                broken=True,
            )
    return reason


def _not_importable():
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        there = importlib.util.find_spec("openvino") is not None
        reason = f"OpenVINO cannot be imported ({first_line(error)})"
        return Unavailable(reason, "pip install openvino", broken=there)
    return None


def candidates(device):
    return ("bf16", "fp32") if "BF16" in capabilities() else ("fp32",)


def capabilities():
    """What OpenVINO says that this CPU computes in, such as FP32, BF16, INT8."""
    import openvino

    return openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def check(target):
    check_precision(target)
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
        recipe = target.options.get("recipe") or int8.ALL
        options["recipe"] = recipe
        batches = [dict(zip(INPUTS, batch.inputs)) for batch in calibration()]
        model, versions["nncf"] = int8.quantise(model, batches, recipe)
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

    model = ir.specialised(ir.read(*(compiled.blobs[name] for name in BLOBS)), batch.shape)
    hints = {"INFERENCE_PRECISION_HINT": PRECISIONS[floating], "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    inputs = dict(zip(INPUTS, batch.inputs))
    return lambda: request.infer(inputs)


def load(artifact, target):
    reason = _not_importable()
    if reason:
        raise UserError(f"{artifact.path}: was compiled for openvino, but {reason}")
    what = f"{artifact.path} with precision bf16"
    _check_bf16(target.precision, what, "export it again with --precision fp32")
    return Runner(artifact, target)


class Runner:
    device = "cpu"
    precision_is = "read back"

    def __init__(self, artifact, target):
        import openvino

        self._artifact = artifact
        chosen = settings(target, "evaluate")
        manifest = artifact.manifest
        floating = manifest["options"].get("floating", manifest["precision"])
        if floating not in candidates("cpu"):  # an int8 file of a CPU with bf16
            floating = "fp32"
        self._options = {"INFERENCE_PRECISION_HINT": PRECISIONS[floating]}
        self._streams = chosen["streams"]
        if chosen["threads"]:
            self._options["INFERENCE_NUM_THREADS"] = chosen["threads"]
        self._core = openvino.Core()
        self._programs, self._lock = {}, threading.Lock()
        self.grid = grid(manifest["precision"]) if artifact.has_free_sizes else None
        # All lengths as branches of one program hold their weights once and find them in the cache:
        # 1.06 times as fast in bf16, 1.09 in fp32, and twelve lengths take half of the memory. int8
        # is slower in a branch, for its passes make another graph there (docs/performance.md).
        self._branches = target.precision != "int8"
        with self._errors():
            self._model = ir.read(*(artifact.blob(name) for name in BLOBS))
            _check_model(self._model, artifact)
            if manifest["precision"] == "bf16":
                ir.widen(self._model)

    @contextlib.contextmanager
    def _errors(self):
        import openvino

        try:
            yield
        except RuntimeError as error:
            raise UserError(
                f"{self._artifact.path}: OpenVINO cannot compile its IR ({last_line(error)}); "
                f"export it again with the version installed here ({openvino.__version__})"
            ) from None

    def prepare(self, shapes):
        with self._lock:
            groups = {}
            for shape in sorted(shapes):
                groups.setdefault(self._group(shape), []).append(shape)
            for alike in groups.values():
                if not self._programs.keys() >= set(alike):
                    self._compile(alike)

    def _group(self, shape):
        """What the shapes of one program have in common: plain rows of a free length, with as many
        rows and of lengths that are used alike."""
        if self.grid is None or shape.slots or not self._branches:
            return shape
        return shape.batch_size, octave(shape.max_seq_length)

    def _program(self, shape):
        """(compiled model, its infer requests that are idle, one a stream) for a Shape; compiled
        when it is first asked for, because each costs time and memory."""
        with self._lock:
            if shape not in self._programs:
                self._compile(self._with_siblings(shape))
            return self._programs[shape]

    def _with_siblings(self, shape):
        """The shapes to compile with one that was not prepared: all of its group once ALONE of them
        are there."""
        if self.grid is None or shape.slots or shape.batch_size > 1:
            return [shape]
        alike = [
            one
            for one in choose(self._artifact.shapes, self.grid, SINGLE)
            if self._group(one) == self._group(shape)
        ]
        return alike if sum(one in self._programs for one in alike) >= ALONE else [shape]

    def _compile(self, shapes):
        for group in [shapes] if self._branches else [[shape] for shape in shapes]:
            if self._programs.keys() >= set(group):
                continue
            # a sentence alone has all threads, and does not wait for a second one
            one = self.grid is not None and not group[0].slots and group[0].batch_size == 1
            streams = self._streams or (1 if one else "AUTO")
            with self._errors():
                model = ir.branches([_specialised(self._model, s, self._artifact) for s in group])
                options = {**self._options, "NUM_STREAMS": streams}
                compiled = self._core.compile_model(model, "CPU", options)
            idle = queue.SimpleQueue()
            for _ in range(int(compiled.get_property("NUM_STREAMS"))):
                idle.put(compiled.create_infer_request())
            self._programs.update(dict.fromkeys(group, (compiled, idle)))

    def _any(self):
        """A compiled model: what they have in common is read back from it, once, for the engine
        answers when no batch is being computed."""
        program = next(iter(self._programs.values()), None)
        return (program or self._program(choose(self._artifact.own_shapes, self.grid)[0]))[0]

    @cached_property
    def precision(self):
        return _precision_of(self._any())

    @cached_property
    def threads(self):
        return self._any().get_property("INFERENCE_NUM_THREADS")

    @cached_property
    def streams(self):
        return int(self._any().get_property("NUM_STREAMS"))

    def run(self, batch):
        import openvino

        check_shape(batch, self._artifact)
        _, idle = self._program(batch.shape)
        request = idle.get()
        start = time.perf_counter()
        # request.infer(inputs) would do the same in 0.09 ms more, of a sentence's ten
        for name, array in zip(INPUTS, batch.inputs):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        request.infer()
        done = time.perf_counter()
        logits = numpy.array(request.get_output_tensor(0).data, dtype=numpy.float32)
        idle.put(request)
        if self.grid is not None and not batch.shape.slots:
            logits = logits[:, 0]
        return Output(logits, 0.0, done - start, time.perf_counter() - done, start)

    def close(self):
        self._programs = {}


def _check_model(model, artifact):
    """Raises UserError where the IR is not what the manifest says: before it is compiled."""
    _specialised(model, artifact.shape, artifact)
    precision = artifact.manifest["precision"]
    quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops())
    if quantised != (precision == "int8"):
        raise contradiction(
            artifact, f"{precision}, its program is {'' if quantised else 'not '}int8"
        )


def _specialised(model, shape, artifact):
    """The model for one Shape. Raises UserError where it does not take or give what the manifest
    says."""
    try:
        model = ir.specialised(model, shape)
    except RuntimeError as error:
        reason = last_line(error)
        raise contradiction(artifact, f"{shape}, which its program refuses ({reason})") from None
    shapes = [tuple(port.shape) for port in (*model.inputs, *model.outputs)]
    logits = artifact.logits_shape(shape)
    if artifact.has_free_sizes and not shape.slots:
        logits = (logits[0], 1, logits[1])
    wanted = [*[shape.inputs] * len(INPUTS), logits]
    if shapes != wanted:
        raise contradiction(artifact, f"inputs and logits of {wanted}, its program has {shapes}")
    return model


def _precision_of(compiled):
    """What the engine computes in: int8 if most matrix products of the graph that it runs do, else
    its own hint's."""
    products = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "MatMul")
    ]
    if sum(precision in ("i8", "u8") for precision in products) > len(products) / 2:
        return "int8"
    engine = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"f32": "fp32", "f16": "fp16"}.get(engine, engine)
