"""A run of a compiled file, step by step with a clock made by hand: what is timed, what is counted,
and how sentences become batches and logits theirs."""

import math
import time
from types import SimpleNamespace

import numpy
import pytest

from albert_aie.backends import Output
from albert_aie.base.choose_shapes import SINGLE, Grid
from albert_aie.base.encoding import Encoded
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape, describe, packed
from albert_aie.cli import export_arguments
from albert_aie.run import batching, evaluate

NAN, INF = math.nan, math.inf


class Clock:
    """Stands still but for what advances it."""

    now = 100.0

    def perf_counter(self):
        return self.now


class Engine:
    """A runner whose logits are [first id after [CLS], number of sentences seen] and whose every
    run takes `seconds` of the clock."""

    streams, runs = 1, 0
    grid = prepared = None

    def __init__(self, clock, seconds=0.0, outputs=None):
        self.clock, self.seconds, self.outputs = clock, seconds, outputs

    def prepare(self, shapes):
        assert self.runs == 0, "before the first batch"
        self.prepared = list(shapes)

    def run(self, batch):
        self.runs += 1
        self.clock.now += self.seconds
        slots = max(1, batch.shape.slots)
        logits = numpy.zeros((*batch.input_ids.shape[:1], slots, 2), numpy.float32)
        for row, (ids, mask) in enumerate(zip(batch.input_ids, batch.attention_mask)):
            for slot in range(mask.max()):
                logits[row, slot] = ids[mask == slot + 1][1], mask.max()
        logits = logits if batch.slots else logits[:, 0]
        times = self.outputs.pop(0) if self.outputs else (0.0, 1.0, 0.0, self.clock.now)
        return Output(logits, *times)


class Words:
    """A tokenizer whose ids are the numbers in the text; each sentence takes it `seconds`."""

    def __init__(self, clock, seconds=0.0):
        self.clock, self.seconds = clock, seconds

    def encode(self, text, max_seq_length=None):
        self.clock.now += self.seconds
        ids = [int(word) for word in text.split()]
        return Encoded([2, *ids[: max_seq_length - 2], 3], len(ids) > max_seq_length - 2)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(evaluate, "time", clock)
    return clock


def run(engine, tokenizer, sentences, shape=None, **options):
    shape = shape or Shape(2, 6)
    saved = SimpleNamespace(shapes=(shape,), shape=shape, num_labels=2)
    return evaluate.evaluate(engine, saved, tokenizer, sentences, **options)


FIVE = ["11", "12 1", "13 1 1", "14 1 1 1", "15 1 1 1 1"]


def test_what_is_counted_in_a_run(clock):
    """Five sentences of 1 to 5 tokens, the last cut to 4: 3 batches of 2 rows, 3 + 4 + 5 + 6 + 6
    tokens with [CLS] and [SEP]. An engine that takes 10 s a run, three of them before the clock
    starts; a tokenizer that takes no time."""
    engine = Engine(clock, 10.0)
    made = run(engine, Words(clock), FIVE)
    assert made.logits.tolist() == [[11, 1], [12, 1], [13, 1], [14, 1], [15, 1]]
    assert made.logits.dtype == numpy.float32
    assert (made.tokens, made.truncated, made.rows) == (24, 1, 6)
    assert (made.rows_are, made.shapes) == ("compiled", 3 * [Shape(2, 6)])
    assert engine.runs == 3 + 3 and made.end_to_end == 30.0 and made.tokenize == 0.0
    assert run(Engine(clock, 10.0), Words(clock), FIVE, warmup=0).end_to_end == 30.0
    assert evaluate.WARMUP == 3


def test_one_sentence_is_a_run(clock):
    made = run(Engine(clock), Words(clock), ["11 1"])
    assert made.logits.tolist() == [[11, 1]] and (made.rows, made.tokens) == (2, 4)


def test_sentences_are_tokenised_one_after_the_other(clock):
    """By one thread beside the engine: a generator cannot be in two at once."""

    class Slow(Words):
        def encode(self, text, max_seq_length=None):
            time.sleep(0.002)
            return super().encode(text, max_seq_length)

    texts = [str(10 + i) for i in range(20)]
    made = run(Engine(clock), Slow(clock), texts)
    assert made.logits[:, 0].tolist() == list(range(10, 30))


def test_tokenising_is_timed_without_that_of_the_warm_up(clock):
    assert run(Engine(clock), Words(clock, 2.0), FIVE).tokenize == 10.0


def test_stages_are_added_up_and_what_overlaps_counts_once(clock):
    """Forwards from 1 to 3, from 2 to 4 and from 10 to 11: busy for 4 of their 5 seconds."""
    warm = [(9.0, 9.0, 9.0, 9.0)] * 3
    timed = [(0.5, 2.0, 0.25, 1.0), (0.25, 2.0, 0.25, 2.0), (0.25, 1.0, 0.5, 10.0)]
    made = run(Engine(clock, outputs=warm + timed), Words(clock), FIVE)
    assert (made.copy_in, made.forward, made.copy_out) == (1.0, [2.0, 2.0, 1.0], 1.0)
    assert made.busy == 4.0


