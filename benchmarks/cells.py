"""The cells of a sweep, and what is said of their results."""

import statistics
from typing import NamedTuple, Optional

from albert_aie.base.errors import UserError
from benchmarks.tables import head, row

# samples/s of forward on an Ascend310P3 through torch_aie, fp16, 128 tokens, plain rows, by batch
# size: docs/torch_aie.md, "Published throughput". Not measured by us.
PUBLISHED = {1: 532.61, 4: 841.79, 8: 1020.77, 16: 982.26, 32: 988.63, 64: 891.06}
# What of eval.json's digests is the same in all cells.
INPUTS = ("checkpoint", "tokenizer", "data")


class Cell(NamedTuple):
    """What is compiled; precision None: the backend's first."""

    precision: Optional[str]
    rows: str
    max_seq_length: int
    batch_size: int

    @property
    def shape(self):
        return f"{self.batch_size} x {self.max_seq_length}"

    def __str__(self):
        return " ".join(filter(None, (self.precision, self.rows, self.shape)))


def verdict(result):
    if "comparison" not in result:
        return "-"
    return "PASS" if result["comparison"]["passed"] is True else "FAIL"


def succeeded(done):
    """The (cell, result) of those that did not fail."""
    return [each for each in done if "error" not in each[1]]


def rates(result, name):
    """Sentences a second of each repetition."""
    return [e["samples_per_second"][name] for e in result["evaluations"]]


def published(cell, result):
    """samples/s that the vendor published for such a file on such a card, or nothing."""
    kind = cell.rows, cell.max_seq_length, result["evaluations"][0]["backend"]
    rate = PUBLISHED.get(cell.batch_size) if kind == ("padded", 128, "aie") else None
    return f"{rate:.1f}" if rate else ""


WHOLE = ["precision", "rows", "shape", "accuracy", "right", "forward/s", "end to end/s"]
WHOLE += ["p50 ms", "gate", "310P3*"]
TERMINAL = ["file", "accuracy", "forward/s", "end to end/s", "p50 ms", "gate", "310P3*"]


def columns(cell, result):
    """{head: text} of a cell: the first metric, medians of the repetitions and, where there are
    several, half of their range end to end."""
    first, whole = result["evaluations"][0], rates(result, "end_to_end")
    accuracy, metric = first.get("accuracy"), "none"
    if accuracy:
        metric = f"{accuracy['value']:.4f}"
    elif first["metrics"]:
        name, value = next(iter(first["metrics"].items()))
        metric = f"{name} undefined" if value is None else f"{name} {value:.4f}"
    half = f" ±{(max(whole) - min(whole)) / 2:.1f}" * (len(whole) > 1)
    p50 = statistics.median(e["latency_ms"]["p50"] for e in result["evaluations"])
    return {
        "file": f"{first['precision']} {cell.rows} {cell.shape}",
        "precision": first["precision"],
        "rows": cell.rows,
        "shape": cell.shape,
        "accuracy": metric,
        "right": "{correct}/{total}".format(**accuracy) if accuracy else "-",
        "forward/s": f"{statistics.median(rates(result, 'forward')):.1f}",
        "end to end/s": f"{statistics.median(whole):.1f}{half}",
        "p50 ms": f"{p50:.1f}",
        "gate": verdict(result),
        "310P3*": published(cell, result),
    }


def table(done, heads):
    """(heads, rows of texts) of all cells that did not fail; a column that is empty in all is left
    out."""
    rows = [columns(*each) for each in succeeded(done)]
    heads = [head for head in heads if any(row[head] for row in rows)]
    return heads, [[row[head] for head in heads] for row in rows]


def markdown(heads, rows):
    return [*head(heads), *(row(*cells) for cells in rows)]


def aligned(heads, rows):
    """Lines of at most 80 columns, of the columns of TERMINAL."""
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
        for line in (heads, *rows)
    ]


def check_inputs(done, output):
    """Raises UserError if cells were not all made from one checkpoint, tokenizer and data."""
    digests = [e["digests"] for _, result in succeeded(done) for e in result["evaluations"]]
    for name in INPUTS:
        if len({each[name] for each in digests}) > 1:
            fix = "name another --output, or remove the file"
            raise UserError(f"{output or 'the sweep'}: has cells of another {name}; {fix}")


def disagreements(done):
    """{(precision, max_seq_length): sentences whose predictions differ} of what several cells have:
    it should be none. A regression has no predictions, for its last digits differ."""
    groups = {}
    for cell, result in succeeded(done):
        if result["predictions"] is not None:
            key = result["evaluations"][0]["precision"], cell.max_seq_length
            groups.setdefault(key, []).append(result["predictions"].split("\t"))
    several = {key: zip(*group) for key, group in groups.items() if len(group) > 1}
    return {key: sum(len(set(each)) > 1 for each in rows) for key, rows in several.items()}


def summary(done):
    """What the files ran on, whether cells agree, and what is not ours."""
    evaluations = [result["evaluations"][0] for _, result in succeeded(done)]
    if not evaluations:
        return
    first = evaluations[0]
    yield ""
    yield f"{first['backend']} on {first['device']}, {first['threads']} thread(s)"
    scored, total = [e["sentences_scored"] for e in evaluations], first["sentences_total"]
    which = "each" if set(scored) == {total} else "the worst"
    yield f"{min(scored)} of {total} sentences scored in {which}"
    differing = disagreements(done)
    for (precision, length), sentences in differing.items():
        where = f"between cells in {sentences} of {total} sentences"
        if sentences:
            yield f"predictions of {precision} at {length} tokens DIFFER {where}"
    if differing and not any(differing.values()):
        yield "predictions identical between cells of one precision and length"
    if any(published(*each) for each in succeeded(done)):
        yield "* samples/s that the vendor published for torch_aie (docs/torch_aie.md); not ours"
