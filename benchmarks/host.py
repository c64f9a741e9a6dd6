"""This machine, and the two scripts as processes on it."""

import re
import subprocess
import sys
from pathlib import Path

from albert_aie.base.machine import describe, versions

ROOT = Path(__file__).resolve().parent.parent


def machine():
    """The machine, its card and the versions of all that results can depend on."""
    return {**describe(), "packages": versions()}


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
