"""Files: digests, and writing that leaves the old file or the new one, never half of one."""

import contextlib
import hashlib
import os
from pathlib import Path

from . import UserError


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_writable(path):
    """Raises UserError if `path` could not be written: before the work whose result goes there."""
    with contextlib.suppress(_Untouched), replacing(path):
        raise _Untouched


class _Untouched(Exception):
    """Leaves `replacing` without a change."""


@contextlib.contextmanager
def replacing(path):
    """`with replacing(path) as temporary:` write `temporary`; it becomes `path` if all went well,
    else nothing changes. A write that fails is a UserError.

    The temporary name carries our process id; the next export removes what a killed one left
    behind."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder")
        _remove_stale(path)
        temporary.touch()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another folder"
        ) from None
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror or error}); nothing was changed: free "
            "disk space or choose another folder"
        ) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _remove_stale(path):
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        process = stale.name.rsplit(".", 2)[-2]
        if process.isdigit() and not _alive(int(process)):
            stale.unlink()


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
