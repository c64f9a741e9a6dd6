"""Tables of sentences: plain lines, TSV, CSV and JSON lines, read a record at a time, and written
with answers beside the columns.

A format is one row of FORMATS. Fields of the first three are text; JSON lines hold any value."""

import contextlib
import csv
import io
import json
import os
from typing import Callable, NamedTuple

from . import UserError, first_line, some
from .files import check_readable, parse_json

STDIN = "-"  # standard input, and standard output
TEXT = "text"  # what the one column of plain lines is called


class Record(NamedTuple):
    """`line` is its first line, counted from 1; `values` are {column: value}."""

    line: int
    values: dict


class Table(NamedTuple):
    """A file's columns in its order (of JSON lines: those of the first record) and an iterator of
    its Records. `path` is what messages call it, and `head` where in it the columns are named."""

    path: str
    columns: list
    records: object
    head: str = ", line 1"


class Layout(NamedTuple):
    """Of TSV files. `columns` are those of files without a header: of all whose first line does not
    name all of `wanted`, in any case. Lines of another number of fields are added to `broken` and
    passed over, or an error where it is None."""

    columns: tuple = ()
    wanted: tuple = ()
    broken: list = None


PLAIN = Layout()


def _read_lines(lines, path, layout):
    return [TEXT], (Record(line, {TEXT: text}) for line, text in _stripped(lines))


def _read_tsv(lines, path, layout):
    """Tabs apart and no quoting, as GLUE has it. Blank lines at the end are none."""
    rows = ((line, text.split("\t")) for line, text in _without_blank_end(_stripped(lines)))
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path}: is empty; download it again")
    columns, named = first[1], {name.strip().lower() for name in first[1]}
    if layout.columns and not named >= set(layout.wanted):
        columns, rows = list(layout.columns), _before(first, rows)
    return columns, _tsv_records(rows, columns, path, layout.broken)


def _tsv_records(rows, columns, path, broken):
    for line, row in rows:
        if len(row) != len(columns):
            if broken is not None:
                broken.append(line)
                continue
            raise UserError(
                f"{path}, line {line}: {len(row)} column{'s'[: len(row) != 1]} instead of "
                f"{len(columns)} ({'<TAB>'.join(columns)[:100]}); correct the line"
            )
        if any("\r" in field for field in row):
            raise UserError(
                f"{path}, line {line}: a carriage return within the line; write a blank for it"
            )
        yield Record(line, dict(zip(columns, row)))


def _read_csv(lines, path, layout):
    """RFC 4180, strictly; blank lines hold no record."""
    rows = _csv_rows(lines, path)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path}: is empty; its first line must name the columns")
    columns = first[1]

    def records():
        for line, row in rows:
            if len(row) != len(columns):
                raise UserError(
                    f"{path}, line {line}: {len(row)} column{'s'[: len(row) != 1]} instead of "
                    f"{len(columns)} ({','.join(columns)[:100]}); correct the record"
                )
            yield Record(line, dict(zip(columns, row)))

    return columns, records()


def _csv_rows(lines, path):
    reader = csv.reader((text for _, text in lines), strict=True)
    while True:
        line = reader.line_num + 1  # of the record that comes
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: a record that is not CSV ({first_line(error)}); "
                'fields with a comma, quote or line end stand in "...", quotes in them doubled'
            ) from None
        if row is None:
            return
        if row:
            yield line, row


def _read_jsonl(lines, path, layout):
    """An object a line; blank lines hold none."""
    records = _json_records(lines, path)
    first = next(records, None)
    if first is None:
        raise UserError(f"{path}: is empty; each line must be a JSON object")
    return list(first.values), _before(first, records)


def _json_records(lines, path):
    for line, text in lines:
        if not text.strip():
            continue
        try:
            values = parse_json(text.encode())
            json.dumps(values, allow_nan=False)
        except ValueError as error:
            raise UserError(
                f"{path}, line {line}: not JSON ({first_line(error)}); each line must be one object"
            ) from None
        if not isinstance(values, dict):
            raise UserError(f"{path}, line {line}: not a JSON object; write {{...}} a line")
        yield Record(line, values)


def _write_lines(values, answer):
    return "\t".join(map(_plain, (*answer.values(), *values.values()))) + "\n"


def _write_tsv(values, answer):
    return "\t".join(map(_plain, {**values, **answer}.values())) + "\n"


def _write_csv(values, answer):
    text = io.StringIO()
    # Python quotes a carriage return only where it is part of the line's end.
    csv.writer(text, lineterminator="\r\n").writerow(map(_plain, {**values, **answer}.values()))
    return text.getvalue()[:-2] + "\n"


def _write_jsonl(values, answer):
    return json.dumps({**values, **answer}, ensure_ascii=False) + "\n"


class Format(NamedTuple):
    """`read` makes (columns, records) of (numbered lines with their ends, path, Layout); `write`
    the text of a record's values and its answer's. `named`: columns have names, and the answer one
    for each class; a plain line has the label and its probability before it. `header`: the names
    stand in a line above."""

    suffixes: tuple
    read: Callable
    write: Callable
    named: bool
    header: bool


