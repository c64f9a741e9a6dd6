"""Where results go: a pipe is written through, a link is followed, a file keeps its mode. Never
tried on the real /dev, where a program that is wrong would leave a file in a device's place."""

import json
import os
import resource
import stat
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from helpers import ROOT, flags, python, refused

from albert_aie.base import files
from albert_aie.base.errors import UserError
from albert_aie.cli import console
from benchmarks import host, sweep

SMALL = {"backend": "torchscript", "batch_size": 2, "max_seq_length": 16, "precision": "fp32"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("exported")
    run = python(ROOT / "export_albert_aie.py", *flags(pth_dir=tiny, save_dir=folder, **SMALL))
    assert run.code == 0, run.err
    return folder / "albert_seq16_bs2.pt"


@pytest.fixture
def pipe(tmp_path):
    """A FIFO and a function that waits for the end of what came through it: its bytes."""
    path, read = tmp_path / "pipe.html", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()

    def content():
        reader.join(60)
        assert stat.S_ISFIFO(os.stat(path).st_mode) and not reader.is_alive()
        return read[0]

    return SimpleNamespace(path=path, content=content)


@pytest.mark.parametrize(
    "flag, begins",
    [("output", b"negative\t0.9"), ("report", b"<!DOCTYPE html>"), ("compare_output", b"{")],
)
def test_a_pipe_gets_the_result_of_each_flag(
    tmp_path, exported, tiny, sentences, evaluate, pipe, flag, begins
):
    if flag == "report":
        pytest.importorskip("matplotlib")
    given = {"aie_model_dir": exported, "data_dir": sentences}
    if flag == "output":
        (tmp_path / "own.txt").write_text("a fine film\ndull\n")
        given = {"aie_model_dir": exported, "input": tmp_path / "own.txt"}
    if flag == "compare_output":
        given.update(compare_cpu=True, pth_dir=tiny)
    assert evaluate(**given, **{flag: pipe.path}).code == 0
    assert pipe.content().startswith(begins)


WRITERS = {  # all that writes a user's FILE ends in files.replacing
    "page": lambda path: files.write_text(path, "text"),
    "benchmarks": lambda path: host.save(path, "text"),
    "comparison": lambda path: console.conclude(
        [SimpleNamespace(lines=lambda: (), passed=True, flips=0, relative=0, precision="fp32",
                         verdict=lambda: {"text": 1})],
        SimpleNamespace(compare_output=path),
    ),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path, writer, there):
    """Also one that leads to a file which is not there yet, in a folder which is not."""
    link, file = tmp_path / "link", tmp_path / "folder" / "file"
    link.symlink_to("folder/file")
    if there:
        file.parent.mkdir()
        file.write_text("old")
    files.check_writable(link)
    WRITERS[writer](link)
    assert link.is_symlink() and "text" in file.read_text()
    assert os.listdir(file.parent) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_file_keeps_its_mode_and_its_owner(tmp_path, mode):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    if os.getuid() == 0:
        os.chown(path, 12345, 54321)
    before = path.stat()
    with files.replacing(path) as temporary:
        temporary.write_text("new")
    after = path.stat()
    assert path.read_text() == "new" and stat.S_IMODE(after.st_mode) == mode
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_a_new_file_has_the_mode_that_the_user_gives_to_new_files(tmp_path):
    with files.replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_hard_link_is_replaced_and_its_other_name_keeps_the_old_file(tmp_path):
    """docs/reliability.md says so."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("old")
    os.link(path, other)
    with files.replacing(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), other.read_text()) == ("new", "old")


def test_looking_whether_a_pipe_can_be_written_does_not_open_it(tmp_path):
    """A reader would take that for the end; without a reader it would wait for one."""
    os.mkfifo(tmp_path / "pipe")
    files.check_writable(tmp_path / "pipe")
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_pipe_that_is_another_users_is_refused_before_the_work(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(files.os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UserError, match="pipe: cannot be written .Permission denied"):
        files.check_writable(tmp_path / "pipe")


def test_what_fails_sends_nothing_through_a_pipe(pipe):
    with pytest.raises(UserError, match="pipe.html: could not be written .No space left"):
        with files.replacing(pipe.path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")
    with open(pipe.path, "wb"):
        pass  # lets the reader go
    assert pipe.content() == b""


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """Else a power cut could leave an empty file under the right name."""
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        note = lambda *given, real=real, name=name: order.append(name) or real(*given)  # noqa: E731
        monkeypatch.setattr(files.os, name, note)
    with files.replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert order == []
    assert order == ["fsync", "replace"] and (tmp_path / "a").read_text() == "new"


def test_a_link_that_leads_to_itself_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(UserError, match="link: cannot be written .*symbolic links"):
        files.check_writable(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_what_finds_no_room_names_its_file_and_leaves_the_old_one(tmp_path, exported):
    (tmp_path / "own.txt").write_text("a fine film\n" * 100)
    (tmp_path / "old.tsv").write_text("old")
    given = {"aie_model_dir": exported, "input": tmp_path / "own.txt"}
    line = flags(**given, output=tmp_path / "old.tsv")
    run = python(ROOT / "run_aie_eval.py", *line, preexec_fn=small_files)
    assert refused(run, f"{tmp_path / 'old.tsv'}: could not be written", "free disk space")
    assert (tmp_path / "old.tsv").read_text() == "old" and len(os.listdir(tmp_path)) == 2


TO_STDOUT = """
import sys
from albert_aie.base.files import check_writable, replacing
print("before", flush=True)
check_writable(sys.argv[1])
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("result\\n")
print("after", flush=True)
"""


@pytest.mark.parametrize("named", ["file", "descriptor"])
def test_standard_output_named_as_a_file_keeps_the_lines_around_it(tmp_path, named):
    """`--output /dev/stdout > file`: its file is not replaced under the shell's feet."""
    file = tmp_path / "file"
    path = file if named == "file" else "/proc/self/fd/1"
    if named == "descriptor" and not os.path.exists(path):
        pytest.skip("no /proc here")
    link = tmp_path / "stdout"
    link.symlink_to(path)
    with open(file, "wb") as out:
        command_line = [sys.executable, "-c", TO_STDOUT, str(link)]
        subprocess.run(command_line, cwd=ROOT, stdout=out, check=True)
    assert file.read_text() == "before\nresult\nafter\n"


def test_a_sweep_writes_a_pipe_once(tmp_path, pipe, monkeypatch):
    monkeypatch.setattr(sweep, "check_export", lambda *_: None)
    monkeypatch.setattr(sweep, "measure", lambda *_: {"error": "not measured"})
    args = sweep.parse_args(
        ["--data_dir", "D", "--batch_size", "1", "8", "--output", str(pipe.path)]
    )
    args.command = ["sweep.py"]
    assert sweep.run(args) == 1
    assert len(json.loads(pipe.content())["results"]) == 2


def test_a_file_of_another_precision_is_replaced_with_a_note_that_names_both(
    tmp_path, tiny, export, exported
):
    path = tmp_path / exported.name
    given = {"pth_dir": tiny, "save_dir": tmp_path, **SMALL}
    for before, precision, note in (
        (b"no file of ours", "fp32", ""),
        (exported.read_bytes(), "fp32", ""),
        (exported.read_bytes(), "bf16", "is fp32 (torchscript on cpu) and is replaced by bf16 (t"),
    ):
        path.write_bytes(before)
        run = export(**{**given, "precision": precision})
        notes = [line for line in run.err.splitlines() if "replaced" in line]
        assert run.code == 0 and path.read_bytes() != before
        assert len(notes) == bool(note) and all(str(path) in n and note in n for n in notes)
