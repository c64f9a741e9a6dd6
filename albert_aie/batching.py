"""Token ids -> batches of one fixed shape, and their outputs back in the sentences' order."""

import itertools
from typing import NamedTuple, Optional

import numpy

from . import UserError

WINDOW = (
    1024  # sentences packed together: enough for full rows, few enough that a long file streams
)


class Shape(NamedTuple):
    """What a file was compiled for: rows, tokens of a row, and the sentences that a row can carry
    (`slots`; 0 in a plain file, whose rows hold one sentence each)."""

    batch_size: int
    max_seq_length: int
    slots: int = 0

    @property
    def inputs(self):
        """The shape of each of the three input tensors."""
        return self.batch_size, self.max_seq_length

    def __str__(self):
        packed = f", up to {self.slots} sentences a row" if self.slots else ""
        return f"batch {self.batch_size} x {self.max_seq_length} tokens{packed}"


TOKENS = 3  # of the shortest sentence: [CLS], one piece, [SEP]


def shape(batch_size, max_seq_length, pack=False, slots=None):
    """Shape from the flags of those names; `slots` None is one sentence for every 8 tokens. Raises
    UserError for flags that contradict each other."""
    if slots and not pack:
        raise UserError("--slots: means something with --pack only; add --pack or leave it out")
    most = max_seq_length // TOKENS
    if slots and slots > most:
        raise UserError(
            f"--slots {slots}: must be 1 to {most}, for a sentence has {TOKENS} tokens at least "
            "and a "
            f"row {max_seq_length}"
        )
    return Shape(batch_size, max_seq_length, (slots or max(1, max_seq_length // 8)) if pack else 0)


class Batch(NamedTuple):
    """Three int64 [batch, seq] arrays in the order in which every program takes them, and where
    their answers belong.

    `sentences` are the numbers of the sentences in it; the logits of the i-th stand at `rows[i]`,
    and in a packed batch at `slots[i]` of that row. Rows that no sentence names are computed and
    thrown away.
    """

    input_ids: numpy.ndarray
    attention_mask: numpy.ndarray
    token_type_ids: numpy.ndarray
    sentences: list
    rows: list
    slots: Optional[list] = None

    @property
    def inputs(self):
        return self[:3]


def batches(encoded, shape):
    """Yield Batch over `encoded`, an iterable of Encoded no longer than shape.max_seq_length: one
    sentence a row in their order, or in a packed shape several in a row (`pack`), numbered 1,
    2, ... in attention_mask. `encoded` is read WINDOW sentences at a time, so that it may be made
    while earlier batches are computed.

    A short last batch is filled by repeating its last real row: never with rows whose mask is all
    zero (their result differs between implementations), and never dropped (the accuracy published
    for the 310P3 leaves out 8 of 872 rows).
    """
    numbered, rows = enumerate(encoded), []
    while window := list(itertools.islice(numbered, WINDOW)):
        rows += [[window[i] for i in row] for row in _plan(window, shape)]
        whole = len(rows) - len(rows) % shape.batch_size
        for start in range(0, whole, shape.batch_size):
            yield _fill(rows[start : start + shape.batch_size], shape)
        rows = rows[whole:]
    if rows:
        yield _fill(rows, shape)


def _plan(window, shape):
    if not shape.slots:
        return [[i] for i in range(len(window))]
    lengths = [len(sentence.ids) for _, sentence in window]
    return pack(lengths, shape.max_seq_length, shape.slots)


def _fill(plan, shape):
    """Batch of rows, each a list of (sentence number, Encoded)."""
    ids, mask, types = numpy.zeros((3, *shape.inputs), numpy.int64)
    for row in range(shape.batch_size):
        start = 0
        for number, (_, sentence) in enumerate(plan[min(row, len(plan) - 1)], 1):
            end = start + len(sentence.ids)
            ids[row, start:end], mask[row, start:end] = sentence.ids, number
            if sentence.second is not None:
                types[row, start + sentence.second : end] = 1
            start = end
    places = [
        (sentence, row, slot)
        for row, mates in enumerate(plan)
        for slot, (sentence, _) in enumerate(mates)
    ]
    sentences, rows, slots = (list(column) for column in zip(*places))
    return Batch(ids, mask, types, sentences, rows, slots if shape.slots else None)


def pack(lengths, capacity, slots):
    """Rows as lists of sentence numbers, each sentence once, at most `slots` and `capacity` tokens
    in a row. First-fit-decreasing (Johnson 1973): never more than 11/9 of the fewest rows, and on
    sentences usually equal to it."""
    rows, free = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = (r for r, room in enumerate(free) if room >= lengths[i] and len(rows[r]) < slots)
        r = next(fits, len(rows))
        if r == len(rows):
            rows.append([])
            free.append(capacity)
        rows[r].append(i)
        free[r] -= lengths[i]
    return rows


def scatter(logits, batch, into):
    """Write a batch's float32 logits, [batch, class] or packed [batch, slots, class], to the rows
    of `into` [sentences, class] that they belong to."""
    places = (batch.rows,) if batch.slots is None else (batch.rows, batch.slots)
    into[batch.sentences] = logits[places]
