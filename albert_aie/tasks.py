"""A task is one row here: its files, columns and classes. Its TSV files -> Examples, whose labels
meet the model's classes by name."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Optional

from . import UserError, some

INDEX = ("index", "idx")  # what the column of the sentences' own numbers is called
NO_LABEL = "-1"  # what files without labels have in their label column


class Task(NamedTuple):
    """`files` names the file of each split, `text` the columns of a sentence (two for a pair) and
    `label` that of its class, whose number is its place in `classes`. `spellings` are what models
    call the classes besides, in lower case."""

    name: str
    files: dict
    text: tuple
    label: str
    classes: tuple
    spellings: dict

    def number(self, name):
        """The number of the class of that name, in any case and common spelling, or None."""
        name = name.strip().casefold()
        name = self.spellings.get(name, name)
        return self.classes.index(name) if name in self.classes else None

    def model_classes(self, names, count, label_map=None, where="the model"):
        """Names for the `count` classes of a model, in its order.

        Its own `names` (None: it has none), each of which `label_map` {number: name} may replace.
        A model without names has the task's classes if it has as many, else numbers. Raises
        UserError for names that cannot stand in a table."""
        label_map = label_map or {}
        if any(number >= count for number in label_map):
            raise UserError(
                f"--label_map {max(label_map)}=...: {where} has {count} classes, 0 to {count - 1}"
            )
        if own_names(names) is None:
            by_position = len(self.classes) == count and not label_map
            names = self.classes if by_position else map(str, range(count))
        names = tuple(label_map.get(number, name) for number, name in enumerate(names))
        for number, name in enumerate(names):
            if not name.strip() or not name.isprintable():
                raise UserError(
                    f"{where}: class {number} is called {name!r}, which cannot stand in a table; "
                    f"give it a name with --label_map {number}=NAME"
                )
        return names


SST2 = Task(
    name="SST-2",
    files={"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"},
    text=("sentence",),
    label="label",
    classes=("negative", "positive"),
    spellings={"neg": "negative", "pos": "positive"},
)


_WANTED = (
    "--data_dir wants the folder of GLUE's SST-2 (train.tsv, dev.tsv, test.tsv; README, "
    '"Your own checkpoint", says where to download it); --demo takes this repository\'s own'
)


def own_names(names):
    """The same names, or None where they say nothing but the number: LABEL_0, LABEL_1, ... or
    0, 1, ..."""
    if not names or all(
        name.strip().upper() in (f"LABEL_{number}", str(number))
        for number, name in enumerate(names)
    ):
        return None
    return tuple(names)


@dataclass(frozen=True)
class Examples:
    """Sentences of one split in file order. `labels` are numbers in `classes`, or None where the
    file has none; `indices` are the file's own where it has them, else 0, 1, ...; `note` is what
    the user should know about the file."""

    task: Task
    path: Path
    sentences: list
    labels: Optional[list]
    indices: list
    classes: tuple
    note: str = ""

    def first(self, count):
        """The first `count` of them; all of them where it is None."""
        return replace(
            self,
            sentences=self.sentences[:count],
            labels=self.labels and self.labels[:count],
            indices=self.indices[:count],
        )

    def for_model(self, names):
        """The same examples with the model's classes: labels are numbers of its outputs, and a
        class that the task has too goes by the task's name. A model may have further classes.
        Raises UserError unless each class that labels are of is exactly one of the model's."""
        numbers = [self.task.number(name) for name in names]
        known = self.task.classes
        classes = tuple(n if i is None else known[i] for i, n in zip(numbers, names))
        missing = self.labels is not None and not set(known) <= set(classes)
        if missing or len(set(classes)) < len(classes):
            example = ",".join(f"{number}={name}" for number, name in enumerate(known))
            raise UserError(
                f"{self.path}: the data's classes are {', '.join(known)}, the model's "
                f"{', '.join(names)}; say what the model's are with --label_map, such as {example} "
                "(number of the model's class = class of the data)"
            )
        labels = self.labels and [classes.index(known[label]) for label in self.labels]
        return replace(self, labels=labels, classes=classes)