def test_a_packed_run_counts_rows_and_scores_sentences(clock):
    """Rows of 12 tokens for 3, 4, 5, 6 and 7 of them: longest first, 7 + 5, 6 + 4 and 3."""
    made = run(Engine(clock), Words(clock), FIVE, Shape(2, 12, 3))
    assert made.logits.tolist() == [[11, 1], [12, 2], [13, 2], [14, 2], [15, 2]]
    assert (made.rows, made.tokens, made.truncated, len(made.forward)) == (4, 25, 0, 2)


def test_one_sentence_at_a_time_is_timed_from_text_to_label(clock):
    """2 s of tokenising and 10 s of engine each; three runs of the one shape that can come, and a
    second sentence that is tokenised when the first has its label."""
    engine, texts = Engine(clock, 10.0), ["11", "12 1"]
    shapes = Shape(1, 6), Shape(2, 6), Shape(2, 12)
    saved = SimpleNamespace(shapes=shapes, shape=shapes[-1], num_labels=2)
    given = engine, saved, Words(clock, 2.0), texts
    made = evaluate.evaluate(*given, rows=SINGLE)
    assert made.logits.tolist() == [[11, 1], [12, 1]]
    assert made.single == [12.0, 12.0] and made.end_to_end == 24.0 and made.tokenize == 4.0
    assert engine.runs == 3 + 2 and made.shapes == 2 * [Shape(1, 6)]
    assert engine.prepared == [Shape(1, 6)], "those that will come"
    assert made.rows_are == "one at a time"
    assert (made.rows, made.positions, made.tokens) == (2, 12, 7)
    assert run(Engine(clock), Words(clock), FIVE).single is None


def test_one_sentence_at_a_time_stands_in_the_first_slot_of_a_packed_row(clock):
    made = run(Engine(clock), Words(clock), FIVE, Shape(2, 12, 3), rows=SINGLE)
    assert made.logits.tolist() == [[11, 1], [12, 1], [13, 1], [14, 1], [15, 1]]
    assert made.shapes == 5 * [Shape(2, 12, 3)] and len(made.single) == 5


def test_few_sentences_do_not_wait_for_a_program_for_many(clock):
    """255 that come without warm-up go row by row where each shape is compiled; 258 pay for one."""
    engine = Engine(clock)
    for compiles, count, sizes in ((True, 255, {1}), (True, 258, {1, 4}), (False, 255, {3, 4})):
        engine.grid = Grid(2, compiles)
        made = run(engine, Words(clock), ["11"] * count, Shape(4, 6), warmup=0)
        assert {shape.batch_size for shape in made.shapes} == sizes and made.rows_are == "chosen"
        assert made.logits[:, 0].tolist() == count * [11]
    engine.runs, engine.grid = 0, Grid(2, compiles=True)
    made = run(engine, Words(clock), ["11"] * 8, Shape(4, 6))
    assert engine.prepared == [Shape(4, 6, 1)] and len(made.shapes) == 2


@pytest.mark.parametrize("shape", [Shape(2, 6), Shape(2, 6, 2)])
def test_progress_is_told_what_there_is_to_do(clock, shape):
    told = []

    def progress(steps, **options):
        told.append((options, len(list(steps)) if hasattr(steps, "__len__") else None))
        return steps

    run(Engine(clock), Words(clock), FIVE, shape, progress=progress)
    assert told[0] == ({"desc": "warm up", "unit": "shape"}, 1)
    assert told[1] == ({"desc": "evaluate", "total": 3, "unit": "batch"}, None)


def test_two_streams_run_side_by_side_and_keep_the_order():
    """The first of each two batches takes longer: the second is there before it."""

    class Slow(Engine):
        streams, together, most = 2, 0, 0

        def run(self, batch):
            self.together += 1
            self.most = max(self.most, self.together)
            time.sleep(0.03 if batch.input_ids[0, 1] % 4 == 0 else 0.01)
            self.together -= 1
            return super().run(batch)

    engine = Slow(Clock())
    sentences = [str(10 + i) for i in range(19)]
    made = run(engine, Words(engine.clock), sentences)
    assert made.logits[:, 0].tolist() == list(range(10, 29))
    assert engine.most == 2 and len(made.forward) == 10


@pytest.mark.parametrize(
    "intervals, length",
    [([], 0), ([(1, 3)], 2), ([(1, 3), (2, 4)], 3), ([(2, 4), (1, 3), (3, 3.5), (7, 8)], 4)],
)
def test_the_union_of_intervals(intervals, length):
    assert evaluate.union(intervals) == length


def test_scored_and_right():
    logits = numpy.array([[0, 1], [1, NAN], [NAN, 1], [INF, 0], [1, 0]], numpy.float32)
    assert evaluate.finite(logits).tolist() == [True, False, False, False, True]
    assert evaluate.is_correct(logits, [1, 1, 0, 0, 1]).tolist() == [True] + 4 * [False]


# Batches


