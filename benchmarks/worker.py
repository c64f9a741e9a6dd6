"""An engine in a process of its own: none may slow another down, or find its work half done."""

import os
import signal
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from albert_aie.base import machine, process
from albert_aie.base.errors import first_line
from benchmarks.readings import FIGURES

# for every engine's process, before it loads torch: idle threads must not take time from others
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Worker:
    """Makes the engine of a plan.Engine; `ask` has one of the functions below run beside it.
    `readings`, lists with a figure a round, and `predictions` are collected by setting."""

    def __init__(self, spec):
        self.spec, self.error, self.predictions = spec, None, {}
        self.readings = {
            "dense": {},
            "end_to_end": {"seconds": []},
            "one_at_a_time": {name: [] for name in FIGURES},
            "as_typed": {"seconds": [], "single": []},
        }
        given = {"mp_context": get_context("spawn"), "initializer": process.end_with_parent}
        self.pool = ProcessPoolExecutor(1, **given)
        self.load = self.ask(make, spec)

    def lists(self, setting):
        """The lists of a setting; all are empty where it has no round."""
        readings = self.readings[setting]
        entries = readings.values() if setting == "dense" else [readings]
        return [rounds for entry in entries for rounds in entry.values()]

    def ask(self, job, *given):
        """What job(*given) answers, or None with `error` set for good."""
        if not self.error:
            try:
                return self.pool.submit(job, *given).result()
            except Exception as error:
                self.error = f"{type(error).__name__}: {first_line(error, 300)}"


def make(spec):
    """Seconds until it could run."""
    global engine
    # a terminal's Ctrl+C reaches every process: the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    start = time.perf_counter()
    from benchmarks import engines

    engine = engines.KINDS[spec.kind](spec)
    return time.perf_counter() - start


def sentences(texts):
    """(seconds, the predicted class of each)"""
    start = time.perf_counter()
    logits = engine.sentences(texts)
    return time.perf_counter() - start, logits.argmax(1).tolist()


def singles(texts):
    """(the seconds that each text took, the predicted class of each)"""
    times, classes = [], []
    for text in texts:
        start = time.perf_counter()
        classes.append(int(engine.one(text).argmax()))
        times.append(time.perf_counter() - start)
    return times, classes


def dense(batch_size, seconds):
    """Median seconds of a forward, repeated for `seconds`: one of a single row is short, and the
    machine is shared."""
    times, start = [engine.dense(batch_size)], time.perf_counter()
    while time.perf_counter() - start < seconds:
        times.append(engine.dense(batch_size))
    return statistics.median(times)


def served(job, *given):
    """What a function answers of this engine, as those of servers.py."""
    return job(engine, *given)


def flops(lengths):
    return engine.flops(lengths)


def memory():
    """The most MB that this process held."""
    return machine.peak_memory() / 1e6
