"""Classifier under calls from many threads and tasks: whose answer is whose, turns, and the end."""

import asyncio
import contextlib
import ctypes
import gc
import itertools
import os
import pickle
import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
from corpora import OVERFLOW, write_file

from albert_aie.base.choose_shapes import Grid
from albert_aie.base.encoding import Encoded
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape, packed
from albert_aie.run import dynamic_batching
from albert_aie.run.batching import next_batch
from albert_aie.run.classifier import Classifier
from albert_aie.run.dynamic_batching import Batcher
from albert_aie.run.evaluate import evaluate


def test_a_window_takes_one_sentence_of_each_caller_and_then_a_second():
    asked = [dynamic_batching.Request([f"{name}{i}" for i in range(3)]) for name in "abc"]
    asked[1].waiting = {2: "b2"}
    asked.append(dynamic_batching.Request(["a3"], 1, asked[0]))  # a further slice of a's
    asked[0].caller = asked[3].caller
    window = [(number, sentence) for _, number, sentence in dynamic_batching._in_turns(asked, 7)]
    assert window == [(0, "a0"), (2, "b2"), (0, "c0"), (1, "a1"), (1, "c1"), (2, "a2"), (2, "c2")]
    assert dynamic_batching._in_turns(asked, 9)[-1][2] == "a3"


class Runner:
    """An engine whose logit of a sentence is its first token; it waits for `gate`, with token 99
    for `late`, and notes its calls. Token 13 is an error, 7 a NaN for all of its row."""

    grid = Grid(4, compiles=False)

    def __init__(self, streams):
        self.streams = streams
        self.gate, self.late, self.calls = threading.Event(), threading.Event(), []
        self.entered = threading.Semaphore(0)

    def run(self, batch):
        self.calls.append(batch)
        self.entered.release()
        assert (self.late if 99 in batch.input_ids else self.gate).wait(60)
        ids, mask = batch.input_ids, batch.attention_mask
        if 13 in ids:
            raise RuntimeError("token 13")
        rows, _, slots = batch.shape
        logits = numpy.zeros((rows, slots or 1, 1), numpy.float32)
        for row in range(rows):
            for number in range(1, mask[row].max() + 1):
                logits[row, number - 1] = ids[row][mask[row] == number][0]
            if 7 in ids[row]:
                logits[row] = numpy.nan
        return SimpleNamespace(logits=logits if slots else logits[:, 0], forward=1e-6)


def batcher(limit=100, streams=1):
    saved = SimpleNamespace(path="a.pt", num_labels=1, shapes=(Shape(8, 64),))
    return Batcher(Runner(streams), saved, limit)


def text(token, length=20):
    return Encoded([token] * length)


def running(one, token=100):
    """Its first call has begun, and waits."""
    future = one.submit([text(token)])
    assert one._runner.entered.acquire(timeout=20)
    return future


def test_what_waits_shares_the_next_call_and_each_gets_its_own_answer():
    one = batcher()
    first = running(one)
    others = [one.submit([text(i + 20, 12), text(i + 40, 9)]) for i in range(9)]
    one._runner.gate.set()
    assert first.result(20) == 100
    for i, future in enumerate(others):
        assert future.result(20).ravel().tolist() == [i + 20, i + 40]
    assert len(one._runner.calls) <= 3  # 18 sentences in a call: rows are as fast as they were


def test_a_lone_caller_starts_at_once_at_its_own_length():
    """No program of whole calls is compiled for it, to know its streams."""
    one = batcher(streams=2)
    one._runner.gate.set()
    assert one.submit([text(9, 21)]).result(20) == 9
    one.alone(lambda runner: None)
    assert [batch.shape for batch in one._runner.calls] == [Shape(1, 24)]
    assert len(one._threads) == 1


def test_a_lone_list_fills_its_rows_from_many_sentences():
    one = batcher(1000)
    one._runner.gate.set()
    assert len(one.submit([text(9, 5)] * 96).result(20)) == 96 and len(one._runner.calls) == 1


