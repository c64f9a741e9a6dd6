"""What a user reads of a corpus that cannot be run: the file, the reason and how to fix it, to the
letter."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import types
from collections import deque

import pyarrow
import pytest
from corpora import label_corpus, skipped_of, summary_of, table_of
from helpers import said
from pyarrow import parquet

from albert_aie.artifact import pt_file
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape
from albert_aie.corpus import (
    job,
    json_types,
    planning,
    ray_workers,
    reading,
    summaries,
    urls,
    worker,
)
from albert_aie.corpus.reading import Cut, Span
from albert_aie.corpus.urls import Input
from albert_aie.data import datasets, formats, records
from albert_aie.data.tasks import TASKS
from albert_aie.run.classifier import Classifier


@pytest.fixture
def file(tmp_path):
    """Function of a name and a text (or of Parquet the columns) -> path of that file."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content)
        else:
            parquet.write_table(content, path)
        return str(path)

    return write


def made(*paths, form=None, **cut):
    """Plan of these files, without settings but for the format."""
    inputs, form = reading.find(paths, form)
    plan = planning.make(inputs, form, Cut(9, **cut))
    return dataclasses.replace(plan, settings={"format": form})


def test_patterns_and_urls_that_lead_to_no_file(tmp_path, monkeypatch):
    for pattern in (f"{tmp_path}/no*", f"file://{tmp_path}/*.csv"):
        wanted = f"--input {pattern}: no file goes by that; correct the pattern"
        assert said(urls.matching, pattern) == wanted
    text = said(urls.matching, "nobody://host/a*")
    assert re.fullmatch(r"nobody://host: no filesystem \(.+\); correct the URL", text)
    text = said(urls.matching, f"file://{tmp_path}/gone/*")
    pattern = f"file://{tmp_path}/gone/*"
    assert re.fullmatch(rf"--input {re.escape(pattern)}: cannot be listed \(.+\); correct it", text)
    gone = f"file://{tmp_path}/gone"
    assert said(urls.status, gone) == f"{gone}: no such file; correct its name"

    def failing(error):
        def fail(path):
            raise error("no route")

        return fail

    wanted = "--input far://a/*: cannot be listed (no route); correct it"
    for error in (ValueError, OSError):
        there = types.SimpleNamespace(get_file_info=failing(error))
        monkeypatch.setattr(urls, "_filesystem", lambda url, there=there: (there, "a"))
        assert said(urls.matching, "far://a/*") == wanted
    assert said(urls.status, "far://a") == "far://a: cannot be read (no route); correct it"
    monkeypatch.setattr(urls.os, "scandir", failing(OSError))
    with pytest.raises(OSError, match="no route"):
        urls.matching(str(tmp_path))


def test_files_that_are_not_of_one_run(file):
    lines, table = file("a.txt", "fine\n"), file("b.csv", "id,sentence\n1,fine\n")
    wanted = f"{table}: is csv, but {lines} is lines; give files of one format to a run"
    assert said(reading.find, [lines, table]) == wanted
    fix = "say which it is with --input_format parquet|csv|jsonl|lines|tsv"
    unknown = file("a.doc", "fine\n")
    assert said(reading.find, [unknown]) == f"{unknown}: its suffix names no format; {fix}"
    assert [form for _, form in (reading.find([unknown], name) for name in reading.FORMATS)] == [
        *reading.FORMATS
    ]
    other = file("c.csv", "text\nfine\n")
    assert said(made, table, other) == (
        f"{other}: has columns (text string), but {table} (id string, sentence string); give files "
        "of the same columns and types to a run"
    )


def test_files_of_which_no_plan_can_be_made(file):
    empty = file("a.csv", "sentence\n")
    assert said(made, empty) == f"{empty}: holds no row; give files that do"
    hollow = file("a.jsonl", '{"a": {}}\n')
    text = said(made, hollow)
    fix = "leave that one out"
    assert re.fullmatch(rf"{hollow}: Parquet cannot hold its columns \(.+\); {fix}", text)
    broken = file("a.parquet", "PAR1 and no more")
    text, again = said(made, broken), "copy or download it again"
    assert re.fullmatch(rf"{broken}: not a readable parquet file \(.+\); {again}", text)
    twice = file("b.parquet", pyarrow.table([["a"], ["b"]], ["a", "a"]))
    assert said(made, twice) == f"{twice}: has several columns 'a'; rename them"
    short = file("b.csv", "a,b\n1\n")
    why = "1 column instead of 2 (a,b)"
    assert said(made, short) == (
        f"{short}, line 2: {why}; correct the line, or take --on_bad_row skip"
    )
    mixed = file("b.jsonl", '{"a": 1}\n{"a": "x"}\n')
    why = "key 'a' is text, but a whole number in lines before"
    assert said(made, mixed) == (
        f"{mixed}, line 2: {why}; give it one type, or take --on_bad_row skip"
    )


