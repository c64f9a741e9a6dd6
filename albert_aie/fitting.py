"""Shapes that fit the sentences: a ladder of lengths for single ones, slots for packed rows. Both
are chosen from training sentences, never from those that are scored."""

import bisect
import random
from pathlib import Path

import numpy

from . import UserError, batching, datasets
from .arguments import AUTO, LONGEST
from .batching import FEW, TOKENS, Shape
from .flops import executed_flops_per_row

LENGTHS = 10000  # training sentences whose lengths choose a ladder or slots
PACKED = 1024  # of them are packed to choose slots
LEAST = 8  # tokens of the shortest rung


def choose(
    checkpoint, data_dir, task, batch_sizes, lengths=None, pack=False, slots=None, allowed=FEW
):
    """(tuple of Shape, what is to be said of a ladder): from the flags, and from the lengths of
    training sentences where they leave `lengths` or the slots of packed rows open; `allowed` is the
    Ladder that suits the engine. Raises UserError for lengths that the checkpoint has no positions
    for, and for a ladder without sentences."""
    limit, text = checkpoint.config.max_position_embeddings, ""
    if lengths and max(lengths) > limit:
        raise UserError(
            f"--max_seq_length {max(lengths)}: the checkpoint has {limit} positions; use {limit} "
            "or less"
        )
    if not lengths:
        found = training_lengths(checkpoint.tokenizer.load(), data_dir, task)
        if not found:
            raise UserError(
                f"--max_seq_length {AUTO}: {data_dir} has no training sentences to choose from; "
                "name the lengths, such as 16 32 64 128"
            )
        lengths = ladder(found, min(LONGEST, limit), allowed)
        empty = 100 * padding(found, lengths)
        text = f"{batching.listed(lengths)} tokens, {empty:.1f} % padding on training data"
    elif pack and not slots:
        found = training_lengths(checkpoint.tokenizer.load(), data_dir, task)
        slots = best_slots(found, max(lengths), checkpoint.config.to_json()) if found else None
    return batching.shapes(batch_sizes, lengths, pack, slots), text


def training_lengths(tokenizer, data_dir, task):
    """Tokens of LENGTHS training sentences, drawn with a fixed seed: what rows should be made for.
    None where the folder has no training file."""
    train = task.files.get("train")
    if not train or not (Path(data_dir) / train).is_file():
        return None
    sentences = datasets.read(data_dir, "train", task).sentences
    if len(sentences) > LENGTHS:
        sentences = random.Random(0).sample(sentences, LENGTHS)
    return [len(tokenizer.encode(sentence).ids) for sentence in sentences]


def ladder(lengths, longest, allowed=FEW):
    """The lengths, `longest` the last, that leave the least padding when each of the sentences with
    these `lengths` takes the shortest one that holds it; of as many as `allowed` (a Ladder) has."""
    rungs = [*range(max(LEAST, allowed.step), longest, allowed.step), longest]
    counts, _ = numpy.histogram([min(n, longest) for n in lengths], [0, *(r + 0.5 for r in rungs)])
    below = [0, *numpy.cumsum(counts).tolist()]  # sentences that the first i rungs hold
    # best[i]: (positions computed for these sentences, how many rungs, they) if rung i is the last
    best = [(below[i + 1] * rung, 1, (rung,)) for i, rung in enumerate(rungs)]
    for _ in range(min(allowed.most, len(rungs)) - 1):
        best = [
            min([best[i], *(_with(best[j], rung, below[i + 1] - below[j + 1]) for j in range(i))])
            for i, rung in enumerate(rungs)
        ]
    return list(best[-1][2])


def _with(ladder, rung, sentences):
    computed, count, rungs = ladder
    return computed + sentences * rung, count + 1, (*rungs, rung)


def padding(lengths, rungs):
    """The share of computed positions without a token where each sentence takes the shortest of
    `rungs` that holds it; longer ones are cut."""
    rungs = sorted(rungs)
    kept = [min(n, rungs[-1]) for n in lengths]
    return 1 - sum(kept) / sum(rungs[bisect.bisect_left(rungs, n)] for n in kept)


def best_slots(lengths, max_seq_length, config):
    """The sentences that a packed row should be able to carry: what computes least for sentences of
    these `lengths`. Too few leave rows short of sentences, and each slot costs its share of the
    last layer and of what follows. `config` as flops.py has it."""
    lengths = [min(n, max_seq_length) for n in lengths[:PACKED]]

    def computed(slots):
        row = executed_flops_per_row(config, Shape(1, max_seq_length, slots))
        return len(batching.pack(lengths, max_seq_length, slots)) * row

    tokens = (32, 24, 16, 12, 8, 6, 5, 4, TOKENS)
    return min(sorted({max(1, max_seq_length // n) for n in tokens}), key=computed)
