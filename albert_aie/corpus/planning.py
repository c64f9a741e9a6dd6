"""The plan of a run over a corpus: its input in parts, decided and written before anything runs, so
that every row stands in exactly one part whatever becomes of the run."""

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ..base.errors import WHY, UserError, refusing
from ..base.files import check_readable, write_text
from . import reading
from .reading import Span
from .urls import Input, identity, partition, would_read

# Readers of a folder of Parquet pass over names that begin with _.
NAME = "_plan.json"
VERSION = 2
PART_ROWS = 32768  # a few minutes of work on a slow device, a few MB in memory


class Part(NamedTuple):
    """Rows of one file that become one file."""

    number: int
    input: int
    span: Span


@dataclass(frozen=True)
class Plan:
    """`settings` is what the output depends on beside the input; `columns` are the names in each
    file, in its order; `encoded` is the pyarrow Schema of all, in base64: what pyarrow reads of it
    need not serialize to the same bytes."""

    settings: dict
    inputs: list
    columns: list
    encoded: str
    parts: list

    @property
    def schema(self):
        import pyarrow

        return pyarrow.ipc.read_schema(pyarrow.py_buffer(base64.b64decode(self.encoded)))

    @property
    def rows(self):
        return sum(part.span.rows for part in self.parts)

    @property
    def bytes(self):
        return sum(source.bytes for source in self.inputs)

    @cached_property  # each part asks for it
    def digest(self):
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()

    def content(self):
        """As JSON has it."""
        parts = [[part.number, part.input, *part.span] for part in self.parts]
        content = {"settings": self.settings, "inputs": self.inputs, "columns": self.columns}
        return {**content, "schema": self.encoded, "parts": parts}

    def path_of(self, part):
        """Of the input that a Part is of."""
        return self.inputs[part.input].path

    def describe(self, part):
        """A Part, for messages."""
        unit = reading.FORMATS[self.settings["format"]].unit
        first = part.span.line or part.span.start
        return f"{self.path_of(part)}, {part.span.rows:,} rows from {unit} {first}"

    def describe_row(self, part, number):
        """A row of a Part, for messages."""
        unit = reading.FORMATS[self.settings["format"]].unit
        return f"{self.path_of(part)}, {unit} {number}"


def make(inputs, form, cut):
    """Plan of a list of Input, by a reading.Cut, without settings. Raises UserError for files
    that cannot be read, that differ in their columns, or whose columns no Parquet file takes."""
    import pyarrow
    from pyarrow import parquet

    schema, columns, parts, kinds = None, [], [], {}
    folders = _partitions(inputs)
    for number, source in enumerate(inputs):
        whole, spans = reading.scan(source, form, cut, kinds)
        columns.append(whole.names)
        for name in folders.keys() & set(whole.names):
            raise UserError(
                f"{source.path}: has a column {name!r}, and folders are called {name}=... ; rename "
                "one of them"
            )
        added = pyarrow.schema([field for field in whole if field.name not in folders])
        joined = added if schema is None or form == "jsonl" else _joined(schema, added)
        if joined is None:
            raise UserError(
                f"{source.path}: has columns ({_columns(added)}), but {inputs[0].path} "
                f"({_columns(schema)}); give files of the same columns and types to a run"
            )
        schema = joined
        parts += [Part(len(parts) + i, number, span) for i, span in enumerate(spans)]
    if not parts:
        raise UserError(f"{inputs[0].path}: holds no row; give files that do")
    for name, kind in folders.items():
        schema = schema.append(pyarrow.field(name, kind))
    message = f"{inputs[0].path}: Parquet cannot hold its columns ({WHY}); leave that one out"
    with refusing(message, pyarrow.ArrowException, NotImplementedError):
        parquet.ParquetWriter(pyarrow.BufferOutputStream(), schema).close()
    encoded = base64.b64encode(schema.serialize().to_pybytes()).decode()
    return Plan({}, inputs, columns, encoded, parts)


def _partitions(inputs):
    """{key: its type} of the folders of all inputs that are called key=value, as pyarrow.dataset
    has it: int32 where all values are such numbers."""
    import pyarrow

    values, folders = {}, {}
    for source in inputs:
        for key, value in partition(source.path).items():
            message = f"{source.path}: the folder {key}={value}, which is a column, is not UTF-8"
            with refusing(f"{message}; rename it", UnicodeEncodeError):
                f"{key}{value}".encode()
            values.setdefault(key, []).append(value)
    for key, texts in values.items():
        folders[key] = pyarrow.int32()
        try:
            pyarrow.array(texts).cast(pyarrow.int32())
        except pyarrow.ArrowInvalid:
            folders[key] = pyarrow.string()
    return folders


