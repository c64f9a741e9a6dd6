"""stdout and stderr as users have them: closed, a pipe that nobody reads, a terminal that is not
UTF-8."""

import contextlib
import os
import sys
import warnings

# Longer messages are cut in the middle: the reason stands at their beginning, the fix at their end.
MOST = 2000


def prepare():
    """Make the standard streams safe for the rest of this process: once, before any other file is
    opened and before torch is imported."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Left closed, the next file that is opened takes the number, and what a library writes
            # to stderr goes into that file. The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # Python found it closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        with contextlib.suppress(AttributeError):  # a notebook's stream is always UTF-8
            getattr(sys, name).reconfigure(errors="backslashreplace")
    # Warnings are for developers. Python's own switches still show them (-W, PYTHONWARNINGS).
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


@contextlib.contextmanager
def silent():
    """Without what libraries write to file descriptor 2. Not in two threads at once."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def one_line(text):
    """The text, at most MOST of it, with what could end the line or move the cursor escaped."""
    if len(text) > MOST:
        text = f"{text[: MOST // 2]} ... {text[-MOST // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def put(stream, content=None):
    """Write to a standard stream, or flush it: whether somebody reads there. What cannot be written
    to stdout for another reason is an OSError that names it."""
    try:
        stream.flush() if content is None else stream.write(content)
    except OSError as error:
        # to nowhere, for Python would try it again when it exits
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        if stream is sys.stderr or isinstance(error, BrokenPipeError):
            return False
        raise OSError(error.errno, error.strerror, "stdout") from None
    return True


@contextlib.contextmanager
def torchscript_warnings_off():
    """torch deprecates torch.jit from 2.11 on; the target needs it (docs/versions.md)."""
    import torch

    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", ".*torch.jit.*", category)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield
