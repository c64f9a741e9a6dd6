"""The shapes that are computed, and a batch of one."""

from typing import NamedTuple, Optional

import numpy


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


INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # in the order of every program
TOKENS = 3  # of the shortest sentence: [CLS], one piece, [SEP]


def slots_of(length):
    """Sentences that a packed row of `length` tokens can carry: one for every 4 tokens, of which
    the shortest has 3. It follows from the length, in the graph too, where `length` is traced."""
    return (length + 1) // 4


def packed(batch_size, length):
    """The Shape of rows that carry several sentences."""
    return Shape(batch_size, length, slots_of(length))


def describe(shapes):
    """Shapes that differ in their rows and lengths alone, in a few words."""
    sizes, lengths = (sorted({shape[i] for shape in shapes}) for i in (0, 1))
    if len(shapes) == 1:
        return str(shapes[0])
    return f"batch {' '.join(map(str, sizes))} x {' '.join(map(str, lengths))} tokens"


class Batch(NamedTuple):
    """Three int64 [batch, seq] arrays in the order in which every program takes them, their Shape,
    and where their answers belong.

    `sentences` are the numbers of the sentences in it; the logits of the i-th stand at `rows[i]`,
    and in a packed batch at `slots[i]` of that row. Rows that no sentence names are computed and
    thrown away."""

    input_ids: numpy.ndarray
    attention_mask: numpy.ndarray
    token_type_ids: numpy.ndarray
    shape: Shape
    sentences: list
    rows: list
    slots: Optional[list] = None

    @property
    def inputs(self):
        return self[:3]


def full_batch(shape):
    """A Batch of rows without padding, one sentence each: to warm up, and to be timed."""
    ids, types = numpy.zeros((2, *shape.inputs), numpy.int64)
    rows = list(range(shape.batch_size))
    slots = [0] * shape.batch_size if shape.slots else None
    return Batch(ids, numpy.ones_like(ids), types, shape, rows, rows, slots)
