"""LoadGen's Server scenario: texts come one by one at random times (Poisson); the most of them a
second are sought whose time to an answer stays, in its 99th percentile, below a bound."""

import math
import re
import tempfile
from operator import eq, itemgetter, ne
from pathlib import Path
from types import SimpleNamespace

from albert_aie.base.errors import UserError
from albert_aie.cli import console
from albert_aie.run.compare import GATES
from benchmarks import host, plan, readings, servers, traffic, worker
from benchmarks.plan import Engine

STEP = 1.05  # between rates that are told apart
TRIES = 2  # at a rate: a shared machine may stand still for a second
# LoadGen calls no run of fewer texts valid: that all are below the bound shows with 99 % confidence
# that 99 % of all are, where there are so many (0.99 ** 459 < 0.01).
FEWEST = 459
OUTPUT = "server.json"  # in --output_dir


def run(args, saved=None, examples=None):
    """Exit code of the scenario: of a file and its sentences, or of what is made of --pth_dir."""
    with tempfile.TemporaryDirectory() as folder:
        if saved:
            served = {"server": "shared", "streams": 1, "made_from": {"file": args.aie_model_dir}}
            name, precision = saved.path.name, saved.manifest["precision"]
            specs, notes = [Engine("ours", name, precision, plan.SERVED, **served)], []
        else:
            examples, given = plan.examples(args), {**vars(args), "settings": plan.SERVED}
            specs, notes = plan.engines(SimpleNamespace(**given), Path(folder))
        for note in notes:
            console.note(note)
        if not specs:
            raise UserError("none of the servers that were asked for runs here; ask for others")
        texts, labels = examples.sentences, examples.labels
        attempts = [Attempt(spec, args) for spec in specs]
        try:
            for one in attempts:
                one.search(texts)
            for one in attempts:  # what is compared stands close together in time
                one.confirm(texts)
            results = [one.result(texts, labels) for one in attempts]
        finally:
            for one in attempts:
                one.worker.pool.shutdown()
    for entry in results:
        tell(entry, results)
    whole = {"machine": host.machine(), "bound": args.target_latency_ms, "servers": results}
    host.save(Path(args.output_dir) / OUTPUT, whole)
    return 0 if all(map(good, results)) else 1


class Attempt:
    """What one server does, in its Worker."""

    def __init__(self, spec, args):
        self.spec, self.worker = spec, worker.Worker(spec)
        self.folder = Path(args.output_dir) / "Server" / re.sub(r"\W+", "-", spec.label)
        self.bound, self.seconds = args.target_latency_ms, args.seconds
        self.least = FEWEST / self.seconds
        self.probes, self.rate, self.best = [], 0, None

    def probe(self, texts, rate, seconds, accuracy=False):
        folder = str(self.folder / ("accuracy" if accuracy else "performance"))
        found = self.worker.ask(servers.probe, texts, folder, rate, seconds, self.bound, accuracy)
        self.probes += [found] if found else []
        return found

    def search(self, texts):
        """The rate to begin with, by short runs."""

        def meets_bound(rate):  # every time: what is a little too high costs minutes to confirm
            runs = (self.probe(texts, rate, max(1, self.seconds // 6)) for _ in range(TRIES))
            return all(found and found["p99"] <= self.bound for found in runs)

        if start := self.worker.ask(servers.capacity, texts):
            console.say("search", f"{self.spec.label}: {start:.1f}/s when all texts come at once")
            self.rate = highest(meets_bound, start, self.least)

    def confirm(self, texts):
        """The highest rate, from there on, of which LoadGen calls a run of all seconds valid; a run
        for accuracy at it."""

        def valid(rate):
            runs = (self.probe(texts, rate, self.seconds) for _ in range(TRIES))
            if found := next((run for run in runs if run and run["valid"]), None):
                self.best = found
            return found

        if self.rate and highest(valid, self.rate, self.least):
            self.probe(texts, self.best["rate"], self.seconds, accuracy=True)

    def result(self, texts, labels):
        """What server.json holds of it."""
        spec = self.spec
        entry = {key: getattr(spec, key) for key in ("kind", "label", "precision", "server")}
        if self.best and not self.worker.error:
            answers = traffic.answers(self.folder / "accuracy")
            predictions = [int(answers[i].argmax()) for i in range(len(texts))]
            together = (self.worker.ask(worker.sentences, texts) or [None, []])[1]
            entry.update(self.best, sentences=len(texts))
            entry["correct"] = sum(map(eq, predictions, labels))
            entry["differ"] = sum(map(ne, predictions, together))
            if spec.kind == "ours":
                entry["callers"] = self.worker.ask(servers.callers, texts[:256])
        why = f"no run at {self.least:.1f} texts/s or more was valid"
        error = self.worker.error or (None if self.best else why)
        return {**entry, "error": error, "probes": self.probes}


def highest(meets_bound, start, least):
    """The highest rate that meets_bound(rate), to a STEP: from `start` in steps that double until
    one does and one does not, then by bisection. 0 where none does that is `least` or more."""
    low, high, rate, step = 0, math.inf, start, STEP
    while high > max(1.001 * STEP * low, least):
        low, high = (rate, high) if meets_bound(rate) else (low, rate)
        if low and high < math.inf:
            rate = math.sqrt(low * high)
        else:
            rate = low * step or max(high / step, least)
        step *= step
    return low


def tell(entry, results):
    if entry["error"]:
        console.say("FAILED", f"{entry['label']}: {entry['error']}")
        return
    text = (
        f"{entry['label']}: {entry['completed']:.1f} queries/s VALID; p50 {entry['p50']:.1f} ms, "
        f"p99 {entry['p99']:.1f} ms; {entry['correct']}/{entry['sentences']} right"
    )
    if entry["kind"] == "ours":
        text += f", {entry['differ']} labels not those of one call with all texts"
        same = [e for e in results if e["precision"] == entry["precision"] and not e["error"]]
        peers = [e for e in same if e["kind"] != "ours"]
        if peer := max(peers, key=itemgetter("completed"), default=None):
            ratio = entry["completed"] / peer["completed"]
            text += f"; {ratio:.2f} of the best peer's queries/s ({peer['label']})"
        ratio = "{:.2f} [{:.2f}, {:.2f}]".format(*readings.interval(entry["callers"]))
        text += f"; {servers.CALLERS} callers: {ratio} of one call's rate"
    console.say("server", text)


def good(entry):
    """Whether it ran, and a server of ours gives the labels that one call gives."""
    if entry["error"] or entry["kind"] != "ours":
        return not entry["error"]
    return entry["differ"] <= GATES[entry["precision"]].flips * entry["sentences"]
