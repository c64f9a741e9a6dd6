"""Figures of what ran: the file, the engine, the data, the rows that were made."""

import hashlib

import numpy

from ..base.encoding import texts
from ..base.shapes import Shape
from . import results
from .schema import (
    INTEGER_OR_NULL,
    NUMBER,
    POSITIVE,
    SHA256,
    TEXT,
    TEXT_OR_NULL,
    Figure,
    array,
    described,
    record,
    whole,
)
from .speed import percentiles

NAMED = 3  # sentences without finite logits that are named
MOST = 6  # shapes that are printed one a line


def _file(s):
    return {
        "file": str(s.saved.path),
        "more_files": [str(each.path) for each in s.saved.siblings],
        "graph": s.saved.manifest["graph"],
        **s.saved.shape._asdict(),
    }


def _engine(s):
    names = ("device", "precision", "precision_is", "threads", "streams")
    return {
        "backend": s.saved.manifest["backend"],
        **{name: getattr(s.runner, name) for name in names},
        **({"providers": s.runner.providers} if getattr(s.runner, "providers", None) else {}),
    }


def _om(s):
    """Where answers were computed elsewhere: what ais_bench has said of its own speed."""
    rates = getattr(s.runner, "rates", None)
    return {} if rates is None else {"om": {"ais_bench_rows_per_second": rates}}


def _om_line(r):
    if "om" not in r:
        return ""
    rates = r["om"]["ais_bench_rows_per_second"]
    said = ", ".join(f"{rate:g} rows/s ({part})" for part, rate in rates.items())
    return (
        "answers of an OM that was run elsewhere, read from its kit\n"
        f"ais_bench printed {said or 'no throughput'}: its own figure, not measured by this program"
    )


def _data(s):
    return {
        "task": s.examples.task.name,
        "data": str(s.examples.path),
        "classes": list(s.examples.classes),
        "sentences_scored": int(s.finite.sum()),
        "sentences_total": len(s.finite),
        "truncated": s.evaluation.truncated,
    }


def _not_scored(s):
    indices, sentences = s.examples.indices, s.examples.sentences
    first = numpy.flatnonzero(~s.finite)[:NAMED]
    return {"not_scored": [{"index": indices[i], "sentence": sentences[i]} for i in first]}


def _not_scored_line(r):
    count = r["sentences_total"] - r["sentences_scored"]
    if not count:
        return ""
    first = [f"{x['index']}: {' / '.join(texts(x['sentence']))[:40]!r}" for x in r["not_scored"]]
    plural = "s" if count > 1 else ""
    return "\n".join([f"{count} sentence{plural} without finite logits, the first:", *first])


def _rows(s):
    """How rows were made, and of each shape how many batches it had and what their forward took."""
    e, times = s.evaluation, {}
    for shape, seconds in zip(e.shapes, e.forward):
        times.setdefault(shape, []).append(1000 * seconds)
    shapes = [
        {**shape._asdict(), "batches": len(taken), "forward_ms": percentiles(taken, 50, 90, 99)}
        for shape, taken in sorted(times.items())
    ]
    if _om(s):
        for each in shapes:
            del each["forward_ms"]
    return {"rows": e.rows_are, "shapes": shapes}


def _rows_line(r):
    shapes, lines = r["shapes"], []
    for each in shapes:
        line = "{batches} x {batch_size} x {max_seq_length} tokens".format(**each)
        line += f", up to {each['slots']} sentences a row" * bool(each["slots"])
        if "forward_ms" in each:
            times = ": forward p50 {p50:.1f}, p90 {p90:.1f}, p99 {p99:.1f} ms"
            line += times.format(**each["forward_ms"])
        lines.append(line)
    if len(lines) > MOST:
        low, high = (each["max_seq_length"] for each in (shapes[0], shapes[-1]))
        batches = sum(each["batches"] for each in shapes)
        lines = [f"{batches} batches of {len(shapes)} shapes, {low} to {high} tokens"]
    return "\n".join([r["rows"], *lines])


def _machine_line(r):
    m, peak = r["machine"], r["peak_memory_bytes"]
    line = f"{m['cpu']}, {m['cores']} core(s): {' '.join(m['isa'])}"
    return line if peak is None else f"{line}\npeak memory {peak / 1e6:.0f} MB"


def _digests(s):
    """sha256 of what went in and of predictions.tsv, which shows where one does not belong to its
    eval.json (a process was killed between the two renames)."""
    m, predictions = s.saved.manifest, results.table(s.evaluation.logits, s.examples)
    return {
        "digests": {
            "file": s.saved.digest,
            "checkpoint": m["source"].get("sha256"),
            "tokenizer": s.saved.tokenizer.sha256,
            "data": s.examples.sha256,
        },
        "predictions_sha256": hashlib.sha256(predictions).hexdigest(),
    }


