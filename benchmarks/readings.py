"""What peers.py measured, as bench.json holds it, and the figures that follow from it.

{"machine", "notes", "failed", "nominal_flops_per_row", "sentences_per_row", "engines": [...]} with

    kind          transformers, pipeline, onnxruntime, openvino, ours or ceiling
    label         for people; nothing is decided by its words
    precision, packed, sorted, typed, streams, batch_size, device, attention, compile
    load, memory  seconds until it could run, and the most MB that it held
    dense         {batch: {"seconds" a round, "flops"}}
    end_to_end    {"seconds" a round, "flops"}
    one_at_a_time {"mean", "p50", "p90": seconds a sentence in each round}
    as_typed      {"seconds" a round for all sentences in the file's order, "single": seconds of a
                  text that comes alone, the mean of a round's}

A setting that was not measured is missing. Each but dense has also "sentences", "every",
"predictions", "correct" and "flips", but not that of a ceiling.
"""

import contextlib
import json
import random
import statistics
from pathlib import Path

from albert_aie.base.errors import WHY, refusing

PRECISIONS = ("fp32", "bf16", "int8", "fp16")
DEFAULT = "default"  # the precision of what is run by its own defaults
FIGURES = ("mean", "p50", "p90")  # of sentences that come one at a time
OF_TEXT = ("as_typed", "end_to_end", "one_at_a_time")  # settings
SIZE = 2048  # of the square product that is the ceiling
VARIANT = ("kind", "precision", "sorted", "device", "attention", "compile")  # the rest is searched
# what reading figures from a file of something else, or from none, can raise
WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
# what skilled users begin with: transformers' eager fp32, every row padded in full
BASELINE = ("transformers", "fp32", False, "cpu", "eager", False)


@contextlib.contextmanager
def opened(path, script="peers.py"):
    """`with opened(path) as report:` what a file of that script's --output holds; UserError where
    it cannot be read, or what is looked for is not in it."""
    message = f"{path}: no readings of benchmarks/{script} ({WHY}); name its --output"
    with refusing(message, OSError, *WRONG, reason=repr):
        yield json.loads(Path(path).read_text(encoding="utf-8"))


def interval(ratios, draws=2000):
    """(median, low, high): the median of paired ratios and the 95 % bootstrap interval of that
    median (percentile method, fixed seed). With one round low and high equal the ratio: no spread
    is known."""
    choose = random.Random(0).choices
    medians = sorted(statistics.median(choose(ratios, k=len(ratios))) for _ in range(draws))
    low, high = medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]
    return statistics.median(ratios), low, high


def paired(ours, theirs):
    """Per round: how many times faster ours is, from the seconds of both."""
    return [t / o for o, t in zip(ours, theirs)]


def score(engines, labels):
    """Adds `correct` and `flips` to what ran over sentences. Flips are against the fp32 predictions
    of the first peer that ran all sentences; None where no peer did."""
    settings = [(engine, engine.get(setting, {})) for engine in engines for setting in OF_TEXT]
    ran = [(engine, entry) for engine, entry in settings if "predictions" in entry]
    # a pipeline tokenizes for itself, and its labels may differ for that
    peers = [(e, entry) for e, entry in ran if e["kind"] not in ("ours", "pipeline")]
    whole = [entry for e, entry in peers if (e["precision"], entry["every"]) == ("fp32", 1)]
    reference = whole[0]["predictions"] if whole else None
    for _, entry in ran:
        every, predictions = entry["every"], entry["predictions"]
        entry["correct"] = sum(a == b for a, b in zip(predictions, labels[::every]))
        differ = (a != b for a, b in zip(predictions, (reference or ())[::every]))
        entry["flips"] = None if reference is None else sum(differ)


def timed(report, setting="end_to_end", name="seconds", batch=None):
    """[(engine, its seconds in each round)], the fastest first: of a sentence, of a forward of
    `batch` full rows (dense), or a figure of another name as it stands."""
    pairs = []
    for engine in report["engines"]:
        entry = engine["dense"].get(str(batch)) if setting == "dense" else engine.get(setting)
        if entry and engine["kind"] != "ceiling":
            sentences = entry.get("sentences", 1) if name == "seconds" else 1
            pairs.append((engine, [seconds / sentences for seconds in entry[name]]))
    return sorted(pairs, key=lambda pair: statistics.median(pair[1]))


def variant(engine):
    return tuple(engine[key] for key in VARIANT)


def first(pairs, fits):
    """The fastest (engine, seconds) that fits, or (None, None)."""
    return next((pair for pair in pairs if fits(pair[0])), (None, None))


def baseline(pairs):
    return first(pairs, lambda engine: variant(engine) == BASELINE)


def rivals(pairs, precision):
    """(our fastest, the fastest peer) of a precision, each (engine, seconds) or (None, None)."""
    same = [pair for pair in pairs if pair[0]["precision"] == precision]
    ours = first(same, lambda engine: engine["kind"] == "ours")
    return ours, first(same, lambda engine: engine["kind"] != "ours")


def best_variants(pairs):
    """The fastest of each variant; within a precision the slowest first."""
    best = {}
    for pair in pairs:
        best.setdefault(variant(pair[0]), pair)
    slowest_first = list(best.values())[::-1]
    return sorted(slowest_first, key=lambda pair: PRECISIONS.index(pair[0]["precision"]))


def ceilings(report):
    """{precision: FLOP/s of a product of SIZE cubed in the same run}"""
    peaks = {}
    for engine in report["engines"]:
        if engine["kind"] == "ceiling":
            entry = engine.get("end_to_end") or next(iter(engine["dense"].values()))
            peaks[engine["precision"]] = 2 * SIZE**3 / statistics.median(entry["seconds"])
    return peaks
