"""This machine, and the two scripts as processes on it."""

import importlib.metadata
import importlib.util
import os
import platform
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
    return subprocess.run(command, capture_output=True, text=True)


def reason(process):
    """Why a script failed: its error sentence, else a traceback's own line, else its exit code."""
    said, traceback = "", False
    for line in process.stderr.splitlines():
        if line.startswith("error: "):
            return line[len("error: ") :]
        if line.startswith("Traceback "):
            said, traceback = "", True
        elif traceback and not said and not line.startswith(" "):
            said = line
    return said or f"exit code {process.returncode}"
