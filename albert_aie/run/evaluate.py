"""Run a compiled file over sentences: logits in their order, and what each stage took."""

import contextlib
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Optional

import numpy

from .. import backends
from ..artifact import pt_file
from ..base import process
from ..base.choose_shapes import CHOSEN, COMPILED, FEW, SINGLE, choose
from ..base.encoding import Encoded
from ..base.errors import WHY, refusing
from ..base.shapes import describe, full_batch
from .batching import alone, batches, by_batch_size, scatter

# Batches run before the clock starts: engines allocate, specialise and pick kernels in their first.
WARMUP = 3
PUBLISHED = 32  # sentences that the published program is compared on


@dataclass
class Evaluation:
    """Logits float32 [sentences, class] in the sentences' order; times in seconds.

    `rows_are` says how rows were made, in the words of choose_shapes; of each batch `shapes` has
    its Shape, `started` when its forward began and `forward` how long that took; `busy` is the time
    in which at least one batch was in forward, `end_to_end` the wall clock from the first sentence
    to the last prediction. `single` has each sentence's time from text to label where they were
    sent one at a time; the stages are then parts of it."""

    logits: numpy.ndarray
    rows_are: str
    tokens: int = 0
    truncated: int = 0
    shapes: list = field(default_factory=list)
    tokenize: float = 0.0
    copy_in: float = 0.0
    started: list = field(default_factory=list)
    forward: list = field(default_factory=list)
    copy_out: float = 0.0
    busy: float = 0.0
    end_to_end: float = 0.0
    single: Optional[list] = None

    def encode(self, tokenizer, length, sentence):
        """The Encoded of a sentence, which is counted."""
        start = time.perf_counter()
        encoded = tokenizer.encode(sentence, length)
        self.tokenize += time.perf_counter() - start
        self.tokens += len(encoded.ids)
        self.truncated += encoded.truncated
        return encoded

    def add(self, batch, output):
        """Counts a batch that was computed."""
        self.shapes.append(batch.shape)
        self.started.append(output.started)
        self.forward.append(output.forward)
        self.copy_in += output.copy_in
        self.copy_out += output.copy_out

    @property
    def rows(self):
        """Rows that were computed."""
        return sum(shape.batch_size for shape in self.shapes)

    @property
    def positions(self):
        """Token positions of those rows."""
        return sum(shape.batch_size * shape.max_seq_length for shape in self.shapes)


def evaluate(
    runner,
    saved,
    tokenizer,
    sentences,
    progress=lambda steps, **_: steps,
    warmup=WARMUP,
    rows=CHOSEN,
    shapes=None,
):
    """Evaluation of every sentence by `runner`, which has loaded the Artifact `saved`. `rows` is
    how they are made: CHOSEN, PADDED or SINGLE of choose_shapes; `shapes` are those of a compiled
    file to use (None: all). `progress` wraps an iterable, as tqdm does. Every shape that will come
    is warmed up before the clock starts, `warmup` runs each; without warm-up few sentences do not
    wait for a program that pays for many.

    The next batches are tokenised and filled by another thread while the device works, so the
    stages add up to more than end_to_end; not with SINGLE."""
    few = not warmup and len(sentences) < FEW
    shapes = choose(shapes or saved.shapes, runner.grid, rows, few)
    length = saved.shape.max_seq_length
    streams = 1 if rows == SINGLE else runner.streams
    expected = None
    if warmup:
        lengths = [len(tokenizer.encode(sentence, length).ids) for sentence in sentences]
        expected = shapes_to_come(lengths, shapes, rows, streams)
        warm_up(runner, sorted(set(expected)), warmup, progress)
    # what is not scored stays NaN
    logits = numpy.full((len(sentences), saved.num_labels), numpy.nan, numpy.float32)
    made = Evaluation(logits, rows if runner.grid or rows == SINGLE else COMPILED)
    encode = partial(made.encode, tokenizer, length)
    start = time.perf_counter()
    if rows == SINGLE:
        made.single = []
        for number, sentence in enumerate(progress(sentences, desc="evaluate", unit="sentence")):
            begun = time.perf_counter()
            batch, output, logits[number] = run_alone(runner, encode(sentence), shapes)
            logits[number].argmax()
            made.single.append(time.perf_counter() - begun)
            made.add(batch, output)
    else:
        plan = batches(map(encode, sentences), *shapes, streams=streams)
        total = expected and len(expected)
        # closed: nothing is computed any more when this is left by an error or Ctrl+C
        with contextlib.closing(_run(runner, _ahead(plan, 2 * streams))) as results:
            for batch, output in progress(results, desc="evaluate", total=total, unit="batch"):
                scatter(output.logits, batch, logits)
                made.add(batch, output)
        if runner.grid and rows == CHOSEN:
            # Weights of 0 times NaN are NaN: a sentence that overflows takes its row-mates with it.
            singles = choose(saved.shapes, runner.grid, SINGLE)
            for number in numpy.flatnonzero(~finite(logits)):
                sentence = tokenizer.encode(sentences[number], length)
                batch, output, logits[number] = run_alone(runner, sentence, singles)
                made.add(batch, output)
    made.end_to_end = time.perf_counter() - start
    made.busy = union((begun, begun + took) for begun, took in zip(made.started, made.forward))
    return made


