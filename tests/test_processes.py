"""Processes that are killed: the old file or the new one is there, and nothing goes on running."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, flags

import export_albert_aie
import run_aie_eval
from albert_aie.artifact import pt_file
from albert_aie.base import process
from albert_aie.base.errors import UserError

SMALL = {"batch_size": 4, "max_seq_length": 32}
FILE = "albert_seq32_bs4.pt"
SIGNALS = [signal.SIGKILL, signal.SIGTERM]
HELD = """import sys, time
from albert_aie.base import process
print('begun', flush=True)
with process.calling({}) as answer:
    answer()
"""


def running(session):
    """{process: its command line} of a session, without those that wait to be collected."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, _, of = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue
            if int(of) == session and state not in "ZX":
                found[int(folder.name)] = line
    return found


def until(condition, limit=60):
    """Whether a condition came true in so many seconds."""
    end = time.monotonic() + limit
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met


def start(*arguments, **given):
    """A Python process in a session of its own, so that all it starts can be found."""
    given = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **given}
    command = [sys.executable, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **given)


def end(started, how):
    """Send the signal to the process alone; whether all that it had started is gone soon after."""
    started.send_signal(how)
    started.wait(60)
    gone = until(lambda: not running(started.pid), 20)
    for left in running(started.pid):
        os.kill(left, signal.SIGKILL)
    return gone


def children(started):
    return [p for p, line in running(started.pid).items() if "spawn_main" in line]


def called(*call):
    with process.calling(*call) as answer:
        return answer()


def test_a_call_gives_the_value_or_the_users_error():
    assert called(divmod, 17, 5) == (3, 2)
    with pytest.raises(UserError, match="^nowhere.pt: no such file; write it with"):
        called(pt_file.open_pt, "nowhere.pt")


@pytest.mark.parametrize(
    "call, how",
    [
        ((divmod, 1, 0), r"failed \(ZeroDivisionError: .*\)"),
        ((os._exit, 3), "ended with exit code 3"),
        ((os._exit, 0), "ended with exit code 0"),
        ((os.abort,), "was ended by SIGABRT"),
        ((signal.raise_signal, signal.SIGKILL), "was ended by SIGKILL, perhaps for lack of memory"),
    ],
)
def test_a_call_that_gives_nothing_says_how_it_ended(call, how, capfd):
    with pytest.raises(process.Died, match=f"^{how}$"):
        called(*call)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("busy", ["time.sleep, 600", "sum, range(10 ** 12)"])
@pytest.mark.parametrize("how", [*SIGNALS, signal.SIGINT])
def test_a_call_never_outlives_its_caller(how, busy):
    """Asleep, and inside a function that keeps Python's lock."""
    caller = start("-c", HELD.format(busy), stdout=subprocess.PIPE)
    assert caller.stdout.readline() == b"begun\n"
    assert until(lambda: children(caller)), "no child was started"
    time.sleep(0.5)  # its imports
    assert len(children(caller)) == 1
    assert end(caller, how)
    caller.stdout.close()


@pytest.mark.parametrize("how", SIGNALS)
def test_an_engine_of_a_benchmark_never_outlives_it(how):
    code = "from benchmarks import plan, worker; worker.Worker(plan.Engine('none', '', '', ())); "
    caller = start(
        "-c",
        f"{code}print('begun', flush=True); import time; time.sleep(600)",
        stdout=subprocess.PIPE,
    )
    assert caller.stdout.readline() == b"begun\n"
    assert len(children(caller)) == 1
    assert end(caller, how)
    caller.stdout.close()


