"""The CPU reference, and the gate that a compiled file must pass.

The reference is never our own graph: it is the albert_pytorch model run eagerly in fp32 where a checkout is there,
else transformers' ALBERT. It runs sentences sorted and padded to the longest of their own batch, which is several
times faster than padding to max_seq_length and checks that padding does not matter.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch

from . import UserError
from .graph import has_upstream, upstream_model


class Gate(NamedTuple):
    relative: float  # largest relative error of the centred logits
    flips: float  # largest share of labels that differ
    accuracy: float  # largest loss of accuracy, a share of the rows


# int8 moves logits by several percent on every network: there the labels decide.
GATES = {
    "fp32": Gate(1e-4, 0.0, 0.0),
    "bf16": Gate(2e-2, 0.005, 0.005),
    "fp16": Gate(2e-2, 0.005, 0.005),
    "int8": Gate(math.inf, 0.01, 0.005),
}


@dataclass(frozen=True)
class Comparison:
    """Both sides' difference over all rows. `relative` is ||got - ref|| / ||ref|| with each row centred on its mean,
    because a constant added to all logits of a row changes no prediction."""

    rows: int
    relative: float
    flips: int
    max_abs: float
    mean_abs: float
    worst_cosine: float
    accuracy: Optional[float]
    reference_accuracy: Optional[float]
    precision: str

    @property
    def lost(self):
        """Accuracy of the reference less that of the compiled file; 0 where there are no labels."""
        return 0.0 if self.accuracy is None else self.reference_accuracy - self.accuracy

    @property
    def allowed_flips(self):
        return int(GATES[self.precision].flips * self.rows)

    @property
    def passed(self):
        gate = GATES[self.precision]
        close = self.relative <= gate.relative  # False for NaN too
        return close and self.flips <= self.allowed_flips and self.lost <= gate.accuracy


def against_reference(got, checkpoint, encoded, labels, precision, tree=None, progress=lambda steps, **_: steps):
    """(Comparison, text to print) of a compiled file's logits `got` with the reference's for the same id lists."""
    reference, name = reference_logits(checkpoint, encoded, tree, progress=progress)
    result = compare(got, reference, labels, precision)
    gate = GATES[precision]
    relative = "none" if math.isinf(gate.relative) else f"{gate.relative:.0e}"
    lines = [
        f"reference   {name}, {result.rows} rows",
        f"difference  relative {result.relative:.2e} (gate {relative}), "
        f"label flips {result.flips} (gate {result.allowed_flips}), "
        f"max abs {result.max_abs:.2e}, mean abs {result.mean_abs:.2e}, worst cosine {result.worst_cosine:.6f}",
    ]
    if labels is not None and not checkpoint.random:
        lines.append(
            f"accuracy    {result.accuracy:.4f} compiled, {result.reference_accuracy:.4f} reference "
            f"(gate {100 * gate.accuracy:.1f} points lost)"
        )
    return result, "\n".join(lines + [f"compare_cpu {'PASS' if result.passed else 'FAIL'}"])


def compare(got, reference, labels, precision):
    """Comparison of two float32 [rows, class] logits; `labels` may be None. NaN anywhere fails."""
    got64, reference64 = got.double(), reference.double()
    centred = [x - x.mean(1, keepdim=True) for x in (got64, reference64)]
    relative = float((centred[0] - centred[1]).norm() / centred[1].norm())
    difference = (got64 - reference64).abs()
    accuracies = [None, None]
    if labels is not None:
        wanted = torch.tensor(labels)
        accuracies = [float((x.argmax(1) == wanted).double().mean()) for x in (got, reference)]
    return Comparison(
        rows=len(got),
        relative=relative,
        flips=int((got.argmax(1) != reference.argmax(1)).sum()),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        worst_cosine=float(torch.nn.functional.cosine_similarity(got64, reference64, dim=1).min()),
        accuracy=accuracies[0],
        reference_accuracy=accuracies[1],
        precision=precision,
    )


def reference_logits(checkpoint, encoded, tree=None, batch_size=16, progress=lambda steps, **_: steps):
    """(float32 [sentences, class], name of the reference) for a list of id lists."""
    if has_upstream(tree):
        model, name = upstream_model(checkpoint, tree), f"albert_pytorch in {tree}, eager fp32"

        def run(ids, mask):
            return model(ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))[0]
    else:
        model, name = transformers_model(checkpoint), "transformers' ALBERT, eager fp32"

        def run(ids, mask):
            return model(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids)).logits

    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    logits = torch.zeros(len(encoded), checkpoint.config.num_labels)
    starts = range(0, len(order), batch_size)
    with torch.inference_mode():
        for start in progress(starts, desc="CPU reference", total=len(starts), unit="batch"):
            chosen = order[start : start + batch_size]
            longest = len(encoded[chosen[-1]])
            ids = torch.tensor([encoded[i] + [0] * (longest - len(encoded[i])) for i in chosen])
            mask = torch.tensor([[1] * len(encoded[i]) + [0] * (longest - len(encoded[i])) for i in chosen])
            logits[chosen] = run(ids, mask)
    return logits, name


def transformers_model(checkpoint):
    """transformers' AlbertForSequenceClassification with eager attention, holding the checkpoint, fp32, eval mode."""
    try:
        from transformers import AlbertConfig, AlbertForSequenceClassification
    except ImportError:
        raise UserError(
            "--compare_cpu needs a reference: give an albert_pytorch checkout by --prefix_dir, or pip install transformers"
        ) from None
    config = checkpoint.config
    model = AlbertForSequenceClassification(
        AlbertConfig(
            vocab_size=config.vocab_size,
            embedding_size=config.embedding_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            hidden_act=config.hidden_act,
            max_position_embeddings=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            layer_norm_eps=config.layer_norm_eps,
            num_labels=config.num_labels,
            attn_implementation="eager",
        )
    )
    model.load_state_dict(checkpoint.tensors, strict=True)
    return model.eval()
