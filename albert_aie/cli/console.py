"""Exit codes, printed lines and the progress bar of the scripts."""

import errno
import sys
import textwrap

from ..base import machine, terminal
from ..base.errors import UserError, first_line
from ..base.files import json_text, write_text

COLUMNS, NAME = 80, 12
# What to do about an error of the system; by default its name or permissions are wrong.
FIXES = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EROFS: "choose another folder",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.EAGAIN: "close other programs or raise the limit of processes (ulimit -u)",
    errno.ENOMEM: "free memory or take a smaller --batch_size",
}
EXPORT = ("torch", "transformers", "safetensors")  # what running an openvino file does without
_json_alone = False  # whether this run of a script prints nothing else


def main(parse_args, run, argv=None):
    """Exit code of a script: 0 success, 1 the comparison failed or a sentence has no finite
    logits, 2 invalid input, 130 interrupted."""
    global _json_alone
    terminal.prepare()
    try:
        given = sys.argv[1:] if argv is None else argv
        args = parse_args(given)
        args.command = [sys.argv[0], *given]
        _json_alone = getattr(args, "json", False)
        return run(args)
    except UserError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        if error.name not in EXPORT:
            raise
        return _refuse(f"this needs {error.name}; pip install -e .[export] in the program's folder")
    except OSError as error:  # a file that is there and cannot be read
        where = f"{error.filename}: " if error.filename else ""
        fix = FIXES.get(error.errno, "correct its name or permissions")
        return _refuse(f"{where}{error.strerror or first_line(error)}; {fix}")
    except (MemoryError, RuntimeError) as error:  # torch's and the engines' are RuntimeErrors
        if not machine.lacks_memory(error):
            raise
        return _refuse(f"not enough memory ({first_line(error)}); {FIXES[errno.ENOMEM]}")
    except KeyboardInterrupt:
        return 130


def _refuse(sentence):
    _write(sys.stderr, f"error: {terminal.one_line(sentence)}")
    return 2


def _write(stream, text):
    """Print. Where the reader has gone (`| head`) the work goes on, because files are its results;
    where stdout cannot be written for another reason, that is an error."""
    if terminal.put(stream, text + "\n"):
        terminal.put(stream)


def say(name, text):
    """A result, on stdout: its name, then the text in lines of at most 80 columns."""
    if _json_alone:
        return
    whole_words = {"break_long_words": False, "break_on_hyphens": False}
    lines = [textwrap.wrap(part, COLUMNS - NAME, **whole_words) for part in text.split("\n")]
    _write(sys.stdout, name.ljust(NAME) + ("\n" + NAME * " ").join(sum(lines, [])))


def print_json(value):
    """What --json asks for: one JSON text on stdout, and nothing beside it."""
    _write(sys.stdout, json_text(value).rstrip("\n"))


def note(text):
    """What the user should know beside the results, on stderr; nothing where there is nothing."""
    if text:
        _write(sys.stderr, "note".ljust(NAME) + terminal.one_line(text))


def bar(steps=None, **options):
    """A progress bar on stderr around an iterable; silent where that is no terminal."""
    from tqdm import tqdm

    return tqdm(steps, disable=None, leave=False, **options)


def conclude(comparisons, args, names=("",)):
    """Print comparisons, each under its name where there are several, write them to
    --compare_output, that which came out worst first, and return the exit code."""
    for comparison, name in zip(comparisons, names):
        if len(comparisons) > 1:
            say("compared", name)
        for title, text in comparison.lines():
            say(title, text)
    worst = min(comparisons, key=lambda each: (each.passed, -each.flips, -each.relative))
    if worst.precision == "int8" and not worst.passed:
        note("int8: export_albert_aie.py --max_flips 0.5 looks for a recipe whose labels hold")
    if args.compare_output:
        each = [{"rows": name, **one.verdict()} for one, name in zip(comparisons, names)]
        write_text(args.compare_output, json_text({**worst.verdict(), "comparisons": each}))
    return 0 if worst.passed else 1
