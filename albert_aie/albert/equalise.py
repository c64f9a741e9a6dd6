"""A checkpoint in one of the many forms that compute the same: before int8 rounds it.

Where two products follow each other with nothing but sums between them, a channel of the first may
be scaled by s and that of the second by 1/s. fp32 does not see how a checkpoint was scaled; int8,
with one range for all channels of an activation, does."""

from dataclasses import replace

import torch

from .layouts import HF_LAYER

# First product's rows, second product, and which side of its weight meets them (0: rows, for a
# score q.k; 1: columns). Of a query's and a key's channel only the product is ever used; a mean of
# values is as linear as a value.
_PAIRS = ("attention.value", "attention.dense", 1), ("attention.query", "attention.key", 0)
# relu(s x) = s relu(x) for s > 0; GELU and the pooler's tanh have no such scale.
_RELU = ("ffn", "ffn_output", 1)


def equalise(checkpoint):
    """The Checkpoint with every pair of products between which a scale can be moved exactly
    balanced, channel by channel, to weights of the same norm; its function is the same to fp32's
    rounding. Checkpoints that differ in such scales only become the same tensors, to rounding.
    Tensors are fp32; those given are left as they are."""
    tensors = dict(checkpoint.tensors)
    pairs = _PAIRS + (_RELU,) * (checkpoint.config.hidden_act == "relu")
    for first, second, side in pairs:
        _balance(tensors, HF_LAYER + first, HF_LAYER + second, side)
    return replace(checkpoint, tensors=tensors)


def _balance(tensors, first, second, side):
    above, bias = (tensors[f"{first}.{kind}"].double() for kind in ("weight", "bias"))
    below = tensors[second + ".weight"].double()
    norms = above.norm(dim=1), below.norm(dim=1 - side)
    scale = (norms[1] / norms[0]).sqrt()
    # a channel without weights on one side does nothing, or nothing but add its bias
    scale = torch.where((norms[0] > 0) & (norms[1] > 0), scale, torch.ones_like(scale))
    tensors[first + ".weight"] = (above * scale.unsqueeze(1)).float()
    tensors[first + ".bias"] = (bias * scale).float()
    tensors[second + ".weight"] = (below / scale.unsqueeze(1 - side)).float()
    if side == 0:
        tensors[second + ".bias"] = (tensors[second + ".bias"].double() / scale).float()
