"""Tables of a corpus, cut into parts and read a part at a time.

A format is one row of FORMATS. Columns of Parquet and JSON lines keep their types; those of the
other formats are text."""

import contextlib
import csv
import itertools
import json
from typing import Callable, NamedTuple

from . import UserError, first_line, some
from .corpus_files import BLOCK, check_same, matching, opened, status
from .files import AGAIN, parse_json
from .records import TEXT, Layout, by_suffix

BATCH = 4096  # rows decoded at a time


class Span(NamedTuple):
    """Consecutive rows of a file. `start` is the number of the first, from 0. `place` tells where
    it is: bytes from the beginning of a text file, or in Parquet the row group. `line` of a text
    file is that of the first row, from 1."""

    start: int
    rows: int
    place: int
    line: int = 0


class Rows(NamedTuple):
    """Rows that were read: a pyarrow Table, what messages call each of its rows (a line of text, a
    row of Parquet), and (that, why) of those that could not be read."""

    table: object
    numbers: list
    bad: list


def find(patterns, asked=None):
    """(list of Input, their format) of paths, patterns, folders and URLs of them. Raises UserError
    where there are none, or their formats differ."""
    paths = list(dict.fromkeys(path for pattern in patterns for path in matching(pattern)))
    fix = f"say which it is with --input_format {'|'.join(FORMATS)}"
    forms = {path: asked or by_suffix(path, FORMATS, fix) for path in paths}
    for path, form in forms.items():
        if form != forms[paths[0]]:
            raise UserError(
                f"{path}: is {form}, but {paths[0]} is {forms[paths[0]]}; give files of one format "
                "to a run"
            )
    return [status(path) for path in paths], forms[paths[0]]


# --- text: lines, TSV, CSV, JSON lines


class _Bad(Exception):
    """Why a record cannot be read."""


def _lines(file, offset=0, line=1):
    """(line, offset, bytes with their end) from there on; a byte-order mark is left out."""
    file.seek(offset)
    for content in file:
        start, offset = offset, offset + len(content)
        if start == 0 and content.startswith(b"\xef\xbb\xbf"):
            content = content[3:]
        yield line, start, content
        line += 1


def _whole(lines):
    """Records of CSV: lines up to the one that closes the quotes. Blank lines hold none."""
    for line, offset, content in lines:
        while content.count(b'"') % 2:
            further = next(lines, None)
            if further is None:
                break
            content += further[2]
        if content.strip(b"\r\n"):
            yield line, offset, content


def _not_blank(lines):
    return (found for found in lines if found[2].strip())


def _without_blank_end(lines):
    blank = []
    for found in lines:
        if found[2].strip(b"\r\n"):
            yield from blank
            blank = []
            yield found
        else:
            blank.append(found)


def _text(content):
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise _Bad("not UTF-8") from None


def _split_line(content):
    return [_text(content).rstrip("\n").rstrip("\r")]


def _split_tsv(content):
    fields = _split_line(content)[0].split("\t")
    if any("\r" in field for field in fields):
        raise _Bad("a carriage return within the line")
    return fields


def _split_csv(content):
    try:
        return next(csv.reader([_text(content)], strict=True))
    except (csv.Error, StopIteration) as error:
        raise _Bad(f"not CSV ({first_line(error)})") from None


def _object(content):
    try:
        values = parse_json(content)
        json.dumps(values, allow_nan=False)
    except ValueError as error:
        raise _Bad(f"not JSON ({first_line(error)})") from None
    if not isinstance(values, dict):
        raise _Bad("not a JSON object")
    return values


class _Text(NamedTuple):
    """`records` makes records of lines, `split` fields of a record; `header`: the first names the
    columns."""

    records: Callable
    split: Callable
    header: bool


_LINES = _Text(iter, _split_line, header=False)
_TSV = _Text(_without_blank_end, _split_tsv, header=True)
_CSV = _Text(_whole, _split_csv, header=True)


def _scan_text(kind, file, path, part_rows, layout):
    records = kind.records(_lines(file))
    columns = [TEXT]
    if kind.header:
        first = next(records, None)
        if first is None:
            raise UserError(f"{path}: is empty; its first line must name the columns")
        columns, is_header = _header(first, kind, path, layout)
        records = records if is_header else itertools.chain([first], records)
    return _schema((name, "string") for name in columns), list(_spans(records, part_rows))


def _header(first, kind, path, layout):
    try:
        columns = kind.split(first[2])
    except _Bad as why:
        raise UserError(f"{path}, line {first[0]}: {why}; correct the line") from None
    named = {name.strip().lower() for name in columns}
    if kind is _TSV and layout.columns and not named >= set(layout.wanted):
        return list(layout.columns), False
    return columns, True


def _spans(records, part_rows):
    start = 0
    while chunk := list(itertools.islice(records, 1)):
        line, offset, _ = chunk[0]
        rows = 1 + sum(1 for _ in itertools.islice(records, part_rows - 1))
        yield Span(start, rows, offset, line)
        start += rows


def _read_text(kind, file, span, schema, columns):
    rows, numbers, bad = [], [], []
    records = kind.records(_lines(file, span.place, span.line))
    for line, _, content in itertools.islice(records, span.rows):
        try:
            fields = kind.split(content)
            if len(fields) != len(columns):
                count = f"{len(fields)} column{'s'[: len(fields) != 1]} instead of {len(columns)}"
                raise _Bad(f"{count} ({','.join(columns)[:100]})")
        except _Bad as why:
            bad.append((line, str(why)))
            continue
        rows.append(fields)
        numbers.append(line)
    return Rows(_table([dict(zip(columns, row)) for row in rows], schema), numbers, bad)


