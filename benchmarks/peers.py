#!/usr/bin/env python
"""Us and our peers on the same weights and sentences, in interleaved rounds of one run.

    python -m benchmarks.peers --pth_dir demo/checkpoint --data_dir ../shared/data/SST-2

Settings: `dense`, one forward of full rows of 128 tokens at batch 1, 8 and 32; `end_to_end`, SST-2
dev from text to logits; `one_at_a_time`, its sentences singly in the file's order, each timed from
text to class; `as_typed`, each engine by its own defaults, all sentences in the file's order and
SINGLES of them one by one. Each engine has a process of its own and works alone; a round visits
all in random order, those of one precision and batch size side by side. Rates are medians over the
rounds, ratios are paired within a round, intervals are a bootstrap. Accuracy and flips
(against a peer in fp32) stand beside every speed. Exit code 1: an engine failed; 2: wrong input;
130: it was ended early (Ctrl+C, SIGTERM), and tells what the whole rounds say until then.
"""

import random
import signal
import statistics
import sys
import tempfile
from operator import methodcaller
from pathlib import Path

from albert_aie.albert import flops
from albert_aie.base.errors import UserError, some
from albert_aie.base.shapes import slots_of
from albert_aie.cli import arguments, console, parsing
from albert_aie.report import speed
from albert_aie.run import batching
from benchmarks import host, plan, readings
from benchmarks import worker as job
from benchmarks.tables import tables

ROUNDS = {"dense": 12, "end_to_end": 6, "one_at_a_time": 6, "as_typed": 6}
PART = 50  # sentences that an engine answers one by one before the next has its turn
INTERRUPTED = 130  # exit code
SINGLES = 100  # texts that come alone, of `as_typed`
EVERY = 8  # transformers' engines see every 8th sentence: they take minutes for all


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add, whole = parser.add_argument, parsing.at_least(1)
    add("--pth_dir", required=True, help="checkpoint (see export_albert_aie.py)")
    add("--data_dir", required=True, help="GLUE's SST-2 with train.tsv, to calibrate int8 on")
    add("--sentences", type=whole, help="take the first N of dev (default: all)")
    several = {"nargs": "+", "choices": plan.SETTINGS, "default": plan.BOTH}
    add("--settings", help="(default: dense end_to_end)", **several)
    add("--engines", nargs="+", metavar="WORD", help="only those with one of these in their label")
    add("--precision", nargs="+", choices=readings.PRECISIONS, help="(default: what runs here)")
    add("--batch_size", type=whole, nargs="+", default=[1, 8, 32], help="dense (default: 1 8 32)")
    add("--rounds", type=whole, help="(default: dense 12, else 6; fewer give no 95 %% interval)")
    add("--seconds", type=float, default=1, help="of a dense reading's forwards (default: 1)")
    add("--output", default="outputs/bench.json", help="every reading (default: %(default)s)")
    return parser.parse_args(argv)


