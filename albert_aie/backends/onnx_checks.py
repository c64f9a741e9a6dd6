"""What can be said of an ONNX file without the card that it is for, and its form in fp16.

The tables of operators (onnx_operators.json) are those of public sources, and of no chip in
particular."""

import collections
import json
from pathlib import Path
from typing import NamedTuple

import numpy

from ..base.errors import UserError, first_line
from . import Unfit

LARGEST = 65504  # of fp16
ROOM = 1.25  # times what calibration sentences reach has to fit into that
MARGIN = 4.0  # the same of a LayerNorm's sum of squares, for which room is made
LEAST = 2.0**-24  # of fp16 above 0: an epsilon of 0 would divide 0 by 0
POSITIONS = 4096  # of the calibration's tokens, padding included: seconds, and maxima barely grow
LARGE = 1024  # bytes of an initialiser that may not stand twice
TABLES = Path(__file__).with_name("onnx_operators.json")


def check(model, opset):
    """One sentence on a ModelProto of static shapes at `opset`. Raises UserError for the first
    check that fails, with the reason."""
    import onnx

    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("", 0) != opset:
        raise UserError(f"the ONNX file is of opset {versions.get('')}, not {opset}")
    try:
        onnx.checker.check_model(model, full_check=True)
        options = {"check_type": True, "strict_mode": True, "data_prop": True}
        inferred = onnx.shape_inference.infer_shapes(model, **options)
    except Exception as error:  # of onnx's own kinds, and RuntimeError
        raise UserError(f"the ONNX file is not valid: {first_line(error)}") from None
    check_operators(model.graph, opset)
    if symbolic := symbolic_sizes(inferred.graph):
        raise UserError(f"the ONNX file has sizes that are not numbers: {', '.join(symbolic[:3])}")
    if twice := repeated(model.graph):
        raise UserError(f"the ONNX file has weights twice: {', '.join(map(str, twice[:3]))}")
    pieces, left = partition(model.graph)
    if (pieces, len(left)) != (1, 0):
        raise UserError(
            f"the CANN provider would cut the ONNX file into {pieces} pieces and leave "
            f"{len(left)} nodes to the CPU ({', '.join(sorted(set(left)))})"
        )
    kinds = {node.op_type for node in model.graph.node}
    return (
        f"opset {opset}, valid, 0 symbolic sizes, no weight twice, {model.ByteSize() / 1e6:.1f} "
        "MB; "
        f"{len(kinds)} operators, all in the tables of CANN's public ATC plugins (Aug 2026) and of "
        "its ONNX Runtime provider (1.24.4), which hold for no chip in particular; that provider "
        "would take it in 1 piece, with 0 nodes on the CPU (simulated)"
    )


def symbolic_sizes(graph):
    """Names of values, of a graph whose shapes were inferred, without a number for each size."""
    known = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    names = [value.name for value in graph.input]
    names += [name for node in graph.node for name in node.output if name]
    found = []
    for name in names:
        tensor = known[name].type.tensor_type if name in known else None
        sized = tensor is not None and tensor.HasField("shape")
        if not sized or not all(size.HasField("dim_value") for size in tensor.shape.dim):
            found.append(name)
    return found


def repeated(graph):
    """Pairs of names of large initialisers of one shape with the same bytes. (The last layer reads
    K and V by heads, [N, D, H], the others as [H, H].)"""
    seen, found = {}, []
    for tensor in graph.initializer:
        if len(tensor.raw_data) >= LARGE:
            first = seen.setdefault((tuple(tensor.dims), tensor.raw_data), tensor.name)
            found += [(first, tensor.name)] if first != tensor.name else []
    return found


def check_operators(graph, opset):
    """Raises UserError for an operator that one of the tables does not have at this opset."""
    tables = json.loads(TABLES.read_text(encoding="utf-8"))
    atc = {
        name
        for ranges, names in tables["atc"]["operators"].items()
        for name in names.split()
        if any(int(r.split("-")[0]) <= opset <= int(r.split("-")[-1]) for r in ranges.split(","))
    }
    for title, known in ("ATC plugins", atc), ("CANN provider", provider_operators()):
        for node in graph.node:
            if node.domain not in ("", "ai.onnx") or node.op_type not in known:
                name = f"{node.domain}::{node.op_type}".lstrip(":")
                raise UserError(f"operator {name} at opset {opset} is not in the table of {title}")


def provider_operators():
    """Names that the CANN provider of ONNX Runtime takes."""
    tables = json.loads(TABLES.read_text(encoding="utf-8"))
    return set(tables["cann_provider"]["operators"].split())


