"""A task is one row here: its files, columns, classes and metrics. Models meet it by the names of
their classes."""

from typing import NamedTuple, Optional

from ..base.errors import UserError

SCORE = "score"  # what a regression's one output is called
_TSV = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}


class Task(NamedTuple):
    """`files` names the file of each split, `text` the columns of a sentence (two for a pair) and
    `label` that of its class, whose number is its place in `classes`: () is regression, None
    whatever classes the model has.

    `labels` are what the files call the classes, where that is something else; `spellings` what
    models call them besides, in lower case. `metrics` are keys of metrics.METRICS, the first the
    one that a comparison watches. `columns` are those of files without a header. `like`: the task
    that the model was trained for. `order_varies`: models without names do not agree on the order
    of the classes, unless albert_pytorch trained them. `broken_lines`: lines of another number of
    fields are passed over, as all who read the official file do. `hub`: the classes in the order of
    their numbers in Hugging Face's GLUE, where `labels` are other than numbers."""

    name: str
    text: tuple
    classes: Optional[tuple] = ()
    labels: tuple = ()
    label: str = "label"
    files: dict = _TSV
    metrics: tuple = ("accuracy",)
    spellings: dict = {}
    columns: tuple = ()
    like: str = ""
    order_varies: bool = False
    broken_lines: bool = False
    hub: tuple = ()

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
        classes = [each.casefold() for each in self.classes]
        return classes.index(name) if name in classes else None

    def numbered(self, names):
        """The same task for data whose labels are numbers, {number: name of its class}. Raises
        UserError for a name that is none."""
        numbers = {self.number(name): str(number) for number, name in names.items()}
        if None in numbers:
            raise UserError(
                f"--label_names {numbers[None]}={names[int(numbers[None])]}: is no class of "
                f"{self.name}, which are {', '.join(self.classes)}; name one of them"
            )
        if len(numbers) < len(names):
            of = [self.number(name) for name in names.values()]
            twice = next(number for number in of if of.count(number) > 1)
            raise UserError(
                f"--label_names: two numbers are {self.classes[twice]}; name one a class, and "
                "write the names of the others into the label column"
            )
        labels = tuple(numbers.get(number, "") for number in range(len(self.classes)))
        return self._replace(labels=labels)

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
        that cannot stand in a table or that two classes have, and for a model of another kind or of
        fewer classes than the task."""
        label_map = label_map or {}
        if self.regression or count == 1:
            return self._score(count, label_map, where)
        if any(number >= count for number in label_map):
            raise UserError(
                f"--label_map {max(label_map)}=...: {where} has {count} classes, 0 to {count - 1}"
            )
        if self.classes and count < len(self.classes):
            raise UserError(
                f"{where}: has {count} classes, but {self.name} has {len(self.classes)} "
                f"({', '.join(self.classes)}); name the task that it was fine-tuned for by "
                "--task_name"
            )
        if own_names(names) is None:
            fits = self.classes is not None and len(self.classes) == count and not label_map
            if fits and self.order_varies and not by_position:
                raise UserError(
                    f"{where}: its classes have no names, and models of {self.name} differ in "
                    f"their order; say it with --label_map, such as {example_map(self.classes)}"
                )
            names = self.classes if fits else map(str, range(count))
        names = tuple(label_map.get(number, name) for number, name in enumerate(names))
        for number, name in enumerate(names):
            if not name.strip() or not name.isprintable():
                raise UserError(
                    f"{where}: class {number} is called {name!r}, which cannot stand in a table; "
                    f"give it a name with --label_map {number}=NAME"
                )
            first = [each.strip().casefold() for each in names].index(name.strip().casefold())
            if first != number:  # as self.number does, which meets the data
                raise UserError(
                    f"{where}: classes {first} and {number} are both called {name!r}; give one "
                    f"another name with --label_map {number}=NAME"
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


_01 = ("0", "1")
_ONE, _TWO = ("sentence",), ("sentence1", "sentence2")
_POLAR = ("negative", "positive")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = Task(
    "MNLI",
    _TWO,
    # albert_pytorch's order; models on the hub have others
    ("contradiction", "entailment", "neutral"),
    label="gold_label",
    files={**_TSV, "dev": "dev_matched.tsv", "test": "test_matched.tsv"},
    order_varies=True,
    hub=("entailment", "neutral", "contradiction"),
)
_MISMATCHED = {**_TSV, "dev": "dev_mismatched.tsv", "test": "test_mismatched.tsv"}
# Layouts: GLUE's files, and albert_pytorch's processors/glue.py at 46de9ec, which also gives the
# classes their order.
_ROWS = (
    Task(
        "CoLA",
        _ONE,
        ("unacceptable", "acceptable"),
        _01,
        metrics=("matthews",),
        columns=("source", "label", "mark", "sentence"),
    ),
    Task("SST-2", _ONE, _POLAR, _01, spellings=dict(zip(("neg", "pos"), _POLAR))),
    Task(
        "MRPC",
        ("#1 string", "#2 string"),
        ("not_equivalent", "equivalent"),
        _01,
        "quality",
        metrics=("accuracy", "f1"),
    ),
    Task(
        "QQP",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        _01,
        "is_duplicate",
        metrics=("accuracy", "f1"),
        broken_lines=True,
    ),
    Task("STS-B", _TWO, label="score", metrics=("pearson", "spearman")),
    _MNLI,
    _MNLI._replace(name="MNLI-MM", files=_MISMATCHED, like="MNLI"),
    Task("QNLI", ("question", "sentence"), _ENTAILMENT, hub=_ENTAILMENT),
    Task("RTE", _TWO, _ENTAILMENT, hub=_ENTAILMENT),
    Task("WNLI", _TWO, _ENTAILMENT[::-1], _01),
    Task(
        "LCQMC",
        _TWO,
        ("different", "same"),
        _01,
        files={split: f"{split}.txt" for split in _TSV},
        columns=(*_TWO, "label"),
    ),
    # A user's own classes: no files, and what the model says.
    Task("text", ("text",), None, files={}),
    Task("pair", ("text_a", "text_b"), None, files={}),
)
TASKS = {task.name: task for task in _ROWS}
SST2 = TASKS["SST-2"]


def find(name):
    """The Task of that name, in any spelling of it (SST-2, sst2). Raises UserError for others."""
    plain = {_plain(own_name): task for own_name, task in TASKS.items()}
    if _plain(name) not in plain:
        raise UserError(f"--task_name {name}: is none of {', '.join(TASKS)}; name one of them")
    return plain[_plain(name)]


def _plain(name):
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def example_map(classes):
    return ",".join(f"{number}={name}" for number, name in enumerate(classes))


def own_names(names):
    """The same names, or None where they are but numbers: LABEL_0, LABEL_1, ... or 0, 1, ..."""
    if not names or all(
        name.strip().upper() in (f"LABEL_{number}", str(number))
        for number, name in enumerate(names)
    ):
        return None
    return tuple(names)