def test_tables_that_do_not_say_what_is_in_them(file):
    """For both scripts."""

    def text(path, form):
        def read():
            with records.reading(path, form) as table:
                return list(table.records)

        return said(read)

    for form, fix in (
        ("csv", "its first line must name the columns"),
        ("tsv", "download it again"),
        ("jsonl", "each line must be a JSON object"),
    ):
        path = file(f"empty.{form}", "\n")
        assert text(path, form) == f"{path}: is empty; {fix}"
    path = file("a.csv", "a,b,a\n1,2,3\n")
    why = "the header must name one column 'a', not 2; rename the others"
    assert text(path, "csv") == f"{path}, line 1: {why}"
    path = file("b.csv", '"a,b\n1,2\n')
    why = "a record that is not CSV (unexpected end of data)"
    fix = 'fields with a comma, quote or line end stand in "...", quotes in them doubled'
    assert text(path, "csv") == f"{path}, line 1: {why}; {fix}"
    path = file("c.csv", "a,b\n1,2\n1,2,3\n")
    why = "3 columns instead of 2 (a,b)"
    assert text(path, "csv") == f"{path}, line 3: {why}; correct the line"
    record = formats.Record(7, {"a": 1})
    fix = "correct the record"
    text = said(records.text_of, record, "a", "x.jsonl")
    assert text == f"x.jsonl, line 7: has no text in column 'a'; {fix}"
    assert said(records.text_of, record, "b", "x") == f"x, line 7: has no column 'b'; {fix}"


def test_parts_and_rows_are_called_by_lines_of_text_and_rows_of_parquet(file):
    path = file("a.csv", "sentence\n" + "fine\n" * 10)
    plan = made(path)
    assert [plan.describe(part) for part in plan.parts] == [
        f"{path}, 9 rows from line 2",
        f"{path}, 1 rows from line 11",
    ]
    assert plan.describe_row(plan.parts[0], 7) == f"{path}, line 7"
    assert (plan.rows, plan.bytes) == (10, 59)
    path = file("a.parquet", pyarrow.table({"sentence": ["fine"] * 10}))
    plan = made(path)
    assert [plan.describe(part) for part in plan.parts] == [
        f"{path}, 5 rows from row 0",
        f"{path}, 5 rows from row 5",
    ]
    assert plan.describe_row(plan.parts[0], 7) == f"{path}, row 7"


def test_a_plan_that_is_not_that_of_the_run(tmp_path, file):
    one, two = file("a.csv", "sentence\nfine\n"), file("b.csv", "sentence\nfine\n")
    plan = made(one)
    (first, second), _ = reading.find([one, two])
    other = "give the same files, or take another --output_dir"
    text = said(planning.check_inputs, plan, [first, second])
    assert text == f"{two}: is no file of the run in --output_dir; {other}"
    text = said(planning.check_inputs, plan, [second])
    assert text == f"{one}: is gone since the run in --output_dir; {other}"
    text = said(planning.check_inputs, plan, [first._replace(bytes=1)])
    assert text == (
        f"{one}: changed since the run in --output_dir was planned; put the file back, or take "
        "another --output_dir"
    )
    planning.check_inputs(plan, [first])
    assert said(planning.check_settings, plan, {"format": "tsv"}) == (
        "--output_dir holds a run with another format (csv, not tsv); run it as it was begun, or "
        "take another folder"
    )
    text = said(planning.check_outside, [first], str(tmp_path))
    assert text == f"--output_dir {tmp_path}: holds the input {one}; take another folder"
    planning.check_outside([first], str(tmp_path / "a"))
    planning.check_outside([first], str(tmp_path)[:-1])


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"sha256": "0" * 64},
        {"settings": {"format": "tsv"}},
        {"parts": []},
        {"inputs": None},
        None,
    ],
)
def test_a_plan_is_what_was_written_or_none(tmp_path, file, change):
    plan, place = made(file("a.csv", "sentence\nfine\n")), tmp_path / "_plan.json"
    assert planning.load(tmp_path) is None
    planning.save(plan, tmp_path)
    assert planning.load(tmp_path) == plan
    assert plan.digest is plan.digest  # made once, not for each of many parts
    fix = "it was changed, or another version wrote it: take another --output_dir"
    content = json.loads(place.read_text())
    assert content["version"] == planning.VERSION and content["sha256"] == plan.digest
    place.write_text(json.dumps({**content, **change}) if change else "no JSON")
    text = said(planning.load, tmp_path)
    if change:
        assert text == f"{place}: is not a plan as it was written; {fix}"
    else:
        assert re.fullmatch(rf"{place}: not a readable JSON file \(.+\); {fix}", text)


