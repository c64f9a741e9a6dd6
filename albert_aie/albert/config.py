"""ALBERT's config.json -> Config: the architecture, and what we cannot run refused by name."""

import math
from dataclasses import asdict, dataclass
from reprlib import repr  # cuts what is long or deep
from typing import Optional

from ..base.errors import UserError, some
from ..base.files import read_json
from .layouts import HF_LAYER, LAYER_PARTS

ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu")
SIZES = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
# Keys that change what a model answers: the values that can be run, None where a file need not say,
# and what those are.
ONLY = {
    "model_type": (("albert",), "ALBERT"),
    "num_hidden_groups": ((1,), "ALBERTs that share one layer"),
    "inner_group_num": ((1,), "ALBERTs that share one layer"),
    "position_embedding_type": (("absolute", None), "learned positions"),
    "pruned_heads": (({}, None), "models with all their attention heads"),
    "problem_type": (
        ("single_label_classification", "regression", None),
        "a softmax over classes, or a regression of one output,",
    ),
    # albert_pytorch before 2020-01-01
    "ln_type": (("postln", None), "LayerNorm after its block"),
    "share_type": (("all", None), "ALBERTs that share one layer"),
}
# The largest published ALBERT has 24 layers and 0.23e9 parameters. Tracing unrolls the layers.
MOST_LAYERS, MOST_PARAMETERS, MOST_LABELS = 128, 10**9, 10_000
RESTORE = "restore it from training"


@dataclass(frozen=True)
class Config:
    """The architecture, in the names of ALBERT's config.json. `label_names` is None where that has
    none; `random_weights` measure speed only (benchmarks/random_weights.py)."""

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

    @property
    def head_size(self):
        return self.hidden_size // self.num_attention_heads

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


def architecture(config):
    """{name: value} of a Config that an AlbertConfig of others' takes."""
    only_ours = ("label_names", "random_weights")
    return {name: value for name, value in asdict(config).items() if name not in only_ours}


def read_config(path):
    """Config from albert_pytorch's or Hugging Face's config.json. Raises UserError for others."""
    raw = read_json(path, "copy it again from where it was trained")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a JSON object; copy it again from where it was trained")
    for name, (values, what) in ONLY.items():
        value = raw.get(name, values[0])
        if value not in values or isinstance(value, bool):
            only = " or ".join(str(choice) for choice in values if choice is not None)
            raise UserError(
                f"{path}: {name} is {repr(value)}; only {what} ({name} {only}) can be run"
            )
    raw = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-12, **raw}
    if reason := _unsupported_reason(raw):
        raise UserError(f"{path}: {reason}")
    num_labels = _num_labels(raw, path)
    if raw.get("problem_type") and (raw["problem_type"] == "regression") != (num_labels == 1):
        raise UserError(
            f"{path}: problem_type is {raw['problem_type']!r}, but the model has {num_labels} "
            "output(s), where a regression has 1; correct the one that is wrong"
        )
    config = Config(
        **{name: raw[name] for name in (*SIZES, "hidden_act", "layer_norm_eps")},
        num_labels=num_labels,
        label_names=_label_names(raw.get("id2label"), path, raw.get("label2id"), num_labels),
        random_weights=raw.get("random_weights") is True,
    )
    parameters = sum(math.prod(shape) for shape in config.shapes().values())
    if parameters > MOST_PARAMETERS:
        raise UserError(
            f"{path}: its sizes make {parameters:.2g} parameters, more than "
            f"{MOST_PARAMETERS:.0e}; {RESTORE}"
        )
    return config


def _unsupported_reason(raw):
    """Why this architecture cannot be run, and what to do: half a sentence; None where it can."""
    for name in SIZES:
        value = raw.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            return f"{name} is {repr(value)}, not a whole number above 0; {RESTORE}"
    hidden, heads = raw["hidden_size"], raw["num_attention_heads"]
    layers = raw["num_hidden_layers"]
    if layers > MOST_LAYERS:
        return f"num_hidden_layers is {repr(layers)}; at most {MOST_LAYERS} can be run"
    if hidden % heads:
        return (
            f"hidden_size {repr(hidden)} is not a multiple of num_attention_heads {repr(heads)}; "
            f"{RESTORE}"
        )
    if raw["embedding_size"] == hidden:
        return (
            f"embedding_size equals hidden_size ({repr(hidden)}), where albert_pytorch and Hugging "
            "Face disagree on the model; only factorised embeddings can be run"
        )
    activation, eps = raw.get("hidden_act"), raw.get("layer_norm_eps")
    if activation not in ACTIVATIONS:
        return f"hidden_act is {repr(activation)}; one of {', '.join(ACTIVATIONS)} can be run"
    if not isinstance(eps, float) or not 0 < eps < 1:  # False for NaN too
        return f"layer_norm_eps is {repr(eps)}, not a number such as 1e-12; {RESTORE}"
    return None


def _num_labels(raw, path):
    labels, number = raw.get("id2label"), raw.get("num_labels")
    names = list(labels.values()) if isinstance(labels, dict) else []
    if names and number is not None and number != len(names):
        raise UserError(
            f"{path}: num_labels is {repr(number)}, but id2label has {len(names)} "
            f"({some(map(str, names))}); correct the one that is wrong"
        )
    number = len(names) or (2 if number is None else number)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST_LABELS:
        raise UserError(
            f"{path}: num_labels is {repr(number)}; a classifier has 2 to {MOST_LABELS} classes, a "
            "regression 1"
        )
    return number


def _label_names(labels, path, numbers, count):
    """Of id2label; where that is left out or as transformers fills it in, those of label2id."""
    filled_in = {str(number): f"LABEL_{number}" for number in range(count)}
    if labels in (None, {}, filled_in) and isinstance(numbers, dict):
        if sorted(map(str, numbers.values())) == sorted(filled_in):
            return tuple(sorted(numbers, key=lambda name: int(numbers[name])))
    if labels is None or labels == {}:
        return None
    if not isinstance(labels, dict):
        raise UserError(
            f"{path}: id2label is {repr(labels)}, not an object of class numbers and names; "
            f"{RESTORE}"
        )
    if sorted(labels) != sorted(map(str, range(len(labels)))):
        raise UserError(
            f'{path}: id2label wants the keys "0", "1", ..., not {some(labels)}; correct it'
        )
    return tuple(str(labels[str(number)]) for number in range(len(labels)))
