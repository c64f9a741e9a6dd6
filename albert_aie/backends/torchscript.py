"""TorchScript run by torch itself, on the CPU or on an NVIDIA GPU. The module is cast before it is
traced, because the mask's dtype is baked in by the trace (`.half()` on a traced file fails)."""

import io
import time

from ..base import machine
from ..base.choose_shapes import CALL, Grid
from ..base.errors import UserError, last_line, need
from ..base.machine import lacks_memory
from . import ONE_STREAM, THREADS, Compiled, Output, Unavailable, settings
from .runner import Runner, manifest_mismatch

TITLE = "TorchScript"
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LOADS = "torch"
GRAPH = "fused"
CALIBRATED = ()
BLOBS = ()  # a program has one precision
OPTIONS = (THREADS, ONE_STREAM)


def unavailable(device):
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return Unavailable("torch finds no CUDA device", "install a CUDA build and its driver")
    return None


def candidates(device):
    if device == "cuda":
        return "fp16", "fp32"
    has_bf16 = {"avx512_bf16", "amx_bf16", "bf16"} & set(machine.isa())
    return ("bf16", "fp32") if has_bf16 else ("fp32",)


def check(target):
    if target.precision == "fp16" and target.device == "cpu":
        raise UserError(
            "--precision fp16 on --device cpu: torch has no fp16 kernels worth using there; take "
            "fp32 or bf16, or --device cuda"
        )


def form(precision):
    from ..albert.fused import Form

    return Form(free_sizes=True)


def grid(precision):
    return Grid(2, compiles=False)


def compile(module, inputs, target, calibration=None):
    import torch

    from ..albert import graph

    module = module.to(device=target.device, dtype=getattr(torch, PRECISIONS[target.precision]))
    inputs = tuple(tensor.to(target.device) for tensor in inputs)
    program = graph.trace(module, inputs, *(("rows",) if module.free_sizes else ()))
    return Compiled(program, graph.operators(program), {})


def forward(compiled, floating, device, batch):
    import torch

    from ..base.terminal import torchscript_warnings_off

    buffer = io.BytesIO()  # by way of a file, because the program is prepared for the machine
    with torchscript_warnings_off():
        torch.jit.save(compiled.program, buffer)
        buffer.seek(0)
        program = torch.jit.load(buffer, map_location=device)
    prepare(program, device, floating)
    inputs = [torch.from_numpy(array).to(device) for array in batch.inputs]
    answer = program if batch.slots is None else program.rows

    def run():
        with torch.inference_mode():
            answer(*inputs).to("cpu")

    return run


def load(artifact, target):
    need(f"{artifact.path}: was compiled for torchscript, which", "torch")
    if reason := unavailable(target.device):
        raise UserError(f"{artifact.path}: was compiled for {target.device}, but {reason}")
    if threads := settings(target, "evaluate").get("threads"):
        import torch

        torch.set_num_threads(threads)
    return TorchRunner(artifact, target.device)


class TorchRunner(Runner):
    def __init__(self, artifact, device):
        import torch

        super().__init__(artifact, device)
        self._torch = torch
        self._program = artifact.program(device).eval()
        self._wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
        self.precision, wanted = _precision_of(self._program), artifact.manifest["precision"]
        if self.precision != wanted:
            what = f"{wanted}, but the engine computes in {self.precision}"
            raise manifest_mismatch(artifact, what)
        self.grid = grid(self.precision) if artifact.has_free_sizes else None
        prepare(self._program, device, self.precision)
        self.threads = torch.get_num_threads() if device == "cpu" else 1

    def _run(self, batch):
        inputs = [self._torch.from_numpy(array) for array in batch.inputs]
        with self._torch.inference_mode():
            start = time.perf_counter()
            inputs = [tensor.to(self.device) for tensor in inputs]
            self._wait()
            copied = time.perf_counter()
            logits = self._answer(inputs, batch.shape)
            self._wait()
            done = time.perf_counter()
            logits = logits.to("cpu").numpy()
        return Output(logits, copied - start, done - copied, time.perf_counter() - done, copied)

    def _answer(self, inputs, shape):
        try:
            return (self._program.rows if shape.slots else self._program)(*inputs)
        except RuntimeError as error:  # of any kind: torch has no other
            if lacks_memory(error):
                raise
            refused = f"{shape}, which its program refuses ({last_line(error)})"
            raise manifest_mismatch(self._artifact, refused) from None


LINEAR = """
graph(%x, %weight, %bias):
  %y = aten::linear(%x, %weight, %bias)
  return (%y)"""
PACKED_LINEAR = """
graph(%x, %weight, %bias):
  %none : str = prim::Constant[value="none"]()
  %algorithm : str = prim::Constant[value=""]()
  %scalars : Scalar?[] = prim::ListConstruct()
  %y = mkldnn::_linear_pointwise(%x, %weight, %bias, %none, %scalars, %algorithm)
  return (%y)"""


def prepare(program, device, precision):
    """Give every weight the layout that oneDNN's kernels read (for products of CALL rows), once, in
    memory alone: the file keeps the plain one. torch's own linear calls MKL in fp32, and packs anew
    at each call in bf16. torch 2.0.1 lacks the operators and goes on as before."""
    import torch

    if device == "cpu":  # of torch 2.0.1: it takes 0.3 s a shape, and its kernels win nothing
        torch.jit.set_fusion_strategy([("STATIC", 0)])
    mkldnn = torch.ops.mkldnn
    if device != "cpu" or not hasattr(mkldnn, "_reorder_linear_weight"):
        return
    if not {*precision.split("+")} <= {"fp32", "bf16"}:  # it has no kernels for others
        return
    if "bf16" in precision and not mkldnn._is_mkldnn_bf16_supported():  # needs AVX-512
        return
    packed = {}  # the layers share their weights, and so do both methods
    for graph in [program.graph, *([program.rows.graph] if hasattr(program, "rows") else [])]:
        torch._C._jit_pass_custom_pattern_based_rewrite_graph(LINEAR, PACKED_LINEAR, graph)
        for node in graph.findAllNodes("mkldnn::_linear_pointwise"):
            constant = node.inputsAt(1).node()
            weight = constant.t("value")
            if not weight.is_mkldnn:
                key = weight.data_ptr(), weight.shape  # a part of a weight is another one
                if key not in packed:
                    packed[key] = weight, mkldnn._reorder_linear_weight(weight, CALL)
                constant.t_("value", packed[key][1])


def _precision_of(program):
    """The dtype that the weights, its constants of two axes, really have in the loaded program."""
    inlined = program.inlined_graph  # owns its nodes: must outlive the loop
    nodes = inlined.findAllNodes("prim::Constant")
    values = [n.t("value") for n in nodes if n.hasAttribute("value") and n.kindOf("value") == "t"]
    dtypes = {str(value.dtype) for value in values if value.dim() == 2}
    names = sorted(name for name, dtype in PRECISIONS.items() if f"torch.{dtype}" in dtypes)
    return "+".join(names) or "unknown"
