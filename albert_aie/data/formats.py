"""Formats of text: how records of plain lines, TSV, CSV and JSON lines are read and written.

A format is one row of FORMATS, for both scripts. Fields of the first three are text; JSON lines
hold any value."""

import codecs
import csv
import io
import json
import os
from collections import deque
from typing import Callable, NamedTuple

from ..base.errors import UserError, first_line
from ..base.files import parse_json

STDIN = "-"  # standard input, and standard output


class Record(NamedTuple):
    """As it stands in a file: `line` is its first, from 1, and `place` the bytes before it.
    `values` are {column: value}, but of one that cannot be read: `why`, and how to mend it."""

    line: int
    values: object
    place: int = 0
    why: str = ""
    fix: str = ""


RECORD = 1 << 26  # bytes of a record of CSV at most: an open quote takes all that follows
NOT_UTF8 = (
    "not UTF-8",
    "convert the file: iconv -f cp1252 -t utf-8 FILE > NEW (cp1252 is what Windows writes in the "
    "West; name the file's own encoding)",
)
_RETURN = (
    "a carriage return within the line",
    "write a blank for it, or a line end where one is meant: tr '\\r' '\\n' < FILE > NEW",
)
# How files begin that no format of text does: what each is and what to do.
_FOREIGN = {
    codecs.BOM_UTF32_LE: ("UTF-32", "convert it: iconv -f utf-32 -t utf-8 {0} > NEW"),
    codecs.BOM_UTF16_LE: ("UTF-16", "convert it: iconv -f utf-16 -t utf-8 {0} > NEW"),
    codecs.BOM_UTF16_BE: ("UTF-16", "convert it: iconv -f utf-16 -t utf-8 {0} > NEW"),
    b"PAR1": ("Parquet", "give it to run_aie_corpus.py, as .parquet"),
    b"\x1f\x8b": ("compressed", "unpack it: gunzip -c {0} > NEW"),
    b"BZh91AY&SY": ("compressed", "unpack it: bunzip2 -c {0} > NEW"),
    b"\xfd7zXZ\0": ("compressed", "unpack it: unxz -c {0} > NEW"),
    b"\x28\xb5\x2f\xfd": ("compressed", "unpack it: unzstd -c {0} > NEW"),
    b"PK\x03\x04": ("a zip file, as .xlsx is too", "unpack it, or save the table as CSV"),
}


def lines_of(file, path, place=0, line=1):
    """(number, place, content with its end) of the lines of a binary file that stands at `place`; a
    byte-order mark is left out."""
    for content in file:
        size = len(content)
        if place == 0:
            if b"\0" in content[:2]:  # what a text of Latin letters has, without a byte-order mark
                form = "utf-16be" if content[:1] == b"\0" else "utf-16le"
                fix = f"convert it: iconv -f {form} -t utf-8 {path} > NEW"
                raise UserError(f"{path}: is UTF-16 or binary, not UTF-8 text; {fix}")
            for head, (what, fix) in _FOREIGN.items():
                if content.startswith(head):
                    raise UserError(f"{path}: is {what}, not UTF-8 text; {fix.format(path)}")
            content = content[3:] if content.startswith(codecs.BOM_UTF8) else content
        yield line, place, content
        place += size
        line += 1


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
        text = text.rstrip("\n").rstrip("\r")
        if not bad and "\r" in text:
            bad = _RETURN
        yield Record(line, [text], place, *bad)


def _split_tsv(lines, path):
    """Tabs apart and no quoting, as GLUE has it. Blank lines at the end are none."""
    for record in _without_blank_end(_split_lines(lines, path)):
        yield record._replace(values=record.values[0].split("\t"))


def _without_blank_end(records):
    blank = []
    for record in records:
        blank.append(record)
        if record.values[0]:
            yield from blank
            blank = []


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
            why = first_line(error)
            if "new-line" in why:
                why = "a carriage return outside of quotes"
            fields, bad = [], (f"a record that is not CSV ({why})", _CSV_FIX)
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), strict=True)
        if fields is None:
            return
        bad = next((line[3] for line in taken if line[3]), bad)
        if fields or bad:
            line, place, *_ = taken[0]
            yield Record(line, fields, place, *bad)


_CSV_FIX = 'fields with a comma, quote or line end stand in "...", quotes in them doubled'


def _split_jsonl(lines, path):
    """An object a line; blank lines hold none."""
    for line, place, content in lines:
        if not content.strip():
            continue
        bad = ()
        try:
            values = parse_json(content, _object)
            json.dumps(values, allow_nan=False)
            if not isinstance(values, dict):
                bad = "not a JSON object", "write {...} a line"
        except UnicodeDecodeError:
            bad = NOT_UTF8
        except ValueError as error:
            bad = f"not JSON ({first_line(error)})", "each line must be one object"
        yield Record(line, None if bad else values, place, *bad)


def _object(pairs):
    """A JSON object, of whose values none is lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return values


def _plain(value):
    """As it stands in a format of text."""
    return f"{value:.6f}" if isinstance(value, float) else "" if value is None else value


def _write_tabs(values):
    return "\t".join(map(_plain, values.values())) + "\n"


def _write_csv(values):
    text = io.StringIO()
    # Python quotes a carriage return only where it is part of the line's end.
    csv.writer(text, lineterminator="\r\n").writerow(map(_plain, values.values()))
    return text.getvalue()[:-2] + "\n"


def _write_jsonl(values):
    return json.dumps(values, ensure_ascii=False) + "\n"


class Format(NamedTuple):
    """`split` makes Records, their values a list of fields or an object, of (lines as lines_of has
    them, path); `write` the text of {column: value}. `named`: columns have names, and the answer
    one for each class; a plain line has the label and its probability before it. `header`: the
    names stand in a line above."""

    suffixes: tuple
    split: Callable
    write: Callable
    named: bool = True
    header: bool = False


FORMATS = {
    "lines": Format((".txt",), _split_lines, _write_tabs, named=False),
    "tsv": Format((".tsv",), _split_tsv, _write_tabs, header=True),
    "csv": Format((".csv",), _split_csv, _write_csv, header=True),
    "jsonl": Format((".jsonl", ".json", ".ndjson"), _split_jsonl, _write_jsonl),
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
    for name, form in formats.items():
        if suffix in form.suffixes:
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
