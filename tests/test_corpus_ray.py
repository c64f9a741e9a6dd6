"""Workers on Ray without Ray: a crew on a stand-in of its actors, and clusters that do not
answer."""

import os
import socket
import sys
import time
import types
from collections import deque

import pytest
from corpora import label_corpus
from helpers import refused, said

from albert_aie.base import machine
from albert_aie.base.errors import UserError
from albert_aie.corpus import ray_workers, worker


class RayError(Exception):
    pass


class StandIn:
    """Of ray: actors that answer at once with what `plays` (what is called, with what) says; an
    exception is a worker that died."""

    exceptions = types.SimpleNamespace(RayError=RayError)

    def __init__(self, plays):
        self.plays, self.killed, self.options, self.made = plays, [], [], []
        self.patience = 0  # calls of `wait` in which nothing is ready

    def remote(self, **options):
        self.options.append(options)

        def make():
            self.made.append(Member(self.plays))
            return self.made[-1]

        return lambda _: types.SimpleNamespace(remote=make)

    def wait(self, references, timeout):
        assert timeout == ray_workers.PATIENCE
        self.patience -= 1
        ready = references[: self.patience < 0]
        return ready, references[len(ready) :]

    def get(self, reference):
        answer = reference.answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor, no_restart):
        assert no_restart
        self.killed.append(actor)


class Reference:
    def __init__(self, answer):
        self.answer = answer


class Member:
    """An actor; what is called of it answers when it is asked for."""

    def __init__(self, plays):
        self.plays = plays

    def __getattr__(self, name):
        def call(*given):
            return Reference(lambda: self.plays(name, *given))

        return types.SimpleNamespace(remote=call)


def crew(plays, size=2):
    return ray_workers.Crew(StandIn(plays), None, 1, {}, size)


def ready(name, *given):
    return "node" if name == "place" else ("done", given)


def part(number):
    return types.SimpleNamespace(number=number)


def test_workers_that_are_ready_are_counted():
    parts = [part(number) for number in range(6)]
    results = list(crew(ready).results(deque(parts), print))
    assert max(value for _, outcome, value in results if outcome == "ready") == 2
    assert {one.number for one, outcome, _ in results if outcome == "done"} == set(range(6))


@pytest.mark.parametrize("outcome", ["refused", "failed"])
def test_a_worker_that_cannot_begin_stops_the_run(outcome):
    """It sees another disk, or has no memory: no other worker would help."""

    def plays(name, *given):
        return "node" if name == "place" else (outcome, "no memory")

    assert next(crew(plays, 1).results(deque([part(0)]), print)) == (None, "refused", "no memory")


def test_the_part_of_a_worker_that_died_comes_back():
    """It is named as failed, so that it waits again; another worker takes its place."""
    died = []

    def plays(name, *given):
        if name == "run" and not died:
            died.append(given[0])
            return RayError("killed")
        return ready(name, *given)

    group, waiting = crew(plays, 1), deque([part(0), part(1)])
    done = []
    for one, outcome, value in group.results(waiting, print):
        if outcome == "failed":
            assert one is died[0] and value == "its worker died (RayError)"
            waiting.append(one)
        elif outcome == "done":
            done.append(one.number)
    assert sorted(done) == [0, 1] and len(group.ray.killed) == 1


@pytest.mark.parametrize("size, deaths", [(1, 3), (2, 6)])
def test_workers_that_die_before_they_begin_end_the_run(size, deaths):
    group = crew(lambda *given: RayError("it died\nno"), size)  # Ray's reason is the last line
    assert said(list, group.results(deque([part(0), part(1)]), print)) == (
        f"--ray: {deaths} workers died before they began (no); see Ray's logs on their node"
    )


def test_deaths_before_the_beginning_count_one_after_another():
    """Two, then one that begins, two and one again."""
    begun = []

    def plays(name, *given):
        if name == "place":
            begun.append(name)
            return RayError("no") if len(begun) % 3 else "node"
        if name == "run" and given[0].number < 2:
            return RayError("killed")
        return ready(name, *given)

    results = crew(plays, 1).results(deque([part(number) for number in range(3)]), print)
    assert [outcome for _, outcome, _ in results] == ["ready", "failed"] * 2 + ["ready", "done"]
    assert len(begun) == 9


