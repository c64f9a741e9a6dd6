#!/usr/bin/env python
"""Two runs of run_aie_eval.py (--output_dir) beside each other: what changed, speed with its
spread, and whether the difference in accuracy is more than chance.

    python -m benchmarks.compare_runs last_month today

The two may differ in file, machine and versions, but must have scored the same sentences.
"""

import functools
import hashlib
import sys
from operator import getitem
from pathlib import Path
from typing import NamedTuple

import numpy

from albert_aie.base.errors import UserError, need, some
from albert_aie.base.files import read_json
from albert_aie.cli import console, parsing
from albert_aie.data.metrics import METRICS
from albert_aie.report import results
from albert_aie.run.compare import relative_error

CHANCE = 0.05  # a difference that is less likely than this by chance is called one
LOSS = 0.005  # of a metric for which there is no test: the gate of reduced precisions
RESAMPLES = 2000
SHAPE = ("batch_size", "max_seq_length", "slots")
KINDS = {False: "sent whole batches", True: "sent one sentence at a time"}
# What is named where it differs: the path to it in eval.json.
FACTS = [("digests", name) for name in ("file", "checkpoint", "tokenizer")]
FACTS += [("classes",), ("graph",), ("backend",), ("device",), ("rows",)]
FACTS += [("precision",), ("threads",), ("streams",), ("machine", "cpu"), ("machine", "cores")]


class Run(NamedTuple):
    """A folder of results: eval.json, and the header and the rows of predictions.tsv."""

    folder: Path
    result: dict
    columns: list
    rows: list

    @property
    def outputs(self):
        """The columns of the logits; none of a regression, whose prediction is its logit."""
        return [name for name in self.columns if name.startswith("logit_")]

    def logits(self, outputs):
        """float64 [sentences, output] of those columns."""
        places = [self.columns.index(name) for name in outputs]
        return numpy.array([[row[i] for i in places] for row in self.rows], numpy.float64)

    @property
    def right(self):
        """bool [sentences]: which were given their label."""
        return numpy.array([row[1] == row[2] for row in self.rows])


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    parser.add_argument("old", help="a folder that run_aie_eval.py --output_dir wrote")
    parser.add_argument("new", help="another")
    parser.add_argument(
        "--fail_if_worse",
        action="store_true",
        help="exit 1 if accuracy fell by more than chance, or fewer sentences have finite logits",
    )
    return parser.parse_args(argv)


def run(args):
    need("compare_runs.py:", "scipy")
    old, new = read(args.old), read(args.new)
    check_comparable(old, new)
    for name, text in lines(old, new):
        console.say(name, text)
    reasons = worse(old, new)
    console.say("verdict", "; ".join(reasons) or "not worse")
    return 1 if reasons and args.fail_if_worse else 0


def read(folder):
    """Run in a folder. Raises UserError unless its two files are there and belong together."""
    paths = results.paths(folder)
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; write it with run_aie_eval.py --output_dir")
    result = read_json(paths[0], "run it again")
    if not isinstance(result, dict):
        raise UserError(f"{paths[0]}: not what run_aie_eval.py writes; run it again")
    if (version := result.get("schema_version")) != results.SCHEMA_VERSION:
        reads = f"this program reads {results.SCHEMA_VERSION}; run the evaluation again"
        raise UserError(f"{paths[0]}: schema version {version}, {reads}")
    if missing := set(read_json(results.SCHEMA)["required"]) - set(result):
        raise UserError(f"{paths[0]}: has no {some(sorted(missing))}; run the evaluation again")
    table = paths[1].read_bytes()
    if hashlib.sha256(table).hexdigest() != result["predictions_sha256"]:
        whose = f"is not of the run that {paths[0].name} describes"
        raise UserError(f"{paths[1]}: {whose}; run it again")
    columns, *rows = (row.split("\t") for row in table.decode().rstrip("\n").split("\n"))
    return Run(Path(folder), result, columns, rows)


def check_comparable(old, new):
    kinds = [single(run.result) for run in (old, new)]
    if kinds[0] != kinds[1]:
        names = [f"{run.folder} {KINDS[kind]}" for run, kind in zip((old, new), kinds)]
        raise UserError(f"{', '.join(names)}: times of unlike things; run both the same way")
    if old.result["digests"]["data"] != new.result["digests"]["data"]:
        names = ", ".join(f"{run.folder} scored {run.result['data']}" for run in (old, new))
        raise UserError(f"{names}: other sentences or labels; compare runs on the same data")


def lines(old, new):
    """(name, text) of each line to print."""
    yield "old", str(old.folder)
    yield "new", str(new.folder)
    yield "changed", "\n".join(changes(old.result, new.result)) or "nothing but what was measured"
    scored = [run.result["sentences_scored"] for run in (old, new)]
    if scored[0] != scored[1]:
        yield "scored", f"{scored[0]} -> {scored[1]} of {old.result['sentences_total']} sentences"
    differing = sum(a[1] != b[1] for a, b in zip(old.rows, new.rows))
    text = f"{differing} of {len(old.rows)} predictions differ"
    if "accuracy" in old.result and "accuracy" in new.result:
        only_old, only_new, p = mcnemar(old.right, new.right)
        if differing:
            text += f": {only_old} right in old only, {only_new} right in new only"
        accuracy = "{value:.4f} ({correct}/{total})".format
        both = [accuracy(**run.result["accuracy"]) for run in (old, new)]
        test = f"exact McNemar p = {p:.4f}: {'more' if p < CHANCE else 'no more'} than chance"
        yield "accuracy", f"{' -> '.join(both)}\n{test}"
    if old.outputs and sorted(old.outputs) == sorted(new.outputs):  # in any order of the classes
        apart = relative_error(new.logits(old.outputs), old.logits(old.outputs))
        text += f"\nrelative error of the logits {apart:.2e}"
    yield "predictions", text
    for name in old.result["metrics"]:
        if name != "accuracy" and name in new.result["metrics"]:
            values = (run.result["metrics"][name] for run in (old, new))
            both = ("undefined" if value is None else f"{value:.4f}" for value in values)
            yield METRICS[name].title, " -> ".join(both)
    yield "throughput", "\n".join(speed(old.result, new.result))
    yield "latency", latency(old.result, new.result)
    peaks = [run.result["peak_memory_bytes"] for run in (old, new)]
    if None not in peaks:
        yield "memory", "peak {:.0f} -> {:.0f} MB".format(*(peak / 1e6 for peak in peaks))


