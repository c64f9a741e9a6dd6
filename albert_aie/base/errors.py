"""What a user can put right, and words for messages."""

import contextlib
import importlib


class UserError(Exception):
    """Something that the user can put right: one sentence with the file, the line where there is
    one, and how to fix it. The scripts print it without a traceback and exit with code 2."""


WHY = "\0"  # stands in a message of `refusing` for the reason


@contextlib.contextmanager
def refusing(message, *kinds, reason=None):
    """Within it an exception of these kinds, or of any, becomes a UserError of that message, with
    what `reason` makes of it (first_line) in place of WHY. A UserError stays what it is."""
    caught = kinds or (Exception,)
    try:
        yield
    except UserError:
        raise
    except caught as error:
        raise UserError(message.replace(WHY, (reason or first_line)(error))) from None


def system_reason(error):
    """What the system says of an OSError, else the exception's own message."""
    return str(getattr(error, "strerror", None) or error)


def need(what, package, distribution=None):
    """Raises UserError if `package`, which `what` needs, is not installed; `distribution` is its
    name at pip where that is another."""
    name = distribution or package
    with refusing(f"{what} needs {name}; pip install {name}", ImportError):
        importlib.import_module(package)


def first_line(error, most=200, line=0):
    """The first line of an exception's message, or its type's name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[line][:most]


def last_line(error):
    """The last line, where engines put the reason of a failed operator."""
    return first_line(error, line=-1)


def some(names, most=4):
    """The first few of many names, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