@pytest.mark.parametrize(
    "lists, streams, rows",
    [([1] * 12, 1, 6), ([1] * 20, 1, 8), ([40, 40], 1, 6), ([1] * 20, 2, 6)],
)
def test_while_others_wait_a_call_takes_65_ms_or_half_of_what_they_wait_for(lists, streams, rows):
    """With several streams, which have begun in the first turn, 65 ms."""
    one = batcher(streams=streams)
    run = one._runner.run

    def slow(batch):
        return SimpleNamespace(**{**vars(run(batch)), "forward": 0.01 * batch.shape.batch_size})

    one._runner.run = slow
    for _ in range(2):
        one._runner.gate.clear()
        while one._runner.entered.acquire(blocking=False):
            pass
        one._runner.calls.clear()
        running(one)
        asked = [one.submit([text(20 + i, 60)] * size) for i, size in enumerate(lists)]
        one._runner.gate.set()
        for i, (request, size) in enumerate(zip(asked, lists)):
            assert request.result(20).ravel().tolist() == [20 + i] * size
        one.alone(lambda runner: None)
    assert max(batch.shape.batch_size for batch in one._runner.calls) == rows


def test_nobody_starves_behind_a_long_list():
    """Who comes last is in the next call, however long a list is."""
    one = batcher(1000)
    running(one)
    long = one.submit([text(50, 60)] * 200)
    late = [one.submit([text(i, 60)]) for i in (60, 61, 62)]
    one._runner.gate.set()
    for future in (*late, long):
        future.result(20)
    assert one._runner.calls[1].input_ids[:, 0].tolist() == [50, 60, 61, 62, 50, 50, 50, 50]


def test_callers_take_turns():
    """Each has its first sentence computed before any has its second."""
    one = batcher()
    running(one)
    futures = [one.submit([text(20 + i, 60), text(60 + i, 60)]) for i in range(12)]
    one._runner.gate.set()
    for future in futures:
        future.result(20)
    order = [int(ids[0]) for batch in one._runner.calls[1:] for ids in batch.input_ids]
    assert max(order.index(20 + i) for i in range(12)) < min(order.index(60 + i) for i in range(12))


@pytest.mark.parametrize("arrived", [0, 3])
def test_too_many_that_wait_are_refused(arrived):
    """Those that another call has left waiting count, and those that came since."""
    one = batcher(limit=20)
    first = running(one)
    left = one.submit([text(99, 60) for _ in range(18)])  # of which a call takes 8
    one._runner.gate.set()
    assert first.result(20) == 100 and one._runner.entered.acquire(timeout=20)
    others = [one.submit([text(1)]) for _ in range(arrived)]
    with pytest.raises(dynamic_batching.Busy, match=f"{10 + arrived} sentences wait already"):
        one.submit([text(3)] * (11 - arrived))
    assert one.submit([text(3)] * 20, more=True)  # of a list that was begun
    one._runner.late.set()
    assert len(left.result(20)) == 18 and all(other.result(20) == 1 for other in others)
    one.alone(lambda runner: None)
    assert len(one.submit([text(3)] * 20).result(20)) == 20


@pytest.mark.parametrize("token", [13, 7])
def test_an_error_or_a_nan_reaches_its_own_caller_alone(token):
    one = batcher()
    running(one)
    good, bad, other = (one.submit([text(i, 9)]) for i in (5, token, 6))
    one._runner.gate.set()
    assert good.result(20) == 5 and other.result(20) == 6
    if token == 13:
        with pytest.raises(RuntimeError, match="token 13"):
            bad.result(20)
        calls = len(one._runner.calls)
        with pytest.raises(RuntimeError, match="token 13"):
            one.submit([text(13)] * 9).result(20)
        one.alone(lambda runner: None)
        assert len(one._runner.calls) == calls + 2, "the others of a failed list are not tried"
    else:
        assert numpy.isnan(bad.result(20)).all()
        calls = len(one._runner.calls)
        assert numpy.isnan(one.submit([text(7)]).result(20)).all()
        one.alone(lambda runner: None)
        assert len(one._runner.calls) == calls + 1, "alone already, it is not tried again"


def test_close_answers_what_runs_and_refuses_what_waits():
    """Those that a call has left waiting, and those that came since."""
    one, caller = batcher(), object()
    assert running(one) and (runs := one.submit([text(99, 60)] * 8, caller))
    left = one.submit([text(5)], caller)
    one._runner.gate.set()
    assert one._runner.entered.acquire(timeout=20)
    came = one.submit([text(5)])
    ended = threading.Thread(target=one.close)
    ended.start()
    for waits in (left, came):
        with pytest.raises(UserError, match="closed"):
            waits.result(20)
    ended.join(0.1)
    assert ended.is_alive(), "it waits for what runs"
    one._runner.late.set()
    ended.join(20)
    assert runs.result(0)[7] == 99 and not ended.is_alive()
    with pytest.raises(UserError, match="closed"):
        one.submit([text(5)]).result(20)


