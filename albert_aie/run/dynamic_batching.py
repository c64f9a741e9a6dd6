"""Dynamic batching: what several threads ask for while the engine is busy shares its next call.

What waits is a window. A step takes the sentence whose turn it is, packs others of the window with
it (batching.next_batch), and computes that one call. Callers take turns, so a long list goes in
slices. The steps are those of a thread that lives as long as something waits; a caller who finds
the engine idle computes its one sentence itself."""

import contextlib
import itertools
import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor

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
        self.waiting, self.left = dict(enumerate(sentences)), len(sentences)
        self.logits = numpy.full((len(sentences), num_labels), numpy.nan, numpy.float32)
        self.future = Future()

    def answer(self, number, logits):
        self.logits[number] = logits
        self.left -= 1
        if not self.left:
            with contextlib.suppress(InvalidStateError):  # its caller has left
                self.future.set_result(self.logits)

    def fail(self, error):
        self.waiting.clear()
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


class Batcher:
    """Gives the engine of a runner, which has loaded the Artifact `saved`, to one thread at a time.
    What waits gets the exception `closed()` when it is closed."""

    def __init__(self, runner, saved, closed, limit=LIMIT):
        self._runner, self._saved, self._closed_error, self._limit = runner, saved, closed, limit
        self._lock = threading.Lock()  # of all below
        self._idle = threading.Condition(self._lock)
        self._queue = deque()  # of Request, the next in turn first; without sentences: for engine()
        self._busy = self._closed = False  # busy: somebody has the engine
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
        mine = False
        try:
            with self._lock:
                self._check_open()
                mine = not self._busy
                self._busy = True
            if mine:
                return run_alone(self._runner, sentence, self._singles())[2]
        finally:
            if mine:
                self._release()

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
            if not request.future.cancel() and request.future.exception() is None:
                self._release()

    def close(self):
        """Refuses what waits, and returns when what is computed is done: whether it was open."""
        with self._lock:
            was_open, self._closed = not self._closed, True
            waiting = list(self._queue)
            self._queue.clear()
        for request in waiting:
            request.fail(self._closed_error())
        with self._lock:
            self._idle.wait_for(lambda: not self._busy)
        return was_open

    def _check_open(self):
        if self._closed:
            raise self._closed_error()

    def _enqueue(self, request):
        """With the lock."""
        self._check_open()
        if self._busy or request.left:
            self._queue.append(request)
        else:
            request.future.set_result(None)
        if not self._busy:
            self._busy = True
            if request.left:
                self._start()

    def _release(self):
        """What who has the engine does when it needs it no more."""
        with self._lock:
            self._busy = bool(self._queue)
            self._start() if self._busy else self._idle.notify_all()

    def _start(self):
        try:
            threading.Thread(target=self._work, name="albert_aie batcher").start()
        except BaseException as error:  # no more threads
            self._give_up(error)
            raise

    def _give_up(self, error):
        """With the lock: nobody is left waiting."""
        for request in self._queue:
            request.fail(error)
        self._queue.clear()
        self._busy = False
        self._idle.notify_all()

    def _work(self):
        """Steps until nothing waits, or a caller's turn has come to have the engine."""
        try:
            while step := self._take():
                self._compute(*step)
        except BaseException as error:
            with self._lock:
                self._give_up(error)
            raise

    def _take(self):
        """(Batches of the next step, {its sentences' number: (Request, number there, Encoded)}), or
        None."""
        with self._lock:
            waiting = (request for request in self._queue if not request.future.done())
            self._queue = deque(waiting)  # the others' callers have left
            while self._queue:
                if self._queue[0].left:
                    return self._plan()
                with contextlib.suppress(InvalidStateError):
                    self._queue.popleft().future.set_result(None)
                    return None
            self._busy = False
            self._idle.notify_all()

    def _plan(self):
        """What _take gives. A list that nobody waits beside fills every stream."""
        requests = list(itertools.takewhile(lambda request: request.left, self._queue))
        lone, streams = len({id(one.caller) for one in self._queue}) == 1, self._runner.streams
        window = _in_turns(requests, 4 * WINDOW if lone else WINDOW)
        few = self._answered + len(window) < FEW
        rows = CHOSEN if lone else SHARED
        shapes = choose(self._saved.shapes, self._runner.grid, rows, few)
        # of several streams each has a part of the machine; a row by itself has all of it
        tokens = None if lone else STEP / self._seconds if streams == 1 else 1
        left, batches = {key: one[2] for key, one in enumerate(window)}, []
        while left and len(batches) < (streams if lone else 1):
            batches.append(next_batch(list(left.items()), shapes, self._singles(), tokens))
            for key in batches[-1].sentences:
                request, number, _ = window[key]
                del left[key], request.waiting[number]
        step = {key: window[key] for batch in batches for key in batch.sentences}
        served = {id(request) for request, *_ in step.values()}
        rest = [request for request in requests if request.waiting]
        rest.sort(key=lambda request: id(request) in served)  # who got nothing is next
        self._queue = deque([*itertools.islice(self._queue, len(requests), None), *rest])
        return batches, step

    def _singles(self):
        return choose(self._saved.shapes, self._runner.grid, SINGLE)

    def _compute(self, batches, step):
        """Answers the sentences of a step. An error is its own text's: each is tried alone."""
        try:
            if len(batches) == 1:
                outputs = [self._runner.run(batches[0])]
            else:
                with ThreadPoolExecutor(len(batches)) as pool:
                    outputs = list(pool.map(self._runner.run, batches))
        except Exception:
            self._compute_alone(step.values())
            return
        for batch, output in zip(batches, outputs):
            places = (batch.rows,) if batch.slots is None else (batch.rows, batch.slots)
            logits = output.logits[places]
            scored = finite(logits) | (batch.slots is None)
            for key, row, good in zip(batch.sentences, logits, scored):
                if good:
                    step[key][0].answer(step[key][1], row)
            # weights of 0 times NaN are NaN: what shared its row may have an answer
            self._compute_alone(step[key] for key, good in zip(batch.sentences, scored) if not good)
            if batch.slots:
                self._seconds = output.forward / (batch.shape[0] * batch.shape[1])
        self._answered += len(step)

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
