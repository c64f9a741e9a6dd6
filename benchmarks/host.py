"""This machine, and the two scripts as processes on it."""

import contextlib
import re
import subprocess
import sys
import threading
from pathlib import Path

from albert_aie.base import files
from albert_aie.base.machine import describe, versions

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.25  # seconds between two looks at the memory


def machine():
    """The machine, its card and the versions of all that results can depend on."""
    return {**describe(), "packages": versions()}


def save(path, value):
    """Writes a file of readings, whole or not at all."""
    files.write_text(path, files.json_text(value))


def script(name, *flags):
    command = [sys.executable, str(ROOT / name), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    return {"exit_code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def reason(done):
    """Why a script failed: its error sentence, else a traceback's own line, else its exit code."""
    for words in (r"^error: (.*)", r"^Traceback .*\n(?: .*\n)*(.*)"):
        if said := re.search(words, done["stderr"], re.MULTILINE):
            return said[1]
    return f"exit code {done['exit_code']}"


@contextlib.contextmanager
def peak(pid):
    """`with peak(pid) as memory:` a list of what a process and all that it started hold together,
    in bytes, looked at again and again."""
    memory, over = [], threading.Event()

    def watch():
        while not over.wait(PAUSE):
            memory.append(sum(map(held, family(pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def family(pid):
    """Numbers of a process and of all below it."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    processes = [pid]
    for one in processes:
        processes += children.get(one, [])
    return processes


def held(pid):
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()  # empty of one that has ended
        return sum(1024 * int(size) for size in re.findall(r"^Pss: +(\d+)", text, re.MULTILINE))
    return 0
