"""Tables of sentences: plain lines, TSV, CSV and JSON lines, read a record at a time, and written
with answers beside the columns.

A format is one row of FORMATS. Fields of the first three are text; JSON lines hold any value."""

import codecs
import contextlib
import csv
import io
import itertools
import json
import os
from collections import deque
from typing import Callable, NamedTuple

from ..base.errors import UserError, first_line, some
from ..base.files import check_readable, parse_json

STDIN = "-"  # standard input, and standard output
TEXT = "text"  # what the one column of plain lines is called


class Row(NamedTuple):
    """A record as it stands in a file: `line` is its first, from 1, and `place` the bytes before
    it. `values` are {column: value}; None where it cannot be read: `why`, and how to mend it."""

    line: int
    place: int
    values: object
    why: str = ""
    fix: str = ""


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
RECORD = 1 << 26  # bytes of a record of CSV at most: an open quote takes all that follows
NOT_UTF8 = (
    "not UTF-8",
    "convert the file: iconv -f cp1252 -t utf-8 FILE > NEW (cp1252 is what Windows writes in the "
    "West; name the file's own encoding)",
)
# How files begin that no format of text does: what each is and what to do.
_FOREIGN = {
    codecs.BOM_UTF32_LE: ("UTF-32", "convert it: iconv -f utf-32 -t utf-8 {0} > NEW"),
    codecs.BOM_UTF16_LE: ("UTF-16", "convert it: iconv -f utf-16 -t utf-8 {0} > NEW"),
    codecs.BOM_UTF16_BE: ("UTF-16", "convert it: iconv -f utf-16 -t utf-8 {0} > NEW"),
    b"PAR1": ("Parquet", "give it to run_aie_corpus.py, as .parquet"),
    b"\x1f\x8b": ("compressed", "unpack it: gunzip -c {0} > NEW"),
}


def _lines(file, path, place=0, line=1):
    """(number, place, content with its end) of the lines of a binary file that stands at `place`; a
    byte-order mark is left out."""
    for content in file:
        size = len(content)
        if place == 0:
            _check_text(content, path)
            content = content[3:] if content.startswith(codecs.BOM_UTF8) else content
        yield line, place, content
        place += size
        line += 1


def _check_text(content, path):
    for head, (what, fix) in _FOREIGN.items():
        if content.startswith(head):
            raise UserError(f"{path}: is {what}, not UTF-8 text; {fix.format(path)}")


def _text(content):
    """(text, why it is none and how to mend it). A byte that is not UTF-8 becomes half a surrogate
    pair, so that quotes and tabs beside it stay what they are."""
    try:
        return content.decode(), ()
    except UnicodeDecodeError:
        return content.decode(errors="surrogateescape"), NOT_UTF8


def _split_lines(lines, path):
    for line, place, content in lines:
        text, bad = _text(content)
        yield Row(line, place, [text.rstrip("\n").rstrip("\r")], *bad)


def _split_tsv(lines, path):
    """Tabs apart and no quoting, as GLUE has it. Blank lines at the end are none."""
    for row in _without_blank_end(_split_lines(lines, path)):
        fields, bad = row.values[0].split("\t"), row[3:]
        if not row.why and "\r" in row.values[0]:
            bad = "a carriage return within the line", "write a blank for it"
        yield Row(row.line, row.place, fields, *bad)


def _without_blank_end(rows):
    blank = []
    for row in rows:
        if row.values[0]:
            yield from blank
            blank = []
            yield row
        else:
            blank.append(row)


def _split_csv(lines, path):
    """RFC 4180, strictly; blank lines hold no record. Python's csv decides where a record ends. If
    it cannot read one, the first line of it is lost, and those that its open quote took are read
    once more: each may be a row."""
    csv.field_size_limit(max(RECORD, csv.field_size_limit()))  # from 128 KB on
    lines = ((line, place, *_text(content)) for line, place, content in lines)
    again, taken = deque(), []  # lines to be read once more, and those of this record

    def feed():
        size = 0
        # A record that would take a further line of `again` ends where the one before it did: in
        # an error. So no line is read a third time, and the work grows with the file alone.
        while not (taken and again):
            line = again.popleft() if again else next(lines, None)
            if line is None:
                return
            size = len(line[2]) + (size if taken else 0)
            taken.append(line)
            if size > RECORD and taken[1:]:
                raise UserError(
                    f"{path}, line {taken[0][0]}: a quote that opens there is not closed within "
                    f"{RECORD >> 20} MB; close it, or double it"
                )
            yield line[2]

    reader = csv.reader(feed(), strict=True)
    while True:
        taken.clear()
        bad = ()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            fields, bad = [], (_why_no_csv(error), _CSV_FIX)
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), strict=True)
        if fields is None:
            return
        bad = next((line[3] for line in taken if line[3]), bad)
        if fields or bad:
            yield Row(*taken[0][:2], fields, *bad)


