"""What this machine can take: memory and threads."""

import contextlib
import os
import re
from pathlib import Path

from . import UserError

# The most that --threads and --streams take: libgomp ends a process that asks for more threads than
# the system gives.
THREADS = max(64, os.cpu_count() or 1)
# A container's limit: cgroup 2, then 1.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory():
    """Bytes of main memory: the machine's, or its container's where that is less; None where the
    system does not say."""
    sizes = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": there is none
            sizes.append(int(Path(limit).read_text(encoding="ascii")))
    return min(sizes, default=None)


def check_memory(shape, device, intermediate_size):
    """Raises UserError if a batch cannot fit, before it is tried: the system may end a process that
    takes too much. It is the least that a batch needs: its three inputs, and on a CPU what goes
    into and out of the activation, two bytes a number."""
    token = 3 * 8 + (2 * 2 * intermediate_size if device == "cpu" else 0)
    row, there = token * shape.max_seq_length, memory()
    if there and shape.batch_size * row > there:
        raise UserError(
            f"--batch_size {shape.batch_size}: such a batch needs more than "
            f"{shape.batch_size * row / 1e9:,.0f} GB, this machine has {there / 1e9:.0f} GB; take "
            f"{max(1, there // row // 4)} or less"
        )


def lacks_memory(error):
    """Whether an exception of Python's, torch's or an engine's says that memory ran out."""
    said = r"(can't|cannot|failed to|unable to) allocate|(not enough|out of) memory|bad_alloc"
    return isinstance(error, MemoryError) or bool(re.search(said, str(error), re.IGNORECASE))
