"""Token ids -> batches of one fixed shape, and their outputs back in the sentences' order."""

from typing import NamedTuple, Optional

import numpy
import torch

WINDOW = 1024  # sentences that are packed together


class Batch(NamedTuple):
    """Three int64 [batch, seq] tensors in the order of contract 1, and where their answers belong.

    `sentences` are the numbers of the sentences in it; the logits of the i-th stand at `rows[i]`, and in a packed batch
    at `slots[i]` of that row. Rows that no sentence names are computed and thrown away.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor
    sentences: list
    rows: list
    slots: Optional[list] = None

    @property
    def inputs(self):
        return self[:3]


def batches(encoded, batch_size, max_seq_length, slots=0):
    """A list of Batch over `encoded`, a list of id lists no longer than max_seq_length: one sentence a row in their order,
    or with `slots` > 0 up to that many sentences in a row (`pack`), numbered 1, 2, ... in attention_mask.

    A short last batch is filled by repeating its last real row: never with rows whose mask is all zero (their result
    differs between implementations), and never dropped (the published 92.82 % leaves out 8 of 872 rows).
    """
    lengths = [len(ids) for ids in encoded]
    plan = pack(lengths, max_seq_length, slots) if slots else [[i] for i in range(len(encoded))]
    return [_fill(encoded, plan[i : i + batch_size], batch_size, max_seq_length, slots) for i in range(0, len(plan), batch_size)]


def _fill(encoded, plan, batch_size, max_seq_length, slots):
    ids, mask = numpy.zeros((2, batch_size, max_seq_length), numpy.int64)
    for row in range(batch_size):
        start = 0
        for number, sentence in enumerate(plan[min(row, len(plan) - 1)], 1):
            end = start + len(encoded[sentence])
            ids[row, start:end], mask[row, start:end] = encoded[sentence], number
            start = end
    places = [(sentence, row, slot) for row, mates in enumerate(plan) for slot, sentence in enumerate(mates)]
    sentences, rows, slot = (list(column) for column in zip(*places))
    ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
    return Batch(ids, mask, torch.zeros_like(ids), sentences, rows, slot if slots else None)


def pack(lengths, capacity, slots):
    """Rows as lists of sentence numbers, each sentence once, at most `slots` and `capacity` tokens in a row.

    First-fit-decreasing (Johnson 1973: never more than 11/9 of the best, on sentences usually equal to it) in windows of
    WINDOW sentences, so that a long file streams and planning stays linear in its length.
    """
    rows = []
    for start in range(0, len(lengths), WINDOW):
        window = sorted(range(start, min(start + WINDOW, len(lengths))), key=lambda i: -lengths[i])
        opened, free = [], []
        for i in window:
            fits = (r for r, room in enumerate(free) if room >= lengths[i] and len(opened[r]) < slots)
            r = next(fits, len(opened))
            if r == len(opened):
                opened.append([])
                free.append(capacity)
            opened[r].append(i)
            free[r] -= lengths[i]
        rows += opened
    return rows


def scatter(logits, batch, into):
    """Write a batch's float32 logits, [batch, class] or packed [batch, slots, class], to the rows of `into`
    [sentences, class] that they belong to."""
    into[batch.sentences] = logits[batch.rows] if batch.slots is None else logits[batch.rows, batch.slots]