_CSV_FIX = 'fields with a comma, quote or line end stand in "...", quotes in them doubled'


def _why_no_csv(error):
    if "new-line" in str(error):
        return "a record that is not CSV (a carriage return outside of quotes)"
    return f"a record that is not CSV ({first_line(error)})"


def _split_jsonl(lines, path):
    """An object a line; blank lines hold none."""
    for line, place, content in lines:
        if not content.strip():
            continue
        bad = ()
        try:
            values = parse_json(content)
            json.dumps(values, allow_nan=False)
            if not isinstance(values, dict):
                bad = "not a JSON object", "write {...} a line"
        except UnicodeDecodeError:
            bad = NOT_UTF8
        except ValueError as error:
            bad = f"not JSON ({first_line(error)})", "each line must be one object"
        yield Row(line, place, None if bad else values, *bad)


def rows(file, path, form, layout=PLAIN):
    """(columns, iterator of Row) of a binary file; columns of JSON lines are None. Raises UserError
    where no line names the columns."""
    kind = FORMATS[form]
    found = kind.split(_lines(file, path), path)
    columns = None if form == "jsonl" else [TEXT]
    if kind.header:
        first = next(found, None)
        if first is None:
            fix = "download it again" if form == "tsv" else "its first line must name the columns"
            raise UserError(f"{path}: is empty; {fix}")
        if first.why:
            raise UserError(f"{path}, line {first.line}: {first.why}; {first.fix}")
        columns, named = first.values, {name.strip().lower() for name in first.values}
        if form == "tsv" and layout.columns and not named >= set(layout.wanted):
            columns, found = list(layout.columns), itertools.chain([first], found)
        doubled = [name for name in columns if columns.count(name) > 1]
        if doubled:
            raise UserError(
                f"{path}, line {first.line}: the header must name one column {doubled[0]!r}, not "
                f"{columns.count(doubled[0])}; rename the others"
            )
    return columns, _named(found, columns, form, layout.broken)


def rows_at(file, path, form, columns, place, line):
    """Iterator of Row from the one that begins at `place`, in that line; `columns` as `rows` has
    them."""
    file.seek(place)
    return _named(FORMATS[form].split(_lines(file, path, place, line), path), columns, form)


def _named(found, columns, form, broken=None):
    """The rows with their fields as {column: field}."""
    for row in found:
        if row.why or form == "jsonl":
            yield row._replace(values=None) if row.why else row
        elif len(row.values) == len(columns):
            yield Row(row.line, row.place, dict(zip(columns, row.values)))
        elif broken is not None:
            broken.append(row.line)
        else:
            count, names = len(row.values), ("<TAB>" if form == "tsv" else ",").join(columns)[:100]
            why = f"{count} column{'s'[: count != 1]} instead of {len(columns)} ({names})"
            yield Row(row.line, row.place, None, why, "correct the line")


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
    """`split` makes Rows, their values a list of fields or an object, of (lines as _lines has them,
    path); `write` the text of a record's values and its answer's. `named`: columns have names, and
    the answer one for each class; a plain line has the label and its probability before it.
    `header`: the names stand in a line above."""

    suffixes: tuple
    split: Callable
    write: Callable
    named: bool
    header: bool


FORMATS = {
    "lines": Format((".txt",), _split_lines, _write_lines, named=False, header=False),
    "tsv": Format((".tsv",), _split_tsv, _write_tsv, named=True, header=True),
    "csv": Format((".csv",), _split_csv, _write_csv, named=True, header=True),
    "jsonl": Format(
        (".jsonl", ".json", ".ndjson"), _split_jsonl, _write_jsonl, named=True, header=False
    ),
}
_PACKED = {".gz": "gunzip -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k", ".zst": "unzstd"}


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
    if suffix in (".parquet", ".pq"):
        raise UserError(
            f"{path}: is Parquet, which only run_aie_corpus.py reads; give it there, or as CSV here"
        )
    if suffix in _PACKED:
        raise UserError(
            f"{path}: is compressed; unpack it with {_PACKED[suffix]}, or give it as Parquet to "
            "run_aie_corpus.py"
        )
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
    columns, found = rows(file, path, form, layout)
    records = _records(found, path)
    if columns is None:
        first = next(records, None)
        if first is None:
            raise UserError(f"{path}: is empty; each line must be a JSON object")
        columns, records = list(first.values), itertools.chain([first], records)
    return Table(path, columns, records)


def _records(found, path):
    for row in found:
        if row.why:
            raise UserError(f"{path}, line {row.line}: {row.why}; {row.fix}")
        yield Record(row.line, row.values)


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
