"""Corpora and run_aie_eval.py agree: labels, probabilities, counts and metrics, in every format."""

import json
import math

import pyarrow
import pytest
from corpora import (
    OVERFLOW,
    label_corpus,
    skipped_of,
    summary_of,
    table_of,
    text_columns,
    write_rows,
)
from glue_sets import PAIRS, labels_of
from helpers import refused
from pyarrow import parquet

from albert_aie.corpus import reading, summaries, worker
from albert_aie.data.tasks import TASKS

FORMATS = ("parquet", "csv", "tsv", "jsonl")
LONG = "a long and winding story that does not end " * 6


@pytest.fixture
def run(capfd, tmp_path):
    """run_aie_corpus.py in this process, on the SST-2 file, in parts of 7 rows."""

    def run(**options):
        return label_corpus(capfd, **{"part_rows": 7, "output_dir": tmp_path / "out", **options})

    return run


def rows_of(name, count=60):
    """Labelled rows with a key: long texts among them, and some whose logits overflow."""
    task, names = TASKS[name], text_columns(name)
    called = labels_of(task, count)
    rows = []
    for i in range(count):
        a, b = PAIRS[i % len(PAIRS)]
        a += f" {i}" + LONG * (i % 13 == 5) + f" {OVERFLOW}" * (i % 17 == 3)
        rows.append({**dict(zip(names, (a, b))), "key": i, "gold": called[i * i % 7]})
    return rows


