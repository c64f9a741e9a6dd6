"""Any text at all, in parts of any size: the same rows and the same bad lines as in one piece, and
each record in exactly one of both."""

import csv
import io
import json
import os

import pytest
from corpora import label_corpus, summary_of, table_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from albert_aie.base.errors import UserError
from albert_aie.base.files import parse_json
from albert_aie.corpus import reading
from albert_aie.data import records

FUZZ = "FUZZ_OUT" in os.environ  # make fuzz
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": not FUZZ}
MANY = settings(max_examples=1000 if FUZZ else 100, **COMMON)
FEW = settings(max_examples=100 if FUZZ else 10, **COMMON)
LETTERS = st.text(st.sampled_from('ab1",,"\n\n\r\t {}[]:\\é\0'), max_size=60)
NUMBERS = st.one_of(st.integers(-3, 3), st.integers(-(10**40), 10**40), st.just(0.5), st.just(2e60))
LEAVES = st.one_of(st.none(), st.booleans(), st.sampled_from(["", "x"]), NUMBERS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("pq"), inner, max_size=2)
    ),
    max_leaves=4,
)


def in_parts(path, form, size):
    """(rows as Python has them, [(line, why)] of bad ones, how many rows were planned)."""
    (known,), _ = reading.find([str(path)], form)
    schema, spans = reading.scan(known, form, reading.Cut(size, skipped=True), {})
    rows, bad = [], []
    for span in spans:
        found = reading.read(known, form, span, schema, schema.names)
        # a table without columns, which the script refuses, has no rows in Arrow
        assert len(found.numbers) == found.table.num_rows or not schema.names
        rows += zip(found.numbers, found.table.to_pylist())
        bad += found.bad
    assert all(span.rows <= size for span in spans)
    return rows, bad, sum(span.rows for span in spans)


def check_parts(path, form):
    """The rows, where the file is not refused as a whole."""
    try:
        whole = in_parts(path, form, 1000)
    except UserError as error:
        for size in (1, 2):
            with pytest.raises(UserError) as again:
                in_parts(path, form, size)
            assert str(again.value) == str(error)
        return None
    for size in (1, 2, 3):
        assert in_parts(path, form, size) == whole
    rows, bad, planned = whole
    assert len(rows) + len(bad) == planned or not any(row for _, row in rows)
    lines = [line for line, _ in rows] + [line for line, _ in bad]
    assert len(set(lines)) == len(lines)
    return rows, bad


@pytest.mark.parametrize("form", ["csv", "tsv", "lines", "jsonl"])
@given(text=LETTERS, cut=st.integers(0, 200))
@MANY
def test_any_text_in_parts(tmp_path_factory, form, text, cut):
    path = tmp_path_factory.mktemp("any") / "a"
    header = {"csv": "a,b\n", "tsv": "a\tb\n"}.get(form, "")
    content = (header + text).encode()
    path.write_bytes(content[:cut] + b"\xff" + content[cut:] if 9 < cut < len(content) else content)
    check_parts(path, form)


@given(st.lists(st.tuples(*[st.text(st.sampled_from('ab",\n\r\t é'), max_size=6)] * 2), max_size=8))
@MANY
def test_what_pythons_csv_writes_comes_back(tmp_path_factory, rows):
    path, text = tmp_path_factory.mktemp("written") / "a", io.StringIO()
    csv.writer(text).writerows([("a", "b"), *rows])
    path.write_bytes(text.getvalue().encode())
    found, bad = check_parts(path, "csv")
    assert [tuple(row.values()) for _, row in found] == rows and not bad


@given(st.lists(st.dictionaries(st.sampled_from("kl"), VALUES, max_size=2), min_size=1, max_size=6))
@MANY
def test_json_of_any_types_keeps_its_values_or_is_listed(tmp_path_factory, objects):
    """What is written is what stood there: a number is not rounded, and no key is lost."""
    objects = [{**one, "text": "a"} for one in objects]
    path = tmp_path_factory.mktemp("json") / "a"
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    done = check_parts(path, "jsonl")
    assert done is not None
    rows, bad = done
    for line, row in rows:
        assert holds(row, objects[line - 1]), (row, objects[line - 1])
    with open(path, "rb") as file:
        read = [row.values for row in records.rows(file, str(path), "jsonl")[1]]
    assert read == [parse_json(json.dumps(one).encode()) for one in objects]
    assert len(rows) + len(bad) == len(objects)


def holds(got, value):
    """Whether a value of Arrow is that of JSON, with null for keys that others have."""
    if isinstance(value, dict):
        return (
            isinstance(got, dict)
            and all(holds(got[key], value.get(key)) for key in got)
            and (set(value) <= set(got))
        )
    if isinstance(value, list):
        return isinstance(got, list) and len(got) == len(value) and all(map(holds, got, value))
    return got == value and isinstance(got, bool) == isinstance(value, bool)


@given(
    st.sampled_from(["csv", "tsv", "jsonl", "txt"]),
    st.lists(st.text(st.sampled_from('ab",\n\r\t é'), max_size=6), min_size=1, max_size=5),
    st.integers(0, 99),
    st.binary(max_size=2),
)
@FEW
def test_both_scripts_on_damaged_files(
    tmp_path_factory, capfd, evaluate, file_of, form, texts, place, damage
):
    """Where run_aie_eval.py answers, each row has its label; where it refuses a record, the corpus
    script does too, and with --on_bad_row skip every row is written or counted."""
    folder = tmp_path_factory.mktemp("both")
    text = io.StringIO()
    csv.writer(text, delimiter="\t" if form == "tsv" else ",").writerows(
        [("text", "n"), *((one, "1") for one in texts)]
    )
    content = text.getvalue().encode()
    if form == "jsonl":
        content = "".join(json.dumps({"text": one}) + "\n" for one in texts).encode()
    at = len(content) * place // 100
    path = folder / f"a.{form}"
    path.write_bytes(content[:at] + damage + content[at + len(damage) // 2 :])
    given = {"aie_model_dir": file_of("SST-2"), "input": path}
    alone = evaluate(**given, output=folder / "told.jsonl")
    corpus = label_corpus(capfd, **given, output_dir=folder / "out", part_rows=2)
    assert alone.code in (0, 2) and corpus.code in (0, 2), alone.err + corpus.err
    nothing = "holds no row" in corpus.err  # which is no error of a stream
    assert alone.code == corpus.code or nothing, alone.err + corpus.err
    assert "Traceback" not in alone.err + corpus.err
    if corpus.code == 0:
        labels = [row["label"] for row in table_of(folder / "out")]
        assert len(labels) == summary_of(folder / "out")["rows_planned"] > 0
    skipped = label_corpus(
        capfd, **given, output_dir=folder / "skipped", part_rows=2, on_bad_row="skip"
    )
    assert skipped.code in (0, 2), skipped.err
    if skipped.code == 0:
        summary = summary_of(folder / "skipped")
        assert summary["rows_written"] + summary["skipped"] == summary["rows_planned"]
        assert len(table_of(folder / "skipped")) == summary["rows_written"]
