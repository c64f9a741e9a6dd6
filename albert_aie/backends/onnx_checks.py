"""What can be said of an ONNX file without the card that it is for. The tables of operators
(onnx_operators.json) are those of public sources, and of no chip in particular."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy
import onnx

from ..base.errors import UserError, first_line

LARGE = 1024  # bytes of an initialiser that may not stand twice
# Of constants alone, ONNX Runtime computes them once, before it asks a provider what it takes.
FOLDED = {"Reshape", "Slice", "Transpose"}
TABLES = json.loads(Path(__file__).with_name("onnx_operators.json").read_text(encoding="utf-8"))
PROVIDER = set(TABLES["cann_provider"]["operators"].split())


def check(model, opset):
    """One sentence on a ModelProto of static shapes at `opset`. Raises UserError for a fault."""
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
    shapes = {
        value.name: value.type.tensor_type.shape
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    sized = {n for n, s in shapes.items() if all(size.HasField("dim_value") for size in s.dim)}
    outputs = [name for node in graph.node for name in node.output if name]
    return [name for name in (*(port.name for port in graph.input), *outputs) if name not in sized]


class Repeated(NamedTuple):
    """Two initialisers of the same numbers: `first` with its axes in the order `axes`, read row by
    row, is `second` with its own in the order `own_axes`."""

    first: str
    axes: tuple
    second: str
    own_axes: tuple
    own_dims: tuple


def repeated(graph):
    """List of Repeated: large initialisers that stand before, transposed and reshaped or not."""
    seen, found = {}, []
    for tensor in graph.initializer:
        if len(tensor.raw_data) < LARGE:
            continue
        values, views = onnx.numpy_helper.to_array(tensor), {}
        for axes in itertools.permutations(range(values.ndim)):
            data = numpy.ascontiguousarray(values.transpose(axes))
            views.setdefault((tensor.data_type, hashlib.sha256(data).digest()), axes)
        same = next((view for view in views if view in seen), None)
        if same:
            found.append(Repeated(*seen[same], tensor.name, views[same], values.shape))
        else:
            seen.update({view: (tensor.name, axes) for view, axes in views.items()})
    return found


def check_operators(graph, opset):
    """Raises UserError for an operator that one of the tables does not have at this opset."""
    atc = {
        name
        for ranges, names in TABLES["atc"]["operators"].items()
        for name in names.split()
        if any(int(r.split("-")[0]) <= opset <= int(r.split("-")[-1]) for r in ranges.split(","))
    }
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
    """Let every use of a large weight read the one that stands first, through nodes that ONNX
    Runtime folds where it has other axes there, and no copying node."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    names, made, kept = {}, [], []
    for one in repeated(graph):
        nodes = _rearranged(one, weights[one.first].dims)
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
    wanted = [one.own_dims[axis] for axis in one.own_axes]
    make, shape, nodes = onnx.helper.make_node, f"{one.second}_shape", []
    steps = []  # inputs beside the weight, attributes
    if list(one.axes) != sorted(one.axes):
        steps.append(("Transpose", [], {"perm": one.axes}))
    if [dims[axis] for axis in one.axes] != wanted:
        value = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [len(wanted)], wanted)
        nodes.append(make("Constant", [], [shape], value=value))
        steps.append(("Reshape", [shape], {}))
    if list(one.own_axes) != sorted(one.own_axes):
        steps.append(("Transpose", [], {"perm": numpy.argsort(one.own_axes).tolist()}))
    names = [one.first, *(f"{one.second}_{i}" for i in range(1, len(steps))), one.second]
    for i, (kind, more, attributes) in enumerate(steps):
        nodes.append(make(kind, [names[i], *more], [names[i + 1]], **attributes))
    return nodes


def replace(field, values):
    """Let a repeated field of a protobuf hold these values."""
    values = list(values)
    del field[:]
    field.extend(values)
