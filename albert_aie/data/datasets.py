"""A task's files, or a user's own table -> Examples, whose labels meet the model's classes by
name."""

import contextlib
import hashlib
import itertools
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from ..base.encoding import texts
from ..base.errors import UserError, some
from . import records
from .tasks import SCORE, SST2, Task, example_map

INDEX = ("index", "idx", "id")  # what the column of the sentences' own numbers is called
NO_LABEL = "-1"  # what files without labels have in their label column
# What the columns of texts are called in many files: of one, and of two.
_COMMON = {
    1: (("sentence",), ("text",)),
    2: (
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("text_a", "text_b"),
        ("text1", "text2"),
    ),
}
_HUB = {"label", "idx"}  # columns of GLUE as Hugging Face writes it


@dataclass(frozen=True)
class Examples:
    """Sentences of one file in its order, each a text or a pair of them. `labels` are numbers in
    `classes` (of a regression: scores), or None where the file has none; `indices` are the file's
    own where it has them, else 0, 1, ...; `note` is what the user should know about the file."""

    task: Task
    path: Path
    sentences: list
    labels: Optional[list]
    indices: list
    classes: tuple
    note: str = ""

    @property
    def sha256(self):
        """Of the sentences and the names of their labels, in their order: the same for the same
        data in another format."""
        names = self.labels
        if names is not None and not self.task.regression:
            names = [self.classes[label] for label in names]
        rows = [self.sentences, names]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

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
        if self.task.regression:
            return replace(self, classes=tuple(names))
        numbers = [self.task.number(name) for name in names]
        own = self.task.classes
        classes = tuple(n if i is None else own[i] for i, n in zip(numbers, names))
        missing = self.labels is not None and not set(own) <= set(classes)
        if missing or len(set(classes)) < len(classes):
            raise UserError(
                f"{self.path}: the data's classes are {', '.join(own)}, the model's "
                f"{', '.join(names)}; say what the model's are with --label_map, such as "
                f"{example_map(own)} (number of the model's class = class of the data)"
            )
        labels = self.labels and [classes.index(own[label]) for label in self.labels]
        return replace(self, labels=labels, classes=classes)


def read(data_dir, split="dev", task=SST2, label_names=None):
    """Examples of a split's file in `data_dir`, labels as numbers of the task's classes;
    `label_names` as `labelled` has them.

    Columns are found by their names in the first line; others are passed over. A test split needs
    no labels, and a label column of -1 has none. GLUE has no quoting: a quote is text. Raises
    UserError with file and line for anything else."""
    if not task.files:
        raise UserError(
            f"--task_name {task.name}: has no files of its own; give your sentences to "
            "run_aie_eval.py by --input, and compare there"
        )
    path = Path(data_dir) / task.files[split]
    _check_there(path, task)
    broken = [] if task.broken_lines else None
    needed = task.text if split == "test" else (*task.text, task.label)
    with records.reading(path, "tsv", layout(task, broken=broken)) as table:
        header = [name.strip().lower() for name in table.columns]
        if set(header) >= _HUB and not set(header) >= set(needed):
            alike = [text for text in _COMMON[len(task.text)] if set(text) <= set(header)]
            task = task._replace(text=(*alike, task.text)[0], label="label")
            needed = (*task.text, task.label)
        missing = [name for name in needed if header.count(name) != 1]
        missing += [name for name in (task.label, *INDEX) if header.count(name) > 1]
        if missing:
            raise UserError(
                f"{path}, line 1: the header must name one column {missing[0]!r} and has "
                f"{some([name[:30] for name in header], 8)}; GLUE's {task.name} {split} file "
                f"begins with a line that names {' and '.join(needed)}, apart by tabs"
            )
        names = dict(zip(header, table.columns))
        text = [names[name] for name in task.text]
        task, note = labelled(task, table, names.get(task.label), label_names)
        examples = collect(table, task, text, names.get(task.label), names)
    notes = [note, examples.note]
    if broken:
        notes.append(
            f"{len(broken)} lines have another number of columns than the header, the first line "
            f"{broken[0]}; they are passed over"
        )
    return replace(examples, note=" ".join(filter(None, notes)))


def layout(task, *asked, broken=None):
    """The records.Layout of a Task's TSV files, and of a user's own, whose columns may be called as
    it was `asked` for too."""
    names = (
        *task.text,
        task.label,
        *itertools.chain(*_COMMON[len(task.text)]),
        *filter(None, asked),
    )
    return records.Layout(task.columns, frozenset(name.strip().lower() for name in names), broken)


def labelled(task, table, label, names=None):
    """(the Task with what the labels in that column of a Table are, a note on it or ""): their
    numbers are those of `names`, {number: class}, else of Hugging Face where the columns are its.
    Raises UserError for names that are no classes."""
    columns = {name.strip().lower() for name in table.columns}
    if names:
        return task.numbered(names), ""
    if not (label and task.hub and label.strip().lower() == "label" and columns >= _HUB):
        return task, ""
    said = ", ".join(f"{number} = {name}" for number, name in enumerate(task.hub))
    return task.numbered(dict(enumerate(task.hub))), (
        f"{table.path}: has the columns label and idx, as Hugging Face writes GLUE; numbers in "
        f"label are read as its library has them: {said} (else say it with --label_names)"
    )


