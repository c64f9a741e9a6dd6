"""A corpus through a compiled file, every row exactly once: a part of the plan is read, answered
and written beside its place, then renamed. What is there and whole is not run again.

A Worker does this in any process: in the script's own, or as an actor of ray_workers."""

import contextlib
import fcntl
import json
import os
import platform
import secrets
from pathlib import Path
from typing import NamedTuple

import numpy

from ..artifact import pt_file
from ..base.choose_shapes import choose
from ..base.errors import WHY, UserError, first_line, refusing, system_reason
from ..base.files import replacing, sha256, write_text
from ..data import datasets
from ..run.classifier import Classifier, softmax
from ..run.evaluate import finite, warm_up
from . import planning, reading
from .urls import hidden

LOCK = "_lock"
KEY = b"albert_aie"  # of what a part's file says of itself, in its Parquet metadata
ATTEMPTS = 3  # at a part


class Job(NamedTuple):
    """What a run is to do. `token` is in its lock in `folder`, "" where it writes nothing there;
    `files` are the compiled ones, `options` their backend's settings. What follows is for the plan
    alone, which workers read from the folder."""

    folder: str
    token: str
    files: list
    label_map: object = None
    options: dict = {}
    skip_bad_rows: bool = False
    part_rows: int = planning.PART_ROWS
    text_column: object = None
    label_column: object = None
    label_names: object = None


class Done(NamedTuple):
    """Of a part: rows of the input and of the output, why the others are missing [[number, why]],
    sentences that were cut to the file's length, and rows whose logits are not finite."""

    rows: int
    written: int
    bad: list
    cut: int
    unanswered: int


class Worker:
    """Runs parts. Raises UserError where this machine does not see the run's folder, or has another
    compiled file."""

    def __init__(self, job):
        self.job, self.folder = job, Path(job.folder)
        _check_shared(self.folder, job.token)
        self.plan = planning.load(job.folder)
        saved = pt_file.open_all(job.files)
        if saved.digest != self.plan.settings["model"]:
            raise UserError(
                f"{saved.path}: is another file on {platform.node()} than where the run was "
                "started; copy it there"
            )
        self.classify = Classifier(saved, job.label_map, **job.options)
        # Shapes are compiled when they are first run: that is start-up, not the rate of rows. Those
        # of the shortest rows are what nearly all sentences take.
        shapes = choose(saved.shapes, self.classify.runner.grid)
        shortest = min(shape.max_seq_length for shape in shapes)
        warm_up(self.classify.runner, [s for s in shapes if s.max_seq_length == shortest], runs=1)

    def run(self, part):
        """Done of a Part, written. Raises UserError for what would stop every part, or a bad row
        where they are not skipped; ValueError or OSError where its input cannot be read."""
        settings = self.plan.settings
        source = self.plan.inputs[part.input]
        table, numbers, bad = reading.read(
            source, settings["format"], part.span, self.plan.schema, self.plan.columns[part.input]
        )
        task = self.classify.task._replace(labels=tuple(settings["labels"]))
        sentences, wrong = _sentences(table, settings, task)
        bad = sorted([*bad, *((numbers[i], why) for i, why in wrong.items())])
        if bad and not self.job.skip_bad_rows:
            raise UserError(
                f"{self.plan.describe_row(part, bad[0][0])}: {bad[0][1]}; correct it, or take "
                "--on_bad_row skip"
            )
        if wrong:
            kept = [i for i in range(table.num_rows) if i not in wrong]
            mask = numpy.isin(numpy.arange(table.num_rows), kept)
            table, sentences = table.filter(mask), [sentences[i] for i in kept]
        logits, cut = numpy.zeros((0, self.classify.saved.num_labels), numpy.float32), 0
        if sentences:
            evaluation = self.classify.evaluate(sentences, warmup=0)
            logits, cut = evaluation.logits, evaluation.truncated
        unanswered = int((~finite(logits)).sum())
        done = Done(part.span.rows, table.num_rows, bad, cut, unanswered)
        write(self.folder, self.plan, part, _answered(table, logits, self.classify, settings), done)
        return done


def _check_shared(folder, token):
    """Raises UserError where the folder is not the one that the driver holds: what is written to a
    disk of another machine would be missing."""
    with contextlib.suppress(OSError):
        if (folder / LOCK).read_text() == token:
            return
    raise UserError(
        f"--output_dir {folder}: {platform.node()}, where a worker runs, does not see this folder; "
        "take one on a filesystem that all nodes share"
    )


def _sentences(table, settings, task):
    """(a list of the table's sentences, {row: why} of those that are none)."""
    columns, wrong = [], {}
    for name in settings["text_column"]:
        columns.append(_values(table.column(name)))
        for i, text in enumerate(columns[-1]):
            if text is None:
                wrong.setdefault(i, f"no text in column {name!r}")
    label = settings["label_column"]
    if label:
        numbers = {}  # labels are few; scores are not, but each is as quick to read
        for i, value in enumerate(_values(table.column(label))):
            key = value if isinstance(value, str) else repr(value)
            if key not in numbers:
                numbers[key] = datasets.is_missing(value, task) or datasets.number(value, task)
            if numbers[key] is None:
                what = "a number" if task.regression else f"a class of {task.name}"
                wrong.setdefault(i, f"label {value!r} is not {what}")
            if task.regression:
                numbers.clear()
    return (columns[0] if len(columns) == 1 else list(zip(*columns))), wrong


