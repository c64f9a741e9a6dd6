"""Workers of a corpus as Ray actors: one a card, or each with its share of the CPUs.

Plain actors, not Ray Data: a part is given out again when its actor dies, so many times and no
more, for which Ray Data has no setting; and its own checkpoints do not promise a row once."""

import contextlib
import os
import socket
from collections import deque

from ..base import machine
from ..base.errors import UserError, first_line, last_line, need
from .worker import ATTEMPTS, Worker, attempt

OBJECT_STORE = 80 << 20  # bytes; rows never pass through it, and Ray takes no less
PATIENCE = 30  # seconds without a worker before a note says so
REACH = 10  # seconds for a cluster to take a connection; Ray itself tries for minutes
CARDS = {"npu": "NPU", "cuda": "GPU"}  # device: what Ray calls it


class Actor:
    """Runs in a process of its own. Its methods answer as `worker.attempt` does."""

    def place(self):
        import ray

        return ray.get_runtime_context().get_node_id()

    def start(self, job, first, count):
        """Load the file; on a CPU, with `count` cores of this machine from number `first` on."""
        machine.keep_to_cores(first, count)
        return attempt(self._load, job)

    def _load(self, job):
        self.worker = Worker(job)

    def run(self, part):
        return attempt(self.worker.run, part)


def check(address):
    """Raises UserError where Ray is not installed, or nobody answers at HOST:PORT. Before Ray is
    imported anywhere: that is when it reads its environment."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":  # it listens on 127.0.0.1 alone: Ray asks nobody who they are
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    need("--ray", "ray")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH).close()
        except (OSError, OverflowError, ValueError) as error:
            raise _unreachable(address, error) from None
    elif address not in ("local", "auto"):
        raise UserError(f"--ray {address}: is neither local, auto nor HOST:PORT; give one of them")


def _unreachable(address, error):
    return UserError(
        f"--ray {address}: cannot be reached ({first_line(error)}); start it with ray start "
        "--head, or take --ray local"
    )


def connect(address):
    """(Ray, whether it is ours to end): connected to a cluster, or started here for "local"; the
    caller's own where this process has begun one. Raises UserError."""
    check(address)
    import ray

    if ray.is_initialized():
        return ray, False
    given = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        given.update(num_cpus=cores(), include_dashboard=False, object_store_memory=OBJECT_STORE)
    try:
        ray.init(address=address, **given)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _unreachable(address, error) from None
    return ray, True


def cores():
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def share(device, nodes, workers=None, threads=None):
    """(number of workers, CPUs of each or 0, resources of each as Ray's options) on nodes, each
    {resource: amount}. Raises UserError where they do not fit."""
    card = CARDS.get(device)
    name = card or "CPU"
    amounts = [int(node.get(name, 0)) for node in nodes]
    total = sum(amounts)
    if card:
        if (workers or 1) > total:
            raise UserError(
                f"--ray: the cluster has {total} {card} for {workers or 1} workers; take fewer, or "
                f"say what a node has when it is started (ray start --resources)"
            )
        each = {"num_gpus": 1} if card == "GPU" else {"resources": {card: 1}}
        return workers or total, 0, {"num_cpus": 0, **each}
    workers = workers or sum(amount > 0 for amount in amounts)
    cpus = threads or max(1, total // max(1, workers))
    while not threads and cpus > 1 and sum(amount // cpus for amount in amounts) < workers:
        cpus -= 1
    if not workers or sum(amount // cpus for amount in amounts) < workers:
        raise UserError(
            f"--workers {workers}: of {cpus} thread{'s'[: cpus != 1]} each do not fit on "
            f"{' + '.join(map(str, amounts))} CPUs; take fewer"
        )
    return workers, cpus, {"num_cpus": cpus}


def on_ray(job, waiting, address, device, workers=None, note=lambda text: None):
    """As worker.run_in_process, by actors of the Ray cluster at an address; `note` is given what a
    user should know meanwhile."""
    ray, ours = connect(address)
    with contextlib.ExitStack() as stack:
        # Ray reports dead workers on stdout, which is for results; the caller reports their parts
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        if ours:
            stack.callback(ray.shutdown)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers, cpus, options = share(device, nodes, workers, job.options.get("threads"))
        if cpus:
            job = job._replace(options={**job.options, "threads": cpus})
        crew = Crew(ray, job, cpus, options, min(workers, len(waiting)))
        stack.callback(crew.close)
        yield from crew.results(waiting, note)


class Crew:
    """So many actors, those that die replaced."""

    def __init__(self, ray, job, cpus, options, size):
        self.ray, self.job, self.cpus, self.size = ray, job, cpus, size
        self.make = ray.remote(
            max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD", **options
        )(Actor)
        self.calls = {}  # reference: (actor, what it does, Part)
        self.places = {}  # actor: (node, number of its share there)
        self.idle = deque()
        self.deaths = 0  # before an actor could begin, one after another

    def close(self):
        for actor in [*self.idle, *(actor for actor, _, _ in self.calls.values())]:
            self.ray.kill(actor, no_restart=True)

    def results(self, waiting, note):
        """(Part, outcome, value) of each call that ended; of an actor that is ready (None, "ready",
        how many are)."""
        while waiting or any(part for _, _, part in self.calls.values()):
            while waiting and self.idle:
                part = waiting.popleft()
                self._call(self.idle.popleft(), "run", part, part)
            while waiting and len(self.calls) + len(self.idle) < self.size:
                self._call(self.make.remote(), "place")
            ready, _ = self.ray.wait(list(self.calls), timeout=PATIENCE)
            if not ready and not any(part for _, _, part in self.calls.values()):
                note("waiting for the cluster to start a worker")
            for reference in ready:
                yield from self._ended(reference)

    def _call(self, actor, what, part=None, *given):
        self.calls[getattr(actor, what).remote(*given)] = actor, what, part

    def _ended(self, reference):
        actor, what, part = self.calls.pop(reference)
        try:
            value = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            yield from self._died(actor, part, error)
            return
        if what == "place":
            slot = self._slot(actor, value)
            self._call(actor, "start", None, self.job, slot * self.cpus, self.cpus)
            return
        outcome, value = value
        if what == "start" and outcome == "done":
            self.deaths = 0
            part, outcome, value = None, "ready", len(self.places)
        elif what == "start":
            outcome = "refused"
        self.idle.append(actor)
        yield part, outcome, value

    def _died(self, actor, part, error):
        self.places.pop(actor, None)
        with contextlib.suppress(Exception):  # it is dead, or cannot be reached
            self.ray.kill(actor, no_restart=True)
        if part is not None:
            yield part, "failed", f"its worker died ({type(error).__name__})"
            return
        self.deaths += 1
        if self.deaths >= ATTEMPTS * self.size:
            raise UserError(
                f"--ray: {self.deaths} workers died before they began ({last_line(error)}); see "
                "Ray's logs on their node"
            )

    def _slot(self, actor, node):
        """The lowest number that no other actor on the node has."""
        taken = {slot for place, slot in self.places.values() if place == node}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        self.places[actor] = node, slot
        return slot
