"""The shapes in which sentences are computed, chosen when they are there.

A program of free sizes takes any number of rows, of any length, with one sentence or several in
each. What it is given follows from three things: the exported shape, which says where a sentence is
cut and how much one call computes at most; the engine's Grid; and how many sentences there are.

- A sentence that comes alone is a row of its own length, rounded up to the engine's step.
- Several share rows of 64 tokens; a sentence that is longer takes a row of twice the length, and
  so on, which shorter ones fill up (batching.pack). A call computes CALL tokens of rows; the last
  rows, and few sentences, go row by row.
- `padded` is the exported shape itself, one sentence a row: what a card with a compiled shape
  computes.

No length depends on the sentences that are scored. A program of fixed sizes (aie, --graph upstream)
has the shapes that it was compiled for, and batching takes the cheapest of them."""

import functools
from typing import NamedTuple

from .shapes import Shape, packed

ROW = 64  # tokens of the shortest row that carries several sentences
# Tokens of one call. More win nothing on any CPU tried, and 64 to 192 lose up to a quarter where a
# product of so few rows does not fill the engine's tiles (docs/performance.md).
CALL = 512
FEW = 256  # sentences whose time is less than what a program for whole calls takes to compile
CHOSEN, PADDED, SINGLE, COMPILED = "chosen", "padded", "one at a time", "compiled"
SHARED = "shared"  # by callers that wait


class Grid(NamedTuple):
    """What lengths suit an engine: `step` tokens lie between two of them up to ROW. `compiles`:
    each shape is a program, which takes time and memory."""

    step: int
    compiles: bool


def choose(shapes, grid, rows=CHOSEN, few=False):
    """Tuple of Shape for batching.batches, or for batching.alone where `rows` is SINGLE. `shapes`
    are the file's; no `grid`: they are compiled. `few`: of too few sentences to compile a
    program for whole calls. SHARED rows are of callers who wait for them: 1, 2, 4, ... of them."""
    if not grid:
        return tuple(shapes)
    limit = shapes[-1]
    if rows == PADDED:
        return (limit,)
    if rows == SINGLE:
        return _singles(limit.max_seq_length, grid)
    longest = limit.max_seq_length
    return tuple(
        packed(size, length)
        for length in (*(ROW << i for i in range(octave(longest))), longest)
        for size in _row_counts(limit, length, grid, rows == SHARED, few)
    )


def timed(shape, free_sizes):
    """The Shape in which precisions are timed: half of a call, or the compiled one."""
    if not free_sizes:
        return shape
    length = min(ROW, shape.max_seq_length)
    return packed(max(1, min(shape.batch_size, CALL // 2 // length)), length)


def _row_counts(limit, length, grid, shared, few):
    """Rows of a call: as many as CALL and the exported shape hold, and those of a rest."""
    most = max(1, min(CALL, limit.batch_size * limit.max_seq_length) // length)
    if not grid.compiles:
        return range(1, most + 1)
    if few:
        return (1,)
    return sorted({1, most, *(2**i for i in range(most.bit_length()) if shared)})


@functools.lru_cache(maxsize=16)
def _singles(longest, grid):
    """A row for each length of the grid up to `longest`. Where each is compiled the step grows with
    the length, so that a row is at most an eighth longer than it has to be."""
    lengths, length = [], 0
    while length < longest:
        start, step = ROW, grid.step
        while grid.compiles and start <= length:
            start, step = 2 * start, max(grid.step, start // 4)
        length = min(length + step, longest)
        lengths.append(length)
    return tuple(Shape(1, length) for length in lengths)


def octave(length):
    """The number of doublings of ROW up to `length`: lengths of one octave are used alike."""
    return max(0, (length - 1) // ROW).bit_length()
