"""ONNX at opset 14, run by ONNX Runtime on its CPU, CUDA or CANN provider, of which we ran only the
CPU's; `atc` makes an OM of the same file (om_kit.py). Shapes are static, LayerNorm and GELU written
out: what CANN's parser and provider take whole. fp16 is made from the fp32 file, for torch 2.0.1
has no half kernels on a CPU."""

import contextlib
import ctypes
import importlib.metadata
import inspect
import io
import os
import time
import warnings
from pathlib import Path

import numpy

from .. import backends
from ..base import machine
from ..base.errors import WHY, UserError, first_line, last_line, refusing
from ..base.shapes import INPUTS
from .runner import Runner, manifest_mismatch

TITLE = "ONNX"
PRECISIONS = {"fp32": "float", "fp16": "float16"}
CALIBRATED = ("fp16", "fp32")  # to measure the room that fp16 leaves
LOADS = "numpy"  # ONNX Runtime is imported where its trouble can be told
GRAPH = "fused"
OPSET = 14  # from 17 on LayerNorm is one operator, which the CANN provider leaves to the CPU
# The engine's name of each device, and the package; each installs the same module.
PROVIDERS = {
    "cpu": ("cpu", "onnxruntime"),
    "cuda": ("cuda", "onnxruntime-gpu"),
    "npu": ("cann", "onnxruntime-cann"),
}
# A batch of int64 is narrowed to input_dtype; onnx_file is written beside the .pt, under its name.
COMPILE = {
    "input_dtype": {"int64": "int64", "int32": "int32"},
    "onnx_file": {"false": False, "true": True},
}
OPTIONS = (
    backends.SOC,
    backends.COMPILER,
    backends.Option(
        "device_id", "number of the card", ("evaluate",), 0, minimum=0, devices=("cuda", "npu")
    ),
    backends.THREADS,
    backends.ONE_STREAM,
)


def unavailable(device):
    provider, package = _provider(device), PROVIDERS[device][1]
    found = installed()
    if len(found) > 1:
        reason = f"{' and '.join(found)} lie one over another in the module onnxruntime"
        fix = f"pip uninstall {' '.join(found)}, then pip install {package}"
        return backends.Unavailable(reason, fix, broken=True)
    if "onnxruntime-cann" in found and int(numpy.__version__.split(".")[0]) >= 2:
        reason = f"onnxruntime-cann needs numpy below 2, and numpy {numpy.__version__} is installed"
        return backends.Unavailable(reason, 'pip install "numpy<2"', broken=True)
    try:
        import onnxruntime
    except ImportError as error:
        reason = f"ONNX Runtime cannot be imported ({first_line(error)})"
        return backends.Unavailable(reason, f"pip install {package}", broken=bool(found))
    if provider not in onnxruntime.get_available_providers():
        here = " ".join(f"{name} {version}" for name, version in found.items())
        reason = f"{here or 'the onnxruntime that is installed'} has no {provider}"
        fix = f"pip uninstall {' '.join(found) or 'onnxruntime'}, then pip install {package}"
        return backends.Unavailable(reason, fix)
    if device != "cpu" and (missing := _missing_library(onnxruntime, device)):
        reason = f"{provider} cannot be loaded ({missing})"
        return backends.Unavailable(reason, FIXES[device], broken=True)
    return None


FIXES = {
    "cuda": "install the CUDA and cuDNN that this version of onnxruntime-gpu names",
    "npu": "source the CANN environment first: source "
    "/usr/local/Ascend/ascend-toolkit/set_env.sh; a file for a card elsewhere is written with "
    "--device cpu --precision fp16",
}


def installed():
    """{package: version} of those that bring the module onnxruntime."""
    found = {}
    for _, package in PROVIDERS.values():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _provider(device):
    """As ONNX Runtime calls it, such as CUDAExecutionProvider."""
    return f"{PROVIDERS[device][0].upper()}ExecutionProvider"


