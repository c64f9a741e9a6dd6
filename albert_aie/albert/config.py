"""ALBERT's config.json -> Config: the architecture, and what we cannot run refused by name."""

import math
from dataclasses import asdict, dataclass, fields
from reprlib import repr  # cuts what is long or deep
from typing import Optional

from ..base.errors import UserError, some
from ..base.files import read_json
from .layouts import HF_LAYER, LAYER_PARTS

ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu")
# Keys that change what a model answers, and the values that can be run: the first where a file says
# nothing. ln_type and share_type are albert_pytorch's before 2020-01-01.
ONLY = {
    "model_type": ("albert",),
    "num_hidden_groups": (1,),
    "inner_group_num": (1,),
    "position_embedding_type": ("absolute", None),
    "pruned_heads": ({}, None),
    "problem_type": (None, "single_label_classification", "regression"),
    "ln_type": ("postln", None),
    "share_type": ("all", None),
}
# The largest published ALBERT has 24 layers and 0.23e9 parameters. Tracing unrolls the layers.
MOST_LAYERS, MOST_PARAMETERS, MOST_LABELS = 128, 10**9, 10_000
RESTORE = "restore it from training"


@dataclass(frozen=True)
class Config:
    """The architecture, in the names of ALBERT's config.json. `random_weights` measure speed only
    (benchmarks/random_weights.py)."""

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str
    layer_norm_eps: float
    num_labels: int
    label_names: Optional[tuple]
    random_weights: bool = False

    def shapes(self):
        """Name -> shape of each of the 27 tensors of a checkpoint, in Hugging Face's layout."""
        h, e, i = self.hidden_size, self.embedding_size, self.intermediate_size
        shapes = {
            "albert.embeddings.word_embeddings.weight": (self.vocab_size, e),
            "albert.embeddings.position_embeddings.weight": (self.max_position_embeddings, e),
            "albert.embeddings.token_type_embeddings.weight": (self.type_vocab_size, e),
        }
        with_bias = {
            "albert.embeddings.LayerNorm": (e,),
            "albert.encoder.embedding_hidden_mapping_in": (h, e),
            **{HF_LAYER + part: (h, h) for part, _ in LAYER_PARTS},
            HF_LAYER + "attention.LayerNorm": (h,),
            HF_LAYER + "ffn": (i, h),
            HF_LAYER + "ffn_output": (h, i),
            HF_LAYER + "full_layer_layer_norm": (h,),
            "albert.pooler": (h, h),
            "classifier": (self.num_labels, h),
        }
        for name, weight in with_bias.items():
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]
        return shapes


SIZES = [field.name for field in fields(Config)][:8]  # from vocab_size to type_vocab_size


def architecture(config):
    """{name: value} of a Config that an AlbertConfig of others' takes."""
    only_ours = ("label_names", "random_weights")
    return {name: value for name, value in asdict(config).items() if name not in only_ours}


def read_config(path):
    """Config from albert_pytorch's or Hugging Face's config.json. Raises UserError for others."""
    raw = read_json(path, "copy it again from where it was trained")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a JSON object; copy it again from where it was trained")
    raw = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-12, **raw}
    # albert_pytorch's config.json names no classes and says num_labels, Hugging Face's the reverse
    names = {} if raw.get("id2label") is None else raw["id2label"]
    if raw.get("num_labels") is None:
        raw["num_labels"] = len(names) if isinstance(names, dict) and names else 2
    for fault in _faults(raw, names):
        raise UserError(f"{path}: {fault}")
    config = Config(
        **{name: raw[name] for name in (*SIZES, "hidden_act", "layer_norm_eps", "num_labels")},
        label_names=_label_names(names, raw.get("label2id"), raw["num_labels"]),
        random_weights=raw.get("random_weights") is True,
    )
    parameters = sum(math.prod(shape) for shape in config.shapes().values())
    if parameters > MOST_PARAMETERS:
        raise UserError(
            f"{path}: its sizes make {parameters:.2g} parameters, more than "
            f"{MOST_PARAMETERS:.0e}; {RESTORE}"
        )
    return config


def _faults(raw, names):
    """Half sentences: why this config.json, whose classes have these names, cannot be run, and what
    to do. Each may rely on those before it."""
    for name, values in ONLY.items():
        value = raw.get(name, values[0])
        if value not in values or isinstance(value, bool):
            only = " or ".join(str(choice) for choice in values if choice is not None)
            yield f"{name} is {repr(value)}; only an ALBERT whose {name} is {only} can be run"
    for name in SIZES:
        if not _is_count(raw.get(name)):
            yield f"{name} is {repr(raw.get(name))}, not a whole number above 0; {RESTORE}"
    hidden, heads = raw["hidden_size"], raw["num_attention_heads"]
    if raw["num_hidden_layers"] > MOST_LAYERS:
        layers = repr(raw["num_hidden_layers"])
        yield f"num_hidden_layers is {layers}; at most {MOST_LAYERS} can be run"
    if hidden % heads:
        multiple = f"a multiple of num_attention_heads {repr(heads)}"
        yield f"hidden_size {repr(hidden)} is not {multiple}; {RESTORE}"
    if raw["embedding_size"] == hidden:
        yield (
            f"embedding_size equals hidden_size ({repr(hidden)}), where albert_pytorch and Hugging "
            "Face disagree on the model; only factorised embeddings can be run"
        )
    activation, eps = raw["hidden_act"], raw["layer_norm_eps"]
    if activation not in ACTIVATIONS:
        yield f"hidden_act is {repr(activation)}; one of {', '.join(ACTIVATIONS)} can be run"
    if not isinstance(eps, float) or not 0 < eps < 1:  # False for NaN too
        yield f"layer_norm_eps is {repr(eps)}, not a number such as 1e-12; {RESTORE}"
    if not isinstance(names, dict):
        yield f"id2label is {repr(names)}, not an object of class numbers and names; {RESTORE}"
    if sorted(names) != sorted(map(str, range(len(names)))):
        yield f'id2label wants the keys "0", "1", ..., not {some(names)}; correct it'
    number, kind = raw["num_labels"], raw.get("problem_type")
    if names and number != len(names):
        named = some(map(str, names.values()))
        yield (
            f"num_labels is {repr(number)}, but id2label has {len(names)} ({named}); correct the "
            "one that is wrong"
        )
    if not _is_count(number) or number > MOST_LABELS:
        classes = f"a classifier has 2 to {MOST_LABELS} classes, a regression 1"
        yield f"num_labels is {repr(number)}; {classes}"
    if kind and (kind == "regression") != (number == 1):
        yield (
            f"problem_type is {kind!r}, but the model has {number} output(s), where a regression "
            "has 1; correct the one that is wrong"
        )


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _label_names(names, numbers, count):
    """Tuple of those of id2label, or, where that is left out or as transformers fills it in, of
    label2id; None where neither has any."""
    filled_in = {str(number): f"LABEL_{number}" for number in range(count)}
    if names in ({}, filled_in) and isinstance(numbers, dict):
        if sorted(map(str, numbers.values())) == sorted(filled_in):
            return tuple(sorted(numbers, key=lambda name: int(numbers[name])))
    return tuple(str(names[str(i)]) for i in range(len(names))) or None
