"""Tables of a corpus, cut into parts and read a part at a time.

Text is read as run_aie_eval.py reads it, in the formats of data/formats.py. Columns of Parquet and
JSON lines keep their types; those of the other formats are text."""

import itertools
from functools import partial
from typing import Callable, NamedTuple

from ..base.errors import WHY, UserError, refusing, some
from ..base.files import AGAIN
from ..data import formats, records
from . import json_types
from .urls import BLOCK, check_same, identity, matching, opened, partition, status

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


class Cut(NamedTuple):
    """How a corpus is cut into Spans: of at most `rows` rows; TSV by the records.Layout; whether
    rows that cannot be read are `skipped`, else they are an error."""

    rows: int
    layout: records.Layout = records.PLAIN
    skipped: bool = False


def find(patterns, asked=None, note=lambda text: None):
    """(list of Input, their format) of paths, patterns, folders and URLs of them. A file of several
    names is read once, and `note` is given a sentence that says so. Raises UserError where there
    are none, or their formats differ."""
    paths = {}
    for path in itertools.chain.from_iterable(map(matching, patterns)):
        first = paths.setdefault(identity(path), path)
        if first != path:
            note(f"{path}: is {first} by another name; it is read once")
    paths = list(paths.values())
    fix = f"say which it is with --input_format {'|'.join(FORMATS)}"
    forms = {path: asked or formats.by_suffix(path, FORMATS, fix) for path in paths}
    for path, form in forms.items():
        if form != forms[paths[0]]:
            raise UserError(
                f"{path}: is {form}, but {paths[0]} is {forms[paths[0]]}; give files of one format "
                "to a run"
            )
    return [status(path) for path in paths], forms[paths[0]]


# --- text: lines, TSV, CSV, JSON lines


def _scan_text(form, file, path, cut, kinds):
    import pyarrow

    columns, rows = records.rows(file, path, form, cut.layout)
    starts, count = [], 0
    for row in rows:
        if columns is None and not row.why:
            row, grown = json_types.join(kinds, row)
            kinds.update(grown)
        if row.why and not cut.skipped:
            raise UserError(
                f"{path}, line {row.line}: {row.why}; {row.fix}, or take --on_bad_row skip"
            )
        if count % cut.rows == 0:
            starts.append((count, row.place, row.line))
        count += 1
    ends = [start for start, _, _ in starts[1:]] + [count]
    spans = [Span(start, end - start, *rest) for (start, *rest), end in zip(starts, ends)]
    kinds = kinds if columns is None else dict.fromkeys(columns, json_types.TEXT)
    return pyarrow.schema([(name, json_types.type_of(kind)) for name, kind in kinds.items()]), spans


def _read_text(form, file, path, span, schema, columns):
    import pyarrow

    values, numbers, bad = [], [], []
    kinds = {field.name: json_types.kind_of(field.type) for field in schema}
    rows = records.rows_at(file, path, form, columns, span.place, span.line)
    for row in itertools.islice(rows, span.rows):
        if form == "jsonl" and not row.why:
            row, grown = json_types.join(kinds, row)
            if grown != kinds:  # only where the file is not the one that was planned
                row = row._replace(why=row.why or "values of other types than were planned")
        if row.why:
            bad.append((row.line, row.why))
        else:
            values.append(row.values)
            numbers.append(row.line)
    return Rows(pyarrow.Table.from_pylist(values, schema=schema), numbers, bad)


# --- Parquet


def _scan_parquet(file, path, cut, kinds):
    import pyarrow
    from pyarrow import parquet

    reader = parquet.ParquetFile(file)
    fields = [(field.name, _without_views(field.type)) for field in reader.schema_arrow]
    return pyarrow.schema(fields), _cut(_group_sizes(reader), cut.rows)


def _group_sizes(reader):
    """Rows of each row group."""
    groups = reader.metadata
    return [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]