def run(args):
    if not 0 <= args.seconds < float("inf"):
        raise UserError(f"--seconds {args.seconds:g}: must be 0 or more")
    labels = [engine.label for engine in plan.candidates()]
    for word in args.engines or ():
        if not any(word in label for label in labels):
            raise UserError(f"--engines {word}: no engine has it in its label ({some(labels)})")
    arguments.check_outputs(args.output)
    examples = plan.examples(args).first(args.sentences)
    checkpoint, tokenizer = plan.load(args.pth_dir)
    lengths = [len(tokenizer.encode(text, plan.LENGTH).ids) for text in examples.sentences]
    packed = batching.pack(lengths, {plan.LENGTH: slots_of(plan.LENGTH)})
    here = {**host.machine(), "cuda": plan.cuda()}
    print(f"machine     {here['cpu']}, {here['cores']} cores, load {here['load']:.2f}; ", end="")
    print(f"torch {here['packages']['torch']}; CUDA {here['cuda'] or 'none'}")
    if here["load"] > 0.5:
        print("note        the machine is not quiet: read the ratios, not the rates")
    report = {
        "machine": here,
        "lengths": lengths,
        "nominal_flops_per_row": flops.flops_per_row(vars(checkpoint.config), plan.LENGTH),
        "sentences_per_row": len(lengths) / len(packed),
    }
    with tempfile.TemporaryDirectory() as folder:
        specs, notes = plan.engines(args, Path(folder))
        for made in {spec.made_from["folder"] for spec in specs if spec.kind == "pipeline"}:
            notes += plan.notes_on_ids(made, tokenizer, examples.sentences)
        for note in notes:
            print(f"note        {note}")
        if not specs:
            raise UserError("none of the engines that were asked for runs here; ask for others")
        workers = [job.Worker(spec) for spec in specs]
        try:
            interrupted = not measure(args, workers, examples.sentences)
            entries = [entry(worker, lengths) for worker in workers]
        finally:
            for worker in workers:
                worker.pool.shutdown()
    failed = [f"{w.spec.label}: {w.error}" for w in workers if w.error]
    report.update(notes=notes, engines=[e for e, w in zip(entries, workers) if not w.error])
    report["failed"] = failed
    return conclude(args, report, interrupted, examples.labels)


def conclude(args, report, interrupted, labels):
    """Exit code; prints and writes what was measured."""
    failed = "".join(f"FAILED      {line}\n" for line in report["failed"])
    if not any(e["dense"] or e.keys() & set(readings.OF_TEXT) for e in report["engines"]):
        print(failed, end="")
        why = "ended before its first round was whole" if interrupted else "no engine was measured"
        console.note(f"{why}; nothing was written")
        return INTERRUPTED if interrupted else 1
    if interrupted:
        console.note("ended early: the figures are those of the rounds that were whole")
    readings.score(report["engines"], labels)
    print(f"{tables(report)}\n{failed}", end="")
    host.save(args.output, report)
    print(f"wrote       {args.output}")
    return INTERRUPTED if interrupted else 1 if failed else 0


def measure(args, workers, sentences):
    """Whether it came to its end; if not, the workers have the readings of whole rounds alone."""
    order = random.Random(0)
    try:
        search(workers, sentences)
        for setting in filter(args.settings.__contains__, MEASURE):
            chosen = [worker for worker in workers if setting in worker.spec.settings]
            MEASURE[setting](args, chosen, sentences, order)
        return True
    except KeyboardInterrupt:
        return False


def entry(worker, lengths):
    """What bench.json holds of an engine."""
    measured = {"dense": {}, **worker.readings}
    for batch_size, reading in measured["dense"].items():
        rows = [plan.LENGTH] * int(batch_size)
        reading["flops"] = worker.ask(methodcaller("flops", rows))
    if "end_to_end" in measured:
        seen = lengths[:: every(worker)]
        measured["end_to_end"]["flops"] = worker.ask(methodcaller("flops", seen))
    for name, reading in measured.items():
        if "predictions" in reading:
            step = every(worker) if name == "end_to_end" else 1
            reading.update(sentences=len(lengths[::step]), every=step)
    memory = worker.ask(job.memory)
    return {**worker.spec.fields(), "load": worker.load, "memory": memory, **measured}


def every(worker):
    """Of sentences end to end its engine sees each so many."""
    return EVERY if worker.spec.kind == "transformers" else 1


def search(workers, sentences):
    """Peers take their best batch size, on every 4th sentence; it warms up as well."""
    for worker in workers:
        part, times = sentences[:: 4 * every(worker)], {}
        for batch_size in worker.spec.search if "end_to_end" in worker.spec.settings else ():
            worker.ask(setattr, "batch_size", batch_size)
            worker.ask(job.sentences, part[: 2 * batch_size])
            if answer := worker.ask(job.sentences, part):
                times[batch_size] = answer[0]
        if times:
            worker.spec.batch_size = min(times, key=times.get)
            worker.ask(setattr, "batch_size", worker.spec.batch_size)