def read(data_dir, split="dev", task=SST2):
    """Examples of a split's TSV file in `data_dir`, labels as numbers of the task's classes.

    Columns are found by their names in the first line; others are passed over. A test split needs
    no labels, and a label column of -1 has none. GLUE has no quoting: a quote is text. Raises
    UserError with file and line for anything else."""
    path = Path(data_dir) / task.files[split]
    first, *rows = _lines(path)
    header = [name.strip().lower() for name in first]
    needed = [*task.text] if split.startswith("test") else [*task.text, task.label]
    wrong = [name for name in needed if name not in header]
    wrong += [name for name in (*task.text, task.label, *INDEX) if header.count(name) > 1]
    if wrong:
        raise UserError(
            f"{path}, line 1: the header must name one column {wrong[0]!r} and has "
            f"{some([name[:30] for name in header], 8)}; GLUE's {task.name} {split} file begins "
            f"with a line that names {' and '.join(needed)}, apart by tabs"
        )
    _check(rows, header, path)
    columns = dict(zip(header, zip(*rows)))
    texts = [columns[name] for name in task.text]
    sentences = list(texts[0] if len(texts) == 1 else zip(*texts))
    index = next((columns[name] for name in INDEX if name in columns), range(len(rows)))
    labels = _labels(columns[task.label], path, task) if task.label in columns else None
    return Examples(task, path, sentences, labels, list(index), task.classes, _quoted(texts, path))


def _lines(path):
    """The fields of each line of a TSV file; blank lines at its end are none."""
    if not path.is_file():
        others = [other.name for other in sorted(path.parent.glob("*.tsv"))]
        raise UserError(
            f"{path}: no such file; "
            + (f"of {some(others)} there, give the right one this name" if others else _WANTED)
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8; convert the file, for example with iconv -t utf-8"
        ) from None
    lines = [line.rstrip("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path}: is empty; download it again")
    return [line.split("\t") for line in lines]


def _check(rows, header, path):
    """Raises UserError unless there are rows of as many fields as the header."""
    if not rows:
        raise UserError(f"{path}: holds a header and no sentence; download it again")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(row)} column{'s'[: len(row) != 1]} instead of "
                f"{len(header)} ({'<TAB>'.join(header)[:100]}); correct the line"
            )
        if any("\r" in field for field in row):
            raise UserError(
                f"{path}, line {line}: a carriage return within the line; write a blank for it"
            )


def _labels(column, path, task):
    """Numbers of the task's classes from their numbers or names; None where no line has a
    label."""
    if set(column) == {NO_LABEL}:
        return None
    known = {str(number): number for number in range(len(task.classes))}
    known.update((name, task.number(name)) for name in set(column) - set(known))
    for line, label in enumerate(column, start=2):
        if known[label] is None:
            choices = [f"{number} {name}" for number, name in enumerate(task.classes)]
            raise UserError(
                f"{path}, line {line}: label {label!r} is not a class of {task.name} "
                f"({', '.join(choices)}); correct the line"
            )
    return [known[label] for label in column]


def _quoted(texts, path):
    """A note where sentences look like CSV's: in double quotes, with those inside doubled."""
    lines = [
        line
        for line, fields in enumerate(zip(*texts), start=2)
        if any(_is_csv(field.strip()) for field in fields)
    ]
    if not lines:
        return ""
    return (
        f"{path}, line {lines[0]}{f' and {len(lines) - 1} more' if lines[1:] else ''}: stands in "
        "double quotes; GLUE has no quoting, so they are part of the sentence: take them out if "
        "they are not"
    )


def _is_csv(field):
    inside = field[1:-1]
    whole = len(field) > 2 and field[0] == field[-1] == '"'
    return whole and '"' not in inside.replace('""', "")