def test_columns_of_sentences_hold_text(file):
    text, numbers = pyarrow.array(["a"]), pyarrow.array([1])
    columns = {"plain": text, "large": text.cast("large_string"), "coded": text.dictionary_encode()}
    wrong = {"number": numbers, "coded_number": numbers.dictionary_encode(), "bytes": [b"a"]}
    path = file("a.parquet", pyarrow.table({**columns, **wrong}))
    plan = made(path)
    planning.check_text(plan, columns)
    for name, kind in (("number", "int64"), ("bytes", "binary"), ("coded_number", None)):
        kind = kind or plan.schema.field(name).type
        assert said(planning.check_text, plan, ["plain", name]) == (
            f"{path}: column {name!r} is {kind}, not text; name another one by --text_column"
        )


def test_a_file_that_is_not_the_one_that_was_planned(file):
    path = file("a.csv", "sentence\nfine\n")
    known = urls.status(path)
    urls.check_same(known)
    assert said(urls.check_same, known._replace(mtime_ns=1)) == (
        f"{path}: changed since the run was planned; put the file back, or take another "
        "--output_dir"
    )
    table = file("a.parquet", pyarrow.table({"sentence": ["fine"]}))
    planned = urls.status(table)
    file("a.parquet", "no Parquet")
    text = said(reading.read, planned, "parquet", Span(0, 1, 0), pyarrow.schema([]), [])
    assert text.startswith(f"{table}: changed since the run was planned; ")
    path = file("a.jsonl", '{"n": 1}\n{"n": 2, "m": 1}\n')
    whole = pyarrow.schema([("n", pyarrow.int64())])
    rows = reading.read(urls.status(path), "jsonl", Span(0, 2, 0, 1), whole, None)
    assert rows.bad == [(2, "values of other types than were planned")]
    assert rows.numbers == [1] and rows.table.to_pylist() == [{"n": 1}]


def test_an_output_folder_that_is_another_s(tmp_path):
    folder, file = tmp_path / "out", tmp_path / "file"
    file.write_text("")
    with worker.locked(folder) as token:
        worker._check_shared(folder, token)
        text = said(worker._check_shared, folder, token[1:])
        assert said(contextlib.ExitStack().enter_context, worker.locked(folder)) == (
            f"--output_dir {folder}: another run is writing there; wait for it, or choose another "
            "folder"
        )
    wanted = (
        f"--output_dir {{}}: {platform.node()}, where a worker runs, does not see this folder; "
        "take one on a filesystem that all nodes share"
    )
    assert text == wanted.format(folder)
    assert said(worker._check_shared, tmp_path, token) == wanted.format(tmp_path)
    text = said(contextlib.ExitStack().enter_context, worker.locked(file))
    assert text == f"--output_dir {file}: cannot be written (File exists); choose another folder"
    with worker.locked(folder / "deep" / "er") as other:
        assert other != token and len(other) == 32
    with worker.locked(folder) as other:
        assert (folder / worker.LOCK).read_text() == other != token


def test_what_became_of_a_call():
    def refuses():
        raise UserError("a.csv: no such file; correct its name")

    def fails():
        raise OSError("no route\nto host")

    assert worker.attempt(divmod, 7, 2) == ("done", (3, 1))
    assert worker.attempt(refuses) == ("refused", "a.csv: no such file; correct its name")
    assert worker.attempt(fails) == ("failed", "no route (OSError)")


ONE_NPU = {"num_cpus": 0, "resources": {"NPU": 1}}


