"""OpenVINO's IR of a model: how its weights are held, and its bytes."""

import tempfile
from pathlib import Path

import numpy
import openvino

from ...base.errors import WHY, last_line, refusing

try:
    from openvino import op, opset13, passes
except ImportError:  # until 2024.6
    from openvino.runtime import op, opset13, passes

PLACES = ("positions", "select", "mask", "last_mask")  # as graph.rows_and_places has them


def name_places(model):
    """The model of graph.Rows with its logits alone; the nodes of the other outputs are named, so
    that `specialised` finds them in the IR."""
    logits, *places = model.get_results()
    for result, name in zip(places, PLACES):
        result.input_value(0).get_node().set_friendly_name(name)
    return openvino.Model([logits], model.get_parameters())


def read(xml, weights):
    """The openvino.Model of the bytes of an IR."""
    tensor = openvino.Tensor(numpy.frombuffer(weights, dtype=numpy.uint8))
    return openvino.Core().read_model(xml, tensor)


def specialised(model, shape):
    """A copy of the model for one Shape: int64 [rows, length] three times -> float32
    [rows, slots, class]. Where each row carries one sentence, of one slot, its places are
    constants, and what they would be computed from falls away. Raises RuntimeError for others."""
    model = model.clone()
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    if not shape.slots and "select" in nodes:  # not so where sizes are fixed
        places = {name: nodes[name].output(0) for name in PLACES if name in nodes}
        numbers = numpy.arange(shape.max_seq_length)[None]
        first = numpy.repeat(numbers[None] == 0, shape.batch_size, 0)  # other nodes take its sizes
        _replace(places["positions"], _constant(numbers, places["positions"]))
        _replace(places["select"], _constant(first, places["select"]))
        if "mask" in places:  # a single layer has the last mask alone
            _replace(places["mask"], places["last_mask"])
    model.reshape({port: list(shape.inputs) for port in model.inputs})
    return model


def _constant(value, like):
    """A constant of the type of an output."""
    return opset13.constant(value.astype(like.get_element_type().to_dtype())).output(0)


def _replace(output, other):
    for target in output.get_target_inputs():
        target.replace_source_output(other)


def narrow(model):
    """Hold the weights of the matrix products, which is all but the embeddings, in the bf16 that
    the engine computes them in, rounded as it does: the logits stay the same, to the bit."""
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    weights = [product.input_value(1).get_node() for product in products]
    for weight in {weight.get_friendly_name(): weight for weight in weights}.values():
        if weight.get_type_name() != "Constant" or not weight.get_element_type().is_real():
            continue
        narrow = openvino.Tensor(openvino.Type.bf16, weight.get_output_shape(0))
        # to nearest even, as bits
        bits = numpy.ascontiguousarray(weight.get_data()).view(numpy.uint32)
        narrow.data.view(numpy.uint16)[:] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        wide = opset13.convert(op.Constant(narrow), "f32")
        _replace(weight.output(0), wide.output(0))


def widen(model):
    """The weights of a bf16 file in fp32 once, for all shapes: compiling takes them so, and would
    else widen them for each anew. (Of an int8 file it would undo the quantisation.)"""
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)


def branches(models):
    """One model of several that take int64 [rows, length] each and differ in the length alone,
    which ascends; of one itself. It asks for the length and runs the one that is for it: the engine
    holds once what is alike in them, such as the weights for its kernels. Consumes the models."""
    return models[0] if len(models) == 1 else _choice(models)


def _choice(models):
    """The same with a free length, of one too: a tree of choices between two."""
    if len(models) == 1:
        return _freed(models[0])
    half = len(models) // 2
    longest = numpy.int64(models[half - 1].input(0).shape[1])  # on the left
    left, right = _choice(models[:half]), _choice(models[half:])
    inputs = [_like(port, port.get_partial_shape()) for port in left.inputs]
    length = opset13.gather(opset13.shape_of(inputs[0]), numpy.int64(1), numpy.int64(0))
    choice = opset13.if_op(opset13.less_equal(length, longest).output(0))
    choice.set_then_body(left)
    choice.set_else_body(right)
    for given, *taken in zip(inputs, left.get_parameters(), right.get_parameters()):
        choice.set_input(given.output(0), *taken)
    result = choice.set_output(left.get_results()[0], right.get_results()[0])
    return openvino.Model([opset13.result(result)], inputs)


def _freed(model):
    """The model with a free length outside; inside it stays fixed."""
    inputs = []
    for port, fixed in zip(model.inputs, model.get_parameters()):
        rows, length = port.shape
        free = _like(port, openvino.PartialShape([rows, -1]))
        shaped = opset13.reshape(free, numpy.array([rows, length]), False)
        _replace(fixed.output(0), shaped.output(0))
        inputs.append(free)
    return openvino.Model(model.get_results(), inputs)


def _like(port, shape):
    """A parameter of that shape, of a port's type and names."""
    parameter = opset13.parameter(shape, port.get_element_type())
    parameter.output(0).get_tensor().set_names(port.get_names())
    return parameter


def serialise(model):
    """{"ir.xml": bytes, "ir.bin": bytes}, weights as they are."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "ir.xml"
        what = f"{tempfile.gettempdir()}: OpenVINO's IR cannot be written there ({WHY})"
        cure = "free disk space, or name another folder by TMPDIR"
        with refusing(f"{what}; {cure}", RuntimeError, reason=last_line):
            openvino.save_model(model, str(xml), compress_to_fp16=False)
            # OpenVINO 2024.6 cuts the weights short on a full disk and says nothing: read it back
            openvino.Core().read_model(str(xml))
        return {"ir.xml": xml.read_bytes(), "ir.bin": xml.with_suffix(".bin").read_bytes()}