def dense(args, workers, sentences, order):
    """One forward of full rows; the ceiling has no batch size."""
    steps = []
    for worker in workers:
        sizes = args.batch_size[: 1 if worker.spec.kind == "ceiling" else None]
        steps += [(worker, size) for size in sizes]
    for worker, size in steps:
        worker.ask(job.dense, size, args.seconds)  # warm-up
    for worker, size, figures in rounds(args, "dense", steps, order):
        figures["seconds"] = worker.ask(job.dense, size, args.seconds)


def end_to_end(args, workers, sentences, order):
    """Text to logits; the ceiling stands in the same rounds."""
    for worker in workers:
        if worker.spec.kind == "ours":
            worker.ask(job.sentences, sentences)  # warm-up; the search was the peers'
    steps = [(worker, None) for worker in workers]
    for worker, _, figures in rounds(args, "end_to_end", steps, order):
        if worker.spec.kind == "ceiling":
            figures["seconds"] = worker.ask(job.dense, 0, args.seconds)
        elif answer := worker.ask(job.sentences, sentences[:: every(worker)]):
            figures["seconds"], figures["predictions"] = answer


def one_at_a_time(args, workers, sentences, order):
    """Sentence by sentence. A round goes through the sentences in parts, and each part through all
    engines, for the machine's speed changes within seconds. Each engine sees all sentences once
    before, so that no length is new to it."""
    for worker in workers:
        worker.ask(job.singles, sentences)
    parts = [sentences[start : start + PART] for start in range(0, len(sentences), PART)]
    count = args.rounds or ROUNDS["one_at_a_time"]
    with console.bar(total=count * len(parts) * len(workers), desc="one at a time") as done:
        for _ in range(count):
            answers = {worker: [] for worker in workers}
            for part in parts:
                for worker in order.sample(workers, len(workers)):
                    answers[worker].append(worker.ask(job.singles, part))
                    done.update()
            for worker, given in answers.items():
                if not worker.error:
                    times, classes = (sum(lists, []) for lists in zip(*given))
                    whole = speed.distribution(times)
                    figures = {name: whole[name] for name in readings.FIGURES}
                    worker.keep("one_at_a_time", {**figures, "predictions": classes})


def as_typed(args, workers, sentences, order):
    """All sentences, then SINGLES of them one by one, each engine once before the rounds."""
    for worker in workers:
        worker.ask(job.sentences, sentences)
        worker.ask(job.singles, sentences[:SINGLES])
    steps = [(worker, None) for worker in workers]
    for worker, _, figures in rounds(args, "as_typed", steps, order):
        whole = worker.ask(job.sentences, sentences)
        single = worker.ask(job.singles, sentences[:SINGLES])
        if whole and single:
            figures["seconds"], figures["predictions"] = whole
            figures["single"] = statistics.fmean(single[0])


def rounds(args, setting, steps, order):
    """Yields (worker, batch size, a dict for its figures) of all rounds, each in random order; what
    is compared stands close together in time, for the machine's speed drifts. The workers keep the
    figures of a round when it is whole."""
    count = args.rounds or ROUNDS[setting]
    with console.bar(total=count * len(steps), desc=setting.replace("_", " ")) as done:
        for _ in range(count):
            order.shuffle(steps)
            turn = {(worker.spec.precision, size): order.random() for worker, size in steps}
            steps.sort(key=lambda step: turn[step[0].spec.precision, step[1]])
            taken = [(worker, size, {}) for worker, size in steps]
            for step in taken:
                done.update()
                if not step[0].error:
                    yield step
            for worker, size, figures in taken:
                worker.keep(setting, figures, size)


MEASURE = {each.__name__: each for each in (dense, end_to_end, one_at_a_time, as_typed)}


if __name__ == "__main__":
    # SIGTERM is a Ctrl+C: the engines' processes end with this one, and no reading is lost
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(console.main(parse_args, run))