@pytest.mark.parametrize(
    "given, wanted",
    [
        (("cpu", [{"CPU": 4.0}]), (1, 4, {"num_cpus": 4})),
        (("cpu", [{"CPU": 4}, {"CPU": 2}, {}]), (2, 2, {"num_cpus": 2})),
        (("cpu", [{"CPU": 4}, {"CPU": 3}], 3), (3, 2, {"num_cpus": 2})),
        (("cpu", [{"CPU": 3}, {"CPU": 3}], 3), (3, 1, {"num_cpus": 1})),
        (("cpu", [{"CPU": 8}], 2, 3), (2, 3, {"num_cpus": 3})),
        (("npu", [{"NPU": 2, "CPU": 8}, {"NPU": 1}]), (3, 0, ONE_NPU)),
        (("npu", [{"NPU": 2}], 1), (1, 0, ONE_NPU)),
        (("npu", [{"NPU": 1}]), (1, 0, ONE_NPU)),
        (("cuda", [{"GPU": 2}, {"GPU": 2}], 4), (4, 0, {"num_cpus": 0, "num_gpus": 1})),
        (
            ("cuda", [{"CPU": 8}]),
            "--ray: the cluster has 0 GPU for 1 workers; take fewer, or say what a node has when "
            "it is started (ray start --resources)",
        ),
        (
            ("npu", [{"NPU": 2}], 3),
            "--ray: the cluster has 2 NPU for 3 workers; take fewer, or say what a node has when "
            "it is started (ray start --resources)",
        ),
        (
            ("cpu", [{"CPU": 2}, {"CPU": 1}], 4),
            "--workers 4: of 1 thread each do not fit on 2 + 1 CPUs; take fewer",
        ),
        (
            ("cpu", [{"CPU": 4}], 2, 3),
            "--workers 2: of 3 threads each do not fit on 4 CPUs; take fewer",
        ),
        (("cpu", [{}]), "--workers 0: of 1 thread each do not fit on 0 CPUs; take fewer"),
    ],
)  # fmt: skip
def test_how_many_workers_a_cluster_has_room_for(given, wanted):
    if isinstance(wanted, str):
        assert said(ray_workers.share, *given) == wanted
    else:
        assert ray_workers.share(*given) == wanted


SUMMARY = {
    "rows_written": 9000, "rows_planned": 10000, "skipped": 0, "truncated": 0, "not_scored": 0,
    "rows_per_second": None, "seconds": None, "workers": None, "startup_seconds": None,
    "failed": [],
}  # fmt: skip
COUNTS = {"skipped": 1000, "truncated": 2, "not_scored": 3}
UNANSWERED = "without an answer, for their logits are not finite"
ACCURACY = {"correct": 1, "total": 2, "value": 0.5, "wilson95": [0.1, 0.9]}
LABELLED = {"accuracy": ACCURACY, "unlabelled": 1200, "metrics": {"f1": 0.25}}
INTERVAL = "0.5000 (1/2), 95 % Wilson interval 0.1000 to 0.9000"
FAILED = [{"part": 3, "what": "a.csv, 7 rows from line 9", "why": "no disk"}]


@pytest.mark.parametrize(
    "more, counts, lines",
    [
        ({}, "", []),
        (COUNTS, f"; 1,000 skipped; 2 cut to the file's length; 3 {UNANSWERED}", []),
        (
            dict(zip(("rows_per_second", *summaries.TIMES[:3]), (1234.56, 2, 1.26, 7.29))),
            "",
            [("rate", "1,234.6 rows/s over 7.3 s by 2 workers (start-up of 1.3 s apart)")],
        ),
        (
            dict(zip(("rows_per_second", *summaries.TIMES[:3]), (1.0, 1, 0, 7200))),
            "",
            [("rate", "1.0 rows/s over 7,200.0 s by 1 worker (start-up of 0.0 s apart)")],
        ),
        ({"failed": FAILED}, "", [("failed", "part 3: a.csv, 7 rows from line 9: no disk")]),
        (
            LABELLED,
            "",
            [
                ("accuracy", f"{INTERVAL}; 1,200 rows without a label"),
                ("metrics", "F1 0.2500"),
            ],
        ),
    ],
)
def test_what_is_printed_of_a_summary(more, counts, lines):
    rows = ("rows", f"9,000 of 10,000 written{counts}")
    assert list(summaries.lines({**SUMMARY, **more})) == [rows, *lines]


def test_rows_that_were_skipped_are_a_line_each(tmp_path):
    """Whatever stands in names and reasons; no file where none was."""
    inputs = [Input("a\tb.csv", 1, 1), Input("c\udce9.csv", 1, 1)]
    plan = planning.Plan({}, inputs, [], "", [])
    parts = [planning.Part(number, number, Span(0, 3, 0)) for number in (0, 1)]
    good = worker.Done(3, 3, [], 0, 0)
    assert summaries.write_skipped(tmp_path, plan, [(parts[0], good)]) is None
    assert not list(tmp_path.iterdir())
    bad = [good._replace(bad=[[2, "no\ttext\r\nhere"], [12, "x"]]), good._replace(bad=[[1, "y"]])]
    path = summaries.write_skipped(tmp_path, plan, list(zip(parts, bad)))
    assert path == tmp_path / "_skipped.tsv"
    assert path.read_bytes() == (
        b"file\trow\twhy\na b.csv\t2\tno text  here\na b.csv\t12\tx\nc\\udce9.csv\t1\ty\n"
    )


