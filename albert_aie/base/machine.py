"""What this machine is, and what it can take: memory and threads."""

import contextlib
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

import numpy

from .errors import UserError
from .version import __version__

# The most that --threads and --streams take: libgomp ends a process that asks for too many.
THREADS = max(64, os.cpu_count() or 1)
# A container's limit: cgroup 2, then 1.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory():
    """Bytes of main memory: the machine's, or its container's if less; None where none says."""
    sizes = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": there is none
            sizes.append(int(Path(limit).read_text(encoding="ascii")))
    return min(sizes, default=None)


def keep_to_cores(first, count):
    """Give this process `count` of its cores, from the number `first` on, where it has so many:
    engines pin their threads, and would pin those of two processes to the same cores."""
    if count and hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))[first : first + count]
        if len(mine) == count:
            os.sched_setaffinity(0, mine)


def check_memory(shape, device, intermediate_size):
    """Raises UserError if a batch cannot fit: the system may end a process that takes too much. It
    is the least that a batch needs: its three inputs, and on a CPU what goes into and out of the
    activation, two bytes a number."""
    token = 3 * 8 + (2 * 2 * intermediate_size if device == "cpu" else 0)
    row, limit = token * shape.max_seq_length, memory()
    needed = shape.batch_size * row
    if limit and needed > limit:
        raise UserError(
            f"--batch_size {shape.batch_size}: such a batch needs more than {needed / 1e9:,.0f} "
            f"GB, this machine has {limit / 1e9:.0f} GB; take {max(1, limit // row // 4)} or less"
        )


CLEARLY = 2.0  # times as fast


def take_turns(runs, seconds, clock=time.perf_counter):
    """{name: median seconds of a call} of functions {name: function}, which take turns because a
    machine changes its speed: at least three, after one that is not counted, for `seconds` or
    until the same function was CLEARLY faster than every other in each."""
    times, end, turns = {name: [] for name in runs}, None, 0
    while turns < 4 or (clock() < end and not _is_clear(times)):
        turns += 1
        for name, run in runs.items():
            start = clock()
            run()
            times[name].append(clock() - start)
        end = end or clock() + seconds
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def _is_clear(times):
    turns = numpy.array([taken[1:] for taken in times.values()])  # [function, turn]
    first, *second = numpy.sort(turns, 0)[:2]
    same = numpy.ptp(turns.argmin(0)) == 0
    return bool(second) and same and (second[0] > CLEARLY * first).all()


def lacks_memory(error):
    """Whether an exception of Python's, torch's or an engine's says that memory ran out."""
    said = r"(can't|cannot|failed to|unable to) allocate|(not enough|out of) memory|bad_alloc"
    return isinstance(error, MemoryError) or bool(re.search(said, str(error), re.IGNORECASE))


CARDS = {"npu": ("npu-smi", "info"), "cuda": ("nvidia-smi", "-L")}  # say what card is there
# Instructions that decide speed, in the words of /proc/cpuinfo.
ISA = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16")
ISA += ("amx_tile", "amx_bf16", "amx_int8", "asimd", "sve", "bf16", "i8mm")
PACKAGES = ("torch", "torch_aie", "mindietorch", "torch_npu", "numpy", "transformers")
PACKAGES += ("sentencepiece", "tokenizers", "openvino", "nncf", "onnx")
PACKAGES += ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann")  # one module, of one of them


def describe(devices=tuple(CARDS)):
    """JSON object of the machine; `card` is what the vendor's tool says of the first of `devices`
    that has one."""
    return {
        "platform": platform.platform(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "isa": isa(),
        "memory_bytes": memory(),
        "load": os.getloadavg()[0],
        "card": next(filter(None, map(_card, devices)), None),
    }


def cpu():
    """The processor's name, and its numbers: many virtual machines call all of theirs the same."""
    facts = _facts("/proc/cpuinfo")
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [facts[key] for key in ("cpu family", "model", "stepping") if key in facts]
    return " ".join([name, f"({'/'.join(numbers)})"] if numbers else [name])


def isa():
    """Those of ISA that the processor has."""
    facts = _facts("/proc/cpuinfo")
    flags = facts.get("flags", facts.get("Features", "")).split()
    return [name for name in ISA if name in flags]


def _facts(path):
    """{name: value} of a file of Linux's /proc, the last of each name; empty elsewhere."""
    with contextlib.suppress(OSError):
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        return {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    return {}


def _card(device):
    with contextlib.suppress(KeyError, OSError, subprocess.SubprocessError):
        return subprocess.run(CARDS[device], capture_output=True, text=True, timeout=60).stdout


def versions():
    """{package: version} of what results can depend on; None for a package that is not here."""
    own = {"albert_aie": __version__, "python": platform.python_version()}
    return {**own, **{package: version(package) for package in PACKAGES}}


def version(package):
    """Its version, or where it lies if pip does not know it; None if it is not here."""
    import importlib.metadata  # here, for it takes 20 ms
    import importlib.util

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        with contextlib.suppress(ValueError):  # a module that was put in sys.modules by hand
            spec = importlib.util.find_spec(package)
            if spec and spec.origin:
                return f"in {Path(spec.origin).parent}"
        return None


def peak_memory():
    """Bytes of main memory that this process held at its most, None where the system does not say.
    A process inherits getrusage's from the one that started it."""
    peak = _facts("/proc/self/status").get("VmHWM")
    return int(peak.split()[0]) * 1024 if peak else None
