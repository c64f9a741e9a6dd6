"""A task is one row here: its files, columns, classes and metrics. Its files, or a user's own ->
Examples, whose labels meet the model's classes by name."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Optional

from . import UserError, records, some
from .text import texts

INDEX = ("index", "idx", "id")  # what the column of the sentences' own numbers is called
NO_LABEL = "-1"  # what files without labels have in their label column
SCORE = "score"  # what a regression's one output is called


class Task(NamedTuple):
    """`files` names the file of each split, `text` the columns of a sentence (two for a pair) and
    `label` that of its class, whose number is its place in `classes`: () is regression, None
    whatever classes the model has.

    `labels` are what the files call the classes, where that is something else; `spellings` what
    models call them besides, in lower case. `metrics` are keys of metrics.METRICS, the first the
    one that a comparison watches. `columns` are those of files without a header. `like`: the task
    that the model was trained for. `order_varies`: models without names do not agree on the order
    of the classes, unless albert_pytorch trained them. `broken_lines`: lines of another number of
    fields are passed over, as all who read the official file do."""

    name: str
    files: dict
    text: tuple
    label: str
    classes: Optional[tuple] = ()
    labels: tuple = ()
    metrics: tuple = ("accuracy",)
    spellings: dict = {}
    columns: tuple = ()
    like: str = ""
    order_varies: bool = False
    broken_lines: bool = False

    @property
    def regression(self):
        return self.classes == ()

    @property
    def is_pair(self):
        return len(self.text) == 2

    @property
    def trained_as(self):
        """The name of the task that its models are trained for."""
        return self.like or self.name

    def number(self, name):
        """The number of the class of that name, in any case and common spelling, or None."""
        name = name.strip().casefold()
        name = self.spellings.get(name, name)
        known = [known.casefold() for known in self.classes]
        return known.index(name) if name in known else None

    def of(self, names):
        """The same task for a model whose classes are called `names`: with those of them that the
        task lacks at the end of its own."""
        if self.regression:
            return self
        own = self.classes or ()
        further = [name for name in names if self.classes is None or self.number(name) is None]
        return self._replace(classes=(*own, *further))

    def model_classes(self, names, count, label_map=None, where="the model", by_position=True):
        """Names for the `count` classes of a model, in its order.

        Its own `names` (None: it has none), each of which `label_map` {number: name} may replace.
        A model without names has the task's classes if it has as many, else numbers; `by_position`
        False: it may have them in another order, where tasks differ. Raises UserError for names
        that cannot stand in a table and for a model of another kind."""
        label_map = label_map or {}
        if self.regression or count == 1:
            return self._score(count, label_map, where)
        if any(number >= count for number in label_map):
            raise UserError(
                f"--label_map {max(label_map)}=...: {where} has {count} classes, 0 to {count - 1}"
            )
        if own_names(names) is None:
            fits = self.classes is not None and len(self.classes) == count and not label_map
            if fits and self.order_varies and not by_position:
                raise UserError(
                    f"{where}: its classes have no names, and models of {self.name} differ in "
                    f"their order; say it with --label_map, such as {_example(self.classes)}"
                )
            names = self.classes if fits else map(str, range(count))
        names = tuple(label_map.get(number, name) for number, name in enumerate(names))
        for number, name in enumerate(names):
            if not name.strip() or not name.isprintable():
                raise UserError(
                    f"{where}: class {number} is called {name!r}, which cannot stand in a table; "
                    f"give it a name with --label_map {number}=NAME"
                )
        return names

    def _score(self, count, label_map, where):
        if count != 1:
            raise UserError(
                f"{where}: has {count} outputs, but {self.name} is a regression, of one; name the "
                "task that it was fine-tuned for by --task_name"
            )
        if not self.regression:
            raise UserError(
                f"{where}: has one output, as a regression such as STS-B has; {self.name} wants "
                "classes: name the task that it was fine-tuned for by --task_name"
            )
        if label_map:
            raise UserError("--label_map: a regression has no classes; leave it out")
        return (SCORE,)


_TSV = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
_01 = ("0", "1")
_SENTENCES = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = Task(
    "MNLI",
    {"train": "train.tsv", "dev": "dev_matched.tsv", "test": "test_matched.tsv"},
    _SENTENCES,
    "gold_label",
    # albert_pytorch's order; models on the hub have others
    ("contradiction", "entailment", "neutral"),
    order_varies=True,
)
# Layouts: GLUE's files, and albert_pytorch's processors/glue.py at 46de9ec, which also gives the
# classes their order.
_ROWS = (
    Task(
        "CoLA",
        _TSV,
        ("sentence",),
        "label",
        ("unacceptable", "acceptable"),
        _01,
        metrics=("matthews",),
        columns=("source", "label", "mark", "sentence"),
    ),
    Task(
        "SST-2",
        _TSV,
        ("sentence",),
        "label",
        ("negative", "positive"),
        _01,
        spellings={"neg": "negative", "pos": "positive"},
    ),
    Task(
        "MRPC",
        _TSV,
        ("#1 string", "#2 string"),
        "quality",
        ("not_equivalent", "equivalent"),
        _01,
        metrics=("accuracy", "f1"),
    ),
    Task(
        "QQP",
        _TSV,
        ("question1", "question2"),
        "is_duplicate",
        ("not_duplicate", "duplicate"),
        _01,
        metrics=("accuracy", "f1"),
        broken_lines=True,
    ),
    Task("STS-B", _TSV, _SENTENCES, "score", metrics=("pearson", "spearman")),
    _MNLI,
    _MNLI._replace(
        name="MNLI-MM",
        files={"train": "train.tsv", "dev": "dev_mismatched.tsv", "test": "test_mismatched.tsv"},
        like="MNLI",
    ),
    Task("QNLI", _TSV, ("question", "sentence"), "label", _ENTAILMENT),
    Task("RTE", _TSV, _SENTENCES, "label", _ENTAILMENT),
    Task("WNLI", _TSV, _SENTENCES, "label", ("not_entailment", "entailment"), _01),
    Task(
        "LCQMC",
        {"train": "train.txt", "dev": "dev.txt", "test": "test.txt"},
        _SENTENCES,
        "label",
        ("different", "same"),
        _01,
        columns=(*_SENTENCES, "label"),
    ),
    # A user's own classes: no files, and what the model says.
    Task("text", {}, ("text",), "label", None),
    Task("pair", {}, ("text_a", "text_b"), "label", None),
)
# What the columns of texts are called in many files: of one, and of two.
_COMMON = {
    1: (("sentence",), ("text",)),
    2: (("sentence1", "sentence2"), ("text_a", "text_b"), ("text1", "text2")),
}
TASKS = {task.name: task for task in _ROWS}
SST2 = TASKS["SST-2"]


def find(name):
    """The Task of that name, in any spelling of it (SST-2, sst2). Raises UserError for others."""
    plain = {_plain(known): task for known, task in TASKS.items()}
    if _plain(name) not in plain:
        raise UserError(f"--task_name {name}: is none of {', '.join(TASKS)}; name one of them")
    return plain[_plain(name)]


def _plain(name):
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _example(classes):
    return ",".join(f"{number}={name}" for number, name in enumerate(classes))


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
        known = self.task.classes
        classes = tuple(n if i is None else known[i] for i, n in zip(numbers, names))
        missing = self.labels is not None and not set(known) <= set(classes)
        if missing or len(set(classes)) < len(classes):
            raise UserError(
                f"{self.path}: the data's classes are {', '.join(known)}, the model's "
                f"{', '.join(names)}; say what the model's are with --label_map, such as "
                f"{_example(known)} (number of the model's class = class of the data)"
            )
        labels = self.labels and [classes.index(known[label]) for label in self.labels]
        return replace(self, labels=labels, classes=classes)


def read(data_dir, split="dev", task=SST2):
    """Examples of a split's file in `data_dir`, labels as numbers of the task's classes.

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
    with records.reading(path, "tsv", records.Layout(task.columns, needed, broken)) as table:
        header = [name.strip().lower() for name in table.columns]
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
        examples = collect(table, task, text, names.get(task.label), names)
    return replace(examples, note=" ".join(filter(None, (examples.note, _passed_over(broken)))))


