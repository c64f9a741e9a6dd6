"""Dynamic batching: what several threads ask for while the engine is busy shares its next call.

What waits is a window. A call takes the sentence whose turn it is, and packs others of the window
with it (batching.next_batch). Callers take turns, so a long list goes in slices. Each stream of the
engine has a thread that computes calls as long as something waits; a sentence in a row of its own
length has all streams. A caller who finds the engine idle computes its one sentence itself."""

import contextlib
import itertools
import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError

import numpy

from ..base.choose_shapes import CHOSEN, FEW, SHARED, SINGLE, choose
from ..base.errors import UserError
from .batching import next_batch
from .evaluate import finite, run_alone

LIMIT = 16384  # sentences that wait at most
WINDOW = 64  # of them that are looked at for the next call: enough for full rows
# Seconds that a call of several rows may take while another caller waits: a text waits for the call
# that runs, then for its own, within the 130 ms of MLPerf's BERT server.
STEP = 0.065


class Busy(UserError):
    """Too many sentences wait: call again later."""


class Request:
    """A slice of a `caller`'s sentences: those that wait, {their number: Encoded}, and where its
    answer goes, float32 logits [sentences, class]."""

    def __init__(self, sentences=(), num_labels=0, caller=None):
        self.caller = self if caller is None else caller
        self._lock = threading.Lock()  # of `left`: two streams may answer at once
        self.waiting, self.left = dict(enumerate(sentences)), len(sentences)
        self.logits = numpy.full((len(sentences), num_labels), numpy.nan, numpy.float32)
        self.future = Future()

    def answer(self, number, logits):
        self.logits[number] = logits
        with self._lock:
            self.left -= 1
            last = not self.left
        if last:
            with contextlib.suppress(InvalidStateError):  # its caller has left
                self.future.set_result(self.logits)

    def fail(self, error):
        self.waiting.clear()
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