def partition(graph):
    """(pieces into which the CANN provider cuts a graph, operators of the nodes that it leaves to
    the CPU): it takes runs of nodes, in the file's order, that it knows and that have an input
    which is no constant."""
    known, constants = provider_operators(), {tensor.name for tensor in graph.initializer}
    pieces, left, inside = 0, [], False
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
            continue
        takes = node.op_type in known and not constants.issuperset(node.input)
        pieces += takes and not inside
        inside = takes
        if not takes:
            left.append(node.op_type)
    return pieces, left


def share_initialisers(model):
    """Let every use of a large weight read the one that stands first, and no copying node."""
    graph = model.graph
    names = {second: first for first, second in repeated(graph)}
    weights = {tensor.name for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        if node.op_type == "Identity" and node.input[0] in weights:
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace(graph.node, kept)
    _replace(graph.initializer, [t for t in graph.initializer if t.name not in names])


def _replace(field, values):
    values = list(values)
    del field[:]
    field.extend(values)


class Largest(NamedTuple):
    """The largest of what one kind of operation took or gave in the calibration, and where."""

    kind: str
    value: float
    place: str


class Room(NamedTuple):
    """What fp16 has to hold. `powers`: of each LayerNorm, in the graph's order, k where its
    deviations are divided by 2**k before they are squared."""

    largest: list
    powers: list
    sentences: int

    def check(self):
        """Raises Unfit where fp16 would overflow, though LayerNorms are scaled."""
        for kind, value, place in self.largest:
            if kind != VARIANCE and not value * ROOM <= LARGEST:
                raise Unfit(
                    f"fp16 leaves no room for the {kind} of {place}, which reaches {value:,.0f} of "
                    f"{LARGEST:,} on {self.text_of_source()}; take --precision fp32"
                )

    def text_of_source(self):
        return f"{self.sentences} calibration sentences" if self.sentences else "random tokens"

    def text(self):
        """For the line that is printed."""
        said = ", ".join(f"{kind} {value:,.0f} ({place})" for kind, value, place in self.largest)
        most = max(value for _, value, _ in self.largest)
        scaled = sum(power > 0 for power in self.powers)
        return (
            f"on {self.text_of_source()}: {said}; the largest is {most / LARGEST:.0%} of "
            f"{LARGEST:,}; an fp16 file divides by 2 to {2 ** max(self.powers)} before squaring "
            f"in {scaled} of {len(self.powers)} LayerNorms"
        )


VARIANCE = "LayerNorm variance"


def measure_room(module, batches, inputs):
    """Room of a torch module in fp32, on the first Batches, of POSITIONS in all, or, where there
    are none, on `inputs`."""
    import torch

    batches = batches[: max(1, POSITIONS // inputs[0].numel())]
    runs = [tuple(map(torch.from_numpy, batch.inputs)) for batch in batches]
    count = sum(len(batch.sentences) for batch in batches)
    watch = _watch()
    with torch.inference_mode(), watch:
        for run in runs or [inputs]:
            watch.norms = 0
            module(*run)
    powers = []
    for number in range(watch.norms):
        total, power = watch.sums[number], 0
        while total * MARGIN > LARGEST * 4**power and power < 16:
            power += 1
        powers.append(power)
    kinds = {}
    for (kind, place), value in watch.largest.items():
        if kind not in kinds or not value <= kinds[kind].value:  # NaN is the largest
            kinds[kind] = Largest(kind, value, place)
    order = (VARIANCE, "attention score", "GELU input", "LayerNorm input", "product")
    return Room([kinds[kind] for kind in order if kind in kinds], powers, count)


def _watch():
    import torch
    import torch.nn.functional as F
    from torch.overrides import TorchFunctionMode

    from ..albert.fused import MASKED

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
            layer = (self.norms + 1) // 2
            place = f"layer {layer}" if layer else "the embeddings"
            value = tensor.abs().max().item()
            known = self.largest.get((kind, place), 0.0)
            self.largest[kind, place] = known if value <= known else value

    return Watch()


def narrow(model, powers):
    """Make an fp32 ModelProto one of fp16 whose logits stay fp32. LayerNorms are scaled by
    `powers`. Raises Unfit for a weight that fp16 cannot hold."""
    import onnx

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
        for i, name in enumerate(node.output):
            node.output[i] = "logits_fp16" if name == "logits" else name
    cast = onnx.helper.make_node("Cast", ["logits_fp16"], ["logits"], to=onnx.TensorProto.FLOAT)
    model.graph.node.append(cast)
    del model.graph.value_info[:]


def _halve(tensor):
    import onnx

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
    import onnx

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
    _replace(graph.node, [n for n in nodes if n.op_type != "Constant" or n.output[0] in read])


def _constant(graph, name, value):
    """The name of a new float32 initialiser."""
    import onnx

    graph.initializer.append(onnx.numpy_helper.from_array(numpy.float32(value), name))
    return name