def changes(old, new):
    """What of FACTS and of the versions differs."""
    facts = []
    for path in FACTS:
        name = path[-1] + " sha256" * (path[0] == "digests")
        facts.append((name, *(functools.reduce(getitem, path, run) for run in (old, new))))
    listed = ([f"{n} of {rows} x {tokens}" for n, rows, tokens, _ in shapes(r)] for r in (old, new))
    facts.append(("shapes", *map(", ".join, listed)))
    names = sorted({*old["versions"], *new["versions"]})
    facts += [(name, old["versions"].get(name), new["versions"].get(name)) for name in names]
    differing = [fact for fact in facts if fact[1] != fact[2]]
    return [f"{name}: {brief(before)} -> {brief(after)}" for name, before, after in differing]


def brief(fact):
    return "none" if fact is None else str(fact)[:24]


def latency(old, new):
    """Percentiles of what was timed. Batches of unlike shapes are not compared with one another:
    then it is the median of each shape that both runs computed."""
    if single(old) or shapes(old) == shapes(new):
        what = "sentence" if single(old) else "batch"
        before, after = (run["latency_ms"] for run in (old, new))
        shown = [f"{p} {before[p]:.1f} -> {after[p]:.1f}" for p in ("p50", "p99")]
        return f"{', '.join(shown)} ms a {what}"
    before, after = (
        {tuple(each[name] for name in SHAPE): each["forward_ms"]["p50"] for each in run["shapes"]}
        for run in (old, new)
    )
    shown = [
        f"p50 {before[shape]:.1f} -> {after[shape]:.1f} ms a batch of {shape[0]} x {shape[1]}"
        for shape in before
        if shape in after
    ]
    return "\n".join(shown) or "of batches of unlike shapes: not compared"


def shapes(result):
    """[batches, rows, tokens, sentences a row] of every shape that was computed."""
    return [[each[name] for name in ("batches", *SHAPE)] for each in result["shapes"]]


def mcnemar(old, new):
    """(right in `old` only, right in `new` only, two-sided p of the exact test) of two bool
    [sentences]: whether so uneven a split of the sentences that one of both got right is more than
    the toss of a coin (McNemar 1947, exact by the binomial distribution)."""
    from scipy.stats import binomtest

    only_old, only_new = int((old & ~new).sum()), int((new & ~old).sum())
    several = only_old + only_new
    return only_old, only_new, binomtest(only_old, several).pvalue if several else 1.0


def speed(old, new):
    """Ratios of new to old: forward with a 95 % interval from its batches, and end to end, which
    was timed once."""
    if single(old):
        before, after = (run["sentences_per_second"] for run in (old, new))
        text = f"{before:.1f} -> {after:.1f} sentences/s, one at a time"
    else:
        before, after = (run["samples_per_second"]["forward"] for run in (old, new))
        text = f"forward {before:.1f} -> {after:.1f} samples/s"
    low, high = spread(old, new, after / before)
    yield f"{text}, {after / before:.3f} times [{low:.3f}, {high:.3f}]"
    if not single(old):
        before, after = (run["samples_per_second"]["end_to_end"] for run in (old, new))
        yield f"end to end {before:.1f} -> {after:.1f} samples/s, {after / before:.3f} times"


def spread(old, new, ratio):
    """95 % interval of the ratio of rates by resampling batches, pairwise where both runs made the
    same ones. It is the spread within the two runs: it knows nothing of another hour's machine."""
    before, after = (numpy.array(r["latencies_ms"]) for r in (old, new))
    generator = numpy.random.default_rng(0)
    paired = single(old) or shapes(old) == shapes(new)
    first = generator.integers(len(before), size=(RESAMPLES, len(before)))
    second = generator.integers(len(after), size=(RESAMPLES, len(after)))
    if paired and len(before) == len(after):
        second = first
    ratios = before[first].mean(1) / after[second].mean(1)
    ratios *= after.mean() / before.mean()
    return tuple(ratio * numpy.percentile(ratios, (2.5, 97.5)))


def single(result):
    """Whether sentences were sent one at a time, and are what was timed."""
    return "sentences_per_second" in result


def worse(old, new):
    """Why `new` is worse than `old`, a reason each; speed is no reason, for machines are shared."""
    reasons = []
    if new.result["sentences_scored"] < old.result["sentences_scored"]:
        reasons.append("worse: fewer sentences have finite logits")
    if "accuracy" in old.result and "accuracy" in new.result:
        only_old, only_new, p = mcnemar(old.right, new.right)
        if only_old > only_new and p < CHANCE:
            reasons.append("worse: accuracy fell by more than chance")
    else:
        for name, before in list(old.result["metrics"].items())[:1]:
            after = new.result["metrics"].get(name)
            if before is not None and (after is None or before - after > LOSS):
                reasons.append(f"worse: {METRICS[name].title} fell by more than {LOSS}")
    return reasons


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