_SHAPE = {"batch_size": whole(1), "max_seq_length": whole(3), "slots": whole(0)}
_SENTENCE = {"anyOf": [TEXT, array(TEXT, minItems=2, maxItems=2)]}
BEFORE = (
    Figure(
        "file",
        _file,
        lambda r: (
            "\n".join([r["file"], *r["more_files"]])
            + f"\n{r['graph']} graph, exported for {Shape(*(r[n] for n in Shape._fields))}"
        ),
        {
            "file": described(TEXT, "path of the .pt, as it was given"),
            "more_files": array(
                TEXT, "paths of the files of the same model that were used beside it"
            ),
            "graph": {"enum": ["fused", "upstream"]},
            "batch_size": whole(1, "rows a batch, of the largest shape"),
            "max_seq_length": whole(3, "token positions a row, of the largest shape"),
            "slots": whole(0, "most sentences a row; 0: a plain file, one sentence a row"),
        },
    ),
    Figure(
        "engine",
        _engine,
        lambda r: (
            f"{r['backend']} on {r['device']}, precision {r['precision']} ({r['precision_is']})\n"
            f"{r['threads']} thread(s), {r['streams']} stream(s)"
            + "".join(f", {name}" for name in r.get("providers", ()))
        ),
        {
            "backend": TEXT,
            "device": TEXT,
            "precision": TEXT,
            "precision_is": described(TEXT, 'how the precision is known, such as "read back"'),
            "threads": INTEGER_OR_NULL,
            "streams": whole(1, "batches computed at a time"),
            "providers": array(
                TEXT, "of ONNX Runtime, in the session's own order; onnx alone", minItems=1
            ),
        },
        optional=("providers",),
    ),
    Figure(
        "data",
        _data,
        lambda r: (
            f"{r['data']}\n{r['sentences_scored']} of {r['sentences_total']} sentences scored, "
            f"{r['truncated']} truncated"
        ),
        {
            "task": TEXT,
            "data": described(TEXT, "path of the table"),
            "classes": array(TEXT, "names, in the order of the logits"),
            "sentences_scored": whole(0, "with finite logits"),
            "sentences_total": whole(1),
            "truncated": whole(0, "sentences cut to max_seq_length tokens"),
        },
    ),
    Figure(
        "om",
        _om,
        _om_line,
        {
            "om": record(
                {
                    "ais_bench_rows_per_second": {
                        "description": "what ais_bench printed, by file of the kit: its own figure",
                        "type": "object",
                        "additionalProperties": POSITIVE,
                    }
                },
                "answers of an OM that was run elsewhere, read from a kit: nothing here is timed",
            )
        },
        optional=("om",),
    ),
    Figure(
        "not scored",
        _not_scored,
        _not_scored_line,
        {
            "not_scored": array(
                record({"index": {"type": ["string", "integer"]}, "sentence": _SENTENCE}),
                "the first sentences without finite logits",
                maxItems=NAMED,
            )
        },
    ),
    Figure(
        "rows",
        _rows,
        _rows_line,
        {
            "rows": {
                "description": "how rows were made: chosen when the sentences came, padded to the "
                "exported shape, as compiled, or one at a time",
                "enum": ["chosen", "padded", "compiled", "one at a time"],
            },
            "shapes": array(
                record(
                    {
                        **_SHAPE,
                        "batches": whole(1),
                        "forward_ms": record({p: POSITIVE for p in ("p50", "p90", "p99")}),
                    },
                    optional=("forward_ms",),
                ),
                "every shape that was computed, with its batches and what their forward took",
                minItems=1,
            ),
        },
    ),
)
AFTER = (
    Figure(
        "machine",
        lambda s: s.host,
        _machine_line,
        {
            "machine": record(
                {
                    "platform": TEXT,
                    "cpu": TEXT,
                    "cores": INTEGER_OR_NULL,
                    "isa": array(TEXT),
                    "memory_bytes": INTEGER_OR_NULL,
                    "load": described(
                        NUMBER, "average of the last minute, when the figures were made"
                    ),
                    "card": described(TEXT_OR_NULL, "what the vendor's tool says of the card"),
                }
            ),
            "versions": {
                "description": "of python and packages; null: not installed",
                "type": "object",
                "additionalProperties": TEXT_OR_NULL,
                "required": ["albert_aie", "python"],
            },
            "command": array(TEXT, "the command line", minItems=1),
            "peak_memory_bytes": described(
                INTEGER_OR_NULL,
                "the most main memory that the process held; null where the system does not say",
            ),
        },
        detail=True,
    ),
    Figure(
        "digests",
        _digests,
        lambda r: "",
        {
            "digests": record(
                {
                    "file": {"anyOf": [SHA256, {"type": "null"}]},
                    "checkpoint": TEXT_OR_NULL,
                    "tokenizer": SHA256,
                    "data": SHA256,
                },
                "sha256: of the file's manifest (which holds those of all its entries; null in "
                "format version 1), of the checkpoint's weights, of the tokenizer's file, and of "
                "the sentences with the names of their labels, as JSON",
            ),
            "predictions_sha256": described(SHA256, "of the predictions.tsv that belongs to this"),
        },
    ),
)
