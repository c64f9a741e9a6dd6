"""Dynamic batching: what several threads ask for while the engine is busy shares its next call.

What waits is a window. A call takes the sentence whose turn it is, and packs others of the window
with it (batching.next_batch). Callers take turns, so a long list goes in slices. Each stream of the
engine has a thread that computes calls as long as something waits; a sentence in a row of its own
length has all streams.

A caller leaves its Request in `_inbox`, rings, and waits for the Request's own lock: it holds no
lock that another thread waits for, and changes nothing that is theirs. So it may be killed
anywhere. All else belongs to the threads of the engine, which nobody kills."""

import contextlib
import itertools
import queue
import threading
from collections import deque

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
# Of what callers wait for, which the call of a lone stream may take too: full ones end all sooner.
# Two streams would leave each other too little: 32 callers then had 0.78 of one call's rate, not
# 0.95 (fp32 on an AMD Zen 4).
SHARE = 1 / 2


class Busy(UserError):
    """Too many sentences wait: call again later."""


class Request:
    """A slice of a `caller`'s sentences: those that wait, {their number: Encoded}, and where its
    answer goes. Without sentences it asks for the engine. `cancelled` is set by a caller who does
    not wait any longer. `notify()` is called when it has ended."""

    def __init__(self, sentences=(), num_labels=0, caller=None, notify=None):
        self.caller = id(self if caller is None else caller)
        self.thread = threading.get_ident()
        self.waiting, self.left = dict(enumerate(sentences)), len(sentences)
        self.cancelled = False
        self._notify, self._error = notify, None
        self._logits = numpy.full((len(sentences), num_labels), numpy.nan, numpy.float32)
        self._count = threading.Lock()  # of `left`: two streams may answer at once
        self._once = threading.Lock()  # taken, for good, by who ends it
        self._open = threading.Lock()  # until it has ended
        self._open.acquire()

    @property
    def is_open(self):
        """Whether somebody waits for it, and it has not ended."""
        return not (self._once.locked() or self.cancelled)

    def result(self, timeout=-1):
        """Its float32 logits [sentences, class], or its error, raised, when it has ended."""
        if not self._open.acquire(timeout=timeout):
            raise TimeoutError
        self._open.release()
        if self._error is not None:
            raise self._error
        return self._logits

    def answer(self, number, logits):
        self._logits[number] = logits
        with self._count:
            self.left -= 1
            last = not self.left
        if last:
            self.end()

    def end(self, error=None):
        if self._once.acquire(blocking=False):
            self._error = error
            self._open.release()
            if self._notify:
                with contextlib.suppress(RuntimeError):  # no event loop is left
                    self._notify()


