"""ALBERT's config.json -> Config: the architecture, and what we cannot run refused by name."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from . import UserError, some, tasks, upstream

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


@dataclass(frozen=True)
class Config:
    """The architecture, with the names of ALBERT's config.json. `label_names` is None where the
    model has none of its own."""

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

    @property
    def head_size(self):
        return self.hidden_size // self.num_attention_heads

    def to_json(self):
        """As the manifest has it: a dict whose label names are a list."""
        return {**asdict(self), "label_names": self.label_names and list(self.label_names)}

    def shapes(self):
        """Name -> shape of each of the 27 tensors of a checkpoint, in Hugging Face's layout."""
        h, e, i = self.hidden_size, self.embedding_size, self.intermediate_size
        shapes = {
            "albert.embeddings.word_embeddings.weight": (self.vocab_size, e),
            "albert.embeddings.position_embeddings.weight": (self.max_position_embeddings, e),
            "albert.embeddings.token_type_embeddings.weight": (self.type_vocab_size, e),
            "albert.embeddings.LayerNorm.weight": (e,),
            "albert.embeddings.LayerNorm.bias": (e,),
            "albert.encoder.embedding_hidden_mapping_in.weight": (h, e),
            "albert.encoder.embedding_hidden_mapping_in.bias": (h,),
        }
        weight_shapes = {
            "ffn": (i, h),
            "ffn_output": (h, i),
            "attention.LayerNorm": (h,),
            "full_layer_layer_norm": (h,),
        }
        for part, _ in upstream.LAYER_PARTS:
            weight = weight_shapes.get(part, (h, h))
            shapes[f"{upstream.HF_LAYER}{part}.weight"] = weight
            shapes[f"{upstream.HF_LAYER}{part}.bias"] = weight[:1]
        shapes["albert.pooler.weight"] = (h, h)
        shapes["albert.pooler.bias"] = (h,)
        shapes["classifier.weight"] = (self.num_labels, h)
        shapes["classifier.bias"] = (self.num_labels,)
        return shapes


def read_config(path):
    """Config from ALBERT's config.json, albert_pytorch's or Hugging Face's; what we cannot run is
    refused by name."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; a checkpoint folder holds the config.json it was trained with"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable JSON file ({error}); copy it again from where it was trained"
        ) from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a JSON object; copy it again from where it was trained")
    if raw.get("model_type", "albert") != "albert":
        raise UserError(
            f"{path}: model_type is {raw['model_type']!r}; this program runs ALBERT only"
        )
    for name in ("num_hidden_groups", "inner_group_num"):
        if raw.get(name, 1) != 1:
            raise UserError(
                f"{path}: {name} is {raw[name]}; only ALBERTs that share one layer ({name} 1) can "
                "be run"
            )
    sizes = {}
    for name in SIZES:
        value = raw.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"{path}: {name} is {value!r}, not a whole number above 0; restore it from training"
            )
        sizes[name] = value
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise UserError(
            f"{path}: hidden_size {sizes['hidden_size']} is not a multiple of num_attention_heads "
            f"{sizes['num_attention_heads']}"
        )
    if sizes["embedding_size"] == sizes["hidden_size"]:
        raise UserError(
            f"{path}: embedding_size equals hidden_size ({sizes['hidden_size']}), where "
            "albert_pytorch and "
            "Hugging Face disagree on the model; only factorised embeddings can be run"
        )
    if raw.get("hidden_act", "gelu_new") not in ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act is {raw['hidden_act']!r}; one of {', '.join(ACTIVATIONS)} can be "
            "run"
        )
    eps = raw.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float) or eps <= 0:
        raise UserError(
            f"{path}: layer_norm_eps is {eps!r}, not a number such as 1e-12; restore it from "
            "training"
        )
    labels = raw.get("id2label")
    num_labels = len(labels) if isinstance(labels, dict) and labels else raw.get("num_labels", 2)
    if not isinstance(num_labels, int) or num_labels < 2:
        raise UserError(f"{path}: num_labels is {num_labels!r}; a classifier has two or more")
    return Config(
        hidden_act=raw.get("hidden_act", "gelu_new"),
        layer_norm_eps=eps,
        num_labels=num_labels,
        label_names=_label_names(labels, path),
        **sizes,
    )


def _label_names(labels, path):
    if not isinstance(labels, dict):
        return None
    if sorted(labels) != sorted(map(str, range(len(labels)))):
        raise UserError(
            f'{path}: id2label wants the keys "0", "1", ..., not {some(labels)}; correct it'
        )
    return tasks.own_names([str(labels[str(number)]) for number in range(len(labels))])
