"""Static ONNX files of several lengths as one whose length is free, for the gears of `atc
--dynamic_dims`: a gear is one of these lengths."""

import numpy
import onnx

from ..base.errors import UserError
from .onnx_checks import check, replace

LENGTH = "length"  # of the input, in the file


def merge(files, inputs, opset):
    """The bytes of one ONNX file for those in `files`, {length: bytes}, of one batch size and one
    row a sentence. At each length it passes the checks of a static file; an fp16 file scales its
    LayerNorms as the longest does. Raises UserError where they differ in more than their length."""
    models = [onnx.load_from_string(files[length]) for length in sorted(files)]
    model = models[-1]
    _free_constants([model.graph for model in models])
    _cut_initialisers([model.graph for model in models], inputs[0])
    for port in model.graph.input:
        port.type.tensor_type.shape.dim[1].dim_param = LENGTH
    del model.graph.value_info[:]
    for length in files:
        try:
            check(_at(model, length), opset)
        except UserError as error:
            raise UserError(f"no one ONNX file for several lengths, at {length}: {error}") from None
    return model.SerializeToString()


def _at(model, length):
    """A copy of a merged model at one length, which stands there as a number."""
    gear = onnx.ModelProto.FromString(model.SerializeToString())
    for port in gear.graph.input:
        port.type.tensor_type.shape.dim[1].dim_value = length
    number = onnx.numpy_helper.from_array(numpy.array([length]))
    for node in gear.graph.node:
        if node.output[0] == LENGTH:
            node.CopyFrom(onnx.helper.make_node("Constant", [], [LENGTH], value=number))
    return gear


def _free_constants(graphs):
    """In the last graph, -1 for the one size of a Reshape that is another in another graph."""
    found = [
        {
            node.output[0]: node.attribute[0].t
            for node in graph.node
            if node.op_type == "Constant" and node.attribute[0].t.data_type == 7  # INT64
        }
        for graph in graphs
    ]
    for name, tensor in found[-1].items():
        values = [onnx.numpy_helper.to_array(one[name]) for one in found if name in one]
        sizes = values[-1].copy()
        for other in values:
            if other.shape == sizes.shape:
                sizes[values[-1] != other] = -1
        tensor.CopyFrom(onnx.numpy_helper.from_array(sizes, tensor.name))


def _cut_initialisers(graphs, first_input):
    """In the last graph, what a shorter one holds the beginning of is cut to the input's length."""
    shorter = {tensor.name: list(tensor.dims) for tensor in graphs[0].initializer}
    graph, make = graphs[-1], onnx.helper.make_node
    numbers, cut = {"second": 1}, {}  # constants; {name: its new name}
    nodes = [make("Shape", [first_input], ["sizes"]), make("Gather", ["sizes", "second"], [LENGTH])]
    for tensor in graph.initializer:
        name, dims = tensor.name, shorter.get(tensor.name, [])
        axes = [axis for axis, pair in enumerate(zip(dims, tensor.dims)) if pair[0] != pair[1]]
        if axes:
            cut[name] = f"{name}_cut"
            numbers.update({f"{name}_from": 0, f"{name}_axis": axes[0]})
            given = [name, f"{name}_from", LENGTH, f"{name}_axis"]
            nodes.append(make("Slice", given, [cut[name]]))
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = cut.get(name, name)
    constants = [
        make("Constant", [], [name], value=onnx.numpy_helper.from_array(numpy.array([n]), name))
        for name, n in numbers.items()
    ]
    replace(graph.node, [*constants, *nodes, *graph.node])