class Batcher:
    """Gives the engine of a runner, which has loaded the Artifact `saved`, its calls: as many at a
    time as it has streams. What waits gets the exception `closed()` when it is closed."""

    def __init__(self, runner, saved, closed, limit=LIMIT):
        self._runner, self._saved, self._closed_error, self._limit = runner, saved, closed, limit
        self._lock = threading.Lock()  # of all below
        self._idle = threading.Condition(self._lock)
        self._queue = deque()  # of Request, the next in turn first; without sentences: for engine()
        self._threads, self._streams = set(), 1  # of calls; at most, read when a call is planned
        self._calls, self._whole = set(), False  # whose are under way; whether one has all streams
        self._closed = False
        self._answered = 0  # sentences
        self._seconds = STEP  # that a token of a packed row took last

    def submit(self, sentences, caller=None, more=False):
        """Future of the float32 logits [sentences, class] of a list of Encoded, a slice of what
        `caller` asks for. Raises Busy if too many wait; not for `more` slices than the
        first."""
        request = Request(sentences, self._saved.num_labels, caller)
        with self._lock:
            waiting = sum(len(other.waiting) for other in self._queue)
            if waiting + len(sentences) > self._limit and not more:
                raise Busy(
                    f"{self._saved.path}: {waiting} sentences wait already, of {self._limit} at "
                    "most; call again later"
                )
            self._enqueue(request)
        return request.future

    def compute_now(self, sentence):
        """float32 logits [class] of an Encoded, computed by this thread at once; None where the
        engine is busy."""
        owner = object()
        try:
            with self._lock:
                self._check_open()
                if self._calls or self._queue:
                    return None
                self._begin(owner, whole=True)
            return run_alone(self._runner, sentence, self._singles())[2]
        finally:
            self._release(owner)

    @contextlib.contextmanager
    def engine(self):
        """The runner, for this thread alone, when its turn has come."""
        request = Request()
        try:
            with self._lock:
                self._enqueue(request)
            request.future.result()
            yield self._runner
        finally:
            request.future.cancel()
            self._release(request)

    def close(self):
        """Refuses what waits, and returns when what is computed is done: whether it was open."""
        with self._lock:
            was_open, self._closed = not self._closed, True
            waiting = list(self._queue)
            self._queue.clear()
        for request in waiting:
            request.fail(self._closed_error())
        with self._lock:
            self._idle.wait_for(lambda: not self._calls and not self._threads)
        return was_open

    def _check_open(self):
        if self._closed:
            raise self._closed_error()

    def _enqueue(self, request):
        """With the lock."""
        self._check_open()
        if request.left or self._calls or self._queue:
            self._queue.append(request)
            self._start()
        else:
            self._begin(request, whole=True)
            request.future.set_result(None)

    def _begin(self, owner, whole):
        """With the lock: a call of the owner's, or all streams, are under way."""
        self._calls.add(owner)
        self._whole = whole

    def _release(self, owner):
        """What who may have begun does in the end, also where its thread is being stopped."""
        try:
            self._end(owner)
        except BaseException:
            self._end(owner)
            raise

    def _end(self, owner):
        with self._lock:
            if owner in self._calls:
                self._whole = False
                self._calls.discard(owner)
            self._start()
            self._idle.notify_all()

    def _next_may_begin(self):
        """With the lock: whether something waits, and the engine is free for it. Who asks for the
        whole engine waits for the end of all calls, and so does what comes later."""
        return self._queue and not self._whole and (self._queue[0].left or not self._calls)

    def _start(self):
        """With the lock: a thread for what waits, if a stream is idle."""
        if not self._next_may_begin() or len(self._threads) >= self._streams:
            return
        thread = threading.Thread(target=self._work, name="albert_aie batcher")
        self._threads.add(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # no more threads: those that are there go on
            self._threads.discard(thread)
            if not self._threads:
                self._give_up(error)
                raise

    def _give_up(self, error):
        """With the lock: nobody is left waiting."""
        for request in self._queue:
            request.fail(error)
        self._queue.clear()

    def _work(self):
        """Calls until nothing waits, or a caller's turn has come to have the engine."""
        try:
            while call := self._take():
                self._compute(*call)
        except BaseException as error:
            with self._lock:
                self._give_up(error)
            raise
        finally:
            self._threads.discard(threading.current_thread())
            self._end(threading.current_thread())

    def _take(self):
        """(Batch of the next call, {its sentences' number: (Request, number there, Encoded)}), or
        None."""
        with self._lock:
            waiting = (request for request in self._queue if not request.future.done())
            self._queue = deque(waiting)  # the others' callers have left
            while self._next_may_begin():
                if self._queue[0].left:
                    call = self._plan()
                    self._start()
                    return call
                with contextlib.suppress(InvalidStateError):
                    request = self._queue.popleft()
                    request.future.set_result(None)
                    self._begin(request, whole=True)

    def _plan(self):
        """What _take gives."""
        requests = list(itertools.takewhile(lambda request: request.left, self._queue))
        self._streams = self._runner.streams
        lone = len({id(one.caller) for one in self._queue}) == 1
        window = _in_turns(requests, 4 * WINDOW if lone else WINDOW)
        few = self._answered + len(window) < FEW
        shapes = choose(self._saved.shapes, self._runner.grid, CHOSEN if lone else SHARED, few)
        singles = None if self._calls else self._singles()
        tokens = None if lone else STEP / self._seconds
        sentences = [(key, one[2]) for key, one in enumerate(window)]
        batch = next_batch(sentences, shapes, singles, tokens)
        whole = bool(self._runner.grid) and batch.slots is None
        self._begin(threading.current_thread(), whole)
        taken = {key: window[key] for key in batch.sentences}
        for request, number, _ in taken.values():
            del request.waiting[number]
        served = {id(request) for request, *_ in taken.values()}
        rest = [request for request in requests if request.waiting]
        rest.sort(key=lambda request: id(request) in served)  # who got nothing is next
        self._queue = deque([*itertools.islice(self._queue, len(requests), None), *rest])
        return batch, taken

    def _singles(self):
        return choose(self._saved.shapes, self._runner.grid, SINGLE)

    def _compute(self, batch, taken):
        """Answers the sentences of a call."""
        answers = {}
        try:
            with contextlib.suppress(Exception):  # it is one text's: each is tried alone
                answers = self._run(batch)
            self._compute_alone([taken[key] for key in taken if key not in answers])
        finally:
            self._release(threading.current_thread())
        for key, row in answers.items():
            taken[key][0].answer(taken[key][1], row)
        self._answered += len(taken)

    def _run(self, batch):
        """{number of a sentence: its logits}; without those that shared a row with a NaN, for
        weights of 0 times NaN are NaN."""
        output = self._runner.run(batch)
        if batch.slots is None:
            return dict(zip(batch.sentences, output.logits[batch.rows]))
        self._seconds = output.forward / (batch.shape[0] * batch.shape[1])
        logits = output.logits[batch.rows, batch.slots]
        scored = zip(batch.sentences, logits, finite(logits))
        return {key: row for key, row, good in scored if good}

    def _compute_alone(self, sentences):
        for request, number, sentence in sentences:
            if not request.future.done():
                try:
                    request.answer(number, run_alone(self._runner, sentence, self._singles())[2])
                except Exception as error:
                    request.fail(error)


def _in_turns(requests, most):
    """The first sentences that wait, [(Request, number there, Encoded)]: one of each request, then
    a second of each, and so on."""
    lists = [zip(itertools.repeat(one), one.waiting.items()) for one in requests[:most]]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*lists))
    return [(one[0], *one[1]) for one in itertools.islice(filter(None, turns), most)]