def _scan_json(file, path, part_rows, layout):
    """The types of columns are those of all lines together."""
    import pyarrow

    schema, spans, start, records = pyarrow.schema([]), [], 0, _not_blank(_lines(file))
    while chunk := list(itertools.islice(records, part_rows)):
        line, offset, _ = chunk[0]
        spans.append(Span(start, len(chunk), offset, line))
        start += len(chunk)
        values = []
        for _, _, content in chunk:
            with contextlib.suppress(_Bad):  # told when its part is run
                values.append(_object(content))
        names = dict.fromkeys(name for row in values for name in row)
        try:
            found = [
                (name, pyarrow.infer_type([row.get(name) for row in values])) for name in names
            ]
            found = [schema, pyarrow.schema(found)]
            schema = pyarrow.unify_schemas(found, promote_options="permissive")
        except (pyarrow.ArrowException, OverflowError) as error:
            raise UserError(
                f"{path}, lines {line} to {chunk[-1][0]}: a column holds values of several types "
                f"({first_line(error)}); make them one"
            ) from None
    return schema, spans


def _read_json(file, span, schema):
    rows, numbers, bad = [], [], []
    records = _not_blank(_lines(file, span.place, span.line))
    for line, _, content in itertools.islice(records, span.rows):
        try:
            rows.append(_object(content))
            numbers.append(line)
        except _Bad as why:
            bad.append((line, str(why)))
    return Rows(_table(rows, schema), numbers, bad)


def _table(rows, schema):
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema=schema)


def _schema(fields):
    import pyarrow

    return pyarrow.schema(list(fields))


# --- Parquet


def _scan_parquet(file, path, part_rows, layout):
    from pyarrow import parquet

    found = parquet.ParquetFile(file)
    groups = found.metadata
    sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
    return _schema((field.name, field.type) for field in found.schema_arrow), _cut(sizes, part_rows)


def _cut(sizes, part_rows):
    """Spans of row groups of these sizes: several together, or a large one in pieces."""
    spans, start = [], 0
    for group, size in enumerate(sizes):
        last = spans[-1] if spans else None
        if last and last.rows + size <= part_rows:
            spans[-1] = last._replace(rows=last.rows + size)
        else:
            pieces = -(-size // part_rows)
            ends = [size * piece // pieces for piece in range(pieces + 1)] if pieces else []
            spans += [Span(start + a, b - a, group) for a, b in zip(ends, ends[1:])]
        start += size
    return spans


def _read_parquet(file, span, schema):
    import pyarrow
    from pyarrow import parquet

    found = parquet.ParquetFile(file, buffer_size=BLOCK, page_checksum_verification=True)
    groups, sizes = range(found.metadata.num_row_groups), []
    sizes = [found.metadata.row_group(number).num_rows for number in groups]
    skip, end = span.start - sum(sizes[: span.place]), span.place
    while sum(sizes[span.place : end]) < skip + span.rows:
        end += 1
    batches, wanted = [], span.rows
    for batch in found.iter_batches(BATCH, range(span.place, end), use_threads=False):
        piece = batch.slice(skip, wanted)
        skip = max(0, skip - batch.num_rows)
        wanted -= piece.num_rows
        batches.append(piece)
        if not wanted:
            break
    table = pyarrow.Table.from_batches(batches, found.schema_arrow).cast(schema)
    return Rows(table, range(span.start, span.start + span.rows), [])


# --- formats


class Format(NamedTuple):
    """`scan` makes (pyarrow Schema, list of Span) of (file, path, most rows of a part, Layout);
    `read` the Rows of (file, Span, Schema). `unit` is what messages count."""

    suffixes: tuple
    scan: Callable
    read: Callable
    unit: str = "line"


def _text_format(kind, *suffixes):
    return Format(
        suffixes,
        lambda *given: _scan_text(kind, *given),
        lambda file, span, schema: _read_text(kind, file, span, schema, schema.names),
    )


FORMATS = {
    "parquet": Format((".parquet", ".pq"), _scan_parquet, _read_parquet, "row"),
    "csv": _text_format(_CSV, ".csv"),
    "tsv": _text_format(_TSV, ".tsv"),
    "jsonl": Format((".jsonl", ".json", ".ndjson"), _scan_json, _read_json),
    "lines": _text_format(_LINES, ".txt"),
}


def scan(known, form, part_rows, layout=None):
    """(pyarrow Schema, list of Span) of an Input. Raises UserError for a file that is not of that
    format."""
    with opened(known.path) as file:
        try:
            schema, spans = FORMATS[form].scan(file, known.path, part_rows, layout or Layout())
        except (OSError, ValueError) as error:  # pyarrow's are ValueErrors
            raise UserError(
                f"{known.path}: not a readable {form} file ({first_line(error)}); {AGAIN}"
            ) from None
    doubled = [name for name in schema.names if schema.names.count(name) > 1]
    if doubled:
        raise UserError(f"{known.path}: has several columns {some(doubled[:1])!r}; rename them")
    return schema, spans


def read(known, form, span, schema):
    """Rows of a Span of an Input, in memory. Raises UserError where the file is not the one that
    was planned, and ValueError or OSError for content that cannot be read."""
    check_same(known)
    with opened(known.path) as file:
        found = FORMATS[form].read(file, span, schema)
    check_same(known)
    if len(found.numbers) + len(found.bad) != span.rows:
        raise ValueError(f"{len(found.numbers) + len(found.bad)} rows instead of {span.rows}")
    return found
