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

# for every engine's process, before it loads torch: idle threads must not take time from others
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

engine = None  # of this process


class Worker:
    """Makes the engine of a plan.Engine. `readings` are what bench.json holds of each setting."""

    def __init__(self, spec):
        self.spec, self.error, self.readings = spec, None, {}
        given = {"mp_context": get_context("spawn"), "initializer": process.end_with_parent}
        self.pool = ProcessPoolExecutor(1, **given)
        self.load = self.ask(make, spec)

    def ask(self, job, *given):
        """What job(engine, *given) answers there, or None with `error` set for good."""
        if not self.error:
            try:
                return self.pool.submit(call, job, *given).result()
            except Exception as error:
                self.error = f"{type(error).__name__}: {first_line(error, 300)}"

    def keep(self, setting, figures, batch_size=None):
        """Adds a round to the lists of a setting, in dense of a batch size; predictions are those
        of the last round."""
        if self.error:
            return
        entry = self.readings.setdefault(setting, {})
        if batch_size:
            entry = entry.setdefault(str(batch_size), {})
        for name, value in figures.items():
            if name == "predictions":
                entry[name] = value
            else:
                entry.setdefault(name, []).append(value)


def call(job, *given):
    return job(engine, *given)


def make(_, spec):
    """Seconds until it could run."""
    global engine
    # a terminal's Ctrl+C reaches every process: the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    start = time.perf_counter()
    from benchmarks import engines

    engine = engines.KINDS[spec.kind](spec)
    return time.perf_counter() - start


def sentences(engine, texts):
    """(seconds, the predicted class of each)"""
    start = time.perf_counter()
    logits = engine.sentences(texts)
    return time.perf_counter() - start, logits.argmax(1).tolist()


def singles(engine, texts):
    """(the seconds that each text took, the predicted class of each)"""
    times, classes = [], []
    for text in texts:
        start = time.perf_counter()
        classes.append(int(engine.one(text).argmax()))
        times.append(time.perf_counter() - start)
    return times, classes


def dense(engine, batch_size, seconds):
    """Median seconds of a forward, repeated for `seconds`: one of a single row is short, and the
    machine is shared."""
    times, start = [engine.dense(batch_size)], time.perf_counter()
    while time.perf_counter() - start < seconds:
        times.append(engine.dense(batch_size))
    return statistics.median(times)


def memory(_):
    """The most MB that this process held."""
    return machine.peak_memory() / 1e6
