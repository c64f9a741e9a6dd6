"""Run a compiled file over sentences: predictions, accuracy, and what each stage took."""

import math
import signal
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from . import UserError, artifact, backends
from .batching import batches, scatter
from .graph import flops_per_row
from .text import Tokenizer

WARMUP = 3  # batches run before the clock starts: engines allocate, specialise and pick kernels in their first ones


@dataclass
class Evaluation:
    """Logits float32 [sentences, class] in the sentences' order; times in seconds; `forward` one entry per batch, `busy` the
    time in which at least one batch was in forward (their sum with one stream)."""

    logits: torch.Tensor
    tokens: int
    truncated: int
    rows: int
    tokenize: float
    copy_in: float
    forward: list
    copy_out: float
    busy: float
    end_to_end: float


def encode(tokenizer, sentences, max_seq_length):
    """(list of id lists, number of truncated sentences)."""
    encoded = [tokenizer.encode(sentence, max_seq_length) for sentence in sentences]
    return [ids for ids, _ in encoded], sum(truncated for _, truncated in encoded)


def evaluate(runner, manifest, tokenizer, sentences, progress=lambda steps, **_: steps, warmup=WARMUP):
    """Evaluation of every sentence. `end_to_end` is the wall clock from the first sentence to the last prediction; the
    next batches are tokenised and filled by another thread while the device works, so the stages add up to more."""
    batch_size, length, slots = manifest["batch_size"], manifest["max_seq_length"], manifest["slots"]
    first = next(batches(encode(tokenizer, sentences[:batch_size], length)[0], batch_size, length, slots))
    for _ in progress(range(warmup), desc="warm up", unit="batch"):
        runner.run(first)

    seconds, lengths, truncated = [], [], []

    def encoded():
        for sentence in sentences:
            start = time.perf_counter()
            ids, cut = tokenizer.encode(sentence, length)
            seconds.append(time.perf_counter() - start)
            lengths.append(len(ids))
            truncated.append(cut)
            yield ids

    logits = torch.full((len(sentences), len(manifest["label_names"])), float("nan"))  # what is not scored stays NaN
    outputs = []
    start = time.perf_counter()
    results = _run(runner, _ahead(batches(encoded(), batch_size, length, slots), 2 * runner.streams))
    total = None if slots else math.ceil(len(sentences) / batch_size)
    for batch, output in progress(results, desc="evaluate", total=total, unit="batch"):
        scatter(output.logits, batch, logits)
        outputs.append(output._replace(logits=None))
    end_to_end = time.perf_counter() - start
    return Evaluation(
        logits=logits,
        tokens=sum(lengths),
        truncated=sum(truncated),
        rows=len(outputs) * batch_size,
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
    """(batch, Output) in order; as many at a time as the runner has streams. Engines let go of Python's lock meanwhile."""
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


def union(intervals):
    """Length of the union of (start, end) pairs."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def logits_in_fresh_process(path, target, sentences):
    """float32 [sentences, class] of a saved file, loaded and run by a process that knows nothing but the file."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        # Ctrl-C reaches every process of a terminal: the child inherits that it is ignored, and the parent answers
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            result = pool.submit(_logits, str(path), target, sentences)
            signal.signal(signal.SIGINT, answer)
            return torch.from_numpy(result.result())
        except BrokenProcessPool:
            raise UserError(
                f"{path}: the process that ran it for the comparison was killed, perhaps for want of memory; the file is "
                "written: compare it with run_aie_eval.py --compare_cpu, or take a smaller --batch_size"
            ) from None
        except KeyboardInterrupt:
            for process in pool._processes.values():
                process.terminate()
            raise


def _logits(path, target, sentences):
    saved = artifact.open_pt(path)
    runner = backends.get(target.backend).load(saved, target)
    try:
        return evaluate(runner, saved.manifest, Tokenizer(saved.tokenizer, path), sentences).logits.numpy()
    finally:
        runner.close()


def report(evaluation, manifest, runner, labels, load_seconds):
    """What eval.json holds. Rates are all sentences over all seconds, never a mean of rates; seconds unless named ms."""
    finite = evaluation.logits.isfinite().all(1)
    scored, length = int(finite.sum()), manifest["max_seq_length"]
    forward = evaluation.busy
    per_row = flops_per_row(manifest["config"], length)
    result = {
        "rows_scored": scored,
        "rows_total": len(finite),
        "truncated": evaluation.truncated,
        "backend": manifest["backend"],
        "device": runner.device,
        "precision": runner.precision,
        "precision_is": runner.precision_is,
        "threads": runner.threads,
        "streams": runner.streams,
        "graph": manifest["graph"],
        "batch_size": manifest["batch_size"],
        "max_seq_length": length,
        "slots": manifest["slots"],
        "sentences_per_row": scored / evaluation.rows,
        "samples_per_second": {"forward": scored / forward, "end_to_end": scored / evaluation.end_to_end},
        "latency_ms": {f"p{p}": 1000 * percentile(evaluation.forward, p) for p in (50, 90, 99)},
        "batches": len(evaluation.forward),
        "warmup": WARMUP,
        "seconds": {
            "load": load_seconds,
            "tokenize": evaluation.tokenize,
            "copy_in": evaluation.copy_in,
            "forward": forward,
            "copy_out": evaluation.copy_out,
            "end_to_end": evaluation.end_to_end,
        },
        "padding": 1 - evaluation.tokens / (evaluation.rows * length),
        "positions": evaluation.rows * length,
        "nominal_gflop_per_row": per_row / 1e9,
        "nominal_gflop_per_second": per_row * evaluation.rows / forward / 1e9,
        "random_weights": manifest["random_weights"],
    }
    if labels is not None and not manifest["random_weights"]:
        correct = int((finite & (evaluation.logits.argmax(1) == torch.tensor(labels))).sum())
        low, high = wilson(correct, len(labels))
        result["accuracy"] = {"correct": correct, "total": len(labels), "value": correct / len(labels), "wilson95": [low, high]}
    return result


def percentile(values, percent):
    """Nearest-rank percentile: the smallest value that at least `percent` % of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def wilson(correct, total, z=1.959964):
    """95 % Wilson score interval of correct/total (Wilson 1927): right also near 0 and 1, where k/n +- 2 sigma is not."""
    p = correct / total
    centre = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (centre - spread) / scale, (centre + spread) / scale
