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
from ..base.encoding import texts
from ..base.errors import UserError
from .dynamic_batching import Batcher
from .evaluate import evaluate, finite

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
        opened = isinstance(file, pt_file.Artifact)
        if not opened:
            several = isinstance(file, (list, tuple))
            file = pt_file.open_all(file if several else [file])
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
            raise UserError(
                f"a {type(given).__name__} is neither a text nor a list of texts; give a str, "
                "a list or an iterator of them"
            )
        return [self._sentence(one, f"row {row}: ") for row, one in enumerate(given)], False

    def _sentence(self, value, where):
        """The text, or the tuple of two, that `value` is; `where` begins the message of the
        UserError for anything else."""
        wants = "two texts, the pair" if self.task.is_pair else "a text"
        if isinstance(value, dict):
            unknown = value.keys() - {"text", "text_pair"}
            if unknown or "text" not in value:
                raise UserError(
                    f"{where}{value!r:.60}: wants the keys text and text_pair, no others"
                )
            value = tuple(value[key] for key in ("text", "text_pair") if key in value)
        parts = [value] if isinstance(value, str) else value
        given = isinstance(parts, (list, tuple)) and all(isinstance(one, str) for one in parts)
        if not given or len(parts) != len(self.task.text):
            raise UserError(
                f"{where}{value!r:.60} is not what a file for {self.task.name} wants: {wants}"
            )
        if any(map(_HALF.search, parts)):
            raise UserError(f"{where}{value!r:.60}: half of a surrogate pair is no text")
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
        self._check(sentences)
        waiting, caller = deque(), object()
        try:
            for start in range(0, len(sentences), SLICE):
                encoded = [self._encode(one) for one in sentences[start : start + SLICE]]
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

    def _encode(self, sentence):
        return self._tokenizer.encode(sentence, self.saved.shape.max_seq_length)

    @property
    def names(self):
        """Of the classes, in the model's order; () for a regression."""
        return () if self.task.regression else self.classes

    def evaluate(self, sentences, **options):
        """evaluate.Evaluation of sentences as a call takes them, with the `options` of
        evaluate.evaluate. No other caller is answered meanwhile."""
        sentences, _ = self._sentences(sentences)
        self._check(sentences)
        given = {"saved": self.saved, "tokenizer": self._tokenizer, "sentences": sentences}
        return self._batcher.alone(functools.partial(evaluate, **given, **options))

    def _check(self, sentences):
        """Raises UserError for what is no sentence of the task, and in another process."""
        for sentence in sentences:
            if len(texts(sentence)) != len(self.task.text):
                wants = "pairs of texts" if self.task.is_pair else "single texts"
                raise UserError(
                    f"{self.saved.path}: was exported for {self.task.name}, whose sentences are "
                    f"{wants}, not {str(sentence)[:40]!r}"
                )
        if self._process != os.getpid():
            raise UserError(
                f"{self.saved.path}: was loaded in another process, of which this one is a fork; "
                "make the Classifier here"
            )

    def __reduce__(self):
        raise UserError(
            f"{self.saved.path}: a Classifier cannot be pickled or copied; send the file's path, "
            "and make one there"
        )

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
    if not names:
        return [
            Answer(None, None, {}, float(row[0]) if scored else None)
            for row, scored in zip(logits, finite(logits))
        ]
    return [
        Answer(names[row.argmax()], float(row.max()), dict(zip(names, row.tolist())))
        if scored
        else Answer(None, None, {})
        for row, scored in zip(softmax(logits), finite(logits))
    ]


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
        chunk, (item, error) = [], waiting.get()
        while item is not end:
            chunk.append(item)
            if len(chunk) == size:
                break
            try:
                item, error = waiting.get(timeout=pause)
            except queue.Empty:
                break
        if chunk:
            yield chunk
    if error:
        raise error
