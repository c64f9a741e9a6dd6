"""What a figure is, and JSON Schema in few words: each row of figures brings that of its keys."""

from typing import Callable, NamedTuple


class Figure(NamedTuple):
    """`values` makes keys of eval.json from a Scored, `line` the text to print from all of
    eval.json, "" where there is nothing to say; `schema` is {key: JSON Schema}, of which `optional`
    keys may be missing. Lines of rows that are `detail` stand on the page of --report alone;
    `timed` ones are not of answers that were computed elsewhere."""

    name: str
    values: Callable
    line: Callable
    schema: dict
    optional: tuple = ()
    detail: bool = False
    timed: bool = False


NUMBER, INTEGER, TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}
NUMBER_OR_NULL, INTEGER_OR_NULL = {"type": ["number", "null"]}, {"type": ["integer", "null"]}
TEXT_OR_NULL, BOOLEAN = {"type": ["string", "null"]}, {"type": "boolean"}
POSITIVE, SHA256 = {"type": "number", "minimum": 0}, {**TEXT, "pattern": "^[0-9a-f]{64}$"}


def whole(least, description=None):
    return described({**INTEGER, "minimum": least}, description)


def described(schema, description):
    return {"description": description, **schema} if description else schema


def array(items, description=None, **limits):
    return described({"type": "array", "items": items, **limits}, description)


def record(properties, description=None, optional=()):
    """An object of these keys and no others."""
    schema = {"type": "object", "properties": properties}
    required = [key for key in properties if key not in optional]
    return described({**schema, "required": required, "additionalProperties": False}, description)


COMPARISON = record(
    {
        **dict.fromkeys(("passed", "regression"), BOOLEAN),
        **dict.fromkeys(("precision", "reference", "tokenizer"), TEXT),
        **dict.fromkeys(("sentences", "not_finite", "other_ids", "flips"), whole(0)),
        **dict.fromkeys(("allowed_flips", "allowed_ties"), whole(0)),
        **dict.fromkeys(("max_abs", "mean_abs", "worst_cosine"), NUMBER_OR_NULL),
        **dict.fromkeys(("value", "reference_value"), NUMBER_OR_NULL),
        "metric": TEXT_OR_NULL,
        "relative": described(
            NUMBER_OR_NULL,
            "||got - reference|| / ||reference|| of centred logits; null: not finite",
        ),
        "ties": whole(
            0,
            "labels that differ where the reference's two largest logits are as good as equal; not "
            "in flips",
        ),
        "settled": described(
            NUMBER_OR_NULL, "value with the reference's labels at ties; null: no ties, or no labels"
        ),
        "gate": record(
            {"relative": NUMBER_OR_NULL, **dict.fromkeys(("flips", "loss", "ties"), NUMBER)}
        ),
    },
    "the verdict of --compare_cpu, as --compare_output writes it; missing without it",
)


def schema_of(figures, version):
    """The JSON Schema of eval.json with the keys of these Figures."""
    properties = {"schema_version": {"description": "of this schema", "const": version}}
    for figure in figures:
        properties.update(figure.schema)
    manifest = "the file's own description: docs/file-format.md"
    properties["manifest"] = {"description": manifest, "type": "object"}
    properties["comparison"] = COMPARISON
    optional = {key for figure in figures for key in figure.optional} | {"comparison"}
    timed = [key for figure in figures if figure.timed for key in figure.schema]
    always = [key for key in timed if key not in optional]
    rates = [
        {"required": [rate, *always], "not": {"required": ["om"]}}
        for rate in ("samples_per_second", "sentences_per_second")
    ]
    elsewhere = {"anyOf": [{"required": [key]} for key in timed]}
    rates.append({"required": ["om"], "not": elsewhere})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "eval.json of run_aie_eval.py",
        "description": "Times are seconds unless a key ends in _ms; sizes are bytes. A number that "
        "is not finite is null.",
        **record(properties, optional=optional | set(timed)),
        "oneOf": rates,
    }