def test_the_engine_is_one_callers_when_its_turn_comes():
    """What came before is computed before, all of it, and what came later after it."""
    one, order = batcher(1000), []
    running(one)

    def asked(tokens):
        name = f"texts of {len(tokens)}"
        return one.submit([text(t, 60) for t in tokens], notify=lambda: order.append(name))

    def function(runner):
        order.append("engine")
        assert soon(lambda: one._bell.empty()) and later.is_open
        raise KeyboardInterrupt

    def take():
        with pytest.raises(KeyboardInterrupt):
            one.alone(function)

    before = asked([20] * 99), asked([21])
    taker = threading.Thread(target=take)
    taker.start()
    assert soon(lambda: len(one._inbox) == 101)
    later = asked([22] * 2)
    one._runner.gate.set()
    assert later.result(20).tolist() == [[22], [22]] and not any(b.is_open for b in before)
    taker.join(20)
    assert order == ["texts of 1", "texts of 99", "engine", "texts of 2"]


@pytest.mark.parametrize("by", ["a signal", "another thread"])
def test_close_while_one_has_the_engine(by):
    """It waits for the end of that, but not in the thread that would have to come to it."""
    one, ended = batcher(), []
    closer = threading.Thread(target=lambda: (one.close(), ended.append("closed")))

    def function(runner):
        if by == "a signal":
            one.close()
        else:
            closer.start()
            assert soon(lambda: one._closed)
            time.sleep(0.1)
        ended.append("function")

    one.alone(function)
    assert ended[0] == "function" and soon(lambda: by == "a signal" or ended[1:] == ["closed"])
    assert soon(lambda: not any(thread.is_alive() for thread in one._threads))


def test_callers_of_compiled_shapes_share_calls_too():
    one = batcher()
    one._runner.grid, one._saved.shapes = None, (Shape(1, 64), Shape(8, 64))
    running(one)
    asked = [one.submit([text(i)]) for i in range(20, 36)]
    one._runner.gate.set()
    assert [request.result(20) for request in asked] == list(range(20, 36))
    assert [batch.shape for batch in one._runner.calls] == [Shape(1, 64), *[Shape(8, 64)] * 2]


def test_who_came_first_is_first_and_who_got_nothing_is_next():
    one, caller = batcher(), object()
    running(one)
    asked = [one.submit([text(i, 60), text(i + 1, 60)], caller) for i in (99, 22)]
    asked += [one.submit([text(i, 60)]) for i in range(30, 40)]
    one._runner.gate.set()
    assert one._runner.entered.acquire(timeout=20)
    asked += [one.submit([text(i, 60)]) for i in range(40, 45)]
    one._runner.late.set()
    assert all(request.result(20).size for request in asked)
    order = [int(ids[0]) for batch in one._runner.calls[1:] for ids in batch.input_ids]
    assert order == [99, *range(30, 40), 100, *range(40, 45), 22, 23]


def test_a_text_that_fails_holds_up_no_answer_of_its_call(monkeypatch):
    one, tried, goes_on = batcher(), threading.Event(), threading.Event()
    run_alone = dynamic_batching.run_alone

    def slow(*given):
        tried.set()
        assert goes_on.wait(20)
        return run_alone(*given)

    monkeypatch.setattr(dynamic_batching, "run_alone", slow)
    running(one)
    caller = object()
    good, bad = (one.submit([text(i, 62)], caller) for i in (5, 7))
    one._runner.gate.set()
    assert good.result(20) == 5 and tried.wait(20) and bad.is_open
    goes_on.set()
    assert numpy.isnan(bad.result(20)).all()


def test_logits_of_a_wrong_shape_are_an_error_of_their_callers_alone():
    one = batcher()
    one._runner.gate.set()
    run = one._runner.run
    one._runner.run = lambda batch: SimpleNamespace(**{**vars(run(batch)), "forward": 0.0})
    assert len(one.submit([text(5, 60)] * 8).result(20)) == 8 and len(one._runner.calls) == 1
    one._runner.run = lambda batch: SimpleNamespace(logits=numpy.zeros((9, 9, 9)), forward=1e-6)
    caller = object()
    for request in [one.submit([text(5)], caller) for _ in range(3)]:
        with pytest.raises(ValueError):
            request.result(20)
    one._runner.run = run
    assert one.submit([text(5)]).result(20) == 5


