"""How checkpoints name their tensors, and where their classifier's bias stands: LAYOUTS."""

import re
from typing import NamedTuple

from ..base.errors import UserError, some

UPSTREAM_COMMIT = "46de9ec"  # of lonePatient/albert_pytorch
HF, UNSHIFTED = "huggingface", "albert_pytorch without shift"  # the latter until 2020-01-01
HF_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0."
_LAYER = "bert.encoder.transformer.group.0.inner_group.0."
# (Hugging Face, albert_pytorch) below the one shared layer
LAYER_PARTS = (
    ("attention.query", "attention.self.query"),
    ("attention.key", "attention.self.key"),
    ("attention.value", "attention.self.value"),
    ("attention.dense", "attention.output.dense"),
    ("attention.LayerNorm", "LayerNorm"),
    ("ffn", "ffn.intermediate.dense"),
    ("ffn_output", "ffn.intermediate.output.dense"),
    ("full_layer_layer_norm", "LayerNorm_1"),
)


class Layout(NamedTuple):
    """`mark`: what the name of one of its tensors begins with. `prefixes`: pairs (Hugging Face's,
    its own), of which the first that fits is exchanged. `shift`: what its code adds to the pooled
    vector before the classifier."""

    name: str
    mark: str
    prefixes: tuple = ()
    shift: float = 0.0


_UPSTREAM_PREFIXES = (
    *((f"{HF_LAYER}{hf}.", f"{_LAYER}{own}.") for hf, own in LAYER_PARTS),
    ("albert.pooler.", "bert.pooler.dense."),
    ("albert.", "bert."),
)
_UPSTREAM = Layout("albert_pytorch", "bert.encoder.transformer.group.", _UPSTREAM_PREFIXES, 0.1)
LAYOUTS = Layout(HF, "albert."), _UPSTREAM
# What a checkpoint may carry beside the classifier: old position buffers and pre-training heads.
_IGNORED = re.compile(
    r"(albert|bert)\.embeddings\.(position_ids|token_type_ids)$"
    r"|predictions\.|sop_classifier\.|cls\."
)
_WRAPPERS = re.compile(r"^(module\.|model\.)+")  # of data parallelism, and of a model in a model
_TENSORFLOW = {"gamma": "weight", "beta": "bias"}  # of a LayerNorm converted from TensorFlow


def to_hf(raw, path):
    """(Layout, tensors under Hugging Face's names) of a raw state dict, the classifier's bias as it
    is; what held the model while it was trained, buffers and pre-training heads are dropped. Raises
    UserError for another model."""
    tensors = {}
    for name, tensor in raw.items():
        # torch.compile's prefix stands wherever it was applied
        parent, dot, last = _WRAPPERS.sub("", name.replace("_orig_mod.", "")).rpartition(".")
        name = parent + dot + _TENSORFLOW.get(last, last)
        if name in tensors:
            raise UserError(f"{path}: holds {name} more than once; save the weights of one model")
        tensors[name] = tensor
    tensors = {name: tensor for name, tensor in tensors.items() if not _IGNORED.match(name)}
    for layout in LAYOUTS:
        if any(name.startswith(layout.mark) for name in tensors):
            return layout, {_exchange(name, layout, 1): t for name, t in tensors.items()}
    raise UserError(
        f"{path}: keys of another model ({some(tensors)}); expected albert_pytorch's bert.… with "
        "encoder.transformer.group, or Hugging Face's albert.…"
    )


def to_upstream(tensors):
    """Hugging Face's weights under albert_pytorch's names; the 0.1 is left to its own code."""
    tensors = shifted(tensors, -_UPSTREAM.shift)
    return {_exchange(name, _UPSTREAM, 0): tensor for name, tensor in tensors.items()}


def shifted(tensors, shift):
    """The same weights (Hugging Face's names) for a classifier before which `shift` is not added:
    bias + shift * W.sum(1)."""
    bias = tensors["classifier.bias"] + shift * tensors["classifier.weight"].sum(1)
    return {**tensors, "classifier.bias": bias}


def _exchange(name, layout, old):
    for pair in layout.prefixes:
        if name.startswith(pair[old]):
            return pair[1 - old] + name[len(pair[old]) :]
    return name
