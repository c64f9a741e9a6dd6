"""How checkpoints name their tensors, and where their classifier's bias stands: LAYOUTS."""

import re
from typing import NamedTuple

from ..base.errors import UserError, some

UPSTREAM_COMMIT = "46de9ec"  # of lonePatient/albert_pytorch
SHIFT = 0.1  # what albert_pytorch adds to the pooled vector before its classifier
HF, UPSTREAM = "huggingface", "albert_pytorch"
UNSHIFTED = "albert_pytorch without shift"  # what it wrote before 2020-01-01
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


LAYOUTS = (
    Layout(HF, "albert."),
    Layout(
        UPSTREAM,
        "bert.encoder.transformer.group.",
        (
            *((f"{HF_LAYER}{hf}.", f"{_LAYER}{own}.") for hf, own in LAYER_PARTS),
            ("albert.pooler.", "bert.pooler.dense."),
            ("albert.", "bert."),
        ),
        SHIFT,
    ),
)
# What a checkpoint may carry beside the classifier: old position buffers and pre-training heads.
_IGNORED = re.compile(
    r"(albert|bert)\.embeddings\.(position_ids|token_type_ids)$"
    r"|predictions\.|sop_classifier\.|cls\."
)
_WRAPPERS = re.compile(r"^(module\.|model\.)+")  # of data parallelism, and of a model in a model
_COMPILED = "_orig_mod."  # torch.compile's, wherever it was applied
_TENSORFLOW = {"gamma": "weight", "beta": "bias"}  # of a LayerNorm converted from TensorFlow


def to_hf(raw, path):
    """(Layout, tensors under Hugging Face's names) of a raw state dict, the classifier's bias as it
    is; what held the model while it was trained, buffers and pre-training heads are dropped. A name
    that the layout lacks keeps what follows its prefix, so that the reader sees it. Raises
    UserError for another model."""
    tensors = {name: t for name, t in _unwrapped(raw, path).items() if not _IGNORED.match(name)}
    for layout in LAYOUTS:
        if any(name.startswith(layout.mark) for name in tensors):
            return layout, {_exchange(name, layout, 1): t for name, t in tensors.items()}
    raise UserError(
        f"{path}: keys of another model ({some(tensors)}); expected albert_pytorch's bert.… with "
        "encoder.transformer.group, or Hugging Face's albert.…"
    )


def to_upstream(tensors):
    """Hugging Face's weights under albert_pytorch's names; the 0.1 is left to its own code."""
    layout = LAYOUTS[1]
    tensors = shifted(tensors, -layout.shift)
    return {_exchange(name, layout, 0): tensor for name, tensor in tensors.items()}


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


def _unwrapped(raw, path):
    """The same tensors under the names of the model itself, without those of what held it while it
    was trained; those of a LayerNorm as torch calls them."""
    bare = {}
    for name, tensor in raw.items():
        parent, dot, last = name.rpartition(".")
        name = parent + dot + _TENSORFLOW.get(last, last)
        short = _WRAPPERS.sub("", name.replace(_COMPILED, ""))
        if short in bare:
            raise UserError(f"{path}: holds {short} more than once; save the weights of one model")
        bare[short] = tensor
    return bare