def collect(table, task, text, label=None, indices=()):
    """Examples of all Records of a Table, from its columns `text` and `label`. Raises UserError
    where there are none, or a label is no class."""
    lines, sentences, labels, numbered = [], [], [], []
    index = next((indices[name] for name in INDEX if name in indices), None)
    for record in table.records:
        lines.append(record.line)
        sentences.append(sentence(record, text, table.path))
        labels.append(_label(record.values.get(label)))
        numbered.append(_label(record.values[index]) if index in record.values else len(numbered))
    if not lines:
        raise UserError(f"{table.path}: holds a header and no sentence; download it again")
    unlabelled = label is None or all(is_missing(one, task) for one in labels)
    numbers = None if unlabelled else _labels(labels, lines, table.path, task)
    classes = (SCORE,) if task.regression else task.classes
    note = _quoted(sentences, lines, table.path)
    return Examples(task, table.path, sentences, numbers, numbered, classes, note)


def columns(table, task, asked=None):
    """The columns of a user's Table that hold the sentences: those `asked` for by --text_column,
    else the task's, else what such columns are often called. Raises UserError where there are none,
    or too many or few for the task."""
    common = zip(task.text, *_COMMON[len(task.text)])
    names = [(name,) for name in asked or ()] or [tuple(dict.fromkeys(each)) for each in common]
    if len(names) != len(task.text):
        wants = "two columns, as in --text_column a b" if task.is_pair else "one column"
        raise UserError(f"--text_column {' '.join(asked)}: {task.name} wants {wants}")
    if task.is_pair and len(table.columns) < 2:
        raise UserError(
            f"{table.path}: holds one text a record, and {task.name} wants pairs; give them in two "
            "columns, with --input_format tsv, csv or jsonl"
        )
    return [records.column(table, choices, "--text_column") for choices in names]


def sentence(record, text, path):
    """A Record's sentence: the text in a column, or the pair in two."""
    parts = tuple(records.text_of(record, name, path) for name in text)
    return parts if len(text) == 2 else parts[0]


def _check_there(path, task):
    if path.is_file():
        return
    others = [other.name for other in sorted(path.parent.glob(f"*{path.suffix}"))]
    wanted = (
        f"--data_dir wants the folder of GLUE's {task.name} ({', '.join(task.files.values())}; "
        "docs/tasks.md says where to download it)"
    )
    demo = "; this repository has one in demo/SST-2" if task == SST2 else ""
    raise UserError(
        f"{path}: no such file; "
        + (f"of {some(others)} there, give the right one this name" if others else wanted + demo)
    )


def _labels(column, lines, path, task):
    """Numbers of the task's classes, or scores of a regression, of a list of labels."""
    numbers = {}
    for line, label in zip(lines, column):
        if label in numbers:
            continue
        numbers[label] = number(label, task)
        if numbers[label] is None:
            called = task.labels or ("",) * len(task.classes)
            choices = [" ".join(pair).strip() for pair in zip(called, task.classes)]
            choices += task.classes[len(called) :]
            what = "a number" if task.regression else f"a class of {task.name}"
            of = "" if task.regression else f" ({some(choices, 8)})"
            raise UserError(
                f"{path}, line {line}: label {label!r} is not {what}{of}; correct the line"
            )
    return [numbers[label] for label in column]


def number(value, task):
    """The number of the class of the Task that a value of a label column names, or a regression's
    score; None where it is neither."""
    label = _label(value)
    if task.regression:
        with contextlib.suppress(ValueError):
            return float(label) if math.isfinite(float(label)) else None
        return None
    for spelling in filter(None, (label, _as_number(label))):
        number = task.labels.index(spelling) if spelling in task.labels else task.number(spelling)
        if number is not None:
            return number
    return None


def is_missing(value, task):
    """Whether a value of a label column says that there is no label, as in a test file. No class of
    the Task is called so."""
    missing = _as_number(_label(value)) == NO_LABEL
    return missing and (task.regression or number(value, task) is None)


def _label(value):
    """As a text file has it; JSON and Parquet have numbers too."""
    return value.strip() if isinstance(value, str) else json.dumps(value, default=str)


def _as_number(label):
    """What a label means to programs that know numbers: 1 where it is 1.0 or true."""
    whole = re.fullmatch(r"(-?[0-9]+)\.0+", label)
    return whole[1] if whole else {"true": "1", "false": "0"}.get(label.casefold(), label)


def _quoted(sentences, lines, path):
    """A note where sentences look like CSV's: in double quotes, with those inside doubled."""
    pairs = zip(lines, sentences)
    quoted = [line for line, sentence in pairs if any(map(_is_csv, texts(sentence)))]
    if not quoted:
        return ""
    more = f" and {len(quoted) - 1} more" if quoted[1:] else ""
    return (
        f"{path}, line {quoted[0]}{more}: stands in double quotes; GLUE has no quoting, so they "
        "are part of the sentence: take them out if they are not"
    )


def _is_csv(field):
    return bool(re.fullmatch(r'"(?:[^"]|"")+"', field.strip()))