def test_each_worker_of_a_node_has_cores_of_its_own():
    """Those of one that died go to the next there; on another node the first are free too."""
    places, starts, died = iter(["a", "a", "b", "a"]), [], []

    def plays(name, *given):
        if name == "place":
            return next(places)
        if name == "start":
            starts.append(given)
        if name == "run" and given[0].number == 0 and not died:
            died.append(given[0])
            return RayError("killed")
        return ready(name, *given)

    stand_in = StandIn(plays)
    group = ray_workers.Crew(stand_in, "job", 2, {"num_cpus": 2}, 3)
    waiting = deque([part(number) for number in range(6)])
    for one, outcome, _ in group.results(waiting, print):
        if outcome == "failed":
            waiting.append(one)
    # part 0 is the first worker's, which has the first two cores of a
    assert starts == [("job", 0, 2), ("job", 2, 2), ("job", 0, 2), ("job", 0, 2)]
    never = {"max_restarts": 0, "max_task_retries": 0}
    assert stand_in.options == [{**never, "scheduling_strategy": "SPREAD", "num_cpus": 2}]
    assert stand_in.killed == stand_in.made[:1] and len(stand_in.made) == 4
    group.close()
    assert set(stand_in.killed) == set(stand_in.made)


def test_no_more_workers_are_made_than_parts_wait_for():
    group = crew(ready, 5)
    list(group.results(deque([part(0)]), print))
    assert len(group.ray.made) <= 5
    notes = []
    group = crew(ready, 1)
    group.ray.patience = 3
    assert len(list(group.results(deque([part(0)]), notes.append))) == 2
    assert notes == ["waiting for the cluster to start a worker"] * 3


def test_an_actor_keeps_to_its_cores_and_answers_what_became_of_a_call(monkeypatch):
    given = []

    class Worker:
        def __init__(self, job):
            given.append(job)
            if job == "bad":
                raise UserError("another file")

        def run(self, part):
            return 10 // part

    monkeypatch.setattr(machine, "keep_to_cores", lambda *cores: given.append(cores))
    monkeypatch.setattr(ray_workers, "Worker", Worker)
    actor = ray_workers.Actor()
    assert actor.start("job", 4, 2) == ("done", None) and given == [(4, 2), "job"]
    assert actor.run(5) == ("done", 2)
    assert actor.run(0) == ("failed", "integer division or modulo by zero (ZeroDivisionError)")
    assert actor.start("bad", 0, 0) == ("refused", "another file")


@pytest.fixture
def ray(monkeypatch):
    """A module `ray` that knows whether it was begun and ended."""
    module = types.ModuleType("ray")
    module.begun, module.ended = [], []
    module.is_initialized = lambda: bool(module.begun)
    module.init = lambda **given: module.begun.append(given)
    module.shutdown = lambda: module.ended.append(True)
    context = types.SimpleNamespace(get_node_id=lambda: "node 7")
    module.get_runtime_context = lambda: context
    module.nodes = lambda: [
        {"Alive": True, "Resources": {"CPU": 2}},
        {"Alive": False, "Resources": {"CPU": 8}},
        {"Alive": True, "Resources": {"CPU": 3}},
    ]
    module.exceptions = StandIn.exceptions
    stand_in = module.stand_in = StandIn(ready)
    for name in ("remote", "wait", "get", "kill"):
        setattr(module, name, getattr(stand_in, name))
    monkeypatch.setitem(sys.modules, "ray", module)
    return module


@pytest.mark.parametrize("begun", [False, True])
def test_a_ray_that_the_caller_has_begun_is_used_and_left(ray, begun):
    if begun:
        ray.init()
    job = types.SimpleNamespace(options={}, _replace=lambda **given: job)
    results = list(ray_workers.on_ray(job, deque([part(0)]), "local", "cpu", 1))
    assert [outcome for _, outcome, _ in results] == ["ready", "done"]
    assert len(ray.begun) == 1 and len(ray.ended) == (not begun)


