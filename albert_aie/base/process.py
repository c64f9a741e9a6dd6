"""A call in a fresh process, which never outlives this one."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from multiprocessing import connection, get_context, parent_process

from . import terminal
from .errors import UserError, first_line

# Not concurrent.futures.ProcessPoolExecutor: a broken pool does not say how its process ended, and
# Ctrl-C waits in it for the end of the call (kill_workers is Python 3.14's).
GRACE = 30  # seconds for an engine to let go of its card after the answer
PR_SET_PDEATHSIG = 1


class Died(Exception):
    """The process gave no answer; the message says how it ended, as "was ended by SIGKILL"."""


@contextlib.contextmanager
def calling(function, *arguments):
    """Begins function(*arguments), of a module's function and what can be pickled, and gives a
    function that waits for its value: it raises Died, or the UserError that `function` raised."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    # Ctrl-C reaches every process of a terminal: the child is to leave it to the parent
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, interrupt)
        sender.close()

    def answer():
        try:
            value = receiver.recv()
            process.join(GRACE)
        except EOFError:
            process.join()
            raise Died(_how(process.exitcode)) from None
        if isinstance(value, (Died, UserError)):
            raise value
        return value

    try:
        yield answer
    finally:
        process.kill()
        process.join()
        receiver.close()


def _how(exit_code):
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was ended by {name}" + ", perhaps for lack of memory" * (name == "SIGKILL")


def _answer(sender, function, arguments):
    end_with_parent()
    terminal.prepare()
    try:
        answer = function(*arguments)
    except UserError as error:
        answer = error
    except Exception as error:
        answer = Died(f"failed ({type(error).__name__}: {first_line(error)})")
    sender.send(answer)


def end_with_parent():
    """Let this process be killed when its parent ends, however that ends."""
    if sys.platform == "linux":  # at once, also inside an engine that holds Python's lock
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # everywhere, and where the parent was gone before the line above
    threading.Thread(target=_wait_for_end, args=(parent_process().sentinel,), daemon=True).start()


def _wait_for_end(sentinel):
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
