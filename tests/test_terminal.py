"""Terminals, pipes and limits of the machine: results are written whatever becomes of what is
printed, and what goes wrong is one line."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import ROOT, Run, flags, refused

import export_albert_aie
from albert_aie import backends
from albert_aie.backends import openvino
from albert_aie.base import machine
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape
from albert_aie.cli import console
from albert_aie.run import evaluate

SMALL = {"batch_size": 4, "max_seq_length": 32}
FILE = "albert_seq32_bs4.pt"
RESULTS = ["eval.json", "predictions.tsv"]


def shell(script, redirection="", env=None, **given):
    """Run of a script under a shell, with its streams redirected as the shell says."""
    line = f'"$0" "$@" {redirection}'
    command = ["bash", "-c", line, sys.executable, ROOT / script, *flags(**given)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    done = subprocess.run(list(map(str, command)), capture_output=True, env=env, cwd=ROOT)
    return Run(done.returncode, *(s.decode("utf-8", "replace") for s in (done.stdout, done.stderr)))


def evaluated(compiled, sentences, folder, redirection="", **more):
    given = {"aie_model_dir": compiled, "data_dir": sentences, "output_dir": folder, **more}
    return shell("run_aie_eval.py", redirection, **given)


@pytest.mark.parametrize(
    "redirection, code, words",
    [
        ("| true; exit ${PIPESTATUS[0]}", 0, ""),  # a reader that has gone
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 2, "error: stdout: No space left on device; free disk space\n"),
    ],
)
def test_results_are_written_whatever_becomes_of_the_output(
    tmp_path, compiled, sentences, redirection, code, words
):
    run = evaluated(compiled, sentences, tmp_path, redirection)
    assert (run.code, run.err) == (code, words)
    assert sorted(os.listdir(tmp_path)) == RESULTS
    assert len((tmp_path / RESULTS[1]).read_text().splitlines()) == 12


def test_an_error_without_a_stderr_goes_nowhere_else(tmp_path, compiled, sentences):
    run = evaluated(compiled, sentences, tmp_path / "out", "2>&-", split="train")
    assert (run.code, run.out, run.err) == (2, "", "") and not (tmp_path / "out").exists()


def test_a_closed_stream_is_no_file_that_is_opened_later(tmp_path, tiny):
    """The first files that are opened would get the numbers of closed streams, and with 2 what a
    library writes to stderr."""
    code = """
import os, sys
from albert_aie.base import terminal
terminal.prepare()
with open(sys.argv[1], "w") as file:
    os.write(2, b"a library's message")
    file.write("results")
