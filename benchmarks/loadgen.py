#!/usr/bin/env python
"""An exported file under MLPerf's LoadGen: its traffic, its clock, its summary.

    python -m benchmarks.loadgen --aie_model_dir albert_seq128_bs32.pt \\
        --data_dir ../shared/data/SST-2
    python -m benchmarks.loadgen --pth_dir demo/checkpoint --data_dir ../shared/data/SST-2 \\
        --scenarios Server

Each scenario is run for accuracy, over every sentence of dev, and then for performance; a sample is
a sentence, and its time goes from text to logits. Single Stream sends one at a time, Multi Stream 8
at a time, and Offline all at once, in turn with our own measurement of the same sentences. Server
sends them one by one at random times, and seeks the most a second whose 99th percentile stays below
--target_latency_ms; with --pth_dir our files and their peers, each a service. Exit code 1: LoadGen
calls a run invalid, or its accuracy log is not what run_aie_eval.py counts.
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

from albert_aie import backends
from albert_aie.artifact import pt_file
from albert_aie.base.choose_shapes import CHOSEN, SINGLE
from albert_aie.base.errors import UserError, need
from albert_aie.cli import arguments, console, parsing
from albert_aie.data import datasets
from albert_aie.run.classifier import Classifier
from albert_aie.run.evaluate import is_correct
from benchmarks import server_rates, traffic
from benchmarks.plan import SERVER
from benchmarks.readings import PRECISIONS, interval

TOGETHER = 8  # sentences of a Multi Stream query, as MLPerf has it
MANY = 1024  # sentences at least in one measurement of ours: rows are packed of as many
RATE = 1.3  # how much faster than measured Offline may turn out before its query is too short


class Scenario(NamedTuple):
    """`size`: sentences of a query; `queries`: the fewest; `rounds` of performance, in turn with
    our own measurement."""

    title: str
    size: int
    queries: int
    rounds: int = 1


SCENARIOS = {
    "SingleStream": Scenario("Single Stream", 1, 1024),
    "MultiStream": Scenario("Multi Stream", TOGETHER, 662),
    "Offline": Scenario("Offline", MANY, 1, rounds=4),
}


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True).add_argument
    what("--aie_model_dir", metavar="FILE.pt", help="the exported file")
    what("--pth_dir", help="a checkpoint: Server with the files and peers made of it")
    add("--data_dir", required=True, help="the task's folder")
    names = {"nargs": "+", "choices": (*SCENARIOS, SERVER)}
    add("--scenarios", help="(default: all that can be run)", **names)
    bound = {"type": parsing.at_least(1), "default": 130}
    add("--target_latency_ms", help="bound of Server (default: 130, as MLPerf's BERT)", **bound)
    add("--precision", nargs="+", choices=PRECISIONS, help="of --pth_dir (default: what runs here)")
    add("--engines", nargs="+", metavar="WORD", help="of --pth_dir: with one of these in its label")
    add("--seconds", type=parsing.at_least(1), default=60, help="of a run (default: 60)")
    add("--output_dir", default="outputs/loadgen", help="LoadGen's logs (default: %(default)s)")
    return parser.parse_args(argv)


def run(args):
    need("loadgen.py:", "mlperf_loadgen", "mlcommons-loadgen")
    arguments.check_outputs(Path(args.output_dir) / server_rates.OUTPUT)
    if args.pth_dir:
        for name in set(args.scenarios or ()) - {SERVER}:
            raise UserError(f"--scenarios {name}: wants an exported file (--aie_model_dir)")
        return server_rates.run(args)
    for name in ("precision", "engines"):
        if getattr(args, name):
            raise UserError(f"--{name}: is of --pth_dir; leave it out")
    saved = pt_file.open_all([args.aie_model_dir])
    examples = datasets.read(args.data_dir, "dev", saved.task).for_model(saved.classes())
    if examples.labels is None or saved.task.regression:
        raise UserError(f"{args.data_dir}: the accuracy log needs classes as labels")
    codes = []
    for name in args.scenarios or (*SCENARIOS, SERVER):
        if name == SERVER:
            codes.append(server_rates.run(args, saved, examples))
            continue
        known = [option.name for option in backends.get(saved.manifest["backend"]).OPTIONS]
        one_stream = name != "Offline" and "streams" in known  # else the engine chooses
        with Classifier(saved, **({"streams": 1} if one_stream else {})) as classify:
            warm_up(classify, examples.sentences, SCENARIOS[name].size)
            codes.append(measure(name, classify, examples, args))
    return max(codes)


def warm_up(classify, sentences, size):
    """Every shape that queries of `size` sentences take is compiled before LoadGen's clock runs."""
    if size == 1:
        classify.evaluate(sentences, rows=SINGLE)
    else:
        for start in range(0, len(sentences), size):
            classify.evaluate(sentences[start : start + size], warmup=0)


