"""The torch module that gets traced: the patched albert_pytorch model, or our fused one.

Both take input_ids, attention_mask, token_type_ids [batch, seq] and return the bare float32 logits
[batch, class], or [batch, slots, class] when our module is built for packed rows. The mask adds
-10000 as ALBERT's own code does: finite in fp16, where Hugging Face's finfo.min becomes -inf."""

from collections import Counter

import torch
from torch import nn

from ..base.errors import UserError
from ..base.terminal import torchscript_warnings_off
from .fused import PLAIN, FusedAlbert
from .upstream import require, upstream_model


def choose(asked, default, packed, upstream_dir):
    """The graph's name: what --graph asks for, else our own for packed rows, else the backend's
    default. Raises UserError, before any work, for one that cannot be built."""
    if asked == "upstream" and packed:
        raise UserError(
            "--pack --graph upstream: albert_pytorch's model takes one sentence a row; "
            "leave --graph out"
        )
    name = asked or ("fused" if packed else default)
    if name == "upstream":
        require(upstream_dir)
    return name


def build(checkpoint, graph_name, shape, upstream_dir=None, form=PLAIN):
    """The module to trace, in fp32 and eval mode. `graph_name`: "upstream" needs an albert_pytorch
    checkout; for "fused" see FusedAlbert and Form. Tensors are copied, never changed."""
    if graph_name == "upstream":
        model = upstream_model(checkpoint, upstream_dir)
        module = UpstreamAlbert(model, shape.max_seq_length)
    else:
        module = FusedAlbert(checkpoint, shape, form)
    return module.eval().requires_grad_(False)


class UpstreamAlbert(nn.Module):
    """albert_pytorch's model with fixed (1, seq) position ids, so that no arange or expand is
    traced. (1, seq) and not (batch, seq): the latter would silently broadcast a smaller batch."""

    free_sizes = False

    def __init__(self, model, max_seq_length):
        super().__init__()
        self.model = model
        positions = torch.arange(max_seq_length).unsqueeze(0)
        self.register_buffer("position_ids", positions, persistent=False)

    def forward(self, input_ids, attention_mask, token_type_ids):
        given = input_ids, attention_mask, token_type_ids
        return self.model(*given, position_ids=self.position_ids)[0].to(torch.float32)


def example_inputs(config, shape, dtype=torch.int64):
    """Three [batch, seq] tensors of legal values, to trace: rows of all lengths."""
    generator = torch.Generator().manual_seed(0)
    first = min(5, config.vocab_size - 1)  # no special token, where there are others
    ids = torch.randint(first, config.vocab_size, shape.inputs, generator=generator)
    lengths = torch.arange(shape.batch_size).remainder(shape.max_seq_length - 2) + 3
    mask = (torch.arange(shape.max_seq_length) < lengths.unsqueeze(1)).long()
    return tuple(t.to(dtype) for t in (ids * mask, mask, torch.zeros_like(ids)))


class Rows(nn.Module):
    """The packed program of a FusedAlbert with free sizes, as a module of its own."""

    def __init__(self, albert):
        super().__init__()
        self.albert = albert
        self.eval()

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.albert.rows_and_places(input_ids, attention_mask, token_type_ids)


def trace(module, inputs, *methods):
    """Frozen TorchScript of `module` and its further `methods`: constants folded, weights once."""
    with torchscript_warnings_off(), torch.no_grad():
        asked = {name: inputs for name in ("forward", *methods)}
        program = torch.jit.trace_module(module, asked, check_trace=False)
        return torch.jit.freeze(program, preserved_attrs=list(methods))


def operators(program):
    """{aten operator: how often it stands in a traced program}: what a compiler has to support."""
    inlined = program.inlined_graph  # owns its nodes: must outlive the loop
    kinds = Counter(node.kind() for node in inlined.nodes())
    return {kind: kinds[kind] for kind in sorted(kinds) if kind.startswith("aten::")}