def test_the_times_of_another_run_are_not_this_one_s(tmp_path):
    plan = planning.Plan({}, [], [], "", [])
    none = dict.fromkeys(summaries.TIMES)
    assert summaries.last_times(tmp_path, plan) == none
    times = dict(zip(summaries.TIMES, (2, 1.5, 3.25, 9.0)))
    place = tmp_path / "_summary.json"
    for content in ("no JSON", "[]", json.dumps({"plan": "other", **times})):
        place.write_text(content)
        assert summaries.last_times(tmp_path, plan) == none
    place.write_text(json.dumps({"plan": plan.digest, **times}))
    assert summaries.last_times(tmp_path, plan) == times
    assert tuple(times) == ("workers", "startup_seconds", "seconds", "rows_per_second")


# A run


def test_everything_that_a_run_writes(tmp_path, capfd, file, file_of):
    path = file("a.csv", "sentence,gold\nfine,1\ndull,positive\nno,0\nbad,-1\n")
    given = {"aie_model_dir": file_of("SST-2"), "input": path, "label_column": "gold"}
    done = label_corpus(capfd, **given, output_dir=tmp_path / "out", part_rows=3)
    assert (done.code, done.err) == (0, "")
    digest = pt_file.open_pt(file_of("SST-2")).digest
    plan = json.loads((tmp_path / "out" / "_plan.json").read_text())
    assert plan["settings"] == {
        "format": "csv",
        "part_rows": 3,
        "text_column": ["sentence"],
        "label_column": "gold",
        "labels": ["0", "1"],
        "model": digest,
        "classes": ["negative", "positive"],
        "answer_columns": ["label", "probability", "model"],
    }
    info = os.stat(path)
    assert plan["inputs"] == [[path, info.st_size, info.st_mtime_ns]]
    assert plan["columns"] == [["sentence", "gold"]]
    assert plan["parts"] == [[0, 0, 0, 3, 14, 2], [1, 0, 3, 1, 40, 5]]
    summary = summary_of(tmp_path / "out")
    labels = [row["label"] for row in table_of(tmp_path / "out")]
    right = sum(a == b for a, b in zip(labels, ("positive", "positive", "negative")))
    accuracy = summary["accuracy"]
    assert (accuracy["correct"], accuracy["total"]) == (right, 3)
    assert {key: summary[key] for key in summary if key not in (*summaries.TIMES, "accuracy")} == {
        "plan": plan["sha256"],
        "model": digest,
        "text_column": ["sentence"],
        "label_column": "gold",
        "files": 1,
        "parts": 2,
        "rows_planned": 4,
        "rows": 4,
        "rows_written": 4,
        "skipped": 0,
        "truncated": 0,
        "not_scored": 0,
        "failed": [],
        "metrics": {},
        "unlabelled": 1,
    }
    part = tmp_path / "out" / f"part-000001-{plan['sha256'][:8]}.parquet"
    told = json.loads(parquet.read_metadata(part).metadata[b"albert_aie"])
    counts = {"rows": 1, "written": 1, "bad": [], "cut": 0, "unanswered": 0}
    assert told == {"plan": plan["sha256"], "part": 1, **counts}
    columns = [(field.name, str(field.type)) for field in parquet.read_schema(part)]
    texts = [(name, "string") for name in ("sentence", "gold", "label")]
    assert columns == [*texts, ("probability", "float"), ("model", "string")]
    assert {row["model"] for row in table_of(tmp_path / "out")} == {digest}
    beside = part.with_name(f"_{part.stem}.sha256").read_text()
    assert beside == f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}\n"


def test_answers_of_a_regression_go_by_names_that_no_column_has(tmp_path, capfd, file, file_of):
    columns = "sentence1,sentence2,model"
    path = file("a.csv", f"{columns}\na,b,mine\n")
    given = {"aie_model_dir": file_of("STS-B"), "input": path, "output_dir": tmp_path / "out"}
    assert label_corpus(capfd, **given).code == 0
    (row,) = table_of(tmp_path / "out")
    assert row["model"] == "mine" and [*row][3:] == ["predicted_score", "predicted_model"]


def test_rows_and_labels_that_stop_a_run(tmp_path, capfd, file, file_of):
    def error(name, path, **more):
        given = {"aie_model_dir": file_of(name), "output_dir": f"{path}.out", "input": path}
        done = label_corpus(capfd, **given, **more)
        assert done.code == 2
        return done.err.splitlines()[-1]

    fix = "correct it, or take --on_bad_row skip"
    path = file("a.parquet", pyarrow.table({"sentence": ["a", None], "gold": ["1", "7"]}))
    why = "no text in column 'sentence'"
    assert error("SST-2", path) == f"error: {path}, row 1: {why}; {fix}"
    path = file("b.csv", "sentence,gold\na,1\nb,7\n")
    text = error("SST-2", path, label_column="gold")
    assert text == f"error: {path}, line 3: label '7' is not a class of SST-2; {fix}"
    path = file("d.csv", "sentence,gold\na,1\n")
    text = error("SST-2", path, text_column="words")
    why = "has no column 'words', but sentence, gold"
    assert text == f"error: {path}: {why}; name the right one by --text_column"
    text = error("SST-2", path, label_column="gold", label_map="0=bad,1=good")
    wanted = f"error: {path}: the data's classes are negative, positive, bad, good, the model's bad"
    assert text.startswith(wanted), text