def rows_for(texts):
    """How the rows of a query are made: as a service would, a sentence that comes alone is one."""
    return SINGLE if len(texts) == 1 else CHOSEN


def measure(name, classify, examples, args):
    """Exit code of a scenario."""
    scenario, folder = SCENARIOS[name], Path(args.output_dir) / name
    for _ in range(3):  # what an engine compiles in its first calls is not its rate
        ours(classify, examples, 0.01)
    rate = ours(classify, examples, 1)
    console.say("scenario", f"{scenario.title}: {classify.saved.path.name}, {args.seconds} s")

    where = folder / "accuracy"
    queries, _ = test(name, classify, examples.sentences, where, args.seconds, rate, True)
    # an evaluation of ours that is given the same queries: the shape that a sentence takes, and its
    # mates in a row, decide the last bits of its logits
    scored = {}  # LoadGen fills a short last query with sentences that it has sent
    for numbers in queries:
        texts = [examples.sentences[i] for i in numbers]
        labels = [examples.labels[i] for i in numbers]
        logits = classify.evaluate(texts, warmup=0, rows=rows_for(texts)).logits
        scored.update(zip(numbers, is_correct(logits, labels).tolist()))
    wanted = sum(scored.values())
    found = traffic.correct(where, examples.labels)
    same = found == (wanted, len(examples.labels))
    text = "as run_aie_eval.py counts" if same else f"but run_aie_eval.py counts {wanted}"
    console.say("accuracy", f"{found[0]}/{found[1]} in LoadGen's accuracy log, {text}")

    valid, ratios = True, []
    for number in range(scenario.rounds):
        where = folder / f"performance{number}"
        _, summary = test(name, classify, examples.sentences, where, args.seconds, rate)
        valid &= summary.get("Result is") == "VALID"
        if offered := summary.get("Samples per second"):
            ratios.append(float(offered) / ours(classify, examples, args.seconds))
        if number == 0:
            for key, value in summary.items():
                console.say("loadgen", f"{key} : {value}")
    if ratios:
        middle, low, high = interval(ratios)
        text = f"{middle:.3f} [{low:.3f}, {high:.3f}] in {len(ratios)} turns"
        console.say("over ours", f"Offline over our own sentences/s, {text}")
    return 0 if same and valid else 1


def ours(classify, examples, least):
    """Sentences a second of our own measurement, repeated for `least` seconds."""
    sentences = examples.sentences * math.ceil(MANY / len(examples.sentences))
    count, seconds = 0, 0.0
    while seconds < least:
        seconds += classify.evaluate(sentences, warmup=0).end_to_end
        count += len(sentences)
    return count / seconds


def test(name, classify, sentences, folder, seconds, rate, accuracy=False):
    """One run of LoadGen, whose logs go to `folder`: (the sentences' numbers of each query, the
    summary)."""
    queries = []

    def issue(samples):
        queries.append([sample.index for sample in samples])
        texts = [sentences[sample.index] for sample in samples]
        logits = classify.evaluate(texts, warmup=0, rows=rows_for(texts)).logits
        traffic.respond(samples, logits)

    settings = {
        "min_duration_ms": 1000 * seconds,
        "min_query_count": SCENARIOS[name].queries,
        "multi_stream_samples_per_query": TOGETHER,
        # less than any sentence takes: LoadGen makes its queries before, and ends when time is over
        "single_stream_expected_latency_ns": 100000,
        "multi_stream_expected_latency_ns": 100000,
        "offline_expected_qps": RATE * rate,
    }
    return queries, traffic.drive(name, issue, len(sentences), folder, accuracy, **settings)


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
