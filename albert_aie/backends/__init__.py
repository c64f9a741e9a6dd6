"""One module per engine, one interface. Each module has

unavailable(device) -> str                 why this machine cannot run it there, with the cure; "" if it can
default_precision(device) -> str           "fp32", "bf16" or "fp16"
form(precision) -> graph.Form              how our fused graph is written down for it
compile(module, inputs, target, calibration) -> Compiled
                                       `module` eager fp32 on the CPU, `inputs` int64 [batch, seq] x 3;
                                       `calibration()`: Batches of real sentences, for int8 alone
load(artifact, target) -> a runner with
    run(batch) -> Output                   one Batch of the compiled shape; from `streams` threads at a time
    precision, device, threads, streams    read back from the engine
    precision_is                           "read back", or "as compiled" where the engine cannot be asked
    close()
"""

import importlib
from typing import NamedTuple

import torch

from .. import UserError

NAMES = ("aie", "openvino", "torchscript")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


class Target(NamedTuple):
    """What to compile for, or to run on. All from device_id on belongs to `aie` alone."""

    backend: str
    device: str
    precision: str
    device_id: int = 0
    soc_version: str = "Ascend310P3"
    optimization_level: int = 0
    input_dtype: str = "int32"  # what the compiled program takes; run() narrows the public int64 to it
    require_full_compilation: bool = False
    threads: int = 0  # on the CPU; 0: the engine's choice, which is one a core
    streams: int = 1  # batches computed at a time (openvino); 0: the engine's choice, from the number of cores


class Compiled(NamedTuple):
    """What a backend's compile gives to artifact.save."""

    program: torch.jit.ScriptModule
    operators: dict  # aten operator -> count, of the traced graph
    versions: dict  # package -> version of what compiled it
    requires: list = []  # modules to import before torch.jit.load
    blobs: dict = {}  # name -> bytes, stored beside the program
    options: dict = {}  # the backend's own settings


class Output(NamedTuple):
    """float32 logits on the CPU, and the seconds that each stage took; forward is synchronised before it is read.
    `started`: the reading of time.perf_counter() when forward began."""

    logits: torch.Tensor
    copy_in: float
    forward: float
    copy_out: float
    started: float


def get(name):
    return importlib.import_module(f"{__name__}.{name}")


def pick(name="auto", device=None):
    """(backend name, device, why) for --backend and --device; "auto" is the first that this machine can run, in the
    order aie, torchscript on cuda, openvino, torchscript on cpu. Raises UserError with the cure if none can."""
    order = [("aie", "npu"), ("torchscript", "cuda"), ("openvino", "cpu"), ("torchscript", "cpu")]
    candidates = [(b, d) for b, d in order if name in ("auto", b) and device in (None, d)]
    if not candidates:
        raise UserError(
            f"--backend {name} does not run on --device {device}: aie runs on npu, openvino on cpu, torchscript on cpu and cuda"
        )
    passed_over, reasons = [], []
    for backend, where in candidates:
        reason = get(backend).unavailable(where)
        if not reason:
            why = "asked for" if name != "auto" else "; ".join(passed_over) or "the first in the order of preference"
            return backend, where, why
        # what is there and does not work is told with its cure, what is simply not here in short
        broken = "is installed but" in reason or "is installed beside" in reason
        passed_over.append(f"{backend} on {where} not: {reason if broken else reason.split(': ')[0]}")
        reasons.append(f"--backend {backend} --device {where}: {reason}")
    raise UserError("; ".join(reasons))


def check_shape(batch, artifact):
    """A trace does not enforce the shape it was made with; we do. Raises ValueError (a bug, not a user's fault)."""
    for tensor in batch.inputs:
        if tuple(tensor.shape) != artifact.shape or tensor.dtype != torch.int64:
            raise ValueError(f"batch of {tuple(tensor.shape)} {tensor.dtype} for a file of {artifact.shape} int64")