def evaluated(evaluate, file, path, out, columns):
    """(rows of --output with every probability, eval.json) of run_aie_eval.py on a labelled
    file."""
    given = {"aie_model_dir": file, "input": path, "text_column": columns, "label_column": "gold"}
    done = evaluate(**given, output_dir=out, output=out / "answers.jsonl")
    assert done.code == 1, done.err  # some sentences have no finite logits
    lines = (out / "answers.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((out / "eval.json").read_text())


@pytest.mark.parametrize(
    "name, form",
    [
        *((name, form) for name in ("SST-2", "STS-B", "MRPC") for form in FORMATS),
        ("QQP", "parquet"),
        ("CoLA", "parquet"),
    ],
)
def test_labels_probabilities_counts_and_metrics_are_an_evaluations(
    tmp_path, run, evaluate, file_of, name, form
):
    """In two files, parts that start within a row group, and a second run of what is missing."""
    rows, columns, task = rows_of(name), text_columns(name), TASKS[name]
    whole = write_rows(tmp_path / "whole.jsonl", rows)
    answers, wanted = evaluated(evaluate, file_of(name), whole, tmp_path / "eval", columns)
    files = [write_rows(tmp_path / f"{i}.{form}", rows[i::2]) for i in (0, 1)]
    order = [*range(0, 60, 2), *range(1, 60, 2)]

    given = {"input": files, "text_column": columns, "label_column": "gold"}
    first = run(aie_model_dir=file_of(name), **given)
    assert first.code == 1, first.err  # as there
    told = summary_of(tmp_path / "out")
    for path in sorted((tmp_path / "out").glob("part-*"))[::3]:
        path.unlink()
    again = run(aie_model_dir=file_of(name), **given)
    assert again.code == 1 and "parts are there" in again.err
    table = table_of(tmp_path / "out")

    assert [int(row["key"]) for row in table] == order
    for row, i in zip(table, order):
        if task.regression:
            assert row["score"] == pytest.approx(answers[i]["score"], abs=2e-5)
            continue
        assert row["label"] == answers[i]["label"]
        shares = [answers[i][f"probability_{label}"] for label in task.classes]
        wanted_share = None if shares[0] is None else pytest.approx(max(shares), abs=1e-5)
        assert row["probability"] == wanted_share
    assert task.regression or {row["label"] for row in table} == {*task.classes, None}
    summary = summary_of(tmp_path / "out")
    assert summary["rows"] == summary["rows_written"] == summary["rows_planned"] == 60
    assert summary["not_scored"] == 60 - wanted["sentences_scored"] == 4
    assert summary["truncated"] == wanted["truncated"] > 1
    if not task.regression:
        got, right = summary["accuracy"], wanted["accuracy"]
        assert (got["correct"], got["total"]) == (right["correct"], right["total"])
        assert got["value"] == right["value"] and got["wilson95"] == right["wilson95"]
    for metric in set(task.metrics) - {"accuracy"}:
        value = summary["metrics"][metric]
        assert math.isfinite(value) and value == pytest.approx(wanted["metrics"][metric], abs=1e-6)
    untimed = set(told) - set(summaries.TIMES)
    assert {key: told[key] for key in untimed} == {key: summary[key] for key in untimed}


def test_plain_lines_have_an_evaluations_labels(tmp_path, run, evaluate, file_of):
    """With empty lines, a byte-order mark, blanks at both ends, and Windows' ends of lines."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa fine film\r\n\r\n  dull \nno\ncaf\xc3\xa9 na\xc3\xafve\n\nend")
    done = evaluate(aie_model_dir=file_of("SST-2"), input=path, output=tmp_path / "told.txt")
    assert done.code == 0, done.err
    told = (tmp_path / "told.txt").read_bytes().decode().split("\n")[:-1]
    told = [line.split("\t") for line in told]
    assert run(aie_model_dir=file_of("SST-2"), input=path, part_rows=2).code == 0
    table = table_of(tmp_path / "out")
    assert [row["text"] for row in table] == [text for _, _, text in told]
    assert [row["label"] for row in table] == [label for label, _, _ in told]
    shares = [float(share) for _, share, _ in told]
    assert [row["probability"] for row in table] == pytest.approx(shares, abs=1e-5)
    assert [text for _, _, text in told][:3] == ["a fine film", "", "  dull "]


def test_rows_that_are_skipped_are_counted_and_named_by_their_own_numbers(tmp_path, run, file_of):
    """Of JSON lines with blank lines between: two texts that are none, a wrong label, a line that
    is no JSON; the others keep their answers."""
    rows = rows_of("SST-2", 20)
    given = {"aie_model_dir": file_of("SST-2"), "text_column": "first", "label_column": "gold"}
    whole = write_rows(tmp_path / "whole.jsonl", rows)
    assert run(input=whole, output_dir=tmp_path / "right", **given).code == 1
    right = {row["key"]: row for row in table_of(tmp_path / "right")}
    lines = [json.dumps(row) for row in rows]
    lines[4] = json.dumps({**rows[4], "first": None})
    lines[9] = json.dumps({**rows[9], "gold": "7"})
    lines[11] = lines[11][:-1]
    lines[15] = json.dumps({"key": 15, "gold": "1"})
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(lines) + "\n")
    done = run(input=path, on_bad_row="skip", **given)
    assert done.code == 1 and "16 of 20 written; 4 skipped" in done.said, done.err + done.out
    assert "accuracy" in done.said
    skipped = skipped_of(tmp_path / "out")
    assert [(name, number) for name, number, _ in skipped] == [
        ("a.jsonl", n) for n in (9, 19, 23, 31)
    ]
    words = "no text in column 'first'", "label '7' is not a class", "not JSON", "no text in column"
    assert all(word in why for word, (_, _, why) in zip(words, skipped))
    table = table_of(tmp_path / "out")
    assert [row["key"] for row in table] == [i for i in range(20) if i not in (4, 9, 11, 15)]
    for row in table:  # other rows were computed beside it
        wanted = right[row["key"]]
        assert row == {**wanted, "probability": pytest.approx(wanted["probability"], abs=1e-5)}
    summary = summary_of(tmp_path / "out")
    assert (summary["rows"], summary["rows_written"], summary["skipped"]) == (20, 16, 4)
    assert summary["accuracy"]["total"] == 16
    assert refused(run(input=path, **given), "rows were skipped in an earlier run")


def test_labels_of_several_spellings_are_counted_together(tmp_path, run, evaluate, file_of):
    """0, "0", 0.0, false and negative are one class; a text file with blanks beside it too. A
    column may be called as pyarrow calls its counts."""
    called = ["0", "negative", "0.0", " 0", "false", "NEG", "1", "1.0", "true", "positive "]
    rows = [{"first": PAIRS[i][0], "gold": label} for i, label in enumerate(called)]
    plain = [{"first": row["first"], "count_all": "01"[i > 5]} for i, row in enumerate(rows)]
    totals = []
    for number, (name, these) in enumerate((("gold", rows), ("count_all", plain))):
        given = {"aie_model_dir": file_of("SST-2"), "text_column": "first", "label_column": name}
        path = write_rows(tmp_path / f"{number}.csv", these)
        assert run(input=path, output_dir=tmp_path / f"o{number}", **given).code == 0
        totals.append(summary_of(tmp_path / f"o{number}")["accuracy"])
        done = evaluate(input=path, output_dir=tmp_path / f"e{number}", **given)
        told = json.loads((tmp_path / f"e{number}" / "eval.json").read_text())
        assert done.code == 0 and told["accuracy"]["correct"] == totals[-1]["correct"]
    assert totals[0] == totals[1] and totals[0]["total"] == 10


@pytest.mark.parametrize("values", [[True, False] * 5, [1.0, 0.0] * 5, [1, 0] * 5])
def test_labels_of_other_types_are_read_as_the_numbers_they_are(tmp_path, run, file_of, values):
    table = pyarrow.table({"sentence": [a for a, _ in PAIRS[:10]], "y": values})
    parquet.write_table(table, tmp_path / "a.parquet")
    given = {"aie_model_dir": file_of("SST-2"), "input": tmp_path / "a.parquet"}
    assert run(**given, label_column="y").code == 0
    accuracy = summary_of(tmp_path / "out")["accuracy"]
    right = sum(
        (row["label"] == "positive") == bool(row["y"]) for row in table_of(tmp_path / "out")
    )
    assert accuracy["correct"] == right and accuracy["total"] == 10


@pytest.mark.parametrize("name", ["SST-2", "STS-B"])
def test_a_test_set_has_no_labels_and_no_accuracy(tmp_path, run, evaluate, file_of, name):
    """-1 in every row: labelled all the same; in some rows of classes: those are left out."""
    rows = [{**row, "gold": "-1"} for row in rows_of(name, 6) if OVERFLOW not in row["first"]]
    given = {"aie_model_dir": file_of(name), "text_column": text_columns(name)}
    path = write_rows(tmp_path / "a.csv", rows)
    done = run(input=path, label_column="gold", **given)
    assert done.code == 0, done.err
    summary = summary_of(tmp_path / "out")
    assert "accuracy" not in summary and "metrics" not in summary and summary["rows_written"] == 5
    assert evaluate(input=path, label_column="gold", **given).code == 0
    if name == "SST-2":
        rows[1]["gold"] = "1"
        path = write_rows(tmp_path / "b.csv", rows)
        done = run(input=path, label_column="gold", output_dir=tmp_path / "b", **given)
        assert summary_of(tmp_path / "b")["accuracy"]["total"] == 1
        assert "4 rows without a label" in done.said and done.code == 0


def test_parts_deep_in_a_row_group_have_every_key_once(tmp_path, run, monkeypatch, file_of):
    """As 20,000 rows of a group in parts of 5,000, with fewer rows decoded at a time."""
    monkeypatch.setattr(reading, "BATCH", 8)
    rows = [{"key": i, "sentence": f"film {i}"} for i in range(90)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=60)
    given = {"aie_model_dir": file_of("SST-2"), "input": tmp_path / "a.parquet"}
    assert run(**given, part_rows=20).code == 0
    table = table_of(tmp_path / "out")
    assert [row["key"] for row in table] == list(range(90))
    assert [row["sentence"] for row in table] == [row["sentence"] for row in rows]


# A run that goes on


def test_a_resumed_run_counts_all_rows_and_times_its_own(tmp_path, run, file_of, monkeypatch):
    """The rate is of the rows that this run answered; a run with nothing to do changes nothing."""
    path = write_rows(tmp_path / "a.csv", rows_of("SST-2"))
    given = {"aie_model_dir": file_of("SST-2"), "input": path, "text_column": "first"}
    assert run(**given).code == 1
    parts = sorted((tmp_path / "out").glob("part-*"))
    parts[3].unlink()
    assert "8 of 9 parts are there (53 rows)" in run(**given).err
    summary = summary_of(tmp_path / "out")
    assert summary["rows"] == 60 and summary["parts"] == 9
    assert summary["rows_per_second"] * summary["seconds"] == pytest.approx(7)
    assert summary["workers"] == 1 and summary["startup_seconds"] > 0
    before = (tmp_path / "out" / "_summary.json").read_text()
    done = run(**given)
    assert done.code == 1 and (tmp_path / "out" / "_summary.json").read_text() == before
    (tmp_path / "out" / "_summary.json").unlink()
    assert run(**given).code == 1
    summary = summary_of(tmp_path / "out")
    assert summary["rows"] == 60 and summary["rows_per_second"] is None


def test_start_up_is_no_time_of_the_rows(tmp_path, run, file_of, monkeypatch):
    import time

    real = worker.Worker.__init__

    def slow(self, job):
        time.sleep(1)
        real(self, job)

    monkeypatch.setattr(worker.Worker, "__init__", slow)
    path = write_rows(tmp_path / "a.csv", rows_of("SST-2", 10))
    started = time.monotonic()
    assert run(aie_model_dir=file_of("SST-2"), input=path, text_column="first").code == 1
    summary = summary_of(tmp_path / "out")
    assert summary["startup_seconds"] >= 1
    assert summary["seconds"] <= time.monotonic() - started - 1


def test_a_run_with_failed_parts_has_no_metrics(tmp_path, run, file_of, monkeypatch):
    """They would be of other rows than the corpus's; the parts are named in the plan's order."""
    path = write_rows(tmp_path / "a.csv", rows_of("SST-2", 30))
    real = worker.Worker.run

    def broken(self, part):
        if part.number in (1, 3):
            raise OSError("no such disk")
        return real(self, part)

    given = {"aie_model_dir": file_of("SST-2"), "input": path, "text_column": "first"}
    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "run", broken)
        done = run(**given, label_column="gold")
    summary = summary_of(tmp_path / "out")
    assert done.code == 1 and "accuracy" not in summary
    assert [failed["part"] for failed in summary["failed"]] == [1, 3]
    assert summary["failed"][0]["what"].endswith("a.csv, 7 rows from line 9")
    assert (summary["rows"], summary["rows_planned"], summary["parts"]) == (16, 30, 5)
    assert "16 of 30 written" in done.said
    assert run(**given, label_column="gold").code == 1  # for the logits that overflow
    assert summary_of(tmp_path / "out")["accuracy"]["total"] == 30


def test_skipped_rows_stand_in_the_order_of_the_corpus(tmp_path, run, file_of, monkeypatch):
    """Also where a part was tried again after others."""
    path = tmp_path / "a.csv"
    path.write_text("sentence,n\n" + "".join(f"film,{i}\n" + "dull\n" * (i % 2) for i in range(9)))
    failures, real = [], worker.Worker.run

    def once(self, part):
        if part.number == 0 and not failures:
            failures.append(part)
            raise OSError("a moment please")
        return real(self, part)

    monkeypatch.setattr(worker.Worker, "run", once)
    given = {"aie_model_dir": file_of("SST-2"), "input": path, "on_bad_row": "skip"}
    assert run(**given, part_rows=4).code == 0 and failures
    assert [number for _, number, _ in skipped_of(tmp_path / "out")] == [4, 7, 10, 13]
