"""What the values of JSON lines are. A kind is one of the names below, [kind of a list's values] or
{key: kind}; each has one pyarrow type."""

import functools

from ..base.errors import first_line

NULL, BOOLEAN, TEXT, FLOAT = "null", "true or false", "text", "a fraction"
# as long as a float can hold, int64, and 38 digits
WHOLE = ("a whole number", "a whole number over 2^53", "a whole number over 2^63")
DEPTH = 100  # of lists and objects in each other: a schema of pyarrow's holds little more
_PLAIN = {type(None): NULL, bool: BOOLEAN, str: TEXT, float: FLOAT}


def _kind(value, depth=0):
    if depth > DEPTH:
        raise ValueError(f"nested more than {DEPTH} deep")
    if isinstance(value, list):
        return [functools.reduce(_widen, (_kind(one, depth + 1) for one in value), NULL)]
    if isinstance(value, dict):
        return {name: _kind(one, depth + 1) for name, one in value.items()}
    if type(value) is int:
        if abs(value) >= 10**38:
            raise ValueError("a whole number of more than 38 digits")
        return WHOLE[(abs(value) > 1 << 53) + (not -(1 << 63) <= value < 1 << 63)]
    return _PLAIN[type(value)]


def _widen(before, kind):
    """The kind that holds values of both. Raises ValueError where there is none."""
    if before == kind or kind == NULL:
        return before
    if before == NULL:
        return kind
    if isinstance(before, list) and isinstance(kind, list):
        return [_widen(before[0], kind[0])]
    if isinstance(before, dict) and isinstance(kind, dict):
        return {
            name: _widen(before.get(name, NULL), kind.get(name, NULL)) for name in before | kind
        }
    if before in WHOLE and kind in WHOLE:
        return max(before, kind, key=WHOLE.index)
    if FLOAT in (before, kind) and WHOLE[0] in (before, kind):
        return FLOAT
    raise ValueError(f"{_named(kind)}, but {_named(before)} in lines before")


def _named(kind):
    return kind if isinstance(kind, str) else "a list" if isinstance(kind, list) else "an object"


def join(kinds, row):
    """(the Record, {key: kind} that holds it too); where none does the Record says why, and the
    kinds are as they were."""
    grown, name = dict(kinds), ""
    try:
        for name, value in row.values.items():
            grown[name] = _widen(kinds.get(name, NULL), _kind(value))
    except (ValueError, RecursionError) as error:
        why = f"key {name[:50]!r} is {first_line(error)}"
        return row._replace(values=None, why=why, fix="give it one type"), kinds
    return row, grown


def type_of(kind):
    import pyarrow

    if isinstance(kind, list):
        return pyarrow.list_(type_of(kind[0]))
    if isinstance(kind, dict):
        return pyarrow.struct([(name, type_of(one)) for name, one in kind.items()])
    whole = dict(zip(WHOLE, (pyarrow.int64(), pyarrow.int64(), pyarrow.decimal128(38))))
    others = (pyarrow.null(), pyarrow.bool_(), pyarrow.string(), pyarrow.float64())
    return {**whole, **dict(zip((NULL, BOOLEAN, TEXT, FLOAT), others))}[kind]


def kind_of(column):
    """The widest kind whose type_of it is."""
    from pyarrow import types

    if types.is_list(column):
        return [kind_of(column.value_type)]
    if types.is_struct(column):
        return {field.name: kind_of(field.type) for field in column}
    kinds = (*reversed(WHOLE), *_PLAIN.values())
    return next((kind for kind in kinds if type_of(kind) == column), NULL)  # of a folder's key
