"""Tables of sentences in one of FORMATS, read a record at a time, and written with answers beside
the columns."""

import contextlib
import itertools
from typing import NamedTuple

from ..base.errors import UserError, some
from ..base.files import check_readable
from .formats import FORMATS, STDIN, lines_of

TEXT = "text"  # what the one column of plain lines is called


class Table(NamedTuple):
    """A file's columns in its order (of JSON lines: those of the first record) and an iterator of
    its Records. `path` is what messages call it, and `head` where in it the columns are named."""

    path: str
    columns: list
    records: object
    head: str = ", line 1"


class Layout(NamedTuple):
    """Of TSV files. `columns` are those of files without a header: of all whose first line has
    none of the `names` of columns, in any case. Lines of another number of fields are added to
    `broken` and passed over, or an error where it is None."""

    columns: tuple = ()
    names: frozenset = frozenset()
    broken: list = None


PLAIN = Layout()


def rows(file, path, form, layout=PLAIN):
    """(columns, iterator of Record) of a binary file; columns of JSON lines are None. Raises
    UserError where no line names the columns."""
    kind = FORMATS[form]
    split_rows = kind.split(lines_of(file, path), path)
    columns = None if form == "jsonl" else [TEXT]
    if kind.header:
        first = next(split_rows, None)
        if first is None:
            fix = "download it again" if form == "tsv" else "its first line must name the columns"
            raise UserError(f"{path}: is empty; {fix}")
        if first.why:
            raise UserError(f"{path}, line {first.line}: {first.why}; {first.fix}")
        columns, named = first.values, {name.strip().lower() for name in first.values}
        if form == "tsv" and layout.columns and not named & layout.names:
            columns, split_rows = list(layout.columns), itertools.chain([first], split_rows)
        doubled = [name for name in columns if columns.count(name) > 1]
        if doubled:
            raise UserError(
                f"{path}, line {first.line}: the header must name one column {doubled[0]!r}, not "
                f"{columns.count(doubled[0])}; rename the others"
            )
    return columns, _named(split_rows, columns, form, layout.broken)


def rows_at(file, path, form, columns, place, line):
    """Iterator of Record from the one that begins at `place`, in that line; `columns` of `rows`."""
    file.seek(place)
    return _named(FORMATS[form].split(lines_of(file, path, place, line), path), columns, form)


def _named(split_rows, columns, form, broken=None):
    """The rows with their fields as {column: field}."""
    for row in split_rows:
        if row.why or form == "jsonl":
            yield row
        elif len(row.values) == len(columns):
            yield row._replace(values=dict(zip(columns, row.values)))
        elif broken is not None:
            broken.append(row.line)
        else:
            count, names = len(row.values), ("<TAB>" if form == "tsv" else ",").join(columns)[:100]
            why = f"{count} column{'s'[: count != 1]} instead of {len(columns)} ({names})"
            yield row._replace(why=why, fix="correct the line")


@contextlib.contextmanager
def reading(path, form, layout=PLAIN):
    """`with reading(path, "csv") as table:` the Table of a file, or of stdin for "-". Raises
    UserError, at once or with the record that is wrong, naming file and line."""
    if path != STDIN:
        check_readable(path)
    # Not sys.stdin: Python takes its lock when it exits, and a thread may still wait in it; and it
    # is None where standard input is closed.
    with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as file:
        path = "standard input" if path == STDIN else path
        columns, split_rows = rows(file, path, form, layout)
        records = _records(split_rows, path)
        if columns is None:
            first = next(records, None)
            if first is None:
                raise UserError(f"{path}: is empty; each line must be a JSON object")
            columns, records = list(first.values), itertools.chain([first], records)
        yield Table(path, columns, records)


def _records(split_rows, path):
    for row in split_rows:
        if row.why:
            raise UserError(f"{path}, line {row.line}: {row.why}; {row.fix}")
        yield row


def column(table, names, flag):
    """Of several names for one column, the first that the table has, as it is written there: as it
    stands, else in any case. Raises UserError if it has none of them."""
    for name in names:
        alike = [own for own in table.columns if own.strip().lower() == name.lower()]
        if name in table.columns or len(alike) == 1:
            return name if name in table.columns else alike[0]
    raise UserError(
        f"{table.path}{table.head}: has no column {' or '.join(map(repr, names))}, but "
        f"{some([str(own)[:30] for own in table.columns], 8)}; name the right one by {flag}"
    )


def text_of(record, name, path):
    """The text in a column of a Record. Raises UserError where JSON has none there."""
    value = record.values.get(name)
    if not isinstance(value, str):
        what = "has no" if name not in record.values else "has no text in"
        raise UserError(f"{path}, line {record.line}: {what} column {name!r}; correct the record")
    return value


class Writer:
    """Writes the records of a Table with their answers to `write`, a function of text."""

    def __init__(self, write, form, table, names):
        """`names` are those of the classes, in the model's order; () for a regression."""
        self._write, self._format, self._path = write, FORMATS[form], table.path
        self._regression = not names
        if self._regression:
            columns = ["score"]
        elif self._format.named:
            columns = ["label", *(f"probability_{name}" for name in names)]
        else:
            columns = ["label", "probability"]
        self._columns = names_beside(table.columns, columns) if self._format.named else columns
        if self._format.header:
            write(self._format.write({name: name for name in (*table.columns, *self._columns)}))

    def add(self, record, answer):
        """Write a Record with its classifier.Answer."""
        if self._format.named and (taken := set(self._columns) & set(record.values)):
            raise UserError(
                f"{self._path}, line {record.line}: has a column {min(taken)!r} that the first "
                "record has not, and the answers go by that name; rename it"
            )
        if self._regression:
            said = [answer.score]
        elif self._format.named:
            shares = answer.probabilities.values() or [None] * (len(self._columns) - 1)
            said = [answer.label, *shares]
        else:
            said = [answer.label, answer.probability]
        said = [round(x, 6) if isinstance(x, float) else x for x in said]
        pairs = [record.values.items(), zip(self._columns, said)]  # in lines the answer comes first
        pairs = pairs if self._format.named else reversed(pairs)
        self._write(self._format.write(dict(itertools.chain(*pairs))))


def names_beside(columns, names):
    """The same names, with predicted_ before them as often as it takes to collide with none."""
    names = list(names)
    while set(names) & set(columns):
        names = [f"predicted_{name}" for name in names]
    return names
