"""Files by path or by any URL that pyarrow knows: found, opened, and noticed where they changed."""

import contextlib
import fnmatch
import glob
import io
import itertools
import os
from typing import NamedTuple

from . import UserError, first_line
from .files import check_readable

BLOCK = 1 << 20  # bytes read at a time
WILD = "*?["


class Input(NamedTuple):
    """A file as it was when it was planned; `mtime_ns` None where the filesystem has no times."""

    path: str
    bytes: int
    mtime_ns: int


def matching(pattern):
    """Paths or URLs of the files that a path, folder or pattern names, in the order of their names.
    Raises UserError where there are none."""
    if "://" not in pattern:
        pattern = os.path.abspath(pattern)
        if os.path.isdir(pattern):
            pattern = os.path.join(glob.escape(pattern), "*")
        elif os.path.exists(pattern) or not any(sign in pattern for sign in WILD):
            return [pattern]
        found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    else:
        found = _matching_url(pattern)
    found = [path for path in found if not os.path.basename(path).startswith((".", "_"))]
    if not found:
        raise UserError(f"--input {pattern}: no file goes by that; correct the pattern")
    return found


def _matching_url(pattern):
    """URLs of the files that a pattern names; * stays within a folder."""
    from pyarrow import fs

    scheme, _, rest = pattern.partition("://")
    names = rest.split("/")
    fixed = list(itertools.takewhile(lambda name: not any(sign in name for sign in WILD), names))
    where, base = _filesystem("/".join([scheme + ":/", *fixed]))
    try:
        top = where.get_file_info(base)
        if len(fixed) == len(names):
            if top.type != fs.FileType.Directory:
                return [pattern]
            names = [*names, "*"]
        depth = len(names) - len(fixed)
        inside = where.get_file_info(fs.FileSelector(base, recursive=depth > 1))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--input {pattern}: cannot be listed ({first_line(error)}); correct it"
        ) from None
    files = [info.path for info in inside if info.is_file]
    tails = [path[len(base) :].strip("/").split("/") for path in files]
    wanted = names[len(fixed) :]
    return sorted(
        "/".join([scheme + ":/", *fixed, *tail])
        for tail in tails
        if len(tail) == depth and all(map(fnmatch.fnmatchcase, tail, wanted))
    )


def _filesystem(url):
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(url)
    except (ValueError, OSError, NotImplementedError) as error:
        raise UserError(f"{url}: no filesystem ({first_line(error)}); correct the URL") from None


def status(path):
    """The Input of a path or URL. Raises UserError where there is no such file."""
    if "://" not in path:
        check_readable(path)
        found = os.stat(path)
        return Input(path, found.st_size, found.st_mtime_ns)
    where, inner = _filesystem(path)
    try:
        found = where.get_file_info(inner)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); correct it") from None
    if not found.is_file:
        raise UserError(f"{path}: no such file; correct its name")
    return Input(path, found.size, found.mtime_ns)


def check_same(known):
    """Raises UserError where a file is not the one that was planned."""
    if status(known.path) != known:
        raise UserError(
            f"{known.path}: changed since the run was planned; put the file back, or take another "
            "--output_dir"
        )


@contextlib.contextmanager
def opened(path):
    """A path or URL as a binary file that seeks."""
    if "://" not in path:
        # by Python: pyarrow takes no name that is not UTF-8
        with open(path, "rb", buffering=BLOCK) as file:
            yield file
        return
    where, inner = _filesystem(path)
    with where.open_input_file(inner) as source, io.BufferedReader(source, BLOCK) as file:
        yield file