def _without_views(column):
    """The type, and string for string_view, which Polars writes and Parquet's writer lacks."""
    import pyarrow
    from pyarrow import types

    if types.is_list(column) or types.is_large_list(column):
        make = pyarrow.list_ if types.is_list(column) else pyarrow.large_list
        return make(column.value_field.with_type(_without_views(column.value_type)))
    if types.is_string_view(column):
        return pyarrow.string()
    return pyarrow.binary() if types.is_binary_view(column) else column


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


def _read_parquet(file, path, span, schema, columns):
    import pyarrow
    from pyarrow import parquet

    reader = parquet.ParquetFile(file, buffer_size=BLOCK, page_checksum_verification=True)
    sizes = _group_sizes(reader)
    skip, end = span.start - sum(sizes[: span.place]), span.place
    while sum(sizes[span.place : end]) < skip + span.rows:
        end += 1
    batches, wanted = [], span.rows
    for batch in reader.iter_batches(BATCH, range(span.place, end), use_threads=False):
        piece = batch.slice(skip, wanted)
        skip = max(0, skip - batch.num_rows)
        wanted -= piece.num_rows
        batches.append(piece)
        if not wanted:
            break
    table = pyarrow.Table.from_batches(batches)
    own_columns = set(table.column_names)
    arrays = [
        table.column(field.name).cast(field.type)
        if field.name in own_columns
        else pyarrow.nulls(table.num_rows)
        for field in schema
    ]
    table = pyarrow.Table.from_arrays(arrays, schema=schema)
    return Rows(table, range(span.start, span.start + table.num_rows), [])


# --- formats


class Format(NamedTuple):
    """`scan` makes (pyarrow Schema, list of Span) of (file, path, Cut, {key: kind} of JSON lines so
    far, which it adds to); `read` the Rows of (file, path, Span, Schema, the file's columns).
    `unit` is what messages count."""

    suffixes: tuple
    scan: Callable
    read: Callable
    unit: str = "line"


FORMATS = {
    "parquet": Format((".parquet", ".pq"), _scan_parquet, _read_parquet, "row"),
    **{
        name: Format(known.suffixes, partial(_scan_text, name), partial(_read_text, name))
        for name, known in sorted(formats.FORMATS.items())
    },
}


def scan(source, form, cut, kinds):
    """(pyarrow Schema, list of Span) of an Input; `kinds` as Format has them. Raises UserError for
    a file that is not of that format, and for a row that cannot be read where none is skipped."""
    message = f"{source.path}: not a readable {form} file ({WHY}); {AGAIN}"
    # pyarrow's are ValueErrors
    with opened(source.path) as file, refusing(message, OSError, ValueError):
        schema, spans = FORMATS[form].scan(file, source.path, cut, kinds)
    doubled = [name for name in schema.names if schema.names.count(name) > 1]
    if doubled:
        raise UserError(f"{source.path}: has several columns {some(doubled[:1])!r}; rename them")
    return schema, spans


def read(source, form, span, schema, columns):
    """Rows of a Span of an Input, in memory, with the `schema` of the plan; `columns` are those of
    the file. Raises UserError where the file is not the one that was planned, and ValueError or
    OSError for content that cannot be read."""
    import pyarrow

    check_same(source)
    folders = partition(source.path)
    own = pyarrow.schema([field for field in schema if field.name not in folders])
    with opened(source.path) as file:
        rows = FORMATS[form].read(file, source.path, span, own, columns)
    check_same(source)
    if len(rows.numbers) + len(rows.bad) != span.rows:
        raise ValueError(f"{len(rows.numbers) + len(rows.bad)} rows instead of {span.rows}")
    table = rows.table
    for field in schema:
        if field.name in folders:
            value = pyarrow.scalar(folders[field.name]).cast(field.type)
            table = table.append_column(field, pyarrow.repeat(value, table.num_rows))
    return rows._replace(table=table.select(schema.names))
