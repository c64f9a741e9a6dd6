"""Build npu.cpp once per torch version and source, and load it into this process."""

import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import torch

SOURCE = Path(__file__).with_name("npu.cpp")


def folder():
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    return SOURCE.parent.parent / ".build" / f"torch{torch.__version__}-{digest}"


def tools():
    """PATH with the folder of this python first, whether or not its environment is activated, and
    the compiler on it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++"]
    return path, next((name for name in compilers if shutil.which(name, path=path)), None)


def missing():
    """Why the double cannot be had on this machine; "" where it can be built, or has been."""
    path, compiler = tools()
    if (folder() / "built").exists():
        return ""
    if compiler is None:
        return (
            "the strict double is built from C++ once, and no compiler is found: apt install g++, "
            "or name one by CXX"
        )
    if not shutil.which("ninja", path=path):
        return "the strict double is built from C++ once, and ninja is not found: pip install ninja"
    return ""


def load():
    """Registers the npu device and torch.classes.strict_aie.Engine; needs g++ and ninja (the [test]
    extra)."""
    if missing():
        raise RuntimeError(missing())
    path, compiler = tools()
    folder().mkdir(parents=True, exist_ok=True)
    with open(folder() / "one_at_a_time", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder() / "built").exists():
            from torch.utils import cpp_extension

            # torch's own lock file outlives a killed build
            (folder() / "lock").unlink(missing_ok=True)
            with mock.patch.dict(os.environ, PATH=path, CXX=compiler):
                cpp_extension.load(
                    "strict_aie",
                    [str(SOURCE)],
                    extra_cflags=[
                        "-O0",
                        "-std=c++17" if torch.__version__.startswith("2.0") else "-std=c++20",
                    ],
                    build_directory=str(folder()),
                    is_python_module=False,
                )
            (folder() / "built").touch()
    torch.ops.load_library(str(folder() / "strict_aie.so"))
