"""Checkpoints that compute the same, scaled otherwise: equalisation finds the same weights."""

from dataclasses import replace

import pytest
import torch
from helpers import TINY, fused_logits, tokens, write_checkpoint

from albert_aie.albert.checkpoint import load
from albert_aie.albert.equalise import equalise
from albert_aie.albert.layouts import HF_LAYER
from albert_aie.base.shapes import Shape


def twin(checkpoint, kinds, share=0.05, factor=100.0):
    """The checkpoint with channels scaled, function-preserving: "value" against attention.dense's
    columns, "query" against key's rows, "ffn" against ffn_output's columns (relu alone)."""
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    generator = torch.Generator().manual_seed(3)
    layer = {
        "value": ("attention.value", "attention.dense"),
        "query": ("attention.query", "attention.key"),
        "ffn": ("ffn", "ffn_output"),
    }
    for kind in kinds:
        first, second = (HF_LAYER + name for name in layer[kind])
        rows = len(tensors[first + ".bias"])
        scale = torch.ones(rows)
        chosen = torch.randperm(rows, generator=generator)[: max(1, int(share * rows))]
        low = torch.rand(len(chosen), generator=generator)
        scale[chosen] = factor**low * factor**0.2
        tensors[first + ".weight"] *= scale[:, None]
        tensors[first + ".bias"] *= scale
        if kind == "query":
            tensors[second + ".weight"] /= scale[:, None]
            tensors[second + ".bias"] /= scale
        else:
            tensors[second + ".weight"] /= scale
    return replace(checkpoint, tensors=tensors)


@pytest.mark.parametrize(
    "activation, kinds",
    [
        ("gelu_new", ["value"]),
        ("gelu_new", ["query"]),
        ("gelu_new", ["value", "query"]),
        ("relu", ["value", "query", "ffn"]),
    ],
)
def test_rescaled_twins_become_the_same_tensors(tmp_path, sentences, activation, kinds):
    plain = load(write_checkpoint(tmp_path, {**TINY, "hidden_act": activation}))
    other = twin(plain, kinds)
    before = {name: tensor.clone() for name, tensor in other.tensors.items()}
    encoded, shape = tokens(plain.tokenizer, sentences), Shape(4, 24)
    wanted = fused_logits(plain, encoded, shape)
    same, equal = equalise(other), equalise(plain)
    for checkpoint in (other, equal, same):
        got = fused_logits(checkpoint, encoded, shape)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    for name, tensor in equal.tensors.items():
        torch.testing.assert_close(same.tensors[name], tensor, rtol=1e-5, atol=1e-7, msg=name)
        assert torch.equal(other.tensors[name], before[name]), name  # copied, never changed
    differing = [name for name in before if not torch.equal(before[name], plain.tensors[name])]
    assert len(differing) >= 3 * len(kinds)  # the twin was one


def test_a_channel_without_weights_stays_finite(tmp_path, sentences):
    plain = load(write_checkpoint(tmp_path))
    plain.tensors[HF_LAYER + "attention.value.weight"][3] = 0
    plain.tensors[HF_LAYER + "attention.key.weight"][5] = 0
    encoded, shape = tokens(plain.tokenizer, sentences), Shape(4, 24)
    got = fused_logits(equalise(plain), encoded, shape)
    torch.testing.assert_close(got, fused_logits(plain, encoded, shape), rtol=0, atol=1e-5)


def test_gelu_is_not_scaled_through(tmp_path):
    plain = load(write_checkpoint(tmp_path))
    assert torch.equal(
        equalise(plain).tensors[HF_LAYER + "ffn.weight"], plain.tensors[HF_LAYER + "ffn.weight"]
    )