def test_a_run_on_ray_has_what_the_cluster_has_room_for(ray, capfd):
    """A worker a node that is alive, with its cores as threads; what Ray prints of workers that
    died is not for stdout. No more workers than parts."""
    starts = []

    def plays(name, *given):
        print("(raylet) a worker died")
        if name == "start":
            starts.append(given)
        return ready(name, *given)

    ray.stand_in.plays = plays
    job = worker.Job("out", "token", ["a.pt"], options={"device_id": 1})
    for count in (3, 1):
        starts.clear()
        ray.stand_in.made.clear()
        waiting = deque([part(number) for number in range(count)])
        results = list(ray_workers.on_ray(job, waiting, "local", "cpu"))
        assert len([one for one, outcome, _ in results if outcome == "done"]) == count
        assert len(starts) == len(ray.stand_in.made) == min(2, count)
        assert all(given[0].options == {"device_id": 1, "threads": 2} for given in starts)
        assert set(ray.stand_in.killed) >= set(ray.stand_in.made)
        assert ray.ended == [True]
        ray.begun.clear(), ray.ended.clear()
    assert ray.stand_in.options[0]["num_cpus"] == 2
    own = job._replace(options={"threads": 1})
    list(ray_workers.on_ray(own, deque([part(0)]), "auto", "cpu", 2))
    assert starts[-1][0].options == {"threads": 1} and ray.stand_in.options[-1]["num_cpus"] == 1
    assert capfd.readouterr() == ("", "")
    assert ray_workers.Actor().place() == "node 7"


def test_what_ray_is_begun_with(ray, monkeypatch):
    """Nothing is sent to Ray's makers; what is started here listens to this machine alone."""
    names = ("USAGE_STATS_ENABLED", "ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
    names = [*(f"RAY_{name}" for name in names), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    plain = {"logging_level": "ERROR", "log_to_driver": False}
    assert ray_workers.connect("auto") == (ray, True)
    assert ray.begun == [{"address": "auto", **plain}]
    assert [os.environ.get(name) for name in names] == ["0", "0", None]
    assert ray_workers.connect("local") == (ray, False)
    ray.begun.clear()
    assert ray_workers.connect("local") == (ray, True)
    (begun,) = ray.begun
    own = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    assert begun == {"address": "local", **plain, **own, "object_store_memory": 83886080}
    assert [os.environ.get(name) for name in names] == ["0", "0", "0"]
    monkeypatch.setenv(names[0], "1")
    ray_workers.check("local")
    assert os.environ[names[0]] == "1"


def test_a_cluster_that_cannot_be_reached_is_one_sentence(ray, monkeypatch):
    def no(**given):
        raise ConnectionError("no head\nanywhere")

    monkeypatch.setattr(ray, "init", no)
    fix = "start it with ray start --head, or take --ray local"
    assert said(ray_workers.connect, "auto") == f"--ray auto: cannot be reached (no head); {fix}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        for prefix in ("", "ray://"):
            ray_workers.check(f"{prefix}127.0.0.1:{server.getsockname()[1]}")


def test_an_address_where_nobody_answers_is_refused_at_once(capfd, ray, tmp_path, file_of):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "a.txt").write_text("fine\n")
    given = {"aie_model_dir": file_of("SST-2"), "input": tmp_path / "a.txt"}
    addresses = [address, f"ray://{address}", f"[::ffff:127.0.0.1]:{address[10:]}"]
    for wrong in (*addresses, "no.such.host.invalid:6379", "127.0.0.1:99999"):
        started = time.monotonic()
        done = label_corpus(capfd, **given, output_dir=tmp_path / "out", ray=wrong)
        assert refused(done, f"--ray {wrong}: cannot be reached (", "); start it with ray start")
        assert time.monotonic() - started < 25 and not ray.begun
    done = label_corpus(capfd, **given, output_dir=tmp_path / "out", ray="locl")
    assert refused(done, "--ray locl: is neither local, auto nor HOST:PORT")
    assert not (tmp_path / "out").exists()
