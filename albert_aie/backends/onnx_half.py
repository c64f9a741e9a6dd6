"""An ONNX file in fp16: its room for what the module computes, and the fp32 file made narrow."""

import collections
import math
from typing import NamedTuple

import numpy
import onnx
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..albert.fused import MASKED, FusedAlbert
from . import Unfit
from .onnx_checks import replace

LARGEST = 65504  # of fp16
ROOM = 1.25  # times what calibration sentences reach has to fit into that
MARGIN = 4.0  # the same of a LayerNorm's sum of squares, for which room is made
LEAST = 2.0**-24  # of fp16 above 0: an epsilon of 0 would divide 0 by 0
ROWS = 8  # of a call that measures
VARIANCE = "LayerNorm variance"  # of its squares


class Room(NamedTuple):
    """What fp16 has to hold. `largest`: {kind of operation: (the largest of what it took or gave in
    the calibration, where)}. `powers`: of each LayerNorm, in the graph's order, k where its
    deviations are divided by 2**k before they are squared. `source`: what it was measured on."""

    largest: dict
    powers: list
    source: str

    def check(self):
        """Raises Unfit where fp16 would overflow, though LayerNorms are scaled."""
        for kind, (value, place) in self.largest.items():
            if kind != VARIANCE and not value * ROOM <= LARGEST:
                raise Unfit(
                    f"fp16 leaves no room for the {kind} of {place}, which reaches {value:,.0f} of "
                    f"{LARGEST:,} on {self.source}; take --precision fp32"
                )

    def text(self):
        """For the line that is printed."""
        said = [f"{kind} {value:,.0f} ({place})" for kind, (value, place) in self.largest.items()]
        most = max(value for value, _ in self.largest.values())
        scaled = sum(power > 0 for power in self.powers)
        return (
            f"on {self.source}: {', '.join(said)}; the largest is {most / LARGEST:.0%} "
            f"of {LARGEST:,}; an fp16 file divides by 2 to {2 ** max(self.powers)} before squaring "
            f"in {scaled} of {len(self.powers)} LayerNorms"
        )


def measure_room(module, batches, inputs):
    """Room of a torch module in fp32 on Batches, or, where there are none, on `inputs`."""
    watch, count = Watch(), sum(len(batch.sentences) for batch in batches)
    plain = isinstance(module, FusedAlbert) and not module.shape.slots
    with torch.inference_mode(), watch:
        for arrays in _runs(batches, plain) if batches else [inputs]:
            watch.norms = 0
            module(*map(torch.as_tensor, arrays))
    order = (VARIANCE, "attention score", "GELU input", "LayerNorm input", "product")
    largest = {kind: watch.largest[kind] for kind in order if kind in watch.largest}
    source = f"{count} calibration sentences" if count else "random tokens"
    return Room(largest, [_power(total) for total in watch.sums.values()], source)


def _power(total):
    """The least k of 0 to 16 where a sum of squares, divided by 4**k, has MARGIN."""
    power = 0
    while total * MARGIN > LARGEST * 4**power and power < 16:
        power += 1
    return power


def _runs(batches, free):
    """Inputs of each call: where rows may be shorter, of sentences of about one length, after a few
    with all their padding, for what overflows there is multiplied by 0."""
    if not free:
        yield from (batch.inputs for batch in batches)
        return
    arrays = [numpy.concatenate(parts) for parts in zip(*(batch.inputs for batch in batches))]
    yield [array[:ROWS] for array in arrays]
    lengths = arrays[1].sum(1)
    order = numpy.argsort(lengths)
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        yield [array[rows, : lengths[rows].max()] for array in arrays]


class Watch(TorchFunctionMode):
    """Sees what the module calls; the LayerNorms that it has met tell the layer."""

    def __init__(self):
        super().__init__()
        self.norms, self.largest, self.sums = 0, {}, collections.defaultdict(float)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        x = args[0] if args else None
        if function is F.layer_norm:
            squares = (x - x.mean(-1, keepdim=True)).square()
            self.sums[self.norms] = max(self.sums[self.norms], squares.sum(-1).max().item())
            self._note(VARIANCE, squares)
            self._note("LayerNorm input", x)
            self.norms += 1
        elif function in (torch.softmax, F.softmax):
            self._note("attention score", torch.where(x > MASKED / 2, x, torch.zeros_like(x)))
        elif function in (F.gelu, F.relu, torch.pow):
            self._note("GELU input", x)
        elif function in (F.linear, torch.matmul):
            self._note("product", result)
        return result

    def _note(self, kind, tensor):
        value, layer = tensor.abs().max().item(), (self.norms + 1) // 2
        known, _ = self.largest.get(kind, (-1.0, ""))
        if not (value <= known or math.isnan(known)):  # NaN is the largest
            self.largest[kind] = value, f"layer {layer}" if layer else "the embeddings"


def narrow(model, powers):
    """Make an fp32 ModelProto one of fp16 whose logits stay fp32. LayerNorms are scaled by
    `powers`. Raises Unfit for a weight that fp16 cannot hold."""
    scale_norms(model.graph, powers)
    half = onnx.TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        _halve(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _halve(attribute.t)
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = half
        if "logits" in node.output:
            node.output[:] = ["logits_fp16"]
    cast = onnx.helper.make_node("Cast", ["logits_fp16"], ["logits"], to=onnx.TensorProto.FLOAT)
    model.graph.node.append(cast)
    del model.graph.value_info[:]


def _halve(tensor):
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return
    values = onnx.numpy_helper.to_array(tensor)
    with numpy.errstate(over="ignore"):
        narrowed = values.astype(numpy.float16)
    if not numpy.isfinite(narrowed).all():
        raise Unfit(f"fp16 cannot hold the weight {tensor.name}; take --precision fp32")
    tensor.CopyFrom(onnx.numpy_helper.from_array(narrowed, tensor.name))


def scale_norms(graph, powers):
    """Divide the deviations of the i-th LayerNorm by 2**powers[i], and its epsilon by the square:
    the same quotient, of smaller squares."""
    nodes = list(graph.node)
    by_output = {name: node for node in nodes for name in node.output}
    roots = [node for node in nodes if node.op_type == "Sqrt"]
    if len(roots) != len(powers):
        raise ValueError(f"{len(roots)} LayerNorms in the ONNX file, {len(powers)} in the module")
    for number, (root, power) in enumerate(zip(roots, powers)):
        total = by_output[root.input[0]]  # mean of squares + epsilon
        epsilon = float(onnx.numpy_helper.to_array(by_output[total.input[1]].attribute[0].t))
        total.input[1] = _constant(graph, f"epsilon_{number}", max(epsilon / 4**power, LEAST))
        if not power:
            continue
        squares = by_output[by_output[total.input[0]].input[0]]
        deviations, scaled = squares.input[0], f"scaled_{number}"
        for node in nodes:
            if node is squares or (node.op_type == "Div" and node.input[0] == deviations):
                node.input[0] = scaled
        factor = _constant(graph, f"factor_{number}", 2.0**-power)
        multiply = onnx.helper.make_node("Mul", [deviations, factor], [scaled])
        nodes.insert(nodes.index(by_output[deviations]) + 1, multiply)
    read = {name for node in nodes for name in node.input}
    replace(graph.node, [n for n in nodes if n.op_type != "Constant" or n.output[0] in read])


def _constant(graph, name, value):
    """The name of a new float32 initialiser."""
    graph.initializer.append(onnx.numpy_helper.from_array(numpy.float32(value), name))
    return name
