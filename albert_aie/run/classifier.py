"""An exported file as a function: texts -> labels and probabilities.

with Classifier("albert_seq128_bs32.pt") as classify:
    for answer in classify(["a fine film", "dull, dull, dull"]):
        print(answer.label, answer.probability)
"""

import asyncio
import contextlib
import functools
import os
import queue
import re
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Optional

import numpy

from .. import backends
from ..artifact import pt_file
from ..base.choose_shapes import SHARED, SINGLE, choose
from ..base.errors import UserError
from .dynamic_batching import Batcher
from .evaluate import evaluate, finite, warm_up

CHUNK = 2048  # sentences answered together at most: enough that nearly all rows are full
SLICE = 256  # of a list that wait at a time, while the next are tokenised
_HALF = re.compile("[\\ud800-\\udfff]")  # of a surrogate pair
PAUSE = 0.5  # seconds without a further sentence after which those that came are answered


class Answer(NamedTuple):
    """`probabilities` has every class in the model's order. A regression has a `score` instead.
    All are None, or empty, where the logits are not finite."""

    label: Optional[str]
    probability: Optional[float]
    probabilities: dict
    score: Optional[float] = None


class Classifier:
    """Loads a .pt that export_albert_aie.py wrote: `file` is its path, a list of the paths of files
    of one model, a folder of them, or an Artifact.

    `options` are the settings of its backend that are read when it runs (`streams`, `threads`,
    `device_id`), `label_map` {number: name} names its classes, `runner` computes instead of the
    file's engine. Raises UserError for a file or a setting that cannot be used.

    Thread-safe: what several threads ask for while the engine is busy is computed together, as
    dynamic_batching says. In asyncio `await classify.answer(texts)`."""

    def __init__(self, file, label_map=None, runner=None, **options):
        if not isinstance(file, pt_file.Artifact):
            file = pt_file.open_all(file if isinstance(file, (list, tuple)) else [file])
        self.saved = file
        target = self.saved.target._replace(options=options)
        backends.settings(target, "evaluate")
        self.classes = self.saved.classes(_by_number(label_map or {}))
        self.task = self.saved.task.of(self.classes)
        self._process = os.getpid()
        self._tokenizer = self.saved.tokenizer.load()
        self.runner = runner or backends.load(self.saved, target)
        self._batcher = Batcher(self.runner, self.saved)
        # also where nobody closes it, and at the end of the process
        weakref.finalize(self, _close, self._batcher, self._process)

    def __call__(self, sentences):
        """The Answer of one text: a str, {"text": ...} or, of a file for pairs, a tuple of two or
        {"text": ..., "text_pair": ...}. A list of Answer, in their order, of a list, an array or an
        iterator of such. Raises UserError, which names the row, for what is no text, and where too
        many wait."""
        sentences, one = self._sentences(sentences)
        found = self.answers(sentences)[0]
        return found[0] if one else found

    async def answer(self, sentences):
        """The same for asyncio, without a thread of each caller. What is cancelled is not
        computed."""
        sentences, one = self._sentences(sentences)
        found, ended = [], asyncio.Event()
        notify = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)
        with contextlib.closing(self._submitted(sentences, notify)) as slices:
            for request, _ in slices:
                while request.is_open:
                    await ended.wait()
                    ended.clear()
                found += answers(request.result(), self.names)
        return found[0] if one else found

    def _sentences(self, given):
        """(list of what is a sentence, whether it was one that was given)"""
        if hasattr(given, "tolist"):  # numpy's arrays, one text among them, columns of tables
            given = given.tolist()
        pair = self.task.is_pair and isinstance(given, tuple) and len(given) == 2
        if isinstance(given, (str, dict)) or (pair and isinstance(given[0], str)):
            return [self._sentence(given, "")], True
        if not isinstance(given, (list, tuple, Iterator)):
            what = f"a {type(given).__name__} is neither a text nor a list of texts"
            raise UserError(f"{what}; give a str, a list or an iterator of them")
        return [self._sentence(one, f"row {row}: ") for row, one in enumerate(given)], False

    def _sentence(self, value, where):
        """The text, or the tuple of two, that `value` is; `where` begins the message of the
        UserError for anything else."""

        def refused(why):
            return UserError(f"{where}{value!r:.60}{why}")

        if isinstance(value, dict):
            if not {"text"} <= value.keys() <= {"text", "text_pair"}:
                raise refused(": wants the keys text and text_pair, no others")
            value = tuple(value[key] for key in ("text", "text_pair") if key in value)
        parts = [value] if isinstance(value, str) else value
        is_texts = isinstance(parts, (list, tuple)) and all(isinstance(one, str) for one in parts)
        if not is_texts or len(parts) != len(self.task.text):
            wants = "two texts, the pair" if self.task.is_pair else "a text"
            raise refused(f" is not what a file for {self.task.name} wants: {wants}")
        if any(map(_HALF.search, parts)):
            raise refused(": half of a surrogate pair is no text")
        return tuple(parts) if len(parts) > 1 else parts[0]

    def answers(self, sentences):
        """(list of Answer, how many sentences were cut to the file's length)."""
        found, truncated = [], 0
        with contextlib.closing(self._submitted(sentences)) as slices:
            for request, cut in slices:
                found += answers(request.result(), self.names)
                truncated += cut
        return found, truncated

    def _submitted(self, sentences, notify=None):
        """Yields (Request, how many were cut) of each SLICE of the sentences, when the next is
        tokenised and waits too; `notify()` is called when one has ended. What was not asked for is
        cancelled at the end."""
        self._check_process()
        waiting, caller, length = deque(), object(), self.saved.shape.max_seq_length
        try:
            for start in range(0, len(sentences), SLICE):
                part = sentences[start : start + SLICE]
                encoded = [self._tokenizer.encode(one, length) for one in part]
                request = self._batcher.submit(encoded, caller, start > 0, notify)
                waiting.append((request, sum(one.truncated for one in encoded)))
                if start:
                    yield waiting[0]
                    waiting.popleft()
            while waiting:
                yield waiting[0]
                waiting.popleft()
        finally:
            for request, _ in waiting:
                request.cancelled = True

    @property
    def names(self):
        """Of the classes, in the model's order; () for a regression."""
        return () if self.task.regression else self.classes

    def evaluate(self, sentences, **options):
        """evaluate.Evaluation of sentences as a call takes them, with the `options` of
        evaluate.evaluate. No other caller is answered meanwhile."""
        self._check_process()
        given = self.saved, self._tokenizer, self._sentences(sentences)[0]
        return self._batcher.alone(lambda runner: evaluate(runner, *given, **options))

    def warm_up(self):
        """Compiles and runs, once, each shape that a text or texts of several callers may take, so
        that no call waits for it: seconds, and the memory that they would take in time. One, where
        a shape is not compiled."""
        self._check_process()
        given = self.saved.shapes, self.runner.grid
        shapes = sorted({*choose(*given, SINGLE), *choose(*given, SHARED)})
        if self.runner.grid and not self.runner.grid.compiles:
            shapes = shapes[:1]
        self._batcher.alone(lambda runner: warm_up(runner, shapes, runs=1))

    def _check_process(self):
        if self._process != os.getpid():
            what = "was loaded in another process, of which this one is a fork"
            raise UserError(f"{self.saved.path}: {what}; make the Classifier here")

    def __reduce__(self):
        cure = "send the file's path, and make one there"
        raise UserError(f"{self.saved.path}: a Classifier cannot be pickled or copied; {cure}")

    def close(self):
        """Gives the device back, when what is computed is done; what waits is refused, and it
        cannot be called any more. A fork closes nothing."""
        if self._process == os.getpid():
            self._batcher.close()
            self.runner.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def _by_number(label_map):
    """{number of a class: its name}; numbers may be texts, as JSON has them. Raises UserError for
    anything else, and for a class that is named twice."""
    if isinstance(label_map, dict) and all(str(number).isdecimal() for number in label_map):
        names = {int(number): name for number, name in label_map.items()}
        if len(names) == len(label_map) and all(isinstance(name, str) for name in names.values()):
            return names
    raise UserError(f"label_map {label_map!r:.60}: wants {{number of a class: its name}}")


