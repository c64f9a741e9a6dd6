"""The JSON Schema of eval.json. `python -m albert_aie.report.schema` writes eval.schema.json."""

from ..base.files import json_text
from .results import SCHEMA, SCHEMA_VERSION
from .setting import NAMED

NUMBER, INTEGER, TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}
NUMBER_OR_NULL, INTEGER_OR_NULL = {"type": ["number", "null"]}, {"type": ["integer", "null"]}
TEXT_OR_NULL, BOOLEAN = {"type": ["string", "null"]}, {"type": "boolean"}
POSITIVE, SHA256 = {"type": "number", "minimum": 0}, {**TEXT, "pattern": "^[0-9a-f]{64}$"}
SHARE = {**POSITIVE, "maximum": 1}


def whole(least, description=None):
    return described({**INTEGER, "minimum": least}, description)


def described(schema, description):
    return {"description": description, **schema} if description else schema


def array(items, description=None, **limits):
    return described({"type": "array", "items": items, **limits}, description)


def mapping(values, description, **more):
    """An object of any keys."""
    return described({"type": "object", "additionalProperties": values, **more}, description)


def record(properties, description=None, optional=()):
    """An object of these keys and no others."""
    schema = {"type": "object", "properties": properties}
    required = [key for key in properties if key not in optional]
    return described({**schema, "required": required, "additionalProperties": False}, description)