def test_sentences_and_labels_of_a_table():
    """What is wrong with a row is its first reason; rows of a score may have any number."""
    one = {"text_column": ["a"], "label_column": None}
    two = {"text_column": ["a", "b"], "label_column": "gold"}
    columns = {"a": ["x", "y", None], "b": ["z", None, None], "gold": ["1.5", "good", "-1"]}
    table = pyarrow.table(columns)
    wrong = {2: "no text in column 'a'"}
    assert worker._sentences(table, one, TASKS["SST-2"]) == (["x", "y", None], wrong)
    pairs = [("x", "z"), ("y", None), (None, None)]
    wrong = {1: "no text in column 'b'", 2: "no text in column 'a'"}
    assert worker._sentences(table, two, TASKS["STS-B"]) == (pairs, wrong)
    table = pyarrow.table({**columns, "a": ["x"] * 3, "b": ["z"] * 3})
    wrong = {1: "label 'good' is not a number"}
    assert worker._sentences(table, two, TASKS["STS-B"])[1] == wrong
    wrong = {0: "label '1.5' is not a class of MRPC", 1: "label 'good' is not a class of MRPC"}
    assert worker._sentences(table, two, TASKS["MRPC"])[1] == wrong
    numbers = pyarrow.table({**columns, "a": ["x"] * 3, "b": ["z"] * 3, "gold": [1, 2, None]})
    found = worker._sentences(numbers, two, TASKS["MRPC"])[1]
    assert found == {i: f"label {label} is not a class of MRPC" for i, label in ((1, 2), (2, None))}
    lists = numbers.set_column(2, "gold", pyarrow.array([[1], [1], []]))
    found = worker._sentences(lists, two, TASKS["MRPC"])[1]
    assert [why[:9] for why in found.values()] == ["label [1]", "label [1]", "label [] "]


def test_whole_numbers_are_as_wide_as_they_have_to_be():
    """A fraction can hold those up to 2^53, int64 those below 2^63."""
    small, middle, large = json_types.WHOLE
    for value, kind in (
        (2**53, small), (-(2**53), small), (2**53 + 1, middle), (-(2**53) - 1, middle),
        (2**63 - 1, middle), (-(2**63), middle), (2**63, large), (-(2**63) - 1, large),
        (10**38 - 1, large), (True, "true or false"), (0.0, "a fraction"), ([1, 2**63], [large]),
        ([], ["null"]),
    ):  # fmt: skip
        row, kinds = json_types.join({}, formats.Record(1, {"a": value}))
        assert (row.why, kinds) == ("", {"a": kind})
        column = pyarrow.array([value], json_types.type_of(kind))
        widest = middle if kind == small else kind  # both are int64
        assert json_types.kind_of(column.type) == widest and column.to_pylist() == [value]
    for value, kind in (({"b": 1}, "an object"), ([1], "a list"), (1, small)):
        key = "a" * 60
        row, _ = json_types.join({key: json_types.TEXT}, formats.Record(1, {key: value}))
        assert row.why == f"key {key[:50]!r} is {kind}, but text in lines before"
    row, kinds = json_types.join({"b": small}, formats.Record(1, {"a": 10**38}))
    assert row.why == "key 'a' is a whole number of more than 38 digits"
    assert (row.fix, row.values, kinds) == ("give it one type", None, {"b": small})


def test_the_shortest_rows_are_compiled_before_the_clock_runs(tmp_path, monkeypatch, file, file_of):
    """Those that nearly all sentences take."""
    shapes = [Shape(4, 64), Shape(1, 64), Shape(1, 128)]
    warmed, asked = [], []

    def load(*given, **options):
        asked.append(options)
        return Classifier(*given)

    monkeypatch.setattr(worker, "choose", lambda given, grid: shapes)
    monkeypatch.setattr(worker, "warm_up", lambda *given, **more: warmed.append((given, more)))
    path = file("a.csv", "sentence\nfine\n")
    saved = pt_file.open_pt(file_of("SST-2"))
    plan = dataclasses.replace(made(path), settings={"model": saved.digest})
    planning.save(plan, tmp_path)
    with worker.locked(tmp_path) as token:
        one = worker.Job(str(tmp_path), token, [str(saved.path)], options={"threads": 1})
        monkeypatch.setattr(worker, "Classifier", load)
        ready = worker.Worker(one)
    with ready.classify:
        assert asked == [{"threads": 1}]
        assert warmed == [((ready.classify.runner, shapes[:2]), {"runs": 1})]


