"""Token ids -> batches of one fixed shape, and their outputs back in the sentences' order."""

import bisect
import functools
import itertools

import numpy

from ..base.encoding import Encoded
from ..base.shapes import Batch

CALL_COSTS = 8  # tokens more than it has would take as long: 4 to 12 on an AMD Zen 4, by precision
WINDOW = 1024  # sentences packed together: enough for full rows, few enough that a file streams


def batches(encoded, *shapes, streams=1):
    """Yield Batch over `encoded`, an iterable of Encoded no longer than the longest of `shapes`:
    several sentences in a row of the packed shapes (`pack`), numbered 1, 2, ... in attention_mask,
    or one in the shortest plain row that holds it. With one plain shape sentences keep their order.
    `encoded` is read WINDOW sentences at a time, so that it may be made while earlier batches are
    computed by `streams` at a time.

    Batches are whole until the sentences end; the last few take the shapes that compute the fewest
    positions. A short batch is filled with shorter sentences that wait, then by repeating its last
    real row: never with rows whose mask is all zero (their result differs between
    implementations), and never dropped (the accuracy published for the 310P3 leaves out 8 of 872
    rows).
    """
    plain, packed = ([s for s in shapes if bool(s.slots) == kind] for kind in (False, True))
    numbered, waiting = enumerate(encoded), []
    while window := list(itertools.islice(numbered, WINDOW)):
        singles, together = _split(waiting + window, packed)
        plan = [*_packed(together, packed, streams), *_plain(singles, plain, streams)]
        waiting = []
        for rows, shape in plan:
            if len(rows) == _most(shape, shapes):
                yield _fill(rows, shape)
            else:
                waiting += itertools.chain(*rows)
        waiting.sort(key=lambda sentence: sentence[0])
    if waiting:
        plans = [
            [*_packed(together, packed, streams), *_shared(_plain(singles, plain, streams), plain)]
            for singles, together in (_split(waiting, packed), _split(waiting, plain)[::-1])
        ]
        least = min(plans, key=lambda plan: sum(shape[0] * shape[1] for _, shape in plan))
        yield from (_fill(rows, shape) for rows, shape in least)


def by_batch_size(shapes):
    """Lists of the shapes of each batch size."""
    sizes = sorted({shape.batch_size for shape in shapes})
    return [[shape for shape in shapes if shape.batch_size == size] for size in sizes]


def alone(sentence, shapes):
    """The one Batch of an Encoded that comes alone: what `batches` makes of it, in half the time:
    the shape of each length is found once. `shapes` is a tuple."""
    return _fill([[(0, sentence)]], _shape_alone(len(sentence.ids), shapes))


@functools.lru_cache(maxsize=4096)
def _shape_alone(length, shapes):
    return next(batches([Encoded([0] * length)], *shapes)).shape


def next_batch(waiting, shapes, singles=None, tokens=None):
    """The Batch to compute first of `waiting`, a list of (number, Encoded), whose first is next in
    turn. It has the shortest row that holds it; the longest others that fit share the row. Further
    rows begin with the next in turn: as many as a shape has that they fill, of at most `tokens` in
    all. `singles`: shapes of a sentence alone, taken where rows would stay empty for a good part:
    where one sentence after the other costs less."""
    longest = _length(waiting[0])
    length = min(shape.max_seq_length for shape in shapes if shape.max_seq_length >= longest)
    alike = [shape for shape in shapes if shape.max_seq_length == length]
    slots = max(shape.slots for shape in alike)
    alike = sorted(shape for shape in alike if shape.slots == slots)
    most = max([s for s in alike if not tokens or s.batch_size * length <= tokens] or alike[:1])
    rows = _rows_in_turn(waiting, length, slots or 1, most.batch_size)
    if singles and slots:
        one_by_one = sum(_length(one) + CALL_COSTS for row in rows for one in row)
        if one_by_one <= len(rows) * length + CALL_COSTS:
            return _fill([rows[0][:1]], _shape_alone(longest, singles))
    filled = [shape for shape in alike if shape.batch_size <= min(len(rows), most.batch_size)]
    shape = (filled or alike)[-1 if filled else 0]
    return _fill(rows[: shape.batch_size], shape)