def _joined(schema, added):
    """The Schema of both, whose columns may stand in another order; None where there is none that
    holds the values of both as they are."""
    import pyarrow
    from pyarrow import types

    if set(schema.names) != set(added.names):
        return None
    try:
        both = pyarrow.unify_schemas([schema, added], promote_options="permissive")
    except pyarrow.ArrowException:
        return None
    bytes_ = (pyarrow.binary(), pyarrow.large_binary())

    def is_held(one, other):
        """Whether values of a type are what they were in the other."""
        if one == other or types.is_null(one):
            return True
        rounded = types.is_integer(one) and types.is_floating(other)
        return not (rounded or types.is_uint64(one) or other in bytes_)

    pairs = [(one.field(field.name).type, field.type) for field in both for one in (schema, added)]
    return both if all(is_held(*pair) for pair in pairs) else None


def _columns(schema):
    return ", ".join(f"{field.name} {field.type}" for field in schema)[:200]


def save(plan, folder):
    """Write it, whole or not at all."""
    content = {"version": VERSION, "sha256": plan.digest, **plan.content()}
    write_text(Path(folder) / NAME, json.dumps(content))


def load(folder):
    """The Plan in a folder; None where there is none. Raises UserError for one that was changed."""
    path = Path(folder) / NAME
    if not path.exists():
        return None
    other = "it was changed, or another version wrote it: take another --output_dir"
    check_readable(path)
    # not read_json, which refuses what stands for a byte of a file's name that is no UTF-8
    with refusing(f"{path}: not a readable JSON file ({WHY}); {other}", ValueError):
        content = json.loads(path.read_bytes())
    try:
        parts = [Part(number, file, Span(*span)) for number, file, *span in content["parts"]]
        inputs = [Input(*source) for source in content["inputs"]]
        plan = Plan(content["settings"], inputs, content["columns"], content["schema"], parts)
        whole = content["version"] == VERSION and content["sha256"] == plan.digest
    except (LookupError, TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path}: is not a plan as it was written; {other}")
    return plan


def check_inputs(plan, inputs):
    """Raises UserError where the files that are there are not those of the Plan."""
    for before, source in zip(plan.inputs, inputs):
        if before.path == source.path and before != source:
            raise UserError(
                f"{source.path}: changed since the run in --output_dir was planned; put the file "
                "back, or take another --output_dir"
            )
    planned, given = ({source.path for source in each} for each in (plan.inputs, inputs))
    if planned != given:
        path = min(planned ^ given)
        what = "is gone since" if path in planned else "is no file of"
        raise UserError(
            f"{path}: {what} the run in --output_dir; give the same files, or take another "
            "--output_dir"
        )


def check_settings(plan, settings):
    """Raises UserError where the run in the folder was begun with other settings."""
    for name, value in settings.items():
        if plan.settings.get(name) != value:
            raise UserError(
                f"--output_dir holds a run with another {name} ({plan.settings.get(name)}, not "
                f"{value}); run it as it was begun, or take another folder"
            )


def check_not_read(folder, patterns):
    """Raises UserError for an output folder whose parts an input's pattern finds: the next run
    would take what this one wrote for more of it."""
    part = os.path.join(os.path.realpath(folder), "part.parquet")
    for pattern in patterns:
        if would_read(pattern, part):
            raise UserError(
                f"--output_dir {folder}: lies in {pattern}, whose files are all read; take "
                "another folder"
            )


def check_outside(inputs, folder):
    """Raises UserError for an input that lies in the output folder."""
    inside = os.path.realpath(folder) + os.sep
    for source in inputs:
        if identity(source.path).startswith(inside):
            raise UserError(
                f"--output_dir {folder}: holds the input {source.path}; take another folder"
            )


def check_text(plan, columns):
    """Raises UserError for a column of sentences that holds no text."""
    import pyarrow

    for name in columns:
        kind = plan.schema.field(name).type
        inner = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not (pyarrow.types.is_string(inner) or pyarrow.types.is_large_string(inner)):
            raise UserError(
                f"{plan.inputs[0].path}: column {name!r} is {kind}, not text; name another one by "
                "--text_column"
            )
