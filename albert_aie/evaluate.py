"""Run a compiled file over sentences: logits in their order, and what each stage took."""

import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy

from . import UserError, artifact, backends, process
from .batching import batches, scatter

# Batches run before the clock starts: engines allocate, specialise and pick kernels in their first.
WARMUP = 3


@dataclass
class Evaluation:
    """Logits float32 [sentences, class] in the sentences' order; times in seconds.

    `rows` counts the rows that were computed, `forward` has one entry a batch, `busy` is the time
    in which at least one batch was in forward (their sum with one stream), `end_to_end` the wall
    clock from the first sentence to the last prediction."""

    logits: numpy.ndarray
    tokens: int
    truncated: int
    rows: int
    tokenize: float
    copy_in: float
    forward: list
    copy_out: float
    busy: float
    end_to_end: float


def evaluate(runner, saved, tokenizer, sentences, progress=lambda steps, **_: steps, warmup=WARMUP):
    """Evaluation of every sentence by `runner`, which has loaded the Artifact `saved`. The next
    batches are tokenised and filled by another thread while the device works, so the stages add up
    to more than end_to_end. `progress` wraps an iterable, as tqdm does."""
    shape = saved.shape
    few = [tokenizer.encode(one, shape.max_seq_length) for one in sentences[: shape.batch_size]]
    first = next(batches(few, shape))
    for _ in progress(range(warmup), desc="warm up", unit="batch"):
        runner.run(first)

    seconds, lengths, truncated = [], [], []

    def encoded():
        for sentence in sentences:
            start = time.perf_counter()
            found = tokenizer.encode(sentence, shape.max_seq_length)
            seconds.append(time.perf_counter() - start)
            lengths.append(len(found.ids))
            truncated.append(found.truncated)
            yield found

    # what is not scored stays NaN
    logits = numpy.full((len(sentences), saved.num_labels), numpy.nan, numpy.float32)
    outputs = []
    start = time.perf_counter()
    results = _run(runner, _ahead(batches(encoded(), shape), 2 * runner.streams))
    total = None if shape.slots else math.ceil(len(sentences) / shape.batch_size)
    for batch, output in progress(results, desc="evaluate", total=total, unit="batch"):
        scatter(output.logits, batch, logits)
        outputs.append(output._replace(logits=None))
    end_to_end = time.perf_counter() - start
    return Evaluation(
        logits=logits,
        tokens=sum(lengths),
        truncated=sum(truncated),
        rows=len(outputs) * shape.batch_size,
        tokenize=sum(seconds),
        copy_in=sum(output.copy_in for output in outputs),
        forward=[output.forward for output in outputs],
        copy_out=sum(output.copy_out for output in outputs),
        busy=union((output.started, output.started + output.forward) for output in outputs),
        end_to_end=end_to_end,
    )


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


def logits_in_fresh_process(path, target, sentences):
    """float32 [sentences, class] of a saved file, loaded and run by a process that knows nothing
    but the file."""
    try:
        return process.call(_logits, str(path), target, sentences)
    except process.Died as how:
        raise UserError(
            f"{path}: the process that ran it for the comparison {how}; the file is written: "
            "compare it with run_aie_eval.py --compare_cpu, or take a smaller --batch_size"
        ) from None


def _logits(path, target, sentences):
    saved = artifact.open_pt(path)
    runner = backends.get(target.backend).load(saved, target)
    try:
        return evaluate(runner, saved, saved.tokenizer.load(), sentences).logits
    finally:
        runner.close()
