"""Run a compiled file over sentences: logits in their order, and what each stage took."""

import math
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Optional

import numpy

from . import UserError, artifact, backends, process
from .batching import alone, batches, by_batch_size, scatter, single_shapes, told
from .encoding import Encoded

# Batches run before the clock starts: engines allocate, specialise and pick kernels in their first.
WARMUP = 3


@dataclass
class Evaluation:
    """Logits float32 [sentences, class] in the sentences' order; times in seconds.

    `shapes` counts the batches of each Shape, `forward` has one entry a batch, `busy` is the time
    in which at least one batch was in forward (their sum with one stream), `end_to_end` the wall
    clock from the first sentence to the last prediction. `single` is None, or has each sentence's
    time from text to label where they were sent one at a time; the stages are then their parts, and
    nothing goes on beside them."""

    logits: numpy.ndarray
    tokens: int
    truncated: int
    shapes: Counter
    tokenize: float
    copy_in: float
    forward: list
    copy_out: float
    busy: float
    end_to_end: float
    single: Optional[list] = None

    @property
    def rows(self):
        """Rows that were computed."""
        return sum(shape.batch_size * count for shape, count in self.shapes.items())

    @property
    def positions(self):
        """Token positions of those rows."""
        sizes = ((s.batch_size * s.max_seq_length, count) for s, count in self.shapes.items())
        return sum(size * count for size, count in sizes)


def evaluate(
    runner,
    saved,
    tokenizer,
    sentences,
    progress=lambda steps, **_: steps,
    warmup=WARMUP,
    one_at_a_time=False,
    shapes=None,
):
    """Evaluation of every sentence by `runner`, which has loaded the Artifact `saved`; `shapes` are
    those of its shapes to use (None: all). `progress` wraps an iterable, as tqdm does. Every shape
    that can come is warmed up before the clock starts, `warmup` runs each.

    The next batches are tokenised and filled by another thread while the device works, so the
    stages add up to more than end_to_end. With `one_at_a_time` a sentence is tokenised when the
    last has its label, in this thread."""
    shapes = tuple(shapes or saved.shapes)
    warm_up(runner, shapes, one_at_a_time, warmup, progress)
    length = max(shape.max_seq_length for shape in shapes)
    seconds, lengths, truncated = [], [], []

    def encode(sentence):
        start = time.perf_counter()
        found = tokenizer.encode(sentence, length)
        seconds.append(time.perf_counter() - start)
        lengths.append(len(found.ids))
        truncated.append(found.truncated)
        return found

    # what is not scored stays NaN
    logits = numpy.full((len(sentences), saved.num_labels), numpy.nan, numpy.float32)
    outputs, used, single = [], Counter(), None
    start = time.perf_counter()
    if one_at_a_time:
        single = []
        for number, sentence in enumerate(progress(sentences, desc="evaluate", unit="sentence")):
            begun = time.perf_counter()
            batch, output, answer = run_alone(runner, encode(sentence), shapes)
            logits[number] = answer
            answer.argmax()
            single.append(time.perf_counter() - begun)
            used[batch.shape] += 1
            outputs.append(output._replace(logits=None))
    else:
        made = batches(map(encode, sentences), *shapes)
        results = _run(runner, _ahead(made, 2 * runner.streams))
        total = _number_of_batches(shapes, len(sentences))
        for batch, output in progress(results, desc="evaluate", total=total, unit="batch"):
            scatter(output.logits, batch, logits)
            used[batch.shape] += 1
            outputs.append(output._replace(logits=None))
    end_to_end = time.perf_counter() - start
    return Evaluation(
        logits=logits,
        tokens=sum(lengths),
        truncated=sum(truncated),
        shapes=used,
        tokenize=sum(seconds),
        copy_in=sum(output.copy_in for output in outputs),
        forward=[output.forward for output in outputs],
        copy_out=sum(output.copy_out for output in outputs),
        busy=union((output.started, output.started + output.forward) for output in outputs),
        end_to_end=end_to_end,
        single=single,
    )


def run_alone(runner, sentence, shapes):
    """(Batch, Output, logits float32 [class]) of one Encoded, in the shape that it takes alone."""
    batch = alone(sentence, shapes)
    output = runner.run(batch)
    return batch, output, output.logits[0] if batch.slots is None else output.logits[0, 0]


def warm_up(runner, shapes, one_at_a_time=False, runs=WARMUP, progress=lambda steps, **_: steps):
    """Run each shape that can come `runs` times on sentences of its length."""
    if not runs:
        return
    shapes = single_shapes(shapes) if one_at_a_time else shapes
    steps = progress(shapes, desc="warm up", unit="shape")  # is seen while the engine compiles
    runner.prepare(shapes)
    for shape in steps:
        few = [Encoded([0] * shape.max_seq_length)] * shape.batch_size
        batch = next(batches(few, shape))
        for _ in range(runs):
            runner.run(batch)


def _number_of_batches(shapes, sentences):
    """None where it depends on the sentences' lengths."""
    if len(shapes) > 1 or shapes[0].slots:
        return None
    return math.ceil(sentences / shapes[0].batch_size)


def _ahead(items, depth):
    """The same items, the next `depth` of them made by another thread while the caller works."""
    items = iter(items)
    with ThreadPoolExecutor(1) as pool:
        made = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := made.popleft().result()) is not None:
            made.append(pool.submit(next, items, None))
            yield item


def _run(runner, planned):
    """(batch, Output) in order; as many at a time as the runner has streams. Engines let go of
    Python's lock meanwhile."""
    if runner.streams == 1:
        yield from ((batch, runner.run(batch)) for batch in planned)
        return
    with ThreadPoolExecutor(runner.streams) as pool:
        begun = deque()
        for batch in planned:
            begun.append((batch, pool.submit(runner.run, batch)))
            if len(begun) == 2 * runner.streams:
                batch, output = begun.popleft()
                yield batch, output.result()
        yield from ((batch, output.result()) for batch, output in begun)


def finite(logits):
    """Which sentences were scored: bool [sentences]. NaN and infinity are no answer."""
    return numpy.isfinite(logits).all(1)


def right(logits, labels):
    """Which sentences were given their label: bool [sentences]. What was not scored is wrong."""
    return finite(logits) & (logits.argmax(1) == numpy.asarray(labels))


def union(intervals):
    """Length of the union of (start, end) pairs."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def logits_in_fresh_process(paths, target, sentences):
    """[(what, float32 [sentences, class])] of saved files of one model, loaded and run by a process
    that knows nothing but the files: an entry for each batch size, since of several the greatest
    would take nearly all."""
    names = [str(path) for path in paths]
    try:
        return process.call(_logits, names, target, sentences)
    except process.Died as how:
        raise UserError(
            f"{' '.join(names)}: the process that ran it for the comparison {how}; it is written: "
            "compare it with run_aie_eval.py --compare_cpu, or take a smaller --batch_size"
        ) from None


def _logits(paths, target, sentences):
    saved = artifact.open_all(paths)
    tokenizer = saved.tokenizer.load()
    runner = backends.load(saved, target)
    try:
        return [
            (told(shapes), evaluate(runner, saved, tokenizer, sentences, shapes=shapes).logits)
            for shapes in by_batch_size(saved.shapes)
        ]
    finally:
        runner.close()
