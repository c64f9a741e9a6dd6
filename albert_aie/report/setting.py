"""Figures of what ran: the file, the engine, the data, the rows that were made."""

import hashlib

import numpy

from ..base.encoding import texts
from ..base.shapes import Shape
from . import results
from .speed import percentiles

NAMED = 3  # sentences without finite logits that are named
MOST = 6  # shapes that are printed one a line


def file(s):
    return {
        "file": str(s.saved.path),
        "more_files": [str(each.path) for each in s.saved.siblings],
        "graph": s.saved.manifest["graph"],
        **s.saved.shape._asdict(),
    }


def file_line(r):
    shape = Shape(*(r[name] for name in Shape._fields))
    return "\n".join([r["file"], *r["more_files"], f"{r['graph']} graph, exported for {shape}"])


def engine(s):
    names = ["device", "precision", "precision_is", "threads", "streams"]
    names += ["providers"] * bool(getattr(s.runner, "providers", None))
    return {
        "backend": s.saved.manifest["backend"],
        **{name: getattr(s.runner, name) for name in names},
    }


def engine_line(r):
    line = "{backend} on {device}, precision {precision} ({precision_is})\n"
    line += "{threads} thread(s), {streams} stream(s)"
    return ", ".join([line.format(**r), *r.get("providers", ())])


def data(s):
    return {
        "task": s.examples.task.name,
        "data": str(s.examples.path),
        "classes": list(s.examples.classes),
        "sentences_scored": int(s.finite.sum()),
        "sentences_total": len(s.finite),
        "truncated": s.evaluation.truncated,
    }


def data_line(r):
    line = "{data}\n{sentences_scored} of {sentences_total} sentences scored, {truncated} truncated"
    return line.format(**r)


def om(s):
    """Where answers were computed elsewhere: what ais_bench has said of its own speed."""
    rates = getattr(s.runner, "rates", None)
    return {} if rates is None else {"om": {"ais_bench_rows_per_second": rates}}


def om_line(r):
    if "om" not in r:
        return ""
    rates = r["om"]["ais_bench_rows_per_second"]
    said = ", ".join(f"{rate:g} rows/s ({part})" for part, rate in rates.items())
    return (
        "answers of an OM that was run elsewhere, read from its kit\n"
        f"ais_bench printed {said or 'no throughput'}: its own figure, not measured by this program"
    )


def not_scored(s):
    indices, sentences = s.examples.indices, s.examples.sentences
    first = numpy.flatnonzero(~s.finite)[:NAMED]
    return {"not_scored": [{"index": indices[i], "sentence": sentences[i]} for i in first]}


def not_scored_line(r):
    count = r["sentences_total"] - r["sentences_scored"]
    if not count:
        return ""
    first = [f"{x['index']}: {' / '.join(texts(x['sentence']))[:40]!r}" for x in r["not_scored"]]
    plural = "s" if count > 1 else ""
    return "\n".join([f"{count} sentence{plural} without finite logits, the first:", *first])


def rows(s):
    """How rows were made, and of each shape how many batches it had and what their forward took."""
    times = {}
    for shape, seconds in zip(s.evaluation.shapes, s.evaluation.forward):
        times.setdefault(shape, []).append(1000 * seconds)
    shapes = []
    for shape, taken in sorted(times.items()):
        shapes.append({**shape._asdict(), "batches": len(taken)})
        if not om(s):
            shapes[-1]["forward_ms"] = percentiles(taken, 50, 90, 99)
    return {"rows": s.evaluation.rows_are, "shapes": shapes}


def rows_line(r):
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


def machine_line(r):
    m, peak = r["machine"], r["peak_memory_bytes"]
    line = f"{m['cpu']}, {m['cores']} core(s): {' '.join(m['isa'])}"
    return line if peak is None else f"{line}\npeak memory {peak / 1e6:.0f} MB"


def digests(s):
    """sha256 of what went in and of predictions.tsv, which shows where one does not belong to its
    eval.json (a process was killed between the two renames)."""
    predictions = results.table(s.evaluation.logits, s.examples)
    return {
        "digests": {
            "file": s.saved.digest,
            "checkpoint": s.saved.manifest["source"].get("sha256"),
            "tokenizer": s.saved.tokenizer.sha256,
            "data": s.examples.sha256,
        },
        "predictions_sha256": hashlib.sha256(predictions).hexdigest(),
    }
