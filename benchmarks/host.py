"""This machine, and the two scripts as processes on it."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import albert_aie

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torch_aie", "mindietorch", "torch_npu", "numpy", "transformers", "openvino")
PACKAGES += ("onnxruntime", "nncf")


def machine():
    """Processor, versions, and npu-smi's table where there is one."""
    cpu, npu_smi = Path("/proc/cpuinfo"), shutil.which("npu-smi")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    if npu_smi:
        npu_smi = subprocess.run([npu_smi, "info"], capture_output=True, text=True).stdout
    return {
        "platform": platform.platform(),
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {"albert_aie": albert_aie.__version__, **{p: version(p) for p in PACKAGES}},
        "npu_smi": npu_smi,
    }


def version(package):
    """Its version, or where it lies if pip knows nothing of it; None if it is not here."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        found = importlib.util.find_spec(package)
        return f"in {Path(found.origin).parent}" if found and found.origin else None


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