def test_an_event_loop_that_has_ended_holds_up_nobody():
    one, told = batcher(), []

    def notify():
        told.append(asked.result(0))
        raise RuntimeError("Event loop is closed")

    running(one)
    asked = one.submit([text(5)], notify=notify)
    one._runner.gate.set()
    assert one.submit([text(6)]).result(20) == 6 and told == [5]
    one.close()
    with pytest.raises(UserError, match="closed"):
        one.submit([text(6)], notify=notify).result(20)


def test_programs_for_whole_calls_are_compiled_for_many_sentences_alone():
    """A list takes those of the most rows and of one, callers those of 1, 2, 4, ... rows."""

    def rows_of(*lists):
        one._runner.gate.clear()
        one._runner.entered = threading.Semaphore(0)
        running(one)
        calls = len(one._runner.calls)
        asked = [one.submit([text(5, 60)] * size) for size in lists]
        one._runner.gate.set()
        assert all(request.result(20)[-1] == 5 for request in asked)
        return [batch.shape.batch_size for batch in one._runner.calls[calls:]]

    one = batcher(1000)
    one._runner.grid = Grid(4, compiles=True)
    assert rows_of(254) == [1] * 254  # and two calls of one
    assert rows_of(12) == [8, 1, 1, 1, 1] and rows_of(*[1] * 12) == [8, 4]
    one = batcher(1000)
    one._runner.grid = Grid(4, compiles=True)
    assert rows_of(256) == [8] * 32


def test_what_comes_while_it_closes_is_refused():
    one = batcher()
    one._ring = lambda: setattr(one, "_closed", True)
    with pytest.raises(UserError, match="closed"):
        one.submit([text(5)]).result(20)
    one._inbox.append(dynamic_batching.Request([text(5)], 1))  # that close() has not seen
    assert (request := one._inbox[-1]) and one._take() is None
    with pytest.raises(UserError, match="closed"):
        request.result(0)


@pytest.mark.parametrize("streams", [1, 2])
def test_an_evaluation_that_was_left_computes_no_more(streams):
    runner, sentences = Runner(streams), [f"{i}" for i in range(200)]
    runner.gate.set()
    run, under_way = runner.run, []

    def slow(batch):
        under_way.append(id(batch))
        time.sleep(0.01)
        under_way.remove(id(batch))
        return SimpleNamespace(**vars(run(batch)), copy_in=0, copy_out=0, started=0)

    def progress(steps, **_):
        next(iter(steps))
        raise KeyboardInterrupt
        yield

    runner.run = slow
    saved = SimpleNamespace(num_labels=1, shapes=(Shape(8, 64),), shape=Shape(8, 64))
    tokenizer = SimpleNamespace(encode=lambda sentence, length: text(int(sentence) + 20, 60))
    with pytest.raises(KeyboardInterrupt):
        try:
            evaluate(runner, saved, tokenizer, sentences, progress, warmup=0)
        finally:
            calls = len(runner.calls)
            assert not under_way and 0 < calls < 9
    time.sleep(0.1)
    assert len(runner.calls) == calls


def two_streams():
    """A Batcher of an engine with two streams, which it knows from its first call, and both of
    whose threads wait at the bell."""
    one = batcher(1000, streams=2)
    one._runner.gate.set()
    assert one.submit([text(9, 30), text(9, 30)]).result(20)[1] == 9
    one._runner.gate.clear()
    assert soon(lambda: len(one._threads) == 2 and one._bell.empty())
    time.sleep(0.05)
    return one


def soon(condition):
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)
    return condition()


def begun(one, calls):
    """Whether so many calls begin in all, and no more."""
    soon(lambda: len(one._runner.calls) >= calls)
    time.sleep(0.1)
    return len(one._runner.calls) == calls


def test_a_sentence_in_a_row_of_its_own_has_all_streams():
    one = two_streams()
    first = one.submit([text(100)])
    assert begun(one, 2)
    others = [one.submit([text(20 + i, 60)]) for i in range(4)]
    assert begun(one, 2) and one._runner.calls[-1].shape == Shape(1, 20)
    one._runner.gate.set()
    assert [future.result(20) for future in (first, *others)] == [100, 20, 21, 22, 23]