def _rows_in_turn(waiting, length, slots, most):
    waiting = [one for one in waiting if _length(one) <= length]
    by_length = sorted(waiting, key=_length, reverse=True)
    rows, taken = [], set()
    for first in waiting:
        if len(rows) == most:
            break
        if first[0] in taken:
            continue
        row, room = [first], length - _length(first)
        taken.add(first[0])
        for one in by_length:
            if len(row) < slots and one[0] not in taken and _length(one) <= room:
                row.append(one)
                taken.add(one[0])
                room -= _length(one)
        rows.append(row)
    return rows


def _length(sentence):
    return len(sentence[1].ids)


def _most(shape, shapes):
    """The greatest batch of the shapes that differ from `shape` in their rows' number alone."""
    return max(other.batch_size for other in shapes if other[1:] == shape[1:])


def _split(sentences, shapes):
    """(the sentences that none of the shapes holds, the others)"""
    longest = max((shape.max_seq_length for shape in shapes), default=0)
    kept = [sentence for sentence in sentences if _length(sentence) <= longest]
    return [sentence for sentence in sentences if _length(sentence) > longest], kept


def _packed(sentences, shapes, streams):
    """[(rows, Shape)], the longest rows first. A row is of the shortest packed shape that holds
    its longest sentence, and shorter ones share it."""
    slots = {shape.max_seq_length: shape.slots for shape in shapes}
    rows = pack([_length(sentence) for sentence in sentences], slots)
    return _cut([(length, [sentences[i] for i in row]) for length, row in rows], shapes, streams)


def _plain(sentences, shapes, streams):
    """[(rows, Shape)], the longest first: a sentence a row, in the shortest row that holds it."""
    lengths = sorted({shape.max_seq_length for shape in shapes})
    least = (lengths[bisect.bisect_left(lengths, _length(sentence))] for sentence in sentences)
    return _cut(zip(least, ([sentence] for sentence in sentences)), shapes, streams)


def _shared(plan, shapes):
    """The same plain plan with the rows that a batch is short of taken by shorter sentences, where
    that empties a batch of theirs, and each batch in the cheapest shape that takes it."""
    plan = [(list(rows), shape) for rows, shape in plan]
    for i, (rows, shape) in enumerate(plan):
        for others, _ in plan[i + 1 :]:
            if len(others) <= shape.batch_size - len(rows):
                rows += others
                others.clear()
    return [(rows, _cheapest(rows, shapes)) for rows, _ in plan if rows]


def _cheapest(rows, shapes):
    longest = max(_length(sentence) for row in rows for sentence in row)
    fits = (s for s in shapes if s.batch_size >= len(rows) and s.max_seq_length >= longest)
    return min(fits, key=lambda shape: shape.batch_size * shape.max_seq_length)


def _cut(rows, shapes, streams):
    """[(rows, Shape)] of (length, row) pairs, the longest first: the greatest batch as long as
    there is one for every stream, then the next, so that no stream is idle for a whole batch at the
    end; the last of a length may be short of rows."""
    groups, plan = {}, []
    for length, row in rows:
        groups.setdefault(length, []).append(row)
    for length in sorted(groups, reverse=True):
        left = groups[length]
        alike = sorted(shape for shape in shapes if shape.max_seq_length == length)[::-1]
        for shape in alike:
            least = 1 if shape is alike[-1] else shape.batch_size * streams
            while len(left) >= least:
                plan.append((left[: shape.batch_size], shape))
                left = left[shape.batch_size :]
    return plan


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
    return Batch(ids, mask, types, shape, sentences, rows, slots if shape.slots else None)


def pack(lengths, slots):
    """[(capacity, sentence numbers)] of rows, each sentence once. `slots` is {capacity in tokens:
    sentences that such a row can carry}; a row has the least capacity that holds its longest
    sentence. First-fit-decreasing (Johnson 1973): with one capacity never more than 11/9 of the
    fewest rows, and on sentences usually equal to it."""
    rows, capacities, left = [], sorted(slots), []  # left: (tokens, sentences) that still fit
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = (r for r, (room, more) in enumerate(left) if room >= lengths[i] and more)
        r = next(fits, len(rows))
        if r == len(rows):
            capacity = capacities[bisect.bisect_left(capacities, lengths[i])]
            rows.append((capacity, []))
            left.append((capacity, slots[capacity]))
        rows[r][1].append(i)
        left[r] = left[r][0] - lengths[i], left[r][1] - 1
    return rows


def scatter(logits, batch, into):
    """Write a batch's float32 logits, [batch, class] or packed [batch, slots, class], to the rows
    of `into` [sentences, class] that they belong to."""
    places = (batch.rows,) if batch.slots is None else (batch.rows, batch.slots)
    into[batch.sentences] = logits[places]