def test_text_of_parquet_that_is_not_utf8_is_none(tmp_path, capfd, file, file_of):
    """Neither a sentence nor a label; other columns stay as they are."""
    coded = pyarrow.array([b"a", b"\xff", b"c"])
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 3, coded.buffers())
    table = pyarrow.table({"sentence": broken, "gold": ["1"] * 3, "other": broken})
    path = file("a.parquet", table)
    given = {"aie_model_dir": file_of("SST-2"), "input": path, "on_bad_row": "skip"}
    done = label_corpus(capfd, **given, label_column="gold", output_dir=tmp_path / "a")
    assert done.code == 0, done.err
    assert skipped_of(tmp_path / "a") == [("a.parquet", 1, "no text in column 'sentence'")]
    assert [row["sentence"] for row in table_of(tmp_path / "a")] == ["a", "c"]
    why = "label None is not a class of SST-2"
    coded = pyarrow.array([b"1", b"\xff", b"0"])
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 3, coded.buffers())
    given["input"] = file("b.parquet", pyarrow.table({"sentence": ["a"] * 3, "gold": broken}))
    done = label_corpus(capfd, **given, label_column="gold", output_dir=tmp_path / "b")
    assert done.code == 0, done.err
    assert skipped_of(tmp_path / "b") == [("b.parquet", 1, why)]


def test_lines_that_all_readers_of_a_task_pass_over(tmp_path):
    """QQP's official file has a few; a user's own file may have none."""
    path = tmp_path / "dev.tsv"
    lines = ["question1\tquestion2\tis_duplicate", "a\tb\t1", "c\td", "e\tf\tg\t0", "h\ti\t0"]
    path.write_text("\n".join(lines) + "\n")
    examples = datasets.read(tmp_path, task=TASKS["QQP"])
    assert examples.sentences == [("a", "b"), ("h", "i")] and examples.labels == [1, 0]
    assert examples.note == (
        "2 lines have another number of columns than the header, the first line 3; they are passed "
        "over"
    )
    inputs, form = reading.find([str(path)])
    why = "2 columns instead of 3 (question1<TAB>question2<TAB>is_duplicate)"
    assert said(planning.make, inputs, form, Cut(9)) == (
        f"{path}, line 3: {why}; correct the line, or take --on_bad_row skip"
    )


def test_columns_and_labels_that_a_user_s_table_lacks():
    """Of both scripts, in one sentence each."""

    def table(*columns, rows=()):
        made = (formats.Record(i, dict(zip(columns, row))) for i, row in enumerate(rows, 2))
        return records.Table("a.csv", list(columns), made)

    pair, single, score = (TASKS[name] for name in ("MRPC", "SST-2", "STS-B"))
    wants = "two columns, as in --text_column a b"
    text = said(datasets.columns, table("a", "b"), pair, ["a"])
    assert text == f"--text_column a: MRPC wants {wants}"
    text = said(datasets.columns, table("a", "b"), single, ["a", "b"])
    assert text == "--text_column a b: SST-2 wants one column"
    assert said(datasets.columns, table("text"), pair) == (
        "a.csv: holds one text a record, and MRPC wants pairs; give them in two columns, with "
        "--input_format tsv, csv or jsonl"
    )
    names = [f"column {i}" for i in range(9)]
    listed = ", ".join(names[:8])
    assert said(datasets.columns, table(*names), single) == (
        f"a.csv, line 1: has no column 'sentence' or 'text', but {listed} and 1 more; name the "
        "right one by --text_column"
    )
    assert datasets.columns(table("TEXT", "b"), single) == ["TEXT"]
    own = ["#1 String", "#2 String"]
    assert datasets.columns(table(*own), pair) == own
    for known in (("sentence1", "sentence2"), ("premise", "hypothesis"), ("text_a", "text_b"),
                  ("text1", "text2"), ("Text1 ", "TEXT2")):  # fmt: skip
        assert datasets.columns(table(*known), pair) == [*known]
    assert datasets.columns(table("text", "Text", "sentence"), single) == ["sentence"]
    assert datasets.columns(table("text", "Text"), single) == ["text"]
    rows = [("fine", "1"), ("dull", "7")]
    text = said(datasets.collect, table("a", "y", rows=rows), single, ["a"], "y")
    why = "label '7' is not a class of SST-2 (0 negative, 1 positive)"
    assert text == f"a.csv, line 3: {why}; correct the line"
    rows = [("a", "b", "1"), ("a", "b", "good")]
    text = said(datasets.collect, table("a", "b", "y", rows=rows), score, ["a", "b"], "y")
    assert text == "a.csv, line 3: label 'good' is not a number; correct the line"
    assert datasets.number("inf", score) is datasets.number("nan", score) is None
    many = pair._replace(name="many", labels=(), classes=tuple(f"class {i}" for i in range(10)))
    text = said(datasets.collect, table("a", "b", "y", rows=rows), many, ["a", "b"], "y")
    listed = ", ".join(many.classes[:8])
    assert f"is not a class of many ({listed} and 2 more); correct the line" in text
    named, note = datasets.labelled(single, table("a", "y"), "y", {0: "positive", 1: "negative"})
    assert (datasets.number("0", named), note) == (1, "")
    text = said(datasets.collect, table("a"), single, ["a"])
    assert text == "a.csv: holds a header and no sentence; download it again"


