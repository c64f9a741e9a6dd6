"""run_aie_corpus.py: every row exactly once, whatever was killed, cut short or changed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from corpora import SMALL, actors, label_corpus, table_of, write_rows
from helpers import ROOT, flags, refused

from albert_aie.base import machine
from albert_aie.base.errors import UserError
from albert_aie.corpus import worker
from benchmarks import host, scaling

ROWS = 300


@pytest.fixture
def corpus(tmp_path, sst2):
    """Two Parquet files of 300 rows in all, with a key."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = (sst2 / "dev.tsv").read_text(encoding="utf-8").split("\n")[1 : ROWS + 1]
    rows = [{"key": i, "sentence": line.split("\t")[0]} for i, line in enumerate(lines)]
    write_rows(folder / "0.parquet", rows[:200])
    write_rows(folder / "1.parquet", rows[200:])
    return folder


@pytest.fixture
def run(capfd, compiled, corpus, tmp_path):
    """run_aie_corpus.py in this process."""
    given = {"aie_model_dir": compiled, "input": corpus, "part_rows": 40}
    given["output_dir"] = tmp_path / "out"
    return lambda **options: label_corpus(capfd, **{**given, **options})


def keys_of(folder):
    """The keys of all parts, in the order of their names."""
    return [row["key"] for row in table_of(folder)]