@pytest.mark.parametrize("lists", [1, 9])
def test_every_stream_computes_what_waits(lists):
    """Of one caller's list or of several; each answer is its own text's, whoever computed it."""
    one = two_streams()
    tokens = [list(range(20 + i, 90 + i)) for i in range(lists)]
    futures = [one.submit([text(token, 30) for token in row]) for row in tokens]
    assert begun(one, 3)
    one._runner.gate.set()
    assert [future.result(20).ravel().tolist() for future in futures] == tokens


def test_beside_another_call_a_sentence_has_a_stream_and_not_all():
    one = two_streams()
    asked = [one.submit([text(20, 30), text(21, 30)])]
    assert begun(one, 2)
    asked.append(one.submit([text(22)]))
    assert begun(one, 3) and all(batch.slots for batch in one._runner.calls[1:])
    one._runner.gate.set()
    assert [future.result(20).ravel().tolist() for future in asked] == [[20, 21], [22]]


@pytest.mark.parametrize("way", ["engine", "close"])
def test_who_takes_the_engine_or_closes_it_waits_for_every_stream(way):
    one, done, order = two_streams(), threading.Event(), []
    asked = []
    for token in (20, 99):
        asked.append(one.submit([text(token, 30)] * 2))
        assert begun(one, len(asked) + 1)

    def take():
        if way == "close":
            one.close()
        else:
            one.alone(lambda runner: order.append("taken"))
        done.set()

    taker = threading.Thread(target=take)
    taker.start()
    time.sleep(0.1)
    if way == "engine":
        late = one.submit([text(5)], notify=lambda: order.append("late"))
    one._runner.gate.set()
    assert asked[0].result(20)[1] == 20 and not done.wait(0.1)
    one._runner.late.set()
    taker.join(20)
    assert done.is_set() and asked[1].result(20)[1] == 99
    assert way == "close" or (late.result(20) == 5 and order == ["taken", "late"])


def test_nobody_is_served_before_what_waits():
    one = batcher()
    one._runner.gate.set()
    one._inbox.append(dynamic_batching.Request([text(5)], 1))  # as between two calls
    assert one.alone(lambda runner: len(runner.calls)) == 1


def test_what_was_cancelled_is_not_computed():
    one = batcher()
    running(one)
    left, stays = one.submit([text(33, 60)]), one.submit([text(5, 60)])
    left.cancelled = True
    one._runner.gate.set()
    assert stays.result(20) == 5
    assert not any(33 in batch.input_ids for batch in one._runner.calls)


def test_the_next_in_turn_is_first_and_the_longest_that_fit_share_its_row():
    waiting = [(i, text(i, n)) for i, n in enumerate([10, 20, 30, 60, 24])]
    batch = next_batch(waiting, [packed(1, 64)])
    assert batch.sentences == [0, 2, 4] and batch.shape == packed(1, 64)
    assert next_batch(waiting[:2], [packed(1, 64)], (Shape(1, 12),)).shape == Shape(1, 12)
    # one after the other where that costs less, in any number of rows
    poor, full = (
        [(i, text(i, n)) for i, n in enumerate(lengths)] for lengths in ([45, 43], [62, 62])
    )
    singles, shapes = (Shape(1, 48), Shape(1, 64)), [packed(1, 64), packed(2, 64)]
    assert next_batch(poor, shapes, singles).shape == Shape(1, 48)
    assert next_batch(full, shapes, singles).shape == packed(2, 64)


def test_callers_may_be_killed_anywhere(made_by):
    """Again and again, in the midst of asking, waiting and leaving: all others are answered."""
    with Classifier(made_by["openvino"]) as classify:
        wanted, wrong, died = classify("dull").probability, [], itertools.count()
        until = time.monotonic() + 3

        def work():
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    try:
                        ask()
                    except TimeoutError:
                        next(died)
                        raise

        def ask():
            while time.monotonic() < until:
                found = classify(["dull"] * random.choice([1, 1, 3]))
                if any(one.probability != pytest.approx(wanted, abs=1e-5) for one in found):
                    wrong.append(found)

        callers = [threading.Thread(target=work, daemon=True) for _ in range(8)]
        for caller in callers:
            caller.start()
        while time.monotonic() < until - 0.5:
            kill(random.choice(callers))
            time.sleep(0.001)
        for caller in callers:
            caller.join(20)
        assert not any(caller.is_alive() for caller in callers) and not wrong
        assert next(died) > 100 and classify("dull").probability == pytest.approx(wanted, abs=1e-5)