FORMATS = {
    "lines": Format((".txt",), _read_lines, _write_lines, named=False, header=False),
    "tsv": Format((".tsv",), _read_tsv, _write_tsv, named=True, header=True),
    "csv": Format((".csv",), _read_csv, _write_csv, named=True, header=True),
    "jsonl": Format(
        (".jsonl", ".json", ".ndjson"), _read_jsonl, _write_jsonl, named=True, header=False
    ),
}


def format_of(path, asked=None):
    """The name of a file's format: the one asked for, else by its suffix; stdin is lines. Raises
    UserError for a suffix that says nothing."""
    if asked or path == STDIN:
        return asked or "lines"
    return by_suffix(path, FORMATS, f"say which it is with --input_format {'|'.join(FORMATS)}")


def by_suffix(path, formats, fix):
    """The name of the one of `formats` (each with `suffixes`) that a path or URL ends in. Raises
    UserError, with how to fix it, where it is none of them."""
    suffix = os.path.splitext(path)[1].lower()
    for name, known in formats.items():
        if suffix in known.suffixes:
            return name
    raise UserError(f"{path}: its suffix names no format; {fix}")


def check(path, asked=None):
    """Raises UserError for a file that cannot be read or whose format nothing says."""
    format_of(path, asked)
    if path != STDIN:
        check_readable(path)


@contextlib.contextmanager
def reading(path, form, layout=PLAIN):
    """`with reading(path, "csv") as table:` the Table of a file, or of stdin for "-". Raises
    UserError, at once or with the record that is wrong, naming file and line."""
    if path == STDIN:
        # Not sys.stdin: Python takes its lock when it exits, and a thread may still wait in it; and
        # it is None where standard input is closed.
        with open(0, "rb", closefd=False) as file:
            yield _table(file, "standard input", form, layout)
        return
    check_readable(path)
    with open(path, "rb") as file:
        yield _table(file, path, form, layout)


def _table(file, path, form, layout):
    columns, records = FORMATS[form].read(_decoded(file, path), path, layout)
    doubled = [name for name in columns if columns.count(name) > 1]
    if doubled:
        raise UserError(
            f"{path}, line 1: the header must name one column {doubled[0]!r}, not "
            f"{columns.count(doubled[0])}; rename the others"
        )
    return Table(path, columns, records)


def _decoded(file, path):
    """(number, line with its end) of each line of a binary file."""
    for number, line in enumerate(file, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"{path}, line {number}: not UTF-8; convert the file, for example with iconv -t "
                "utf-8"
            ) from None


def _stripped(lines):
    for number, line in lines:
        yield number, line.rstrip("\n").rstrip("\r")


def _without_blank_end(lines):
    blank = []
    for number, line in lines:
        if line:
            yield from blank
            blank = []
            yield number, line
        else:
            blank.append((number, line))


def _before(first, others):
    yield first
    yield from others


def column(table, names, flag):
    """Of several names for one column, the first that the table has, as it is written there: as it
    stands, else in any case. Raises UserError if it has none of them."""
    for name in names:
        alike = [known for known in table.columns if known.strip().lower() == name.lower()]
        if name in table.columns or len(alike) == 1:
            return name if name in table.columns else alike[0]
    raise UserError(
        f"{table.path}{table.head}: has no column {' or '.join(map(repr, names))}, but "
        f"{some([str(known)[:30] for known in table.columns], 8)}; name the right one by {flag}"
    )


def text_of(record, name, path):
    """The text in a column of a Record. Raises UserError where JSON has none there."""
    value = record.values.get(name)
    if not isinstance(value, str):
        what = "has no" if name not in record.values else "has no text in"
        raise UserError(f"{path}, line {record.line}: {what} column {name!r}; correct the record")
    return value


def _plain(value):
    """As it stands in a format of text."""
    return f"{value:.6f}" if isinstance(value, float) else "" if value is None else value


class Writer:
    """Writes the records of a Table with their answers, in a format, to `write`, a function of
    text."""

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
            header = {name: name for name in (*table.columns, *self._columns)}
            write(self._format.write(header, {}))

    def add(self, record, answer):
        """Write a Record with its classifier.Answer."""
        if self._format.named and (taken := set(self._columns) & set(record.values)):
            raise UserError(
                f"{self._path}, line {record.line}: has a column {min(taken)!r} that the first "
                "record has not, and the answers go by that name; rename it"
            )
        values = [_rounded(value) for value in self._answer(answer)]
        self._write(self._format.write(record.values, dict(zip(self._columns, values))))

    def _answer(self, answer):
        if self._regression:
            return [answer.score]
        if not self._format.named:
            return [answer.label, answer.probability]
        shares = answer.probabilities.values() or [None] * (len(self._columns) - 1)
        return [answer.label, *shares]


def _rounded(value):
    return round(value, 6) if isinstance(value, float) else value


def names_beside(columns, names):
    """The same names, with predicted_ before them as often as it takes to collide with none."""
    names = list(names)
    while set(names) & set(columns):
        names = [f"predicted_{name}" for name in names]
    return names
