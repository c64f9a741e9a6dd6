"""An OpenVINO model in int8, by NNCF, but for what a recipe leaves in floating point."""

import contextlib
import io
import logging

from ...base.errors import WHY, refusing

ALL = "all"
# name: [(which product, every n-th layer)] that stay in bf16 (fp32 where the CPU has none), in
# order of speed. The products are told by their weights' shape.
RECIPES = {
    ALL: (),
    "half ffn_output": (("ffn_output", 2),),
    "ffn_output": (("ffn_output", 1),),
    "ffn_output, half ffn": (("ffn_output", 1), ("ffn", 2)),
    "ffn, ffn_output": (("ffn_output", 1), ("ffn", 1)),
}


def nncf():
    """The package, quiet; imported before any work, because one that is there may not run."""
    message = f"--precision int8 needs NNCF, which cannot be imported ({WHY}): pip install nncf"
    with refusing(message), _silent():  # it greets
        import nncf as package
    package.set_log_level(logging.ERROR)
    return package


@contextlib.contextmanager
def _silent():
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def quantise(model, inputs, recipe):
    """(the model with the shared layer's products in int8, NNCF's version): post-training
    quantisation, weights per channel and activations per tensor, ranges from `inputs`, a list of
    {name: array} of real sentences, outlier channels smoothed first. Products whose weight is used
    once (the first layer's, the last layer's of its own, pooler and classifier: 1 % of the FLOPs),
    attention and what the recipe names stay in floating point."""
    package = nncf()
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    from . import smoothing

    ignored = {*_floating(model), *floating(recipe, smoothing.products(model))}
    smoothing.smooth(model, inputs)
    with _silent():  # its progress bars
        quantised = package.quantize(
            model,
            package.Dataset(inputs),
            subset_size=len(inputs),
            model_type=package.ModelType.TRANSFORMER,
            # activations of GELU lie on both sides of 0, unequally
            preset=package.QuantizationPreset.MIXED,
            ignored_scope=package.IgnoredScope(names=sorted(ignored)),
            # all that was seen: outliers carry the result
            advanced_parameters=package.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )
    return quantised, package.__version__


def _floating(model):
    """Names of attention's operators (OpenVINO computes them in bf16 whatever their inputs are
    rounded to), of the look-up of embeddings (each compiled shape would make a table in floating
    point of its own from one in int8), and of the products whose weight no other has."""
    users, others = {}, []
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        if kind in ("ScaledDotProductAttention", "Gather"):
            others.append(name)
        elif kind == "MatMul":
            weight = node.input_value(1).get_node()
            is_constant = weight.get_type_name() == "Constant"
            key = weight.get_data().tobytes() if is_constant else node
            users.setdefault(key, []).append(name)
    return others + [names[0] for names in users.values() if len(names) == 1]


def floating(recipe, groups):
    """Names of the nodes that the recipe leaves as they are, of smoothing.products()."""
    names = []
    for wanted, every in RECIPES[recipe]:
        for group in groups:
            rows, channels = group[0].nodes[0].input_value(1).get_shape()
            if (rows < channels) if wanted == "ffn_output" else (rows > channels):
                nodes = (node for product in group[::every] for node in product.nodes)
                names += [node.get_friendly_name() for node in nodes]
    return names