@pytest.mark.parametrize("half", ["prctl", "thread"])
def test_each_half_of_end_with_parent_is_enough(half):
    """The signal that Linux sends, and the thread that waits elsewhere."""
    without = {
        "prctl": "process.threading.Thread.start = lambda self: None; ",
        "thread": "process.sys = type('', (), {'platform': 'elsewhere'}); ",
    }
    code = f"from albert_aie.base import process; {without[half]}process.end_with_parent(); "
    arguments = (f"{code}print('ready', flush=True); import time; time.sleep(600)",)
    child = f"Process(target=exec, args={arguments!r})"
    caller = start(
        "-c",
        f"from multiprocessing import get_context; get_context('spawn').{child}.start()",
        stdout=subprocess.PIPE,
    )
    assert caller.stdout.readline() == b"ready\n"
    assert end(caller, signal.SIGKILL)
    caller.stdout.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny, sentences):
    """A file of before and its results."""
    folder = tmp_path_factory.mktemp("before")
    few = tmp_path_factory.mktemp("few")
    (few / "dev.tsv").write_text("sentence\tlabel\na fine film .\t1\n")
    given = {"pth_dir": tiny, "save_dir": folder, "backend": "torchscript", **SMALL}
    assert export_albert_aie.main(flags(**given)) == 0
    given = {"aie_model_dir": folder / FILE, "output_dir": folder, "data_dir": few}
    assert run_aie_eval.main(flags(**given)) == 0
    return folder


def commands(before, folder, tiny, sentences, compare=True):
    given = {"data_dir": sentences, **({"compare_cpu": True, "pth_dir": tiny} if compare else {})}
    made_by = {"pth_dir": tiny, "save_dir": folder, "backend": "torchscript", **SMALL}
    evaluated = {"aie_model_dir": before / FILE, "output_dir": folder}
    return {
        "export": [ROOT / "export_albert_aie.py", *flags(**{**given, **made_by})],
        "evaluate": [ROOT / "run_aie_eval.py", *flags(**given, **evaluated)],
    }


def put(before, folder):
    folder.mkdir(exist_ok=True)
    for name in (FILE, "eval.json", "predictions.tsv"):
        (folder / name).write_bytes((before / name).read_bytes())


def old_or_new(before, folder):
    """Each result is whole: byte by byte what it was, or what the run writes."""
    path = folder / FILE
    if path.read_bytes() != (before / FILE).read_bytes():
        pt_file.open_pt(path).program()
    table = (folder / "predictions.tsv").read_text()
    assert table == (before / "predictions.tsv").read_text() or table.count("\n") == 12
    result = (folder / "eval.json").read_text()
    assert result == (before / "eval.json").read_text() or (
        json.loads(result)["sentences_total"] == 11
    )


@pytest.mark.parametrize(
    "script, how, times",
    [("export", signal.SIGKILL, 3), ("evaluate", signal.SIGTERM, 3)]
    + [
        pytest.param(script, how, 30, marks=pytest.mark.slow)
        for script in ("export", "evaluate")
        for how in SIGNALS
    ],
)
def test_killed_at_random_moments(script, how, times, made, tiny, sentences, tmp_path):
    """What happens while it compares is the slow cases': two imports of torch take their time."""
    undisturbed, folder, compare = tmp_path / "undisturbed", tmp_path / "killed", times > 3
    begun = time.monotonic()
    assert start(*commands(made, undisturbed, tiny, sentences, compare)[script]).wait() == 0
    seconds = time.monotonic() - begun
    command = commands(made, folder, tiny, sentences, compare)[script]
    moments = random.Random(f"{script} {how}")
    for _ in range(times):
        put(made, folder)
        started = start(*command)
        time.sleep(moments.uniform(0, seconds))
        assert end(started, how), "something goes on running"
        old_or_new(made, folder)
    # the hidden file that a killed one may leave behind is no hindrance
    assert start(*command).wait() == 0
    old_or_new(made, folder)
    hidden = [name for name in os.listdir(folder) if name.startswith(".")]
    assert len(hidden) <= times and all(name.endswith(".tmp") for name in hidden)
    assert set(os.listdir(folder)) - set(hidden) == {FILE, "eval.json", "predictions.tsv"}


@pytest.mark.parametrize("how", SIGNALS)
def test_an_export_killed_while_it_compares_takes_its_process_along(
    how, made, tiny, sentences, tmp_path
):
    put(made, tmp_path)
    started = start(*commands(made, tmp_path, tiny, sentences)["export"])
    assert until(lambda: children(started))
    assert end(started, how)
    old_or_new(made, tmp_path)