def _values(column):
    """List of a column's values, None where there is none or a text is not UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(value) for value in column]


def _value(value):
    with contextlib.suppress(UnicodeDecodeError):
        return value.as_py()


def _answered(table, logits, classify, settings):
    """The table with its answers."""
    import pyarrow

    unknown = ~finite(logits)
    if classify.task.regression:
        values = [pyarrow.array(logits[:, 0], mask=unknown)]
    else:
        names = numpy.array(classify.names, object)
        values = [
            pyarrow.array(names[logits.argmax(1)], pyarrow.string(), mask=unknown),
            pyarrow.array(softmax(logits).max(1).astype(numpy.float32), mask=unknown),
        ]
    values.append(pyarrow.array([settings["model"]] * len(logits), pyarrow.string()))
    for name, value in zip(settings["answer_columns"], values):
        table = table.append_column(name, value)
    return table


# --- the file of a part


def path_of(folder, plan, part):
    """Where a part is written: its name follows from the plan and its number."""
    return Path(folder) / f"part-{part.number:06d}-{plan.digest[:8]}.parquet"


def check_no_others(folder, plan):
    """Raises UserError for a Parquet file in the output folder that is no part of the Plan: who
    reads the folder would take its rows for more of this run's."""
    own = {path_of(folder, plan, part).name for part in plan.parts}
    for name in sorted(path.name for path in Path(folder).glob("*.parquet")):
        if name not in own and not hidden(name):
            raise UserError(
                f"--output_dir {folder}: holds {name}, which is no part of this run, and its rows "
                "would be read with them; take another folder, or move it away"
            )


def write(folder, plan, part, table, done):
    """Write a part's file, whole or not at all, and then its sha256: what is cut off or damaged
    later is noticed. Raises UserError if they cannot be written."""
    from pyarrow import parquet

    said = {"plan": plan.digest, "part": part.number, **done._asdict()}
    table = table.replace_schema_metadata({KEY: json.dumps(said)})
    path = path_of(folder, plan, part)
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            parquet.write_table(table, file, write_page_checksum=True)
        digest = sha256(temporary)
    write_text(_digest_of(path), f"{digest}  {path.name}\n")


def _digest_of(path):
    """Where the sha256 of a part's file stands, for sha256sum -c; readers of a folder of Parquet
    pass over the name."""
    return path.with_name(f"_{path.stem}.sha256")


def read_done(folder, plan, part):
    """Done of a part that is written; None where its file is missing, is not as it was written or
    is not the one of this part."""
    from pyarrow import parquet

    path = path_of(folder, plan, part)
    try:
        digest = _digest_of(path).read_text(encoding="ascii").split()[0]
        with open(path, "rb") as file:  # pyarrow takes no name that is not UTF-8
            footer = parquet.read_metadata(file)
        said = json.loads(footer.metadata[KEY])
        belongs = (said.pop("plan"), said.pop("part")) == (plan.digest, part.number)
        done = Done(**said)
    except (OSError, LookupError, TypeError, ValueError):  # pyarrow's are ValueErrors
        return None
    fits = done.rows == part.span.rows == done.written + len(done.bad)
    fits = belongs and fits and done.written == footer.num_rows
    return done if fits and sha256(path) == digest else None


# --- a run


@contextlib.contextmanager
def locked(folder):
    """`with locked(folder) as token:` no other run writes there. UserError where one does."""
    path = Path(folder) / LOCK
    message = f"--output_dir {folder}: cannot be written ({WHY}); choose another folder"
    with refusing(message, OSError, reason=system_reason):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--output_dir {folder}: another run is writing there; wait for it, or choose "
                "another folder"
            ) from None
        except OSError:
            pass  # a filesystem without locks
        token = secrets.token_hex(16)
        message = f"{path}: cannot be written ({WHY}); free disk space, or choose another folder"
        with refusing(message, OSError, reason=system_reason):
            os.ftruncate(file, 0)
            os.pwrite(file, token.encode(), 0)
        yield token
    finally:
        os.close(file)


def attempt(function, *given):
    """("done", its value), ("refused", why nothing can go on) or ("failed", why)."""
    try:
        return "done", function(*given)
    except UserError as error:
        return "refused", str(error)
    except Exception as error:
        return "failed", f"{first_line(error)} ({type(error).__name__})"


def run_in_process(job, waiting):
    """Run the Parts of the deque `waiting`, and what is added meanwhile, in this process: yields
    (None, "ready", 1), then (Part, outcome, value) as `attempt` has them."""
    worker = Worker(job)
    with worker.classify:
        yield None, "ready", 1
        while waiting:
            part = waiting.popleft()
            yield (part, *attempt(worker.run, part))
