"""Runs an OpenVINO file: without torch, each shape compiled when it comes or is prepared."""

import queue
import threading
import time
from functools import cached_property

import numpy
import openvino

from ...base.choose_shapes import SINGLE, choose, octave
from ...base.errors import WHY, last_line, refusing
from ...base.shapes import INPUTS
from .. import Output, settings
from ..runner import Runner, manifest_mismatch
from . import ALONE, BLOBS, PRECISIONS, candidates, grid, ir


class OpenVinoRunner(Runner):
    def __init__(self, artifact, target):
        super().__init__(artifact, "cpu")
        chosen = settings(target, "evaluate")
        precision = artifact.manifest["precision"]
        floating = artifact.manifest["options"].get("floating", precision)
        if floating not in candidates("cpu"):  # an int8 file of a CPU with bf16
            floating = "fp32"
        self._options = {"INFERENCE_PRECISION_HINT": PRECISIONS[floating]}
        self._streams = chosen["streams"]
        if chosen["threads"]:
            self._options["INFERENCE_NUM_THREADS"] = chosen["threads"]
        self._core = openvino.Core()
        self._programs, self._lock = {}, threading.Lock()
        self.grid = grid(precision) if artifact.has_free_sizes else None
        # All lengths as branches of one program hold their weights once and find them in the cache:
        # 1.06 times as fast in bf16, 1.09 in fp32, and twelve lengths take half of the memory. int8
        # is slower in a branch, for its passes make another graph there (docs/performance.md).
        self._branches = target.precision != "int8"
        with self._errors():
            self._model = ir.read(*(artifact.blob(name) for name in BLOBS))
            _specialised(self._model, artifact.shape, artifact)
            kinds = {node.get_type_name() for node in self._model.get_ordered_ops()}
            if ("FakeQuantize" in kinds) != (precision == "int8"):
                found = "not int8" if precision == "int8" else "int8"
                raise manifest_mismatch(artifact, f"{precision}, its program is {found}")
            if precision == "bf16":
                ir.widen(self._model)

    def _errors(self):
        what = f"{self._artifact.path}: OpenVINO cannot compile its IR ({WHY})"
        cure = f"export it again with the version installed here ({openvino.__version__})"
        return refusing(f"{what}; {cure}", RuntimeError, reason=last_line)

    def prepare(self, shapes):
        with self._lock:
            groups = {}
            for shape in sorted(set(shapes)):
                groups.setdefault(self._group(shape), []).append(shape)
            for alike in groups.values():
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
        """The shapes to compile with one that was not prepared: its group once ALONE are there."""
        if not self._is_alone(shape):
            return [shape]
        singles = choose(self._artifact.shapes, self.grid, SINGLE)
        alike = [one for one in singles if self._group(one) == self._group(shape)]
        return alike if sum(one in self._programs for one in alike) >= ALONE else [shape]

    def _compile(self, shapes):
        """One program of shapes of one group, where one of them has none."""
        if self._programs.keys() >= set(shapes):
            return
        # a sentence alone has all threads, and does not wait for a second one
        streams = self._streams or (1 if self._is_alone(shapes[0]) else "AUTO")
        with self._errors():
            model = ir.branches([_specialised(self._model, s, self._artifact) for s in shapes])
            options = {**self._options, "NUM_STREAMS": streams}
            compiled = self._core.compile_model(model, "CPU", options)
        idle = queue.SimpleQueue()
        for _ in range(int(compiled.get_property("NUM_STREAMS"))):
            idle.put(compiled.create_infer_request())
        self._programs.update(dict.fromkeys(shapes, (compiled, idle)))

    def _is_alone(self, shape):
        """Whether a Shape is that of a sentence in a row of its own length."""
        return self.grid is not None and not shape.slots and shape.batch_size == 1

    def _any(self, but=lambda shape: False):
        """A compiled model, not of shapes `but`: what they have in common is read back from it,
        once, for the engine answers when no batch is being computed."""
        known = list(self._programs.items())  # which another thread may add to
        found = [program for shape, program in known if not but(shape)]
        if not found:
            found = [self._program(choose([self._artifact.own_shape], self.grid)[0])]
        return found[0][0]

    @cached_property
    def precision(self):
        return _precision_of(self._any())

    @cached_property
    def threads(self):
        return self._any().get_property("INFERENCE_NUM_THREADS")

    @cached_property
    def streams(self):
        return int(self._any(but=self._is_alone).get_property("NUM_STREAMS"))

    def _run(self, batch):
        _, idle = self._program(batch.shape)
        request = idle.get()
        try:
            start = time.perf_counter()
            # request.infer(inputs) would do the same in 0.09 ms more, of a sentence's ten
            for name, array in zip(INPUTS, batch.inputs):
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            request.infer()
            done = time.perf_counter()
            logits = numpy.array(request.get_output_tensor(0).data, dtype=numpy.float32)
        finally:  # else the next call would wait for good
            idle.put(request)
        if self.grid is not None and not batch.shape.slots:
            logits = logits[:, 0]
        return Output(logits, 0.0, done - start, time.perf_counter() - done, start)

    def close(self):
        self._programs = {}


def _specialised(model, shape, artifact):
    """The model for one Shape. Raises UserError where the manifest says another."""
    mismatch = manifest_mismatch(artifact, f"{shape}, which its program refuses ({WHY})")
    with refusing(str(mismatch), RuntimeError, reason=last_line):
        model = ir.specialised(model, shape)
    shapes = [tuple(port.shape) for port in (*model.inputs, *model.outputs)]
    logits = artifact.logits_shape(shape)
    if artifact.has_free_sizes and not shape.slots:
        logits = (logits[0], 1, logits[1])
    wanted = [*[shape.inputs] * len(INPUTS), logits]
    if shapes != wanted:
        what = f"inputs and logits of {wanted}, its program has {shapes}"
        raise manifest_mismatch(artifact, what)
    return model


def _precision_of(compiled):
    """What the engine computes in: int8 if most matrix products that it runs do, else its hint."""
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    products = [
        one["runtimePrecision"].astype(str) in ("i8", "u8")
        for one in facts
        if one["layerType"].astype(str) in ("FullyConnected", "MatMul")
    ]
    if sum(products) > len(products) / 2:
        return "int8"
    engine = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"f32": "fp32", "f16": "fp16"}.get(engine, engine)
