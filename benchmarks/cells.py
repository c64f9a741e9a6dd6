"""The cells of a sweep, and what is said of their results."""

import statistics
from typing import NamedTuple, Optional

from albert_aie.base.errors import UserError
from benchmarks.tables import head, row

# samples/s of forward on an Ascend310P3 through torch_aie, fp16, 128 tokens, plain rows, by batch
# size: docs/torch_aie.md, "Published throughput". Not measured by us.
PUBLISHED = {1: 532.61, 4: 841.79, 8: 1020.77, 16: 982.26, 32: 988.63, 64: 891.06}
PUBLISHED_LENGTH = 128
# What of eval.json's digests is the same in all cells.
INPUTS = ("checkpoint", "tokenizer", "data")


class Cell(NamedTuple):
    """What is compiled; precision None: the backend's first."""

    precision: Optional[str]
    rows: str
    max_seq_length: int
    batch_size: int

    @property
    def flags(self):
        """For export_albert_aie.py."""
        yield f"--batch_size={self.batch_size}"
        yield f"--max_seq_length={self.max_seq_length}"
        yield from [f"--precision={self.precision}"] * (self.precision is not None)
        yield from ["--pack"] * (self.rows == "packed")

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


def describe(result):
    """A finished cell in a few words."""
    if "error" in result:
        return f"failed ({result['error']})"
    return f"{statistics.median(rates(result, 'end_to_end')):.1f} sentences/s end to end"


def published(cell, result):
    """samples/s that the vendor published for such a file on such a card, or nothing."""
    same = cell.rows == "padded" and cell.max_seq_length == PUBLISHED_LENGTH
    same = same and cell.batch_size in PUBLISHED and result["evaluations"][0]["backend"] == "aie"
    return f"{PUBLISHED[cell.batch_size]:.1f}" if same else ""


WHOLE = ["precision", "rows", "shape", "accuracy", "right", "forward/s", "end to end/s"]
WHOLE += ["p50 ms", "gate", "310P3*"]
TERMINAL = ["file", "accuracy", "forward/s", "end to end/s", "p50 ms", "gate", "310P3*"]


def first_metric(evaluation):
    for name, value in evaluation["metrics"].items():
        return f"{name} undefined" if value is None else f"{name} {value:.4f}"
    return "none"


def columns(cell, result):
    """{head: text} of a cell: the first metric, medians of the repetitions and, where there are
    several, half of their range end to end."""
    first, whole = result["evaluations"][0], rates(result, "end_to_end")
    accuracy = first.get("accuracy")
    half = f" ±{(max(whole) - min(whole)) / 2:.1f}" * (len(whole) > 1)
    p50 = statistics.median(e["latency_ms"]["p50"] for e in result["evaluations"])
    return {
        "file": f"{first['precision']} {cell.rows} {cell.shape}",
        "precision": first["precision"],
        "rows": cell.rows,
        "shape": cell.shape,
        "accuracy": f"{accuracy['value']:.4f}" if accuracy else first_metric(first),
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


def errors(done):
    for cell, result in done:
        if "error" in result:
            yield f"{cell}: error: {result['error']}"


def check_inputs(done, output):
    """Raises UserError if cells were not all made from one checkpoint, tokenizer and data."""
    digests = [e["digests"] for _, result in succeeded(done) for e in result["evaluations"]]
    for name in INPUTS:
        if len({each[name] for each in digests}) > 1:
            fix = "name another --output, or remove the file"
            raise UserError(f"{output or 'the sweep'}: has cells of another {name}; {fix}")


def groups(done):
    """{(precision, max_seq_length): predictions of each of its cells}: those of a group should be
    the same. A regression has none, for its last digits differ."""
    predictions = {}
    for cell, result in succeeded(done):
        if result["predictions"] is not None:
            key = result["evaluations"][0]["precision"], cell.max_seq_length
            predictions.setdefault(key, []).append(result["predictions"].split("\t"))
    return {key: group for key, group in predictions.items() if len(group) > 1}


def disagreements(done):
    """{(precision, max_seq_length): sentences on which cells of a group differ}, where they do."""
    pairs = groups(done).items()
    counts = {key: sum(len(set(classes)) > 1 for classes in zip(*group)) for key, group in pairs}
    return {key: count for key, count in counts.items() if count}


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
        yield f"predictions of {precision} at {length} tokens DIFFER {where}"
    if groups(done) and not differing:
        yield "predictions identical between cells of one precision and length"
    if any(published(*each) for each in succeeded(done)):
        yield "* samples/s that the vendor published for torch_aie (docs/torch_aie.md); not ours"
