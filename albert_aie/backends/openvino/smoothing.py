"""Outlier channels of activations, moved into the weights before int8 takes one range for all.

x W = (x / s) (W s), channel by channel (the idea: Xiao et al. 2023, "SmoothQuant"). NNCF has this
too, and passes over every weight that several products share: all of ALBERT's. Here one s serves
all layers, for their outliers stand in the same channels. The engine folds 1/s into the rounding of
x. `s` is activation**strength / weight**(1 - strength), each relative to its own largest; the
strength is the one whose int8 product on real tokens is nearest to that in fp32."""

from typing import NamedTuple

import numpy
import openvino

from .ir import opset13 as ops

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5)  # more costs the weights too much
TOKENS = 256  # of each layer, on which strengths are compared
LEAST = 1e-4  # a channel counts as no smaller than this share of the largest


class Product(NamedTuple):
    """Products of one activation: OpenVINO's MatMul nodes that read it, such as Q, K and V."""

    source: object  # openvino.Output, [..., channels]
    nodes: list


def products(model):
    """[[Product of each layer] of each weight, or set of weights, that several layers share], in
    the graph's order. Weights are constants [out, channels]."""
    sources = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul" and _weight(node) is not None:
            source = node.input_value(0)
            key = source.get_node().get_friendly_name(), source.get_index()
            sources.setdefault(key, Product(source, [])).nodes.append(node)
    groups = {}
    for product in sources.values():
        key = frozenset(_weight(node).tobytes() for node in product.nodes)
        groups.setdefault(key, []).append(product)
    return [group for group in groups.values() if len(group) > 1]


def smooth(model, inputs):
    """Scales the shared products of an openvino.Model in place, but for attention's output, which
    equalise.py balances in the weights alone. `inputs`: {name: array}s of real sentences."""
    groups = [group for group in products(model) if not _of_attention(group[0].source)]
    seen = iter(_activations(model, [one.source for group in groups for one in group], inputs))
    for group in groups:
        layers = [next(seen) for _ in group]
        weights = {_weight(node).tobytes(): _weight(node) for one in group for node in one.nodes}
        scale = _best_scale(layers, list(weights.values()))
        if scale is not None:
            _apply(group, scale)
    model.validate_nodes_and_infer_types()


def _of_attention(source):
    node = source.get_node()
    while node.get_type_name() in ("Reshape", "Transpose"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "ScaledDotProductAttention"


def _weight(node):
    """float32 [out, channels] of a product with a constant, else None."""
    constant = node.input_value(1).get_node()
    shared = constant.get_type_name() == "Constant" and node.get_attributes()["transpose_b"]
    return constant.get_data() if shared else None


class _Seen(NamedTuple):
    """Of an activation: its least and largest value in each channel, and some of its rows."""

    least: numpy.ndarray
    largest: numpy.ndarray
    rows: numpy.ndarray

    @property
    def span(self):
        return numpy.maximum(self.largest, -self.least)


def _activations(model, sources, inputs):
    """_Seen of every source, computed in fp32."""
    places = [(one.get_node().get_friendly_name(), one.get_index()) for one in sources]
    twin = model.clone()
    nodes = {node.get_friendly_name(): node for node in twin.get_ordered_ops()}
    draw = numpy.random.default_rng(0)
    few = max(8, -(-TOKENS // len(inputs)))  # rows of a batch
    results = []
    for name, index in places:
        results += _watch(nodes[name].output(index), few, draw)
    watched = openvino.Model(results, twin.get_parameters())
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(watched, "CPU", hint).create_infer_request()
    seen = []
    for batch in inputs:
        request.infer(batch)
        values = [request.get_output_tensor(i).data.copy() for i in range(len(results))]
        new = [_Seen(*values[i : i + 3]) for i in range(0, len(values), 3)]
        seen = [_both(*pair) for pair in zip(seen, new)] or new
    return seen


def _watch(x, few, draw):
    """Results of what _Seen holds of an activation: made in the graph, for all of it is a GB."""
    channels = x.get_partial_shape()[-1].get_length()
    rows = ops.reshape(x, ops.constant(numpy.array([-1, channels])), False)
    axis = ops.constant(numpy.array(0))
    count = ops.gather(ops.shape_of(rows), axis, axis)  # of the batch that comes
    chosen = ops.mod(ops.constant(draw.integers(0, 2**31, few)), count)
    parts = ops.reduce_min(rows, axis), ops.reduce_max(rows, axis), ops.gather(rows, chosen, axis)
    return [ops.result(part) for part in parts]


def _both(old, new):
    rows = old.rows if len(old.rows) >= TOKENS else numpy.concatenate([old.rows, new.rows])
    return _Seen(numpy.minimum(old.least, new.least), numpy.maximum(old.largest, new.largest), rows)


def _best_scale(layers, weights):
    """float32 [channels] by which the weights are to be multiplied, or None to leave them."""
    span = numpy.mean([one.span / max(one.span.max(), 1e-30) for one in layers], 0)
    whole = numpy.concatenate(weights)  # [out, channels]
    sizes = numpy.abs(whole)
    strong = (sizes / numpy.maximum(sizes.max(1, keepdims=True), 1e-30)).max(0)
    span, strong = (numpy.maximum(one, LEAST * one.max()) for one in (span, strong))
    scales = [None]  # as it is
    for strength in STRENGTHS:
        scale = span**strength / strong ** (1 - strength)
        scales.append((scale / numpy.exp(numpy.log(scale).mean())).astype(numpy.float32))
    return min(scales, key=lambda scale: _error(layers, whole, scale))


def _error(layers, weight, scale):
    """Relative square error of the int8 products of the layers' rows, summed over the layers."""
    scale = numpy.float32(1) if scale is None else scale
    scaled = weight * scale
    step = numpy.maximum(numpy.abs(scaled).max(1, keepdims=True) / 127, 1e-30)
    rounded = (numpy.round(scaled / step) * step).T
    total = 0.0
    for one in layers:
        wanted = one.rows @ weight.T
        low = min(0.0, float((one.least / scale).min()))
        step = max((max(0.0, float((one.largest / scale).max())) - low) / 255, 1e-30)
        got = (numpy.round((one.rows / scale - low) / step) * step + low) @ rounded
        total += float(((got - wanted) ** 2).sum()) / max(float((wanted**2).sum()), 1e-30)
    return total


def _apply(group, scale):
    """Multiply the group's weights by `scale`, and divide what they are multiplied with by it."""
    weights = {}
    for one in group:
        rank = len(one.source.get_partial_shape())
        inverse = (1 / scale).reshape((1,) * (rank - 1) + (-1,)).astype(numpy.float32)
        smoothed = ops.multiply(one.source, ops.constant(inverse))
        for node in one.nodes:
            weight = _weight(node)
            key = weight.tobytes()
            if key not in weights:
                weights[key] = ops.constant((weight * scale).astype(numpy.float32))
            node.input(0).replace_source_output(smoothed.output(0))
            node.input(1).replace_source_output(weights[key].output(0))