def test_a_run_that_was_killed_goes_on_and_doubles_nothing(tmp_path, run, compiled, corpus):
    given = {"aie_model_dir": compiled, "input": corpus, "output_dir": tmp_path / "out"}
    command = [sys.executable, str(ROOT / "run_aie_corpus.py"), *flags(**given, part_rows=5)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("_part-*.sha256"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # a part counts from when its sha256 stands; the kill may fall between the two
    whole = [path.stem[1:] for path in (tmp_path / "out").glob("_part-*.sha256")]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*.parquet")}
    before = {path: changed for path, changed in before.items() if path.stem in whole}
    assert 3 <= len(before) < 60
    done = run(part_rows=5)
    assert done.code == 0 and f"{len(before)} of 60 parts are there" in done.err, done.err
    assert keys_of(tmp_path / "out") == list(range(ROWS))
    assert all(path.stat().st_mtime_ns == known for path, known in before.items())
    assert len(list((tmp_path / "out").glob(".*tmp*"))) <= 1, "kill -9 may leave a hidden file"


def test_two_runs_on_one_folder_are_refused(tmp_path, run):
    with worker.locked(tmp_path / "out"):
        assert refused(run(), "another run is writing there")
    assert run().code == 0


def test_another_model_than_the_plan_s_is_refused(tmp_path, run, tiny, export):
    assert run().code == 0
    assert export(pth_dir=tiny, save_dir=tmp_path / "b", **{**SMALL, "batch_size": 8}).code == 0
    assert refused(run(aie_model_dir=tmp_path / "b" / "albert_seq32_bs8.pt"), "model")


def test_what_cannot_be_read_or_written_is_one_sentence(tmp_path, run):
    assert refused(run(input=tmp_path / "nowhere"), "nowhere")
    (tmp_path / "taken").write_text("")
    assert refused(run(output_dir=tmp_path / "taken"), "taken")
    assert refused(run(workers=2), "--workers: means something with --ray only")
    done = run(dry_run=True, output_dir=tmp_path / "dry")
    assert done.code == 0 and "nothing was written" in done.said and not (tmp_path / "dry").exists()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_part_that_fails_is_tried_three_times(tmp_path, run, monkeypatch, times):
    """The others are written; after the third time it is named, and the next run has it alone."""
    real, failures = worker.Worker.run, []

    def broken(self, part):
        if part.number == 2 and len(failures) < times:
            failures.append(part)
            raise OSError("the disk is tired")
        return real(self, part)

    monkeypatch.setattr(worker.Worker, "run", broken)
    done = run()
    assert len(failures) == times and done.code == (times == 3)
    keys = keys_of(tmp_path / "out")
    assert ("part 2 failed: the disk is tired" in done.err) and (len(keys) < ROWS) == (times == 3)
    assert run().code == 0
    assert keys_of(tmp_path / "out") == list(range(ROWS))


def test_scaling_finds_every_key_and_the_memory_held(tmp_path, compiled, corpus):
    scaling.write_corpus(tmp_path / "c", ["a fine film", "dull"], ["sentence"], 50)
    args = types.SimpleNamespace(threads=1, part_rows=20)
    told = scaling.measure(args, tmp_path / "c", compiled, 50, scaling.ALONE)
    assert told["summary"]["rows"] == 50 and told["summary"]["parts"] == 8
    shown = scaling.line(told)
    assert shown[:3] == (compiled.name, "50", "1, no Ray") and float(shown[-1]) > 100
    with pytest.raises(UserError, match="key 50 is missing or there twice"):
        scaling.measure(args, tmp_path / "c", compiled, 51, scaling.ALONE)


def test_the_ratios_of_turns_by_hand():
    """Two rounds: 10 and 20 rows/s without Ray and 15 and 38 of two at once; 9 and 19 with one
    worker on Ray, 18 and 34.2 with two."""
    rates = {(1, False): (10, 20), (1, True): (9, 19), (2, False): (15, 38), (2, True): (18, 34.2)}
    rates = {scaling.Kind(*kind): pair for kind, pair in rates.items()}
    assert list(scaling.ratios(rates)) == [
        "1 on Ray / 1, no Ray = 0.925 [0.900, 0.950]",
        "2 at once, no Ray / 1, no Ray = 1.700 [1.500, 1.900]",
        "2 on Ray / 1 on Ray = 1.900 [1.800, 2.000]",
        "2 on Ray / 2 at once, no Ray = 1.050 [0.900, 1.200]",
    ]


def test_a_turn_counts_while_no_worker_is_idle(tmp_path):
    """Two workers, two parts each after the first of each: 40 rows in 4 seconds; the part of an
    earlier turn does not count."""
    member = object.__new__(scaling.Member)
    member.args, member.workers = types.SimpleNamespace(parts=2, part_rows=10), 2
    member.output, member.seen, member.ended = tmp_path, {tmp_path / "part-0.parquet"}, []
    for number, seconds in enumerate([0.5, 1.0, 1.5, 2.5, 3.5, 4.5, 5.5]):
        assert member.rate() is None
        path = tmp_path / f"part-{number}.parquet"
        path.touch()
        os.utime(path, (seconds, seconds))
    assert member.rate() == 40 / (5.5 - 1.5)


def test_processes_at_once_have_cores_of_their_own(monkeypatch):
    given = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 2, 3, 4}, raising=False)
    keep = lambda pid, cores: given.append(cores)  # noqa: E731
    monkeypatch.setattr(os, "sched_setaffinity", keep, raising=False)
    for first in (0, 2, 3, 4):
        machine.keep_to_cores(first, 2)
    assert given == [[2, 3], [4, 5]]


def test_a_crew_takes_turns_and_is_stopped_between_them(tmp_path, compiled):
    args = types.SimpleNamespace(part_rows=20, threads=1, parts=1, rounds=2, workers=[2])
    scaling.write_many_parts(args, tmp_path / "corpus", ["a fine film", "dull"], ["sentence"])
    given = tmp_path / "corpus", tmp_path / "out"
    crew = scaling.Crew(args, scaling.Kind(2, False), compiled, *given)
    try:
        crew.ask(scaling.Member.is_ready)
        assert sum(crew.ask(scaling.Member.rate)) > 0
        crew.signal(signal.SIGSTOP)
        until = time.monotonic() + 10
        while set(states(crew)) != {"T"} and time.monotonic() < until:
            time.sleep(0.01)
        assert states(crew) == ["T", "T"]
        crew.signal(signal.SIGCONT)
        assert sum(crew.ask(scaling.Member.rate)) > 0
    finally:
        crew.close()
    crew = scaling.Crew(args, scaling.ALONE, tmp_path / "no.pt", *given)
    with pytest.raises(UserError, match="1, no Ray: .*no.pt: no such file"):
        crew.ask(scaling.Member.is_ready)
    crew.close()


