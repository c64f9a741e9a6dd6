"""Build npu.cpp once per torch version and source, and load it into this process."""

import fcntl
import hashlib
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("npu.cpp")


def load():
    """Registers the npu device and torch.classes.strict_aie.Engine; needs g++ and ninja (the [test] extra)."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    folder = SOURCE.parent.parent / ".build" / f"torch{torch.__version__}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "strict_aie.so"
    with open(folder / "one_at_a_time", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            from torch.utils import cpp_extension

            (folder / "lock").unlink(missing_ok=True)  # torch's own lock file outlives a killed build
            cpp_extension.load(
                "strict_aie",
                [str(SOURCE)],
                extra_cflags=["-O0", "-std=c++17" if torch.__version__.startswith("2.0") else "-std=c++20"],
                build_directory=str(folder),
                is_python_module=False,
            )
            (folder / "built").touch()
    torch.ops.load_library(str(library))