def kill(thread):
    """TimeoutError at the next bytecode of a thread that runs."""
    error, number = ctypes.py_object(TimeoutError), ctypes.c_ulong(thread.ident)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(number, error)


def test_many_threads_each_get_the_answers_of_their_own_texts(overflowing):
    serve(overflowing, requests=400, threads=16)


@pytest.mark.slow
def test_ten_thousand_requests_from_64_threads(overflowing):
    serve(overflowing, requests=10_000, threads=64)


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """A small openvino file whose logits overflow at the word OVERFLOW."""
    folder = tmp_path_factory.mktemp("overflowing")
    return write_file(folder, "SST-2", backend="openvino", precision="fp32")


def serve(file, requests, threads):
    """Random texts, from threads of which every eighth is killed half way: each answer is that of
    the text by itself, in fp32. Some texts are over-long, and some overflow, which is NaN for all
    of their row."""
    draw, words = random.Random(0), "a fine film dull poor charming never well acted plot".split()
    texts = [" ".join(draw.choices(words, k=draw.choice([1, 4, 9, 20, 90]))) for _ in range(50)]
    texts += [f"{one} {OVERFLOW}"[-60:] for one in texts[:5]]
    with Classifier(file) as classify:
        wanted = {one: classify(one).probability for one in texts}
        assert [one for one in texts if wanted[one] is None] == texts[-5:]
        answered, wrong, killed, memory = itertools.count(), [], [], []
        half = threading.Barrier(threads + 1)

        def work(seed):
            own, dies = random.Random(seed), seed % 8 == 0
            try:
                ask(own, requests // threads // 2)
                half.wait(200)
                ask(own, 10**9 if dies else requests // threads // 2)
            except TimeoutError:
                killed.append(seed)

        def ask(own, count):
            for _ in range(count):
                asked = own.sample(texts, own.choice([1, 1, 1, 5]))
                for one, answer in zip(asked, classify(asked)):
                    if answer.probability != pytest.approx(wanted[one], abs=1e-5):
                        wrong.append(one)
                    if next(answered) % 100 == 0:
                        memory.append(resident())

        workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(threads)]
        for worker in workers:
            worker.start()
        half.wait(200)
        for worker in workers[::8]:
            kill(worker)
        deadline = time.monotonic() + 200
        for worker in workers:
            worker.join(max(0, deadline - time.monotonic()))
        assert not any(worker.is_alive() for worker in workers) and not wrong
        assert sorted(killed) == list(range(0, threads, 8))
        assert next(answered) > requests * (1 - 1 / 8)
        quarter = len(memory) // 4
        assert max(memory[-quarter:]) < max(memory[quarter:-quarter]) + 20e6
        assert classify(texts[0]).probability == pytest.approx(wanted[texts[0]], abs=1e-5)


def resident():
    """Bytes of main memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_asyncio_awaits_it_and_a_cancelled_task_holds_up_nobody(made_by):
    texts = [f"a {'very ' * i}fine film" for i in range(12)]

    async def main(classify):
        tasks = [asyncio.ensure_future(classify.answer(one)) for one in texts]
        await asyncio.sleep(0)
        tasks[3].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return found, await classify.answer(texts)

    with Classifier(made_by["openvino"]) as classify:
        wanted = [classify(one).probability for one in texts]
        found, all_of_them = asyncio.run(main(classify))
    assert [one.probability for one in all_of_them] == pytest.approx(wanted, abs=1e-5)
    assert isinstance(found.pop(3), asyncio.CancelledError) and wanted.pop(3)
    assert [one.probability for one in found] == pytest.approx(wanted, abs=1e-5)


def test_after_a_warm_up_no_call_compiles(made_by):
    with Classifier(made_by["openvino"], streams=1) as classify:
        classify.warm_up()
        programs, alone = set(classify.runner._programs), classify("film")
        assert {True, False} == {bool(shape.slots) for shape in programs}
        gate = threading.Thread(target=classify.evaluate, args=(["film"] * 9,))
        gate.start()
        threads = [threading.Thread(target=classify, args=("film " * i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        for thread in (gate, *threads):
            thread.join(60)
        assert classify("film") == alone and set(classify.runner._programs) == programs


def test_a_warm_up_runs_one_shape_where_none_is_compiled(made_by, monkeypatch):
    with Classifier(made_by["torchscript"]) as classify:
        run, shapes = classify.runner.run, []
        monkeypatch.setattr(
            classify.runner, "run", lambda batch: (shapes.append(batch.shape), run(batch))[1]
        )
        classify.warm_up()
        assert len(shapes) == 1


def test_a_long_list_is_answered_in_order(made_by):
    texts = ["fine" if i % 3 else "dull and slow" for i in range(700)]
    with Classifier(made_by["torchscript"]) as classify:
        classify._batcher._limit = 300  # of what is asked for, not of one list
        wanted = [classify("dull and slow").probability, classify("fine").probability]
        found = [one.probability for one in classify(texts)]
    assert found == pytest.approx([wanted[bool(i % 3)] for i in range(700)], abs=1e-5)


def test_a_pickled_one_says_what_to_do(made_by):
    with Classifier(made_by["torchscript"]) as classify:
        with pytest.raises(UserError, match="cannot be pickled or copied; send the file's path"):
            pickle.dumps(classify)


def test_one_that_nobody_closes_ends_its_threads(made_by):
    before = threading.active_count()
    classify = Classifier(made_by["openvino"])
    assert len(classify(["dull"] * 40)) == 40 and threading.active_count() > before
    threads = classify._batcher._threads
    del classify
    gc.collect()
    assert soon(lambda: not any(thread.is_alive() for thread in threads))


def test_one_is_collected_inside_of_threading_too(made_by):
    """By whoever holds the lock that the end of a thread needs."""
    held, done = [Classifier(made_by["openvino"])], threading.Event()
    assert len(held[0](["dull"] * 40)) == 40

    def collect():
        with threading._active_limbo_lock:
            held.clear()
            gc.collect()
        done.set()

    threading.Timer(0, collect).start()
    assert done.wait(20)


@pytest.mark.parametrize("first, second", [(None, UserError("b")), (UserError("a"), None)])
def test_what_ended_stays_as_it_ended(first, second):
    """As close() comes beside the engine."""
    told = []
    one = dynamic_batching.Request([text(5)], 1, notify=lambda: told.append(1))
    one.end(first)
    with pytest.raises(UserError, match="a") if first else contextlib.nullcontext():
        one.result(0)
    one.end(second)
    with pytest.raises(UserError, match="a") if first else contextlib.nullcontext():
        one.result(0)
    assert told == [1] and not one.is_open


def test_no_thread_can_be_started(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(dynamic_batching.threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="new thread"):
        batcher()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("where", ["_take", "_compute"])
def test_a_fault_of_ours_leaves_nobody_waiting(where, monkeypatch):
    one = batcher()
    running(one)
    waits = one.submit([text(5)])
    monkeypatch.setattr(one, where, lambda *given: 1 / 0)
    one._runner.gate.set()
    with pytest.raises(ZeroDivisionError):
        waits.result(20)
    assert soon(lambda: not any(thread.is_alive() for thread in one._threads))
    with pytest.raises(UserError, match="closed"):
        one.submit([text(5)]).result(20)


def test_a_call_that_cannot_be_planned_fails_and_the_next_does_not(monkeypatch):
    one = batcher()
    one._runner.gate.set()
    monkeypatch.setattr(one, "_plan", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.submit([text(5)]).result(20)
    monkeypatch.undo()
    assert one.submit([text(5)]).result(20) == 5


def test_what_its_caller_leaves_is_not_computed(made_by):
    with Classifier(made_by["torchscript"]) as classify:
        with contextlib.closing(classify._submitted(["dull"] * 700)) as slices:
            asked = [next(slices)[0]]
            submit = classify._batcher.submit
            classify._batcher.submit = lambda *given: asked.append(submit(*given)) or asked[-1]
            next(slices)
        assert all(one.cancelled for one in asked[1:]) and len(asked) > 1
        assert len({one.caller for one in asked}) == 1


def test_where_no_second_thread_can_be_started_the_first_goes_on(monkeypatch):
    one, tokens, refused = batcher(1000, streams=2), list(range(20, 90)), []

    def start(self):
        refused.append(self)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(dynamic_batching.threading.Thread, "start", start)
    one._runner.gate.set()
    found = one.submit([text(token, 60) for token in tokens]).result(20)
    assert found.ravel().tolist() == tokens and refused