_RATES = {
    "forward": described(NUMBER, "sentences scored / seconds in which a batch was computed"),
    "end_to_end": described(
        NUMBER, "sentences scored / seconds from the first sentence to the last prediction"
    ),
}
_SHAPE = {
    **{"batch_size": whole(1), "max_seq_length": whole(3), "slots": whole(0), "batches": whole(1)},
    "forward_ms": record(dict.fromkeys(("p50", "p90", "p99"), POSITIVE)),
}
_UNSCORED = {
    "index": {"type": ["string", "integer"]},
    "sentence": {"anyOf": [TEXT, array(TEXT, minItems=2, maxItems=2)]},
}
_STAGES = ("load", "tokenize", "copy_in", "forward", "copy_out", "end_to_end")
_PRINTED = mapping(POSITIVE, "what ais_bench printed, by file of the kit: its own figure")
_MACHINE = {
    **{"platform": TEXT, "cpu": TEXT, "cores": INTEGER_OR_NULL, "isa": array(TEXT)},
    "memory_bytes": INTEGER_OR_NULL,
    "load": described(NUMBER, "average of the last minute, when the figures were made"),
    "card": described(TEXT_OR_NULL, "what the vendor's tool says of the card"),
}
_COMPARISON = {
    **dict.fromkeys(("passed", "regression"), BOOLEAN),
    **dict.fromkeys(("precision", "reference", "tokenizer"), TEXT),
    **dict.fromkeys(("sentences", "not_finite", "other_ids", "flips"), whole(0)),
    **dict.fromkeys(("allowed_flips", "allowed_ties"), whole(0)),
    **dict.fromkeys(("max_abs", "mean_abs", "worst_cosine"), NUMBER_OR_NULL),
    **dict.fromkeys(("value", "reference_value"), NUMBER_OR_NULL),
    "metric": TEXT_OR_NULL,
    "relative": described(
        NUMBER_OR_NULL, "||got - reference|| / ||reference|| of centred logits; null: not finite"
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
}
KEYS = {
    "schema_version": {"description": "of this schema", "const": SCHEMA_VERSION},
    "file": described(TEXT, "path of the .pt, as it was given"),
    "more_files": array(TEXT, "paths of the files of the same model that were used beside it"),
    "graph": {"enum": ["fused", "upstream"]},
    "batch_size": whole(1, "rows a batch, of the largest shape"),
    "max_seq_length": whole(3, "token positions a row, of the largest shape"),
    "slots": whole(0, "most sentences a row; 0: a plain file, one sentence a row"),
    **dict.fromkeys(("backend", "device", "precision"), TEXT),
    "precision_is": described(TEXT, 'how the precision is known, such as "read back"'),
    "threads": INTEGER_OR_NULL,
    "streams": whole(1, "batches computed at a time"),
    "providers": array(TEXT, "of ONNX Runtime, in the session's own order; onnx alone", minItems=1),
    "task": TEXT,
    "data": described(TEXT, "path of the table"),
    "classes": array(TEXT, "names, in the order of the logits"),
    "sentences_scored": whole(0, "with finite logits"),
    "sentences_total": whole(1),
    "truncated": whole(0, "sentences cut to max_seq_length tokens"),
    "om": record(
        {"ais_bench_rows_per_second": _PRINTED},
        "answers of an OM that was run elsewhere, read from a kit: nothing here is timed",
    ),
    "not_scored": array(
        record(_UNSCORED), "the first sentences without finite logits", maxItems=NAMED
    ),
    "rows": {
        "description": "how rows were made: chosen when the sentences came, padded to the "
        "exported shape, as compiled, or one at a time",
        "enum": ["chosen", "padded", "compiled", "one at a time"],
    },
    "shapes": array(
        record(_SHAPE, optional=("forward_ms",)),
        "every shape that was computed, with its batches and what their forward took",
        minItems=1,
    ),
    "random_weights": described(
        BOOLEAN, "true: predictions mean nothing, and there is no accuracy"
    ),
    "accuracy": record(
        {
            "correct": whole(0),
            "total": whole(1, "all sentences; what was not scored is wrong"),
            "value": SHARE,
            "wilson95": array(NUMBER, minItems=2, maxItems=2),
            "other_classes": whole(0, "predicted as a class that the data does not have"),
        },
        "missing without labels, with random weights and for a regression",
    ),
    "metrics": mapping(NUMBER_OR_NULL, "the task's metrics, by name; null: no value"),
    "samples_per_second": record(_RATES),
    "sentences_per_second": described(
        {**NUMBER, "exclusiveMinimum": 0},
        "of sentences sent singly, in place of samples_per_second",
    ),
    "latency_ms": record(
        dict.fromkeys(("mean", "deviation", "p50", "p90", "p95", "p99", "max"), POSITIVE),
        "of a batch, or of a sentence sent singly, from text to label, in milliseconds; "
        "percentiles by nearest rank",
    ),
    "batches": whole(1),
    "warmup": whole(0, "batches run before the clock starts; in no figure"),
    "latencies_ms": array(
        POSITIVE,
        "of every batch, in the order in which they were made, or of every sentence sent singly, "
        "in theirs",
        minItems=1,
    ),
    "seconds": record(
        dict.fromkeys(_STAGES, POSITIVE), "stages overlap: their sum is more than end_to_end"
    ),
    "padding": described(SHARE, "share of token positions that held no token"),
    "positions": whole(1, "token positions computed"),
    "sentences_per_row": NUMBER,
    "nominal_gflop_per_row": described(NUMBER, "of the matrix products of a whole row"),
    "nominal_gflop_per_second": NUMBER,
    "machine": record(_MACHINE),
    "versions": mapping(
        TEXT_OR_NULL,
        "of python and packages; null: not installed",
        required=["albert_aie", "python"],
    ),
    "command": array(TEXT, "the command line", minItems=1),
    "peak_memory_bytes": described(
        INTEGER_OR_NULL,
        "the most main memory that the process held; null where the system does not say",
    ),
    "digests": record(
        {
            "file": {"anyOf": [SHA256, {"type": "null"}]},
            "checkpoint": TEXT_OR_NULL,
            "tokenizer": SHA256,
            "data": SHA256,
        },
        "sha256: of the file's manifest (which holds those of all its entries; null in format "
        "version 1), of the checkpoint's weights, of the tokenizer's file, and of the sentences "
        "with the names of their labels, as JSON",
    ),
    "predictions_sha256": described(SHA256, "of the predictions.tsv that belongs to this"),
    "manifest": described({"type": "object"}, "the file's own description: docs/file-format.md"),
    "comparison": record(
        _COMPARISON,
        "the verdict of --compare_cpu, as --compare_output writes it; missing without it",
    ),
}
RATES = ("samples_per_second", "sentences_per_second")  # of batches, of sentences sent singly
# What is missing where answers were computed elsewhere ("om"): all of it but one of RATES is there.
TIMED = ("latency_ms", "batches", "warmup", "latencies_ms", "seconds")
TIMED += ("nominal_gflop_per_row", "nominal_gflop_per_second")
OPTIONAL = ("providers", "om", "accuracy", "comparison")


def schema():
    """The JSON Schema of eval.json."""
    ways = [{"required": [rate, *TIMED], "not": {"required": ["om"]}} for rate in RATES]
    timed = {"anyOf": [{"required": [key]} for key in (*RATES, *TIMED)]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "eval.json of run_aie_eval.py",
        "description": "Times are seconds unless a key ends in _ms; sizes are bytes. A number that "
        "is not finite is null.",
        **record(KEYS, optional=(*OPTIONAL, *RATES, *TIMED)),
        "oneOf": [*ways, {"required": ["om"], "not": timed}],
    }


if __name__ == "__main__":
    SCHEMA.write_text(json_text(schema()), encoding="utf-8")