def run_alone(runner, sentence, shapes):
    """(Batch, Output, logits float32 [class]) of one Encoded, in the shape that it takes alone."""
    batch = alone(sentence, shapes)
    output = runner.run(batch)
    return batch, output, output.logits[0] if batch.slots is None else output.logits[0, 0]


def shapes_to_come(lengths, shapes, rows=CHOSEN, streams=1):
    """The Shape of each batch that sentences of these lengths will be computed in."""
    sentences = [Encoded([0] * length) for length in lengths]
    if rows == SINGLE:
        return [alone(sentence, shapes).shape for sentence in sentences]
    return [batch.shape for batch in batches(sentences, *shapes, streams=streams)]


def warm_up(runner, shapes, runs=WARMUP, progress=lambda steps, **_: steps):
    """Run each of the shapes `runs` times on sentences of its length."""
    steps = progress(shapes, desc="warm up", unit="shape")  # is seen while the engine compiles
    runner.prepare(shapes)
    for shape in steps:
        batch = full_batch(shape)
        for _ in range(runs):
            runner.run(batch)


def _ahead(items, depth):
    """The same items, the next `depth` of them made by another thread while the caller works."""
    items = iter(items)
    with ThreadPoolExecutor(1) as pool:
        next_items = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := next_items.popleft().result()) is not None:
            next_items.append(pool.submit(next, items, None))
            yield item


def _run(runner, planned):
    """(batch, Output) in order; as many at a time as the runner has streams. Engines let go of
    Python's lock meanwhile."""
    if runner.streams == 1:
        yield from ((batch, runner.run(batch)) for batch in planned)
        return
    with ThreadPoolExecutor(runner.streams) as pool:
        begun = ((batch, pool.submit(runner.run, batch)) for batch in planned)
        waiting = deque(islice(begun, 2 * runner.streams))
        while waiting:
            batch, output = waiting.popleft()
            yield batch, output.result()
            waiting.extend(islice(begun, 1))


def finite(logits):
    """Which sentences were scored: bool [sentences]. NaN and infinity are no answer."""
    return numpy.isfinite(logits).all(1)


def is_correct(logits, labels):
    """Which sentences were given their label: bool [sentences]. What was not scored is wrong."""
    return finite(logits) & (logits.argmax(1) == numpy.asarray(labels))


def union(intervals):
    """Length of the union of (start, end) pairs."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@contextlib.contextmanager
def logits_in_fresh_process(paths, target, sentences):
    """Gives a function that waits for [(what, float32 [sentences, class])] of saved files of one
    model, loaded and run by a process that knows nothing but the files. Of a file of free sizes:
    all sentences in chosen rows, and the first of them as `published` has them. Of compiled files:
    an entry for each batch size, since of several the greatest would take nearly all."""
    names = [str(path) for path in paths]
    cure = "compare it with run_aie_eval.py --compare_cpu, or take a smaller --batch_size"
    message = f"{' '.join(names)}: the process that ran it for the comparison {WHY}; it is written"
    with refusing(f"{message}: {cure}", process.Died, reason=str):
        with process.calling(_logits, names, target, sentences) as answer:
            yield answer


def _logits(paths, target, sentences):
    saved = pt_file.open_all(paths)
    tokenizer = saved.tokenizer.load()
    with contextlib.closing(backends.load(saved, target)) as runner:
        run = partial(evaluate, runner, saved, tokenizer, sentences)
        if not saved.has_free_sizes:
            every = by_batch_size(saved.shapes)
            return [(describe(shapes), run(shapes=shapes).logits) for shapes in every]
        logits = run(warmup=0).logits
    return [("chosen rows", logits), published(saved, tokenizer, sentences)]


def published(saved, tokenizer, sentences):
    """(what, float32 [sentences, class]) of the first PUBLISHED sentences through the published
    program of an Artifact: that which torch.jit.load gives, at the exported length."""
    import torch

    program, shape = saved.program(saved.target.device), saved.shape
    shape = shape._replace(batch_size=min(shape.batch_size, len(sentences), PUBLISHED))
    encoded = [tokenizer.encode(one, shape.max_seq_length) for one in sentences[:PUBLISHED]]
    logits = numpy.full((len(encoded), saved.num_labels), numpy.nan, numpy.float32)
    with torch.inference_mode():
        for batch in batches(encoded, shape):
            inputs = [torch.from_numpy(array).to(saved.target.device) for array in batch.inputs]
            scatter(program(*inputs).float().cpu().numpy(), batch, logits)
    return f"torch.jit.load, {shape}", logits