def states(crew):
    stats = [Path(f"/proc/{member.ran.pid}/stat").read_text() for member in crew.members]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


@pytest.mark.slow
def test_turns_of_all_kinds(tmp_path, compiled, sst2):
    pytest.importorskip("ray", reason="needs ray: pip install -e .[ray]")
    command = [sys.executable, "-m", "benchmarks.scaling"]
    given = flags(aie_model_dir=compiled, data_dir=sst2, part_rows=8, parts=1, rounds=2)
    output = f"--output={tmp_path / 'turns.json'}"
    done = subprocess.run([*command, *given, output], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "turns.json").read_text())["runs"]
    assert [(one["workers"], one["ray"]) for one in told] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]
    assert all(len(one["rows_per_second"]) == 2 for one in told)
    assert done.stdout.count(" = ") == 4


@pytest.mark.slow
def test_ray_with_a_worker_that_is_killed(tmp_path, compiled, corpus):
    """Two workers here; one is killed with -9 half way: its part is run again by another."""
    pytest.importorskip("ray", reason="needs ray: pip install -e .[ray]")
    given = {"aie_model_dir": compiled, "input": corpus, "output_dir": tmp_path / "out"}
    command = [
        sys.executable,
        str(ROOT / "run_aie_corpus.py"),
        *flags(**given, ray="local"),
    ]
    child = subprocess.Popen(
        [*command, "--workers=2", "--threads=1", "--part_rows=2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until, killed = time.monotonic() + 120, False
    while child.poll() is None and time.monotonic() < until:
        if not killed and len(list((tmp_path / "out").glob("part-*.parquet"))) > 5:
            os.kill(actors(child.pid)[0], signal.SIGKILL)
            killed = True
        time.sleep(0.05)
    out, _ = child.communicate(timeout=60)
    assert killed and child.returncode == 0, out
    assert keys_of(tmp_path / "out") == list(range(ROWS))


@pytest.mark.slow
def test_two_nodes_of_which_one_is_killed(tmp_path, compiled, corpus):
    """`ray start` twice on loopback, one worker a node; half way all processes of the node without
    the head are killed with -9: its part is run again on the other."""
    pytest.importorskip("ray", reason="needs ray: pip install -e .[ray]")
    token = {"RAY_AUTH_TOKEN": "0123456789abcdef" * 2, "RAY_AUTH_MODE": "token"}
    environment = {**os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0"}
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        address = f"127.0.0.2:{free.getsockname()[1]}"
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
    head = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    started, killed = [], False

    def begin(*command):
        with open(tmp_path / f"log{len(started)}", "w") as log:
            given = {"cwd": ROOT, "env": environment, "stdout": log, "stderr": log}
            started.append(subprocess.Popen(command, **given))
        return started[-1]

    try:
        begin(*ray, "--node-ip-address=127.0.0.2", *head)
        until = time.monotonic() + 60
        while "Ray runtime started" not in (tmp_path / "log0").read_text():
            assert time.monotonic() < until and started[0].poll() is None
            time.sleep(0.2)
        other = begin(*ray, "--node-ip-address=127.0.0.3", f"--address={address}")
        while "Ray runtime started" not in (tmp_path / "log1").read_text():
            assert time.monotonic() < until and other.poll() is None
            time.sleep(0.2)
        given = {"aie_model_dir": compiled, "input": corpus, "output_dir": tmp_path / "out"}
        given.update(part_rows=2, ray=address, workers=2, threads=1)
        child = begin(sys.executable, str(ROOT / "run_aie_corpus.py"), *flags(**given))
        until = time.monotonic() + 180
        while child.poll() is None and time.monotonic() < until:
            if not killed and len(list((tmp_path / "out").glob("part-*.parquet"))) > 40:
                assert actors(other.pid)
                kill_family(other)
                killed = True
            time.sleep(0.05)
        said = (tmp_path / "log2").read_text()
        assert killed and child.returncode == 0, said
    finally:
        for process in started:
            if process.poll() is None:
                kill_family(process)
            process.wait(timeout=30)
    assert keys_of(tmp_path / "out") == list(range(ROWS))


def kill_family(process):
    for pid in host.family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