class Batcher:
    """Gives the engine of a runner, which has loaded the Artifact `saved`, its calls: as many at a
    time as it has streams."""

    def __init__(self, runner, saved, limit=LIMIT):
        self._runner, self._saved, self._limit = runner, saved, limit
        # a Request stands in the inbox once for each of its sentences: its length is what waits
        self._inbox, self._bell = deque(), queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()  # of what follows, between the threads of the engine
        self._queue = []  # Requests in the order of their turns; replaced, never changed
        self._queued = 0  # sentences that wait in it
        self._calls, self._whole = 0, False  # that are under way; whether one has all streams
        self._owner = None  # the Request whose caller has the engine
        self._answered = 0  # sentences
        self._pace = 1 / STEP  # tokens a second of the last call
        self._threads = {}  # {Thread: the lock that it releases in the end}
        self._add_thread()

    def submit(self, sentences, caller=None, more=False, notify=None):
        """The Request of a list of Encoded, a slice of what the object `caller` asks for. Raises
        Busy if too many wait; not for `more` slices than the first."""
        waiting = self._queued + len(self._inbox)
        if waiting + len(sentences) > self._limit and not more:
            raise Busy(
                f"{self._saved.path}: {waiting} sentences wait already, of {self._limit} at "
                "most; call again later"
            )
        return self._put(Request(sentences, self._saved.num_labels, caller, notify))

    def alone(self, function):
        """function(runner), in this thread, when all that waits has been computed; what comes later
        waits until it ends."""
        request = Request()
        try:
            self._put(request).result()
            return function(self._runner)
        finally:
            request.cancelled = True
            self._bell.put(None)

    def close(self):
        """Refuses what waits, and returns when what is computed is done; unless that is what this
        thread computes, as where a signal comes in the midst of it."""
        self._closed = True
        for request in self._waiting():
            request.end(self._closed_error())
        self._ring()
        # Not join: a dropped Classifier is collected anywhere, also by a thread of the engine, and
        # inside of `threading`, whose lock the end of a Thread needs.
        mine = {thread.ident for thread in self._threads} | {getattr(self._owner, "thread", None)}
        if threading.get_ident() not in mine:
            for ended in list(self._threads.values()):
                with ended:
                    pass

    def _closed_error(self):
        return UserError(f"{self._saved.path}: this Classifier is closed; make a new one")

    def _waiting(self):
        """The Requests that wait, as far as another thread can see."""
        return *self._queue, *list(self._inbox)

    def _put(self, request):
        if not self._closed:
            self._inbox.extend([request] * (len(request.waiting) or 1))  # at once: in one step of C
            self._ring()
        if self._closed:  # perhaps since then, and nobody looks any more
            request.end(self._closed_error())
        return request

    def _ring(self):
        """Some thread of the engine will look at what has changed: a bell that still rings is heard
        after this."""
        if self._bell.empty():
            self._bell.put(None)

    def _add_thread(self):
        ended = threading.Lock()
        ended.acquire()
        given = {"target": self._work, "args": (ended,), "name": "albert_aie batcher"}
        thread = threading.Thread(**given, daemon=True)
        thread.start()
        self._threads[thread] = ended

    def _work(self, ended):
        """Calls, until it is closed and nobody has the engine; then `ended` is released."""
        call = None
        try:
            while not self._closed or self._owner:
                self._bell.get()
                while call := self._take():
                    self._compute(*call)
        except BaseException as error:  # a fault of ours: nobody is to wait for good
            self._closed = True
            served = [request for request, *_ in call[1].values()] if call else []
            for request in (*self._waiting(), *served):
                request.end(error)
            raise
        finally:
            self._ring()  # for the next thread
            ended.release()

    def _take(self):
        """(Batch of the next call, {its sentences' number: (Request, number there, Encoded)}); None
        if nothing waits, or the engine is not free for it."""
        with self._lock:
            come = dict.fromkeys(self._inbox.popleft() for _ in range(len(self._inbox)))
            self._queue = [one for one in (*self._queue, *come) if one.is_open]
            if self._closed:
                self._refuse(self._closed_error())
            if self._owner and self._owner.cancelled:
                self._owner = None
            try:
                return self._next()
            except Exception as error:
                self._refuse(error)
            finally:
                self._queued = sum(len(request.waiting) for request in self._queue)

    def _refuse(self, error):
        """With the lock: nobody is left waiting."""
        for request in self._queue:
            request.end(error)
        self._queue = []

    def _next(self):
        """With the lock: what _take gives."""
        if self._owner or self._whole or not self._queue:
            return None
        if self._queue[0].waiting:
            return self._plan()
        if not self._calls:
            self._owner, *self._queue = self._queue
            self._owner.end()
        return None

    def _plan(self):
        """With the lock: what _take gives."""
        requests = list(itertools.takewhile(lambda request: request.waiting, self._queue))
        lone = len({one.caller for one in self._queue}) == 1
        window = _in_turns(requests, 4 * WINDOW if lone else WINDOW)
        few = self._answered + len(window) < FEW
        shapes = choose(self._saved.shapes, self._runner.grid, CHOSEN if lone else SHARED, few)
        singles = None if self._calls else self._singles()
        sentences = [(key, one[2]) for key, one in enumerate(window)]
        callers = len({one.caller for one in requests})  # the window begins with one of each
        queued = sum(len(sentence.ids) for _, sentence in sentences[:callers])
        share = SHARE * queued if len(self._threads) == 1 else 0
        tokens = None if lone else max(STEP * self._pace, share)
        batch = next_batch(sentences, shapes, singles, tokens)
        taken = {key: window[key] for key in batch.sentences}
        for request, number, _ in taken.values():
            del request.waiting[number]
        served = {request.caller for request, *_ in taken.values()}
        rest = [request for request in requests if request.waiting]
        rest.sort(key=lambda request: request.caller in served)  # who got nothing is next
        self._queue = [*rest, *self._queue[len(requests) :]]
        self._calls += 1
        self._whole = bool(self._runner.grid) and batch.slots is None
        if self._queue:
            self._ring()  # another stream may take what still waits
        return batch, taken

    def _singles(self):
        return choose(self._saved.shapes, self._runner.grid, SINGLE)

    def _compute(self, batch, taken):
        """Answers the sentences of a call; each alone where it fails, for that is one text's."""
        left = dict(taken)
        try:
            with contextlib.suppress(Exception):
                for key, row in self._run(batch):
                    left[key][0].answer(left[key][1], row)
                    del left[key]
            self._compute_alone(left.values())
        finally:
            self._end(len(taken))

    def _end(self, sentences):
        """A call has ended. The first in shared rows shows how many streams the engine has for
        them, which it says when it computes nothing."""
        with self._lock:
            self._calls -= 1
            self._answered += sentences
            if not self._whole and len(self._threads) == 1:
                with contextlib.suppress(Exception):  # no more threads: those that are there go on
                    while len(self._threads) < self._runner.streams:
                        self._add_thread()
            self._whole = False

    def _run(self, batch):
        """(number of a sentence, its logits), without those that shared a row with a NaN: weights
        of 0 times NaN are NaN."""
        output = self._runner.run(batch)
        self._pace = batch.shape[0] * batch.shape[1] / max(output.forward, 1e-9)
        alone = batch.slots is None
        logits = output.logits[(batch.rows,) if alone else (batch.rows, batch.slots)]
        scored = zip(batch.sentences, logits, finite(logits))
        return [(key, row) for key, row, good in scored if good or alone]

    def _compute_alone(self, sentences):
        for request, number, sentence in sentences:
            if request.is_open:
                try:
                    request.answer(number, run_alone(self._runner, sentence, self._singles())[2])
                except Exception as error:
                    request.end(error)


def _in_turns(requests, most):
    """The first sentences that wait, [(Request, number there, Encoded)]: one of each caller, then a
    second of each, and so on."""
    callers = {}
    for one in requests[:most]:
        sentences = zip(itertools.repeat(one), one.waiting.items())
        callers[one.caller] = itertools.chain(callers.get(one.caller, ()), sentences)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*callers.values()))
    return [(one[0], *one[1]) for one in itertools.islice(filter(None, turns), most)]
