"""TorchScript run by torch itself, on the CPU or on an NVIDIA GPU. The module is cast before it is traced, because the
mask's dtype is baked in by the trace (`.half()` on a traced file fails)."""

import time

import torch

from .. import UserError, graph
from . import Compiled, Output, check_shape

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def unavailable(device):
    if device == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device (torch.cuda.is_available() is False): install a CUDA build and its driver"
    return ""


def default_precision(device):
    return "fp16" if device == "cuda" else "fp32"


def form(precision):
    return graph.PLAIN


def compile(module, inputs, target, calibration=None):
    if target.precision not in DTYPES:
        raise UserError(f"--precision {target.precision} on --backend torchscript: fp32, bf16 or fp16, or --backend openvino")
    if target.precision == "fp16" and target.device == "cpu":
        raise UserError(
            "--precision fp16 on --device cpu: torch has no fp16 kernels worth using there; take fp32 or bf16, or --device cuda"
        )
    module = module.to(device=target.device, dtype=DTYPES[target.precision])
    program = graph.trace(module, tuple(tensor.to(target.device) for tensor in inputs))
    return Compiled(program, graph.operators(program), {})


def load(artifact, target):
    reason = unavailable(target.device)
    if reason:
        raise UserError(f"{artifact.path}: was compiled for {target.device}, but {reason}")
    if target.threads and target.device == "cpu":
        torch.set_num_threads(target.threads)
    return Runner(artifact, target.device)


class Runner:
    precision_is = "read back"

    def __init__(self, artifact, device):
        self._artifact, self.device = artifact, device
        self._program = artifact.program(device).eval()
        self._wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
        self.precision = _precision_of(self._program)
        self.streams = 1
        self.threads = torch.get_num_threads() if device == "cpu" else 1

    @torch.inference_mode()
    def run(self, batch):
        check_shape(batch, self._artifact)
        start = time.perf_counter()
        inputs = [tensor.to(self.device) for tensor in batch.inputs]
        self._wait()
        copied = time.perf_counter()
        logits = self._program(*inputs)
        self._wait()
        done = time.perf_counter()
        logits = logits.to("cpu")
        return Output(logits, copied - start, done - copied, time.perf_counter() - done, copied)

    def close(self):
        self._program = None


def _precision_of(program):
    """The dtype that the weights really have in the loaded program: the constants that matrix products read."""
    found = set()
    inlined = program.inlined_graph  # owns its nodes: must outlive the loop
    for node in inlined.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t" and node.t("value").dim() == 2:
            found.add(node.t("value").dtype)
    names = sorted(name for name, dtype in DTYPES.items() if dtype in found)
    return "+".join(names) or "unknown"
