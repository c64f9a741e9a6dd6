"""Files by path or by any URL that pyarrow knows: found, opened, and noticed where they changed."""

import contextlib
import fnmatch
import glob
import io
import itertools
import os
import stat
import urllib.parse
from typing import NamedTuple

from ..base.errors import WHY, UserError, refusing
from ..base.files import check_readable

BLOCK = 1 << 20  # bytes read at a time
_QUOTED = {ord(sign): urllib.parse.quote(sign) for sign in "%#? "}  # in the names of a URL


class Input(NamedTuple):
    """A file as it was when it was planned; `mtime_ns` None where the filesystem has no times."""

    path: str
    bytes: int
    mtime_ns: int


def matching(pattern):
    """Paths or URLs of the files that a path, folder or pattern names, in the order of their names;
    of a folder all that lie in it and below. Raises UserError where there are none."""
    if "://" in pattern:
        paths = _matching_url(pattern)
    else:
        named = [pattern := os.path.abspath(pattern)]
        if glob.has_magic(pattern) and not os.path.exists(pattern):
            found = glob.glob(pattern, recursive=True)
            named = [path for path in found if not _passed_over(path, pattern)]
        paths = [path for name in named for path in _below(name)]
    if not paths:
        raise UserError(f"--input {pattern}: no file goes by that; correct the pattern")
    return sorted(paths)


def hidden(path):
    """Whether readers of a folder pass over that name."""
    return os.path.basename(path).startswith((".", "_"))


def _passed_over(path, pattern):
    """Whether a name in the path is hidden, and does not stand in the pattern itself."""
    return any(map(hidden, set(path.split(os.sep)) - set(pattern.split(os.sep))))


def would_read(pattern, path):
    """Whether `matching` finds a local file of that path, which need not be there."""
    pattern = identity(pattern if "://" in pattern else os.path.abspath(pattern))
    pattern = glob.escape(pattern) if os.path.exists(pattern) else pattern
    names, wanted = path.split(os.sep), pattern.split(os.sep)
    return not _passed_over(path, pattern) and any(
        _goes_by(names[:count], wanted) for count in range(1, len(names) + 1)
    )


def _goes_by(names, wanted):
    """Whether the names of a path go by those of a pattern, as glob has it."""
    if wanted[:1] == ["**"]:
        return any(_goes_by(names[start:], wanted[1:]) for start in range(len(names) + 1))
    if not (names and wanted):
        return names == wanted
    return fnmatch.fnmatchcase(names[0], wanted[0]) and _goes_by(names[1:], wanted[1:])


def _below(path):
    """The path, or of a folder those of all files below it. Raises OSError for a folder that cannot
    be read."""
    if not os.path.isdir(path):
        return [path]
    paths, seen = [], set()
    for folder, folders, names in os.walk(path, onerror=_raise, followlinks=True):
        kept = [name for name in folders if not hidden(name)]
        folders[:] = [] if os.path.realpath(folder) in seen else kept  # a link may be a circle
        seen.add(os.path.realpath(folder))
        paths += [os.path.join(folder, name) for name in names if not hidden(name)]
    return paths


def _raise(error):
    raise error


def identity(path):
    """What all names of a file share: through links, and as path and URL."""
    if path.startswith("file://"):
        path = urllib.parse.unquote(path[len("file://") :])
    return path if "://" in path else os.path.realpath(path)


def partition(path):
    """{key: value} of the folders of a path that are called key=value, as Hive has them; None for
    Hive's name of no value."""
    path = urllib.parse.unquote(path) if "://" in path else path
    pairs = [name.partition("=") for name in path.split("/")[:-1] if name.find("=") > 0]
    return {
        key: None if value == "__HIVE_DEFAULT_PARTITION__" else urllib.parse.unquote(value)
        for key, _, value in pairs
    }


def _matching_url(pattern):
    """URLs of the files that a pattern names; * stays within a folder."""
    from pyarrow import fs

    scheme, _, rest = pattern.partition("://")
    names = rest.rstrip("/").split("/")
    fixed = list(itertools.takewhile(lambda name: not glob.has_magic(name), names))
    where, base = _filesystem("/".join([scheme + ":/", *fixed]))
    message = f"--input {pattern}: cannot be listed ({WHY}); correct it"
    with refusing(message, OSError, ValueError):
        top = where.get_file_info(base)
        if len(fixed) == len(names) and top.type != fs.FileType.Directory:
            return [pattern]
        inside = where.get_file_info(fs.FileSelector(base, recursive=True))
    tails = [info.path[len(base) :].strip("/").split("/") for info in inside if info.is_file]
    wanted = names[len(fixed) :]  # that a folder goes by too, with all that lies below it
    return [
        "/".join([scheme + ":/", *fixed, *(name.translate(_QUOTED) for name in tail)])
        for tail in tails
        if len(tail) >= len(wanted)
        and all(map(fnmatch.fnmatchcase, tail, wanted))
        and not any(map(hidden, tail))
    ]


def _filesystem(url):
    from pyarrow import fs

    message = f"{url}: no filesystem ({WHY}); correct the URL"
    with refusing(message, ValueError, OSError, NotImplementedError):
        return fs.FileSystem.from_uri(url)


def status(path):
    """The Input of a path or URL. Raises UserError where there is no such file."""
    if "://" not in path:
        check_readable(path)
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise UserError(
                f"{path}: is no regular file, and parts are read from their places; save it as one"
            )
        return Input(path, info.st_size, info.st_mtime_ns)
    where, inner = _filesystem(path)
    with refusing(f"{path}: cannot be read ({WHY}); correct it", OSError):
        info = where.get_file_info(inner)
    if not info.is_file:
        raise UserError(f"{path}: no such file; correct its name")
    return Input(path, info.size, info.mtime_ns)


def check_same(source):
    """Raises UserError where a file is not the one that was planned."""
    if status(source.path) != source:
        raise UserError(
            f"{source.path}: changed since the run was planned; put the file back, or take another "
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
