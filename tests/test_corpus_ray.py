"""Workers on Ray without Ray: a crew on a stand-in of its actors, and clusters that do not
answer."""

import socket
import sys
import time
import types
from collections import deque

import pytest
from corpora import label_corpus
from helpers import refused

from albert_aie.base.errors import UserError
from albert_aie.corpus import ray_workers


class RayError(Exception):
    pass


class StandIn:
    """Of ray: actors that answer at once with what `plays` (what is called, with what) says; an
    exception is a worker that died."""

    exceptions = types.SimpleNamespace(RayError=RayError)

    def __init__(self, plays):
        self.plays, self.killed = plays, []

    def remote(self, **options):
        return lambda _: types.SimpleNamespace(remote=lambda: Member(self.plays))

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        answer = reference.answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor, no_restart):
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


def test_a_worker_that_cannot_begin_stops_the_run():
    """It sees another disk: no other worker would help."""

    def plays(name, *given):
        return "node" if name == "place" else ("refused", "sees another disk")

    outcomes = crew(plays, 1).results(deque([part(0)]), print)
    assert next(outcomes) == (None, "refused", "sees another disk")


def test_a_failure_to_begin_is_a_refusal():
    def plays(name, *given):
        return "node" if name == "place" else ("failed", "no memory")

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


def test_workers_that_die_before_they_begin_end_the_run():
    with pytest.raises(UserError, match="3 workers died before they began"):
        list(crew(lambda *given: RayError("no"), 1).results(deque([part(0)]), print))


@pytest.fixture
def ray(monkeypatch):
    """A module `ray` that knows whether it was begun and ended."""
    module = types.ModuleType("ray")
    module.begun, module.ended = [], []
    module.is_initialized = lambda: bool(module.begun)
    module.init = lambda **given: module.begun.append(given)
    module.shutdown = lambda: module.ended.append(True)
    module.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 2}}]
    module.exceptions = StandIn.exceptions
    stand_in = StandIn(ready)
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


def test_an_address_where_nobody_answers_is_refused_at_once(capfd, ray, tmp_path, file_of):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "a.txt").write_text("fine\n")
    given = {"aie_model_dir": file_of("SST-2"), "input": tmp_path / "a.txt"}
    for wrong in (address, f"ray://{address}", "no.such.host.invalid:6379", "127.0.0.1:99999"):
        started = time.monotonic()
        done = label_corpus(capfd, **given, output_dir=tmp_path / "out", ray=wrong)
        assert refused(done, f"--ray {wrong}: cannot be reached", "ray start --head")
        assert time.monotonic() - started < 25 and not ray.begun
    assert not (tmp_path / "out").exists()