def test_a_file_of_random_weights_has_no_accuracy(tmp_path):
    settings = {"model": "m", "text_column": ["a"], "label_column": "b"}
    plan, notes = planning.Plan(settings, [], [], "", []), []
    saved = types.SimpleNamespace(manifest={"random_weights": True})
    given = worker.Job(str(tmp_path), "", []), saved, plan, job.Outcome({}, [], {})
    summary = job.conclude(*given, notes.append)
    assert notes == ["random weights: no accuracy"] and "accuracy" not in summary
    assert summary_of(tmp_path) == summary and summary["seconds"] is None


def done_of(rows):
    return worker.Done(rows, rows, [], 0, 0)


def test_what_becomes_of_the_parts_of_a_run(monkeypatch):
    """A part that fails waits again, behind the others; the clock runs from the first worker that
    is ready to the last part."""
    now = iter([100.0, 103.0, 110.0, 111.0, 112.0, 113.0, 114.0, 115.0, 999.0])
    monkeypatch.setattr(job.time, "monotonic", lambda: next(now))
    parts = [planning.Part(number, 0, Span(0, 10, 0)) for number in range(4)]
    waiting, notes, rows = deque(parts[1:3]), [], []
    results = [
        (None, "ready", 1),
        (None, "ready", 3),
        (parts[1], "failed", "no disk"),
        (parts[2], "done", done_of(10)),
        (None, "ready", 2),
        (parts[1], "failed", "no disk"),
        (parts[1], "failed", "no net"),
        (parts[3], "done", done_of(20)),
    ]
    outcome = job.collect(
        (one for one in results), waiting, {parts[0]: done_of(5)}, rows.append, notes.append
    )
    assert outcome.done == dict(zip((parts[0], *parts[2:]), map(done_of, (5, 10, 20))))
    assert outcome.failed == [(parts[1], "no net")] and rows == [10, 20]
    assert list(waiting) == [*parts[1:3], parts[1], parts[1]]  # after the third time it does not
    assert notes == [f"part 1 failed: no {what}" for what in ("disk", "disk", "net")]
    times = {"workers": 3, "startup_seconds": 3.0, "seconds": 11.0, "rows_per_second": 30 / 11}
    assert outcome.times == times


def test_a_run_without_a_part_to_do_or_that_is_refused():
    part = planning.Part(0, 0, Span(0, 10, 0))
    before = {part: done_of(10)}
    assert job.collect(None, deque(), before, None, None) == job.Outcome(before, [], {})
    ended = []

    def results():
        try:
            yield None, "ready", 1
            yield part, "refused", "a.csv: changed"
            yield part, "done", done_of(10)
        finally:
            ended.append(True)

    with pytest.raises(UserError, match="^a.csv: changed$"):
        job.collect(results(), deque([part]), {}, None, None)
    assert ended == [True]


def test_workers_are_given_whole_paths(tmp_path, monkeypatch):
    given = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "run_in_process", lambda *args: given.append(args))
    monkeypatch.setattr(ray_workers, "on_ray", lambda *args: given.append(args))
    plain = worker.Job("out", "token", ["a.pt", "/b.pt"])
    whole = plain._replace(folder=f"{tmp_path}/out", files=[f"{tmp_path}/a.pt", "/b.pt"])
    job.run_parts(plain, "parts", "cpu")
    job.run_parts(plain, "parts", "npu", "auto", 3, print)
    assert given == [(whole, "parts"), (whole, "parts", "auto", "npu", 3, print)]