def _close(batcher, process):
    if process == os.getpid():
        batcher.close()


def answers(logits, names):
    """List of Answer of float32 [sentences, class] logits; `names` of the classes, () for a
    regression."""
    found = []
    for row, scored in zip(softmax(logits) if names else logits, finite(logits)):
        if not scored:
            found.append(Answer(None, None, {}))
        elif names:
            shares = dict(zip(names, row.tolist()))
            found.append(Answer(names[row.argmax()], float(row.max()), shares))
        else:
            found.append(Answer(None, None, {}, float(row[0])))
    return found


def softmax(logits):
    """float64 [sentences, class] probabilities of float32 logits; anything where they are not
    finite."""
    with numpy.errstate(all="ignore"):
        powers = numpy.exp(logits.astype(numpy.float64) - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def chunks(items, size=CHUNK, pause=PAUSE):
    """Lists of the items of an iterable, which another thread reads: as many as have come when
    `size` are there or none has come for `pause` seconds. An error of the iterable is raised after
    the items before it."""
    waiting, end = queue.Queue(2 * size), object()

    def read():
        try:
            for item in items:
                waiting.put((item, None))
            waiting.put((end, None))
        except BaseException as error:  # raised again in the caller's thread
            waiting.put((end, error))

    threading.Thread(target=read, daemon=True).start()
    item = error = None
    while item is not end:
        chunk = []
        with contextlib.suppress(queue.Empty):
            while len(chunk) < size:
                item, error = waiting.get(timeout=pause if chunk else None)
                if item is end:
                    break
                chunk.append(item)
        if chunk:
            yield chunk
    if error:
        raise error