def _missing_library(onnxruntime, device):
    """What the system's loader says of a provider's library, None where it loads. The list of
    available providers says only what was built."""
    if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    library = f"{Path(onnxruntime.__file__).parent}/capi/libonnxruntime_providers_{{}}.so"
    try:
        ctypes.CDLL(library.format("shared"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(library.format(PROVIDERS[device][0]))
    except OSError as error:
        return first_line(error)
    return None


def candidates(device):
    return ("fp32",) if device == "cpu" else ("fp16",)


def check(target):
    message = f"--backend onnx: the package onnx cannot be imported ({WHY}); pip install onnx"
    with refusing(message, ImportError):
        import onnx  # noqa: F401


def form(precision):
    from ..albert.fused import Form

    return Form(expand_mask=True, split_qkv=True, spelled_gelu=True)


def compile(module, inputs, target, calibration=None):
    import onnx

    from ..albert import graph
    from . import onnx_checks, onnx_half

    chosen = backends.settings(target, "export")["compile"]
    program = graph.trace(module, inputs)
    model = onnx.load_from_string(export(module, inputs, chosen["input_dtype"]))
    batches = calibration()
    said = "not measured: no sentences; --calibration FILE gives some"
    if batches or target.precision == "fp16":
        room = onnx_half.measure_room(module, batches, inputs)
        said = room.text()
    if target.precision == "fp16":
        room.check()
        onnx_half.narrow(model, room.powers)
    onnx_checks.share_initialisers(model)
    onnx.helper.set_model_props(model, {"precision": target.precision})
    lines = onnx_checks.check(model, OPSET)
    data = model.SerializeToString()
    return backends.Compiled(
        program,
        graph.operators(program),
        {"onnx": onnx.__version__, **installed()},
        blobs={"model.onnx": data},
        options={"input_dtype": chosen["input_dtype"], "opset": OPSET},
        files={".onnx": data} if chosen["onnx_file"] else {},
        lines=(("onnx", lines), ("fp16 room", said)),
    )


def export(module, inputs, dtype="int64", opset=OPSET):
    """The bytes of an ONNX file of the traced `module`, by torch's TorchScript exporter."""
    import torch

    buffer = io.BytesIO()
    options = {"input_names": list(INPUTS), "output_names": ["logits"], "opset_version": opset}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # not in torch 2.0
        options["dynamo"] = False
    tensors = tuple(tensor.to(getattr(torch, dtype)) for tensor in inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecation, and of sizes that a trace makes constant
        torch.onnx.export(module, tensors, buffer, **options)
    return buffer.getvalue()


def load(artifact, target):
    if reason := unavailable(target.device):
        raise UserError(f"{artifact.path}: was compiled for onnx on {target.device}, but {reason}")
    return OnnxRunner(artifact, target)


def session(data, device, device_id=0, threads=None):
    """An InferenceSession of an ONNX file's bytes, of which no node is computed by another provider
    than the device's. Raises UserError where that cannot be had."""
    import onnxruntime

    provider, options = _provider(device), onnxruntime.SessionOptions()
    options.log_severity_level = 3
    own = {  # fp32 is fp32: by default cuda has tf32, and cann makes fp16 of it
        "cpu": {},
        "cuda": {"device_id": str(device_id), "use_tf32": "0"},
        "npu": {"device_id": str(device_id), "precision_mode": "must_keep_origin_dtype"},
    }[device]
    if device == "cpu":
        options.intra_op_num_threads = threads or physical_cores()
        # a thread that spins takes the core on which the next batch is tokenised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # what a mask takes away is a denormal after exp, of which a softmax is 60 times as slow;
        # ONNX Runtime asks the first session of a process
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    else:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = [(provider, own)]
    try:
        made = onnxruntime.InferenceSession(data, options, providers, enable_fallback=0)
    except Exception as error:  # of many kinds, which it does not publish
        if machine.lacks_memory(error):
            raise
        raise UserError(
            f"{provider} cannot take the file ({last_line(error)}); export it again with the "
            "version installed here"
        ) from None
    if made.get_providers()[0] != provider:
        used = ", ".join(made.get_providers())
        raise UserError(
            f"{provider} was asked for, but the session runs on {used}; {FIXES[device]}"
        )
    return made


def physical_cores():
    """Cores that this process may use, hyperthreads counted once."""
    try:
        cpus = os.sched_getaffinity(0)
        place = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        return len({Path(place.format(cpu)).read_text(encoding="ascii") for cpu in cpus})
    except (AttributeError, OSError):  # not Linux
        return os.cpu_count() or 1


class OnnxRunner(Runner):
    # it computes in the types that the file names
    precision_is = "as compiled"

    def __init__(self, artifact, target):
        import onnxruntime

        super().__init__(artifact, target.device)
        chosen, on_cpu = backends.settings(target, "evaluate"), target.device == "cpu"
        self._id = chosen.get("device_id", 0)
        self.precision = artifact.manifest["precision"]
        self.threads = (chosen["threads"] or physical_cores()) if on_cpu else 1
        data = artifact.blob("model.onnx")
        try:
            self._program = session(data, target.device, self._id, self.threads)
        except UserError as error:
            raise UserError(f"{artifact.path}: {error}") from None
        self.providers = self._program.get_providers()
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._where = PROVIDERS[target.device][0]
        if not on_cpu:
            self.device = f"{target.device}:{self._id}"
        self._check_file()

    def _check_file(self):
        """Raises UserError where the file takes or gives what its manifest does not say."""
        artifact, program = self._artifact, self._program
        precision = program.get_modelmeta().custom_metadata_map.get("precision")
        if precision != self.precision:
            raise manifest_mismatch(artifact, f"{self.precision}, its ONNX file {precision}")
        dtype, shape = artifact.manifest["options"].get("input_dtype"), artifact.own_shape
        wanted = [(name, f"tensor({dtype})", list(shape.inputs)) for name in INPUTS]
        wanted.append(("logits", "tensor(float)", list(artifact.logits_shape(shape))))
        ports = (*program.get_inputs(), *program.get_outputs())
        found = [(port.name, port.type, port.shape) for port in ports]
        if found != wanted:
            what = f"inputs and logits {wanted}, its ONNX file has {found}"
            raise manifest_mismatch(artifact, what)
        self._dtype = numpy.dtype(dtype)

    def _run(self, batch):
        start = time.perf_counter()
        binding = self._program.io_binding()
        # kept to the end: on a CPU the engine reads them where they are
        arrays = [array.astype(self._dtype, copy=False) for array in batch.inputs]
        for name, array in zip(INPUTS, arrays):
            binding.bind_ortvalue_input(name, self._value(array, self._where, self._id))
        binding.bind_output("logits", self._where, self._id)
        binding.synchronize_inputs()
        copied = time.perf_counter()
        self._program.run_with_iobinding(binding)
        binding.synchronize_outputs()
        done = time.perf_counter()
        logits = binding.get_outputs()[0].numpy()
        copy_out = time.perf_counter() - done
        return backends.Output(logits, copied - start, done - copied, copy_out, copied)