def collect(table, task, text, label=None, indices=()):
    """Examples of all Records of a Table, from its columns `text` and `label`. Raises UserError
    where there are none, or a label is no class."""
    lines, sentences, labels, found = [], [], [], []
    index = next((indices[name] for name in INDEX if name in indices), None)
    for record in table.records:
        lines.append(record.line)
        sentences.append(sentence(record, text, table.path))
        labels.append(_label(record.values.get(label)))
        found.append(record.values[index] if index else len(found))
    if not lines:
        raise UserError(f"{table.path}: holds a header and no sentence; download it again")
    unlabelled = label is None or set(labels) == {NO_LABEL}
    numbers = None if unlabelled else _labels(labels, lines, table.path, task)
    classes = (SCORE,) if task.regression else task.classes
    note = _quoted(sentences, lines, table.path)
    return Examples(task, table.path, sentences, numbers, found, classes, note)


def columns(table, task, asked=None):
    """The columns of a user's Table that hold the sentences: those `asked` for by --text_column,
    else the task's, else what such columns are often called. Raises UserError where there are none,
    or too many or few for the task."""
    common = zip(task.text, *_COMMON[len(task.text)])
    names = [(name,) for name in asked or ()] or [tuple(dict.fromkeys(known)) for known in common]
    if len(names) != len(task.text):
        wants = "two columns, as in --text_column a b" if task.is_pair else "one column"
        raise UserError(f"--text_column {' '.join(asked)}: {task.name} wants {wants}")
    if task.is_pair and len(table.columns) < 2:
        raise UserError(
            f"{table.path}: holds one text a record, and {task.name} wants pairs; give them in two "
            "columns, with --input_format tsv, csv or jsonl"
        )
    return [records.column(table, known, "--text_column") for known in names]