def test_a_short_plain_batch_repeats_its_last_row():
    encoded = map(Encoded, ([2, 5, 3], [2, 6, 7, 3], [2, 8, 3]))
    first, last = batching.batches(encoded, Shape(2, 4))
    assert first.input_ids.tolist() == [[2, 5, 3, 0], [2, 6, 7, 3]]
    assert first.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert (first.sentences, first.rows, first.slots) == ([0, 1], [0, 1], None)
    assert last.input_ids.tolist() == 2 * [[2, 8, 3, 0]]
    assert last.attention_mask.tolist() == 2 * [[1, 1, 1, 0]]
    assert (last.sentences, last.rows, last.slots) == ([2], [0], None)
    for batch in (first, last):
        assert batch.token_type_ids.tolist() == 2 * [4 * [0]]
        assert {array.dtype for array in batch.inputs} == {numpy.dtype("int64")}
        assert batch.inputs == (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        assert batch.shape == Shape(2, 4)
    into = numpy.full((3, 2), NAN, numpy.float32)
    batching.scatter(numpy.array([[1, 2], [3, 4]], numpy.float32), last, into)
    assert into[2].tolist() == [1, 2] and numpy.isnan(into[:2]).all()


def test_rows_go_on_from_one_window_of_sentences_to_the_next(monkeypatch):
    """Windows of 3 in batches of 2: what a window leaves over begins the next one's batch, and a
    batch is there as soon as its window was read."""
    monkeypatch.setattr(batching, "WINDOW", 3)
    read = []
    encoded = (read.append(i) or Encoded([2, 5 + i, 3]) for i in range(7))
    made = batching.batches(encoded, Shape(2, 4))
    first = next(made)
    assert (first.sentences, read) == ([0, 1], [0, 1, 2])
    rest = list(made)
    assert [batch.sentences for batch in rest] == [[2, 3], [4, 5], [6]]
    assert [batch.input_ids[:, 1].tolist() for batch in rest] == [[7, 8], [9, 10], [11, 11]]


def test_a_packed_batch_numbers_its_sentences():
    encoded = map(Encoded, ([2, 5, 3], [2, 6, 7, 8, 3], [2, 9, 3]))
    (batch,) = batching.batches(encoded, Shape(2, 8, 2))
    assert batch.input_ids.tolist() == [[2, 6, 7, 8, 3, 2, 5, 3], [2, 9, 3, 0, 0, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert (batch.sentences, batch.rows, batch.slots) == ([1, 0, 2], [0, 0, 1], [0, 1, 0])
    into = numpy.zeros((3, 1), numpy.float32)
    batching.scatter(numpy.array([[[1], [2]], [[3], [4]]], numpy.float32), batch, into)
    assert into.tolist() == [[2], [1], [3]]


@pytest.mark.parametrize(
    "lengths, slots, rows",
    [
        ([4, 4, 6, 6], {10: 4}, [(10, [2, 0]), (10, [3, 1])]),  # in their order it would be three
        ([5, 5, 5], {10: 4}, [(10, [0, 1]), (10, [2])]),
        ([3, 3, 3], {10: 2}, [(10, [0, 1]), (10, [2])]),
        ([7, 6, 3, 3], {10: 4}, [(10, [0, 2]), (10, [1, 3])]),
        ([3, 15, 5, 9], {10: 4, 20: 4}, [(20, [1, 2]), (10, [3]), (10, [0])]),
        ([10, 11, 3], {20: 2, 10: 1}, [(20, [1, 2]), (10, [0])]),
        ([128, 128], {128: 4}, [(128, [0]), (128, [1])]),
        ([], {10: 2}, []),
    ],
)
def test_packing_is_first_fit_decreasing(lengths, slots, rows):
    """A row has the least capacity that holds its longest sentence, and shorter ones fill it up."""
    assert batching.pack(lengths, slots) == rows


def test_shapes_from_their_flags():
    def shapes(batch_size, max_seq_length, pack=False, free_sizes=False):
        flags = {"batch_size": batch_size, "max_seq_length": max_seq_length, "pack": pack}
        return export_arguments.shapes(SimpleNamespace(**flags), free_sizes)

    assert shapes([4], [128], free_sizes=True) == (Shape(4, 128, 0),) == (Shape(4, 128),)
    assert shapes([4], [128], pack=True) == (Shape(4, 128, 32),) == (packed(4, 128),)
    assert shapes([4, 1], [7], pack=True) == (Shape(1, 7, 2), Shape(4, 7, 2))
    several = (Shape(1, 16), Shape(8, 16), Shape(1, 64), Shape(8, 64))
    assert shapes([8, 1, 8], [64, 16, 16]) == several
    assert describe(several) == "batch 1 8 x 16 64 tokens"
    assert describe([packed(4, 8)]) == "batch 4 x 8 tokens, up to 2 sentences a row"
    assert (str(Shape(4, 8)), Shape(4, 8).inputs) == ("batch 4 x 8 tokens", (4, 8))
    with pytest.raises(UserError, match="^--pack: a packed row has one length"):
        shapes([4], [64, 128], pack=True)
    for wrong in (([4], [64], True), ([1, 4], [64]), ([4], [64, 128])):
        with pytest.raises(UserError, match="the file chooses its rows by itself"):
            shapes(*wrong, free_sizes=True)
