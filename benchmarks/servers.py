"""What answers texts that come one by one at random times: the servers of LoadGen's Server
scenario, and what is measured of one in the process of its engine.

A server has send(text, answer), which returns at once, and answer(row) is called from a thread when
the row of the text, float32 [class], is there; close() ends its threads. Each is set up of an
engine of peers.py as a service would have it."""

import asyncio
import contextlib
import functools
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy

from albert_aie.run.dynamic_batching import Busy
from benchmarks import traffic

TOGETHER, WAIT = 32, 0.005  # of a dynamic batcher: texts of a batch, seconds that it waits for them
PERCENTILE = 0.99
CALLERS = 32  # threads of `callers`


class Shared:
    """Ours: Classifier in asyncio, as examples/serve.py has it."""

    def __init__(self, engine):
        self.classify, self.loop = engine.classify, asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def send(self, text, answer):
        asyncio.run_coroutine_threadsafe(self.reply(text, answer), self.loop)

    async def reply(self, text, answer):
        """Asks again where too many wait: that is time of the text."""
        while True:
            with contextlib.suppress(Busy):
                found = await self.classify.answer(text)
                break
            await asyncio.sleep(0.01)
        answer(numpy.array(list(found.probabilities.values()), numpy.float32))

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


class Turns:
    """Threads that take what waits: a text, and up to `together` in all that come within WAIT
    seconds, as a batch that is padded to its longest."""

    def __init__(self, engine, threads=1, together=1):
        self.engine, self.together, self.waiting = engine, together, queue.SimpleQueue()
        self.threads = [threading.Thread(target=self.work) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def send(self, text, answer):
        self.waiting.put((text, answer))

    def work(self):
        while batch := self.batch():
            rows = self.engine.sentences([text for text, _ in batch])
            for row, (_, answer) in zip(rows, batch):
                answer(row)

    def batch(self):
        """[(text, answer)], empty at the end."""
        batch, until = [self.waiting.get()], time.perf_counter() + WAIT
        while None not in batch and len(batch) < self.together:
            try:
                batch.append(self.waiting.get(timeout=max(0, until - time.perf_counter())))
            except queue.Empty:
                break
        if None in batch:
            self.waiting.put(None)  # for the other threads
            batch.remove(None)
        return batch

    def close(self):
        self.waiting.put(None)
        for thread in self.threads:
            thread.join()


class InferQueue:
    """OpenVINO's own AsyncInferQueue, a text an infer request."""

    def __init__(self, engine):
        import openvino

        self.engine, self.requests = engine, openvino.AsyncInferQueue(engine.compiled)
        self.requests.set_callback(reply)

    def send(self, text, answer):
        self.requests.start_async(self.engine.inputs(text), answer)

    def close(self):
        self.requests.wait_all()


def reply(request, answer):
    """InferQueue's callback. The tensor is the request's own, and its next text overwrites it."""
    answer(numpy.array(request.get_output_tensor(0).data[0], numpy.float32))


SERVERS = {
    "shared": Shared,
    "lock": Turns,
    "threads": lambda engine: Turns(engine, threads=2),
    "queue": InferQueue,
    "batcher": lambda engine: Turns(engine, together=TOGETHER),
}


def capacity(engine, texts):
    """Texts a second that are answered when many come at once, after all that is slow at first."""
    few = texts[::2]  # of SST-2's dev more than choose_shapes.FEW: later no shape is compiled
    for text in few:
        engine.one(text)  # a program of a text by itself, where lengths are programs
    flood(engine, few)
    return len(few) / flood(engine, few)


def flood(engine, texts):
    """Seconds until all texts are answered."""
    server, rows = SERVERS[engine.spec.server](engine), queue.SimpleQueue()
    start = time.perf_counter()
    for text in texts:
        server.send(text, rows.put)
    for _ in texts:
        rows.get()
    seconds = time.perf_counter() - start
    server.close()
    return seconds


def probe(engine, texts, folder, rate, seconds, bound, accuracy=False):
    """{"rate", "seconds", "valid", "p50", "p99" in ms, "completed" a second} of one run of LoadGen
    at `rate` texts a second; {} of a run for accuracy."""
    server = SERVERS[engine.spec.server](engine)

    def issue(samples):
        for sample in samples:
            answer = functools.partial(traffic.respond, [sample])
            server.send(texts[sample.index], answer)

    settings = {
        "server_target_qps": rate,
        "server_target_latency_ns": int(1e6 * bound),
        "server_target_latency_percentile": PERCENTILE,
        "min_duration_ms": 1000 * seconds,
        "min_query_count": 1,  # LoadGen's early stopping asks for those that the percentile needs
    }
    try:
        summary = traffic.drive("Server", issue, len(texts), folder, accuracy, **settings)
    finally:
        server.close()
    if accuracy:
        return {}
    return {
        "rate": rate,
        "seconds": seconds,
        "valid": summary["Result is"] == "VALID",
        "completed": float(summary["Completed samples per second"]),
        "p50": float(summary["50.00 percentile latency (ns)"]) / 1e6,
        "p99": float(summary["99.00 percentile latency (ns)"]) / 1e6,
    }


def callers(engine, texts, rounds=6):
    """[ratio of each round]: sentences a second of CALLERS threads that call Classifier with one
    text at a time, over those of one call with all texts."""
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter()
        engine.classify(texts)
        middle = time.perf_counter()
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(engine.classify, texts))
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return ratios
