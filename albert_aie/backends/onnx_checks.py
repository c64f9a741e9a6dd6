"""What can be said of an ONNX file without the card that it is for. The tables of operators
(onnx_operators.json) are those of public sources, and of no chip in particular."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy
import onnx

from ..base.errors import WHY, UserError, refusing

LARGE = 1024  # bytes of an initialiser that may not stand twice
# Of constants alone, ONNX Runtime computes them once, before it asks a provider what it takes.
FOLDED = {"Reshape", "Slice", "Transpose"}
TABLES = json.loads(Path(__file__).with_name("onnx_operators.json").read_text(encoding="utf-8"))
PROVIDER = set(TABLES["cann_provider"]["operators"].split())


def check(model, opset):
    """One sentence on a ModelProto of static shapes at `opset`. Raises UserError for a fault."""
    version = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if version != opset:
        raise UserError(f"the ONNX file is of opset {version}, not {opset}")
    with refusing(f"the ONNX file is not valid: {WHY}"):  # of onnx's own kinds, and RuntimeError
        onnx.checker.check_model(model, full_check=True)
        options = {"check_type": True, "strict_mode": True, "data_prop": True}
        inferred = onnx.shape_inference.infer_shapes(model, **options)
    check_operators(model.graph, opset)
    if symbolic := symbolic_sizes(inferred.graph):
        raise UserError(f"the ONNX file has sizes that are not numbers: {', '.join(symbolic[:3])}")
    if twice := repeated(model.graph):
        names = ", ".join(f"{one.first} as {one.second}" for one in twice[:3])
        raise UserError(f"the ONNX file has weights twice: {names}")
    pieces, left = partition(model.graph)
    if (pieces, len(left)) != (1, 0):
        raise UserError(
            f"the CANN provider would cut the ONNX file into {pieces} pieces and leave "
            f"{len(left)} nodes to the CPU ({', '.join(sorted(set(left)))})"
        )
    kinds = {node.op_type for node in model.graph.node}
    return (
        f"opset {opset}, {model.ByteSize() / 1e6:.1f} MB, valid, 0 symbolic sizes, no weight "
        f"twice; {len(kinds)} operators, all in the tables of CANN's public ATC plugins (Aug 2026) "
        "and of its ONNX Runtime provider (1.24.4), which hold for no chip in particular; that "
        "provider would take it in 1 piece, with 0 nodes on the CPU (simulated)"
    )


def symbolic_sizes(graph):
    """Names of values, of a graph whose shapes were inferred, without a number for each size."""
    sized = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
        and all(size.HasField("dim_value") for size in value.type.tensor_type.shape.dim)
    }
    names = [port.name for port in graph.input]
    names += [name for node in graph.node for name in node.output if name]
    return [name for name in names if name not in sized]


class Repeated(NamedTuple):
    """Two initialisers of the same numbers: those of `first`, read row by row, are those of
    `second` with its axes in the order `axes`."""

    first: str
    second: str
    axes: tuple
    dims: tuple  # of the second


def repeated(graph):
    """List of Repeated: large initialisers of the numbers of another with as few axes or fewer."""
    seen, found = {}, []
    for tensor in sorted(graph.initializer, key=lambda tensor: len(tensor.dims)):
        if len(tensor.raw_data) < LARGE:
            continue
        values, views = onnx.numpy_helper.to_array(tensor), {}
        for axes in itertools.permutations(range(values.ndim)):
            data = numpy.ascontiguousarray(values.transpose(axes))
            views.setdefault((tensor.data_type, hashlib.sha256(data).digest()), axes)
        same = next((view for view in views if view in seen), None)
        if same:
            found.append(Repeated(seen[same], tensor.name, views[same], values.shape))
        else:
            seen[next(iter(views))] = tensor.name  # its axes in their own order
    return found


def check_operators(graph, opset):
    """Raises UserError for an operator that one of the tables does not have at this opset."""
    atc = set()
    for ranges, names in TABLES["atc"]["operators"].items():
        for each in ranges.split(","):  # "8" or "8-16"
            first, _, last = each.partition("-")
            if int(first) <= opset <= int(last or first):
                atc.update(names.split())
    for title, known in ("ATC plugins", atc), ("CANN provider", PROVIDER):
        for node in graph.node:
            if node.domain not in ("", "ai.onnx") or node.op_type not in known:
                name = f"{node.domain}::{node.op_type}".lstrip(":")
                raise UserError(f"operator {name} at opset {opset} is not in the table of {title}")


def partition(graph):
    """(pieces into which the CANN provider cuts a graph, operators of the nodes that it leaves to
    the CPU): it takes runs of nodes, in the file's order, that it knows and that have an input
    which is no constant."""
    constants = {tensor.name for tensor in graph.initializer}
    pieces, left, inside = 0, [], False
    for node in graph.node:
        constant = constants.issuperset(node.input)
        if node.op_type == "Constant" or (constant and node.op_type in FOLDED):
            constants.update(node.output)
            continue
        takes = node.op_type in PROVIDER and not constant
        pieces += takes and not inside
        inside = takes
        if not takes:
            left.append(node.op_type)
    return pieces, left


def share_initialisers(model):
    """Let every use of a large weight read the one of the fewest axes, through nodes that ONNX
    Runtime folds where it has other axes there, and no copying node."""
    graph = model.graph
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    names, made, kept = {}, [], []
    for one in repeated(graph):
        nodes = _rearranged(one, weights[one.first])
        names[one.second] = one.second if nodes else one.first
        made += nodes
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        if node.op_type == "Identity" and node.input[0] in weights:
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    replace(graph.initializer, [t for t in graph.initializer if t.name not in names])
    replace(graph.node, made + kept)


def _rearranged(one, dims):
    """Nodes that make the second of a Repeated of the first, of these dims; none where it is it."""
    make, nodes, name = onnx.helper.make_node, [], one.first
    wanted = [one.dims[axis] for axis in one.axes]
    is_turned = list(one.axes) != sorted(one.axes)
    if dims != wanted:
        shape, name = f"{one.second}_shape", f"{one.second}_1" if is_turned else one.second
        value = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [len(wanted)], wanted)
        nodes.append(make("Constant", [], [shape], value=value))
        nodes.append(make("Reshape", [one.first, shape], [name]))
    if is_turned:
        perm = numpy.argsort(one.axes).tolist()
        nodes.append(make("Transpose", [name], [one.second], perm=perm))
    return nodes


def replace(field, values):
    """Let a repeated field of a protobuf hold the values of a list."""
    del field[:]
    field.extend(values)