"""
    path = tmp_path / "file"
    line = ["bash", "-c", '"$0" "$@" <&- >&- 2>&-', sys.executable, "-c", code, str(path)]
    assert subprocess.run(line, cwd=ROOT).returncode == 0
    assert path.read_text() == "results"


def test_paths_and_terminals_that_are_not_utf8(tmp_path, tiny, sentences):
    """A folder whose name is no UTF-8, and terminals and file systems that have no such letters."""
    folder = tmp_path / os.fsdecode(b"f\xfclm \xe2\x82\xac")
    folder.mkdir()
    for name, target in (("checkpoint", tiny), ("data", sentences)):
        (folder / name).symlink_to(target)
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    given = {"pth_dir": folder / "checkpoint", "data_dir": folder / "data", "save_dir": folder}
    given.update(backend="torchscript", precision="fp32", compare_cpu=True, **SMALL)
    given["compare_output"] = folder / "x.json"
    run = shell("export_albert_aie.py", env={**env, "PYTHONUTF8": "0"}, **given)
    assert run.code == 0 and "compare_cpu PASS" in run.out, run.err
    assert json.loads((folder / "x.json").read_text(encoding="utf-8"))["passed"]
    given = {"aie_model_dir": folder / FILE, "data_dir": folder / "data", "output_dir": folder}
    run = shell("run_aie_eval.py", env={"PYTHONIOENCODING": "latin-1"}, **given)
    assert run.code == 0 and "11 of 11 sentences scored" in run.out, run.err
    report = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    assert report["data"] == str(folder / "data" / "dev.tsv")


def test_an_error_is_one_line_whatever_it_quotes(tmp_path, tiny, capfd):
    """Newlines, escape sequences, bytes that are no letters, and a name without end."""

    def told(sentence):
        def run(args):
            raise UserError(sentence)

        assert console.main(lambda argv: SimpleNamespace(), run) == 2
        return capfd.readouterr().err

    assert told("a\nb\r\x1b[2J\u2028\udcff \u00e9 \u4e2d") == (
        "error: a\\nb\\r\\x1b[2J\\u2028\\udcff \u00e9 \u4e2d\n"
    )
    long = told(f"{'key ' * 100_000}; the fix")
    assert len(long) < 2100 and long.startswith("error: key") and long.endswith("; the fix\n")
    run = shell("export_albert_aie.py", pth_dir="two\nlines\x1b[1m", backend="torchscript")
    assert refused(run, r"two\nlines\x1b[1m: no such folder")


def test_wrong_flags_are_one_line_without_usage(export, evaluate):
    for run in (export(nonsense=1), evaluate(split="a\nb"), export(batch_size="9" * 5000)):
        assert refused(run) and "usage" not in run.err and run.out == ""


def test_warnings_are_shown_to_who_asks(tmp_path):
    code = (
        "from albert_aie.base import terminal as t; import warnings as w; t.prepare(); w.warn('x')"
    )
    for options, shown in (([], False), (["-W", "default"], True)):
        done = subprocess.run(
            [sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert ("UserWarning: x" in done.stderr) == shown


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(28, "No space left on device"), "No space left on device; free disk space"),
        (OSError(24, "Too many open files", "x"), "x: Too many open files; raise the limit"),
        (
            PermissionError(13, "Permission denied", "x"),
            "x: Permission denied; correct its name or",
        ),
        (MemoryError(), "not enough memory (MemoryError); free memory or take a smaller"),
        (RuntimeError("[enforce fail] can't allocate memory: 1 byte"), "not enough memory ("),
        (RuntimeError("CUDA out of memory. Tried"), "not enough memory (CUDA out of memory"),
    ],
)
def test_an_error_of_the_system_is_told_with_its_own_fix(capfd, error, words):
    def run(args):
        raise error

    assert console.main(lambda argv: SimpleNamespace(), run) == 2
    assert refused(Run(2, *capfd.readouterr()), words)


def test_an_error_in_our_own_code_is_no_users_error():
    def run(args):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        console.main(lambda argv: SimpleNamespace(), run)


@pytest.mark.parametrize("batch_size", [10**8, 10**9, 10**30])
def test_a_batch_that_no_memory_holds(tmp_path, tiny, export, batch_size):
    given = {"pth_dir": tiny, "backend": "torchscript", "save_dir": tmp_path / "out"}
    run = export(batch_size=batch_size, **given)
    assert refused(run, f"--batch_size {batch_size}", "this machine has", " or less")
    assert not (tmp_path / "out").exists()


def test_the_least_that_a_batch_needs(monkeypatch):
    """By hand: a token takes 24 bytes of inputs and 4 x 3072 around the activation."""
    monkeypatch.setattr(machine, "memory", lambda: 128 * (24 + 4 * 3072) * 100)
    machine.check_memory(Shape(100, 128), "cpu", 3072)
    with pytest.raises(UserError, match="--batch_size 101: .* take 25 or less"):
        machine.check_memory(Shape(101, 128), "cpu", 3072)
    machine.check_memory(Shape(101, 128), "npu", 3072)
    monkeypatch.setattr(machine, "memory", lambda: None)
    machine.check_memory(Shape(10**9, 128), "cpu", 3072)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000\n")
    monkeypatch.setattr(machine, "LIMITS", (tmp_path / "memory.max", tmp_path / "nowhere"))
    assert machine.memory() == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory() > 1e8


@pytest.mark.parametrize("threads", [100_000, 10**9, 10**30])
def test_more_threads_than_the_system_gives(compiled, sentences, evaluate, threads):
    run = evaluate(aie_model_dir=compiled, data_dir=sentences, threads=threads)
    assert refused(run, f"--threads {threads}: must be 1 to ")


def test_more_streams_than_the_system_gives():
    target = backends.Target("openvino", "cpu", "fp32", {"streams": 10**6})
    with pytest.raises(UserError, match="--streams 1000000: must be 1 to "):
        backends.settings(target, "evaluate")


class NotReached(Exception):
    """The work began."""


@pytest.fixture
def work(monkeypatch):
    """Both scripts' work, forbidden: what is found before it is found in time."""

    def begin(*given, **more):
        raise NotReached

    monkeypatch.setattr(export_albert_aie, "export", begin)
    monkeypatch.setattr(evaluate, "evaluate", begin)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"save_dir": "{file}/out"}, "cannot be written"),
        ({"compare_cpu": True, "compare_output": "{file}/x.json"}, "x.json: cannot be written"),
        ({"backend": "openvino", "precision": "fp16"}, "--precision fp16 on --backend openvino"),
        ({"backend": "openvino", "precision": "bf16"}, "this CPU has no bf16 instructions"),
        ({"backend": "openvino", "precision": "int8"}, "needs NNCF"),
        ({"backend": "openvino", "precision": "int8", "data_dir": "nowhere"}, "needs NNCF"),
    ],
)
def test_what_would_fail_after_the_work_is_found_before(
    tmp_path, tiny, sentences, export, work, monkeypatch, given, words
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(openvino, "capabilities", lambda: ["FP32"])
    monkeypatch.setitem(sys.modules, "nncf", None)  # cannot be imported
    given = {k: v.format(file=tmp_path / "file") if v is not True else v for k, v in given.items()}
    common = {"pth_dir": tiny, "data_dir": sentences, "save_dir": tmp_path, **SMALL}
    assert refused(export(**{**common, **given}), words)


def test_missing_calibration_data_is_found_before_the_work(
    tmp_path, tiny, export, work, monkeypatch
):
    monkeypatch.setattr(openvino, "check", lambda target: None)
    given = {"backend": "openvino", "precision": "int8", "data_dir": tmp_path}
    assert refused(export(pth_dir=tiny, **given), "dev.tsv: no such file")


def test_an_unwritable_result_is_found_before_the_work(
    tmp_path, compiled, tiny, sentences, work, evaluate
):
    (tmp_path / "file").write_text("")
    given = {"aie_model_dir": compiled, "data_dir": sentences}
    assert refused(evaluate(output_dir=tmp_path / "file" / "out", **given), "cannot be written")
    given.update(compare_cpu=True, pth_dir=tiny, compare_output=tmp_path / "file" / "x.json")
    assert refused(evaluate(**given), "x.json: cannot be written")
