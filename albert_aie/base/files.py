"""Files: read, digested, and written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from .errors import WHY, UserError, refusing, system_reason

AGAIN = "copy or download it again"
_LFS = b"version https://git-lfs"


def check_readable(path):
    """Raises UserError for a file that cannot be read, or that Git-LFS has not fetched yet. A pipe
    (`--input <(command)`) is not looked into: what is read of it is gone."""
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return
        with open(path, "rb") as file:
            head = file.read(len(_LFS))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct its name") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        what = f"{path}: cannot be read ({system_reason(error)})"
        raise UserError(f"{what}; correct its name or permissions") from None
    if head == _LFS:
        raise UserError(
            f"{path}: is a Git-LFS pointer, not the file itself; run git lfs pull in its folder"
        )


def read_json(path, cure=AGAIN):
    """What a JSON file holds. Raises UserError for what is not UTF-8 or not JSON."""
    check_readable(path)
    with refusing(f"{path}: not a readable JSON file ({WHY}); {cure}", ValueError):
        return parse_json(Path(path).read_bytes())


def parse_json(content, make=None):
    """What JSON bytes hold, with or without a byte-order mark; `make` makes an object of its pairs.
    Raises ValueError for any other bytes, and for what no file or terminal takes later: text with
    half a surrogate pair in it."""
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=make)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def sha256(*paths):
    """Of the files one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def check_writable(path):
    """Raises UserError if `path` could not be written: before the work whose result goes there.
    What stands behind a FIFO or a device notices nothing."""
    with contextlib.suppress(_Untouched), replacing(path):
        raise _Untouched


class _Untouched(Exception):
    """Leaves `replacing` without a change."""


@contextlib.contextmanager
def replacing(path):
    """`with replacing(path) as temporary:` write `temporary`; it becomes `path` if all went well,
    else nothing changes. A write that fails is a UserError.

    Links are followed, and mode and owner stay. What is_stream gets the bytes when all are there.
    A writer that is killed leaves a hidden `.<name>.<hex>.tmp`, which nothing reads."""
    path = Path(path)
    try:
        before = _status(path)
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder")
        stream = is_stream(path)
        if stream and not os.access(path, os.W_OK):
            raise PermissionError(0, os.strerror(errno.EACCES))
        # a stream has no room beside it
        place = Path(tempfile.gettempdir(), path.name) if stream else Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        # not tempfile.mkstemp, whose mode is 0600: only the kernel knows the umask in all threads
        temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
        temporary.touch(exist_ok=False)
    except (OSError, ValueError) as error:
        reason = system_reason(error)
        raise UserError(f"{path}: cannot be written ({reason}); choose another folder") from None
    try:
        yield temporary
        if stream:
            # by name standard output would be cut to nothing, or, a socket, not open at all
            opened = os.dup(1) if _is_stdout(os.stat(path)) else path
            with open(temporary, "rb") as source, open(opened, "wb") as sink:
                shutil.copyfileobj(source, sink)
        else:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            if before is not None:
                # denied: it is another user's file, or on a disk without modes
                with contextlib.suppress(PermissionError):
                    os.chown(temporary, before.st_uid, before.st_gid)
                with contextlib.suppress(PermissionError):
                    os.chmod(temporary, stat.S_IMODE(before.st_mode))
            os.replace(temporary, place)
    except OSError as error:
        what = f"{path}: could not be written ({system_reason(error)}); nothing was changed"
        raise UserError(f"{what}: free disk space or choose another folder") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path, text):
    """A text in UTF-8 as all of a file, by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_stream(path):
    """Whether `path` is written through instead of replaced: a FIFO, a device, or the file that
    the shell made standard output, where other lines stand too."""
    status = _status(path)
    return status is not None and (not stat.S_ISREG(status.st_mode) or _is_stdout(status))


def _status(path):
    """os.stat of what a path leads to; None where there is nothing."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path)


def _is_stdout(status):
    with contextlib.suppress(OSError):  # closed
        return os.path.samestat(status, os.fstat(1))


def json_text(value):
    """Strict JSON, fit for UTF-8: a number that is not finite is null, and what stands for a byte
    of a path that is no UTF-8 is escaped."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(finite, indent=1, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode() + "\n"