def sentence(record, text, path):
    """A Record's sentence: the text in a column, or the pair in two."""
    found = tuple(records.text_of(record, name, path) for name in text)
    return found if len(text) == 2 else found[0]


def _check_there(path, task):
    if path.is_file():
        return
    others = [other.name for other in sorted(path.parent.glob(f"*{path.suffix}"))]
    wanted = (
        f"--data_dir wants the folder of GLUE's {task.name} ({', '.join(task.files.values())}; "
        "docs/tasks.md says where to download it)"
    )
    demo = "; --demo takes this repository's own" if task == SST2 else ""
    raise UserError(
        f"{path}: no such file; "
        + (f"of {some(others)} there, give the right one this name" if others else wanted + demo)
    )


def _labels(column, lines, path, task):
    """Numbers of the task's classes from what files call them or their names; scores of a
    regression."""
    numbers = {}
    for line, label in zip(lines, column):
        if label in numbers:
            continue
        numbers[label] = _score(label) if task.regression else _class(label, task)
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


def _label(value):
    """As a text file has it; JSON has numbers too."""
    return value if isinstance(value, str) else json.dumps(value)


def _class(label, task):
    return task.labels.index(label) if label in task.labels else task.number(label)


def _score(label):
    try:
        score = float(label)
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _passed_over(broken):
    if not broken:
        return ""
    return (
        f"{len(broken)} lines have another number of columns than the header, the first line "
        f"{broken[0]}; they are passed over"
    )


def _quoted(sentences, lines, path):
    """A note where sentences look like CSV's: in double quotes, with those inside doubled."""
    found = [
        line
        for line, fields in zip(lines, sentences)
        if any(_is_csv(field.strip()) for field in texts(fields))
    ]
    if not found:
        return ""
    return (
        f"{path}, line {found[0]}{f' and {len(found) - 1} more' if found[1:] else ''}: stands in "
        "double quotes; GLUE has no quoting, so they are part of the sentence: take them out if "
        "they are not"
    )


def _is_csv(field):
    inside = field[1:-1]
    whole = len(field) > 2 and field[0] == field[-1] == '"'
    return whole and '"' not in inside.replace('""', "")
