"""A corpus's files: which are read, where their records begin and end, what types they hold, and
that a run is of the files and settings that it was planned for."""

import bz2
import gc
import json
import lzma
import os
import shutil
import time

import pyarrow
import pyarrow.dataset
import pytest
from corpora import label_corpus, skipped_of, summary_of, table_of, write_rows
from helpers import refused
from pyarrow import parquet

from albert_aie.base.errors import UserError
from albert_aie.corpus import reading, urls, worker
from albert_aie.data import datasets, formats, records
from albert_aie.data.tasks import TASKS


@pytest.fixture
def run(capfd, tmp_path, file_of):
    """run_aie_corpus.py in this process, on the SST-2 file, in parts of 3 rows."""

    def run(**options):
        given = {"aie_model_dir": file_of("SST-2"), "part_rows": 3, "output_dir": tmp_path / "out"}
        return label_corpus(capfd, **{**given, **options})

    return run


def texts(folder, column="sentence"):
    return [row[column] for row in table_of(folder)]


# Where records begin and end


SCREENS = b'id,sentence\n1,a 5" screen\n2,good\n3,a 7" screen\n4,dull\n'
OPENS = b'id,sentence\n1,"a 5 screen\n2,good\n3,"a 7" screen"\n4,dull\n5,"never closed\n6,no\n'


@pytest.mark.parametrize(
    "name, content, keys, skipped",
    [
        ("a.csv", SCREENS, "1234", []),
        ("a.csv", OPENS, "246", [2, 4, 6]),
        ("a.csv", b'id,sentence\n1,"a\n\n""b"", c"\n\n2,\n3,x,y\n4,z\n', "124", [7]),
        ("a.csv", b"\xef\xbb\xbfid,sentence\r\n1,a\r\n2,b\r\n", "12", []),
        ("a.csv", b'id,sentence\n1,a\xe9\n2,"b\nc\xe9\n"\n3,c\n', "3", [2, 3]),
        ("a.csv", b"id,sentence\n1,a\rb\n2,c\n", "2", [2]),
        (
            "a.tsv",
            b'\xef\xbb\xbfid\tsentence\n1\t"a\n2\tb""\n3\tc\td\n4\te\rf\n5\tg\n\n\n',
            "125",
            [4, 5],
        ),
        ("a.tsv", b"id\tsentence\n1\ta\n\n2\tb\n", "12", [3]),
        (
            "a.jsonl",
            b'\xef\xbb\xbf{"id": "1", "sentence": "a"}\n\n{"id": "2"\n[3]\n'
            b'{"id": "4", "sentence": "\xff"}\n{"id": "5", "sentence": NaN}\n'
            b'{"id": "6", "sentence": "b"}',
            "16",
            [3, 4, 5, 6],
        ),
        (
            "a.jsonl",
            b'{"sentence": "a", "id": "1"}\n{"id": 2, "sentence": "b"}\n'
            b'{"id": "3", "sentence": 4}\n{"id": "4", "sentence": "c", "more": [1, 2.5]}\n'
            b'{"id": "5", "sentence": "d", "more": ["x"]}\n{"id": "6", "sentence": "e"}\n',
            "146",
            [2, 3, 5],
        ),
    ],
)
@pytest.mark.parametrize("part_rows", [1, 2, 100])
def test_no_row_is_lost_and_each_bad_one_is_listed(
    tmp_path, run, name, content, keys, skipped, part_rows
):
    """Whatever parts they are cut into; without --on_bad_row skip the first is named before
    anything runs."""
    path = tmp_path / name
    path.write_bytes(content)
    done = run(input=path, on_bad_row="skip", part_rows=part_rows)
    assert done.code == 0, done.err
    assert "".join(row["id"] for row in table_of(tmp_path / "out")) == keys
    summary = summary_of(tmp_path / "out")
    assert summary["rows"] == summary["rows_planned"] == len(keys) + len(skipped)
    assert summary["rows_written"] == len(keys) and summary["skipped"] == len(skipped)
    listed = skipped_of(tmp_path / "out") if skipped else []
    assert [number for _, number, _ in listed] == skipped
    shutil.rmtree(tmp_path / "out")
    done = run(input=path, part_rows=part_rows)
    if not skipped:
        assert done.code == 0
    else:
        assert refused(done, f"{name}, line {skipped[0]}: {listed[0][2]}; ", "--on_bad_row skip")
        assert not (tmp_path / "out" / "_plan.json").exists()


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", SCREENS),
        ("a.csv", b'id,sentence\r\n1,"a, ""b""\r\nc"\r\n\r\n2, d \r\n3,\r\n'),
        ("a.tsv", b'id\tsentence\n1\t"a\n2\t b \n3\t\n'),
        ("a.jsonl", b'{"id": 1, "sentence": " a\\n"}\n{"id": 2, "sentence": ""}\n'),
        (
            "a.jsonl",
            b'{"id": 12345678901234567890, "sentence": "a"}\n{"sentence": "b", "id": null}\n',
        ),
        ("a.csv", b"id,sentence\n1," + b"long " * 40_000 + b"\n2,b\n"),
    ],
)
def test_both_scripts_read_the_same_records(tmp_path, run, evaluate, file_of, name, content):
    path, told = tmp_path / name, tmp_path / "told.jsonl"
    path.write_bytes(content)
    assert evaluate(aie_model_dir=file_of("SST-2"), input=path, output=told).code == 0
    form = formats.format_of(path)
    with records.reading(path, form) as table:
        wanted = [record.values for record in table.records]
    assert run(input=path, part_rows=1).code == 0
    rows = table_of(tmp_path / "out")
    assert [{key: row[key] for key in ("id", "sentence")} for row in rows] == wanted
    assert len(wanted) > 1


def test_a_record_of_csv_without_a_letter_is_a_row(tmp_path):
    """Empty fields and blanks are texts; a line without any field is none."""
    path = tmp_path / "a.csv"
    path.write_text('id,sentence\n,\n\n" ",  \n"",""\n1,fine\n')
    with records.reading(path, "csv") as table:
        rows = [(record.line, *record.values.values()) for record in table.records]
    assert rows == [(2, "", ""), (4, " ", "  "), (5, "", ""), (6, "1", "fine")]


def test_a_whole_number_stays_the_number_it_is(tmp_path, run):
    """20 digits and 38, beside small ones, within lists too; a fraction does not round others."""
    ids = [1, 12345678901234567890, -(10**37), 99999999999999999999, 2**53 + 1]
    lines = [{"id": one, "sentence": "a", "list": [one]} for one in ids]
    lines.insert(3, {"id": 1.5, "sentence": "a"})
    lines.append({"id": 10**38, "sentence": "a"})
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert refused(run(input=path), "line 4: key 'id' is a fraction, but a whole number over 2^63")
    assert run(input=path, on_bad_row="skip").code == 0
    assert [row["id"] for row in table_of(tmp_path / "out")] == ids
    assert [row["list"] for row in table_of(tmp_path / "out")] == [[one] for one in ids]
    assert [number for _, number, _ in skipped_of(tmp_path / "out")] == [4, 7]
    assert "38 digits" in skipped_of(tmp_path / "out")[1][2]


@pytest.mark.parametrize(
    "ids, bad", [([2**53 + 1, 0.5, 7], 0.5), ([1, (0.5, 3), 2**53 + 1], (0.5, 3))]
)
def test_no_whole_number_is_rounded_for_a_fraction(tmp_path, run, ids, bad):
    """Nor for one in a row that is skipped for another key."""
    pairs = [one if isinstance(one, tuple) else (one, "a") for one in ids]
    lines = [json.dumps({"id": number, "sentence": text}) for number, text in pairs]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert run(input=tmp_path / "a.jsonl", on_bad_row="skip").code == 0
    assert [row["id"] for row in table_of(tmp_path / "out")] == [i for i in ids if i != bad]
    assert [number for _, number, _ in skipped_of(tmp_path / "out")] == [2]


@pytest.mark.parametrize("groups, sizes", [(2, [2, 2, 3]), (1, [3, 3, 1]), (7, [2, 2, 3])])
def test_row_groups_are_cut_or_put_together(tmp_path, run, groups, sizes):
    """Of 7 rows in parts of 3 at most."""
    table = pyarrow.table({"sentence": [f"film {i}" for i in range(7)]})
    parquet.write_table(table, tmp_path / "a[1].parquet", row_group_size=groups)
    assert run(input=tmp_path / "a[1].parquet").code == 0
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert [parquet.read_metadata(part).num_rows for part in parts] == sizes
    assert texts(tmp_path / "out") == table.column(0).to_pylist()


def test_keys_of_json_lines_need_not_be_in_every_line_or_file(tmp_path, run):
    """Whole numbers and fractions are numbers; objects have the keys of all."""
    (tmp_path / "a.jsonl").write_text(
        '{"sentence": "a", "n": 1, "o": {"x": 1}}\n{"o": {"y": ["z"]}, "sentence": "b"}\n'
    )
    (tmp_path / "b.jsonl").write_text('{"sentence": "c", "n": 2.5, "flag": true, "none": null}\n')
    assert run(input=[tmp_path / "a.jsonl", tmp_path / "b.jsonl"], part_rows=1).code == 0
    rows = [{**row} for row in table_of(tmp_path / "out")]
    assert [row["n"] for row in rows] == [1.0, None, 2.5]
    assert [row["o"] for row in rows] == [{"x": 1, "y": None}, {"x": None, "y": ["z"]}, None]
    assert [row["flag"] for row in rows] == [None, None, True]


@pytest.mark.parametrize("line", ['%d,a 5" screen\n', '%d,"a 5 screen\n', 'a","\n'])
def test_planning_takes_time_with_the_file_alone(line):
    """Ten times the file, about ten times the time: not a hundred. Also where each line opens a
    quote that the next does not close."""
    seconds = []
    for count in (2_000, 20_000):
        content = [line % i if "%" in line and i % 50 == 0 else f"{i},fine\n" for i in range(count)]
        if "%" not in line:
            content = [line] * count
        lines = list(numbered("".join(content).encode()))
        gc.disable()  # else what other tests left is looked through again and again
        started = time.process_time()
        found = list(formats._split_csv(iter(lines), "a.csv"))
        seconds.append(time.process_time() - started)
        gc.enable()
        assert len(found) == count
    assert seconds[1] < 30 * seconds[0] + 0.1


def numbered(content):
    place = 0
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        yield number, place, line
        place += len(line)


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(tmp_path, run, monkeypatch):
    monkeypatch.setattr(formats, "RECORD", 200)
    path = tmp_path / "a.csv"
    path.write_text('sentence\nfine\n"open\n' + "more\n" * 100)
    assert refused(run(input=path, on_bad_row="skip"), "a.csv, line 3: a quote that opens there")
    path.write_text("sentence\nfine\n" + "x" * 300 + "\n")  # one line
    assert run(input=path).code == 0 and len(texts(tmp_path / "out")) == 2


def test_columns_go_by_their_names_in_each_file(tmp_path, run):
    for form in ("csv", "tsv", "parquet"):
        files = [
            write_rows(tmp_path / f"a.{form}", [{"id": "1", "sentence": "a"}]),
            write_rows(tmp_path / f"b.{form}", [{"sentence": "b", "id": "2"}]),
        ]
        assert run(input=files, output_dir=tmp_path / form).code == 0
        rows = table_of(tmp_path / form)
        assert [(row["id"], row["sentence"]) for row in rows] == [("1", "a"), ("2", "b")]


def test_a_task_s_file_without_a_header_keeps_its_first_row(capfd, tmp_path, file_of):
    path = tmp_path / "a.tsv"
    path.write_text("gj04\t1\t\tthe sailors rode\nks08\t0\t*\tand so\n")
    given = {"aie_model_dir": file_of("CoLA"), "input": path, "label_column": "label"}
    done = label_corpus(capfd, **given, output_dir=tmp_path / "out", part_rows=1)
    assert done.code == 0, done.err
    assert texts(tmp_path / "out") == ["the sailors rode", "and so"]
    assert summary_of(tmp_path / "out")["rows"] == 2


@pytest.mark.parametrize(
    "content, words",
    [
        ("sentence\nfine\n".encode("utf-16"), ["is UTF-16", "iconv -f utf-16 -t utf-8"]),
        ("sentence\nfine\n".encode("utf-32"), ["is UTF-32", "iconv -f utf-32 -t utf-8"]),
        (
            "sentence\ncaf\u00e9\n".encode("cp1252"),
            ["line 2: not UTF-8", "iconv -f cp1252 -t utf-8"],
        ),
        (b"PAR1\x00\x00", ["is Parquet", "run_aie_corpus.py"]),
        (b"\x1f\x8b\x08\x00", ["is compressed", "gunzip"]),
        (bz2.compress(b"sentence\nfine\n"), ["is compressed", "bunzip2 -c"]),
        (lzma.compress(b"sentence\nfine\n"), ["is compressed", "unxz -c"]),
        (b"PK\x03\x04\x14\x00", ["is a zip file", ".xlsx", "save the table as CSV"]),
        (b'"id,sentence\n1,a\n', ["line 1: a record that is not CSV"]),
    ],
)
def test_other_encodings_are_told_how_to_convert(tmp_path, run, evaluate, file_of, content, words):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert refused(run(input=path), "a.csv", *words)
    assert refused(evaluate(aie_model_dir=file_of("SST-2"), input=path), "a.csv", *words)


@pytest.mark.parametrize("name", ["a.parquet", "a.pq", "a.csv.gz", "a.jsonl.zst"])
def test_what_run_aie_eval_does_not_read_names_the_script_that_does(
    tmp_path, evaluate, file_of, name
):
    (tmp_path / name).write_bytes(b"")
    done = evaluate(aie_model_dir=file_of("SST-2"), input=tmp_path / name)
    assert refused(done, name, "run_aie_corpus.py")


# Types of Parquet


def test_maps_views_and_nulls_of_parquet(tmp_path, run):
    """A map column twice (the plan is what it was); string_view as Polars writes it; a column that
    is null in one file, long text in another, in another order."""
    view = pyarrow.schema([("sentence", pyarrow.string_view()), ("m", pyarrow.null())])
    kind = pyarrow.map_(pyarrow.string(), pyarrow.int64())
    tables = [
        pyarrow.table({"sentence": ["a", "b"], "m": pyarrow.array([[("x", 1)], None], kind)}),
        pyarrow.table({"sentence": ["c"], "m": pyarrow.nulls(1)}, schema=view),
        pyarrow.table({"m": pyarrow.array([[]], kind), "sentence": pyarrow.nulls(1)}),
        pyarrow.table(
            {"m": pyarrow.nulls(1), "sentence": pyarrow.array(["e"], pyarrow.large_string())}
        ),
    ]
    for number, table in enumerate(tables):
        parquet.write_table(table, tmp_path / f"{number}.parquet")
    assert parquet.read_schema(tmp_path / "1.parquet").field(0).type == pyarrow.string_view()
    given = {"input": tmp_path / "*.parquet", "on_bad_row": "skip"}
    for _ in range(2):
        done = run(**given)
        assert done.code == 0, done.err
    rows = table_of(tmp_path / "out")
    assert [row["sentence"] for row in rows] == ["a", "b", "c", "e"]
    assert [row["m"] for row in rows] == [[("x", 1)], None, None, None]
    assert [why for _, _, why in skipped_of(tmp_path / "out")] == ["no text in column 'sentence'"]


@pytest.mark.parametrize("first, second", [([1], [1.5]), (["a"], [b"b"]), ([1], ["a"])])
def test_columns_that_no_type_holds_as_they_are_are_refused(tmp_path, run, first, second):
    for number, values in enumerate((first, second)):
        table = pyarrow.table({"sentence": ["a"], "x": values})
        parquet.write_table(table, tmp_path / f"{number}.parquet")
    done = run(input=tmp_path / "*.parquet")
    assert refused(
        done, "1.parquet: has columns (sentence string, x ", "but", "0.parquet (sentence"
    )


# Which files


def test_a_folder_is_read_as_pyarrow_dataset_reads_it(tmp_path, run):
    """With its subfolders, but for names that begin with _ or a dot; folders key=value are
    columns."""
    below = tmp_path / "corpus"
    for number, place in enumerate(
        ("lang=en/month=01", "lang=de/month=02", "lang=__HIVE_DEFAULT_PARTITION__/month=3",
         "lang=a%20b/month=4/deep", "_other", ".git", "lang=en/month=01/_temporary")
    ):  # fmt: skip
        (below / place).mkdir(parents=True, exist_ok=True)
        write_rows(below / place / "a.parquet", [{"sentence": f"film {number}", "n": number}])
    (below / "_SUCCESS").write_text("")
    wanted = pyarrow.dataset.dataset(below, partitioning="hive").to_table()
    for given in (
        below,
        f"file://{below}",
        below / "lang=*",
        [below / "lang=en", f"{below}/*=[!e]*"],
    ):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        done = run(input=given)
        assert done.code == 0, done.err
        rows = [
            {key: row[key] for key in wanted.column_names} for row in table_of(tmp_path / "out")
        ]
        assert sorted(rows, key=str) == sorted(wanted.to_pylist(), key=str) and len(rows) == 4


def test_folders_within_a_pattern_and_links_in_a_circle(tmp_path, run):
    (tmp_path / "c" / "in" / "deep").mkdir(parents=True)
    for place in ("c/a.txt", "c/in/b.txt", "c/in/deep/c.txt"):
        (tmp_path / place).write_text(f"{place}\n")
    (tmp_path / "c" / "in" / "deep" / "up").symlink_to(tmp_path / "c")
    wanted, url = ["c/a.txt", "c/in/b.txt", "c/in/deep/c.txt"], f"file://{tmp_path}/c"
    places = [tmp_path / "c", tmp_path / "c" / "*", tmp_path / "*", f"{url}/in/*"]
    which = dict.fromkeys(places, wanted)
    which.update({f"{url}/*.txt": wanted[:1], f"{url}/*/*.txt": wanted[1:2]})
    for number, (given, names) in enumerate(which.items()):
        out = tmp_path.parent / f"{tmp_path.name}-{number}"
        assert run(input=given, output_dir=out).code == 0
        assert sorted(texts(out, "text")) == names


def test_a_link_to_a_folder_is_read_as_the_folder(tmp_path, run):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("a fine film\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "there").symlink_to(tmp_path / "elsewhere")
    assert run(input=tmp_path / "c").code == 0
    assert texts(tmp_path / "out", "text") == ["a fine film"]


def test_a_folders_key_that_is_a_column_too_is_refused(tmp_path, run):
    """Of the same file or of another: one of the two values would be lost."""
    for place, text in (("label=0/a.csv", "text,label\na,1\n"), ("b=1/a.csv", "text\na\n")):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / place).write_text(text)
    words = "has a column 'label', and folders are called label=..."
    assert refused(run(input=tmp_path / "in" / "label=0"), words)
    (tmp_path / "in" / "c.csv").write_text("text,b\na,7\n")
    both = [tmp_path / "in" / "b=1", tmp_path / "in" / "c.csv"]
    assert refused(run(input=both), "has a column 'b', and folders are called b=...")


@pytest.mark.parametrize("form, text", [("csv", "text\n{}\n"), ("jsonl", '{{"text": "{}"}}\n')])
def test_a_file_outside_of_the_folders_has_no_value_of_their_key(tmp_path, run, form, text):
    (tmp_path / "in" / "year=2020").mkdir(parents=True)
    for place in ("year=2020/a", "b"):
        (tmp_path / "in" / f"{place}.{form}").write_text(text.format(place))
    done = run(input=tmp_path / "in")
    assert done.code == 0, done.err
    found = {row["text"]: row["year"] for row in table_of(tmp_path / "out")}
    assert found == {"year=2020/a": 2020, "b": None}


def test_what_can_never_be_read_is_refused_before_the_work(tmp_path, run):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("fine\n")
    places = [tmp_path / "in", f"file://{tmp_path}/in", f"{tmp_path}/*", f"{tmp_path}/**/*.parquet"]
    for place in (*places, f"{tmp_path}/in/*/*.parquet", f"{tmp_path}/**"):
        done = run(input=place, output_dir=tmp_path / "in" / "out")
        assert refused(done, f"lies in {place}, whose files are all read")
    for number, place in enumerate((tmp_path / "in", f"{tmp_path}/**/*.t*", f"{tmp_path}/in/*")):
        assert run(input=place, output_dir=tmp_path / "in" / f"_{number}").code == 0
    assert run(input=f"{tmp_path}/**/*.txt", output_dir=tmp_path / "in" / "out").code == 0
    os.mkfifo(tmp_path / "pipe.txt")
    assert refused(run(input=tmp_path / "pipe.txt"), "pipe.txt: is no regular file")
    deep = tmp_path / "deep.jsonl"
    deep.write_text('{"text": "a", "m": ' + "[" * 130 + "]" * 130 + "}\n")
    assert refused(run(input=deep), "deep.jsonl, line 1: key 'm' is nested more than 100 deep")
    assert refused(run(input=deep, on_bad_row="skip"), "deep.jsonl: no row can be read")
    for name, value, kind in (("a", 2**63 + 5, "uint64"), ("b", -5, "int64")):
        column = pyarrow.array([value], kind)
        parquet.write_table(
            pyarrow.table({"text": ["a"], "n": column}), tmp_path / f"{name}.parquet"
        )
    for pair in ("ab", "ba"):
        done = run(input=[tmp_path / f"{name}.parquet" for name in pair])
        assert refused(done, "give files of the same columns and types to a run")


def test_two_stars_are_any_number_of_folders(tmp_path, run):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    wanted = ["a.txt", "in/b.txt", "in/deep/c.txt"]
    for place in wanted:
        (tmp_path / place).write_text(f"{place}\n")
    assert run(input=tmp_path / "**" / "*.txt").code == 0
    assert sorted(texts(tmp_path / "out", "text")) == wanted


def test_a_file_of_several_names_is_read_once(tmp_path, run):
    """Through a link, as a URL, by a pattern, twice; a note says so."""
    path = write_rows(tmp_path / "a.csv", [{"sentence": "a"}, {"sentence": "b"}])
    (tmp_path / "link.csv").symlink_to(path)
    names = [path, tmp_path / "link.csv", f"file://{path}", path, tmp_path / "[a]*.csv"]
    done = run(input=names)
    assert done.code == 0 and texts(tmp_path / "out") == ["a", "b"]
    assert f"{tmp_path / 'link.csv'}: is {path} by another name; it is read once" in done.err
    assert summary_of(tmp_path / "out")["files"] == 1


def test_hidden_names_are_passed_over_by_patterns(tmp_path, run):
    for name in ("a.txt", "_b.txt", ".c.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    assert run(input=[tmp_path / "*.txt", f"file://{tmp_path}/*.txt"]).code == 0
    assert texts(tmp_path / "out", "text") == ["a.txt"]
    assert run(input=tmp_path / "_b.txt", output_dir=tmp_path / "named").code == 0
    for place in ("c", "_d", ".e"):
        (tmp_path / "in" / place).mkdir(parents=True)
        (tmp_path / "in" / place / "a.txt").write_text(f"{place}\n")
    for pattern, wanted in (("*/a.txt", ["c"]), ("**/*.txt", ["c"]), ("_d/*.txt", ["_d"])):
        out = tmp_path / wanted[0] / pattern[0]
        assert run(input=tmp_path / "in" / pattern, output_dir=out).code == 0
        assert texts(out, "text") == wanted


def test_names_that_are_not_utf8(tmp_path, run):
    """Of files and the output folder they are names as others; a folder key=value is a column."""
    name, out = os.fsdecode(b"caf\xe9.csv"), tmp_path / os.fsdecode(b"out\xe9")
    (tmp_path / name).write_text("text\na\nb\n")
    assert run(input=tmp_path / name).code == 0
    assert texts(tmp_path / "out", "text") == ["a", "b"]
    assert run(input=tmp_path / name, output_dir=out).code == 0
    done = run(input=tmp_path / name, output_dir=out)
    assert done.code == 0 and "1 of 1 parts are there" in done.err
    folder = tmp_path / os.fsdecode(b"k=\xe9")
    folder.mkdir()
    (folder / "a.txt").write_text("a\n")
    done = run(input=folder, output_dir=tmp_path / "other")
    assert refused(done, "which is a column, is not UTF-8; rename it")


def test_an_output_folder_with_other_rows_is_refused(tmp_path, run):
    """Who reads the folder would take them for this run's: those of another plan, and of others."""
    path, out = write_rows(tmp_path / "a.csv", [{"sentence": "a"}, {"sentence": "b"}]), "out"
    assert run(input=path).code == 0
    (tmp_path / out / "_plan.json").unlink()
    for flags in ({"part_rows": 1}, {"part_rows": 1, "dry_run": True}):
        assert refused(run(input=path, **flags), "holds part-000000-", "no part of this run")
    assert not (tmp_path / out / "_plan.json").exists()
    assert run(input=path).code == 0  # the same plan
    shutil.copy(next((tmp_path / out).glob("part-*.parquet")), tmp_path / out / "all.parquet")
    assert refused(run(input=path), "holds all.parquet, which is no part of this run")


# The run is of what was planned


def test_times_of_files_are_in_nanoseconds(tmp_path):
    """A file that is written again within the second has changed, by path and by URL."""
    path = tmp_path / "a.txt"
    for name in (str(path), f"file://{path}"):
        path.write_text("a\n")
        os.utime(path, ns=(10**18, 10**18))
        known = urls.status(name)
        assert known.mtime_ns == 10**18
        os.utime(path, ns=(10**18, 10**18 + 1000))
        with pytest.raises(UserError, match="changed since the run was planned"):
            urls.check_same(known)


def planned(tmp_path, run):
    """A run in tmp_path/out with its second part left to do, and the input."""
    path = tmp_path / "in" / "a.csv"
    path.parent.mkdir()
    write_rows(
        path, [{"sentence": f"film {i}", "gold": i % 2, "more": 1 - i % 2} for i in range(6)]
    )
    assert run(input=path, label_column="gold").code == 0
    sorted((tmp_path / "out").glob("part-*"))[1].unlink()
    return path


def test_a_run_is_refused_on_anything_but_what_it_was_begun_with(tmp_path, run, file_of):
    path = planned(tmp_path, run)
    given = {"input": path, "label_column": "gold"}
    assert refused(
        run(**{**given, "label_column": "more"}), "another label_column (gold, not more)"
    )
    assert refused(run(**{**given, "label_column": None}), "another label_column (gold, not None)")
    assert refused(run(**given, label_map="0=positive,1=negative"), "another classes")
    assert refused(run(**given, label_names="0=positive,1=negative"), "another labels")
    assert refused(run(**given, part_rows=4), "another part_rows (3, not 4)")
    more = write_rows(tmp_path / "in" / "b.csv", [{"sentence": "b", "gold": 1, "more": 1}])
    assert refused(run(**{**given, "input": [path, more]}), "b.csv: is no file of the run")
    assert refused(run(**{**given, "input": more}), "a.csv: is gone since the run")
    times = os.stat(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert refused(run(**given), "a.csv: changed since the run in --output_dir was planned")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert refused(run(input=path, output_dir=tmp_path / "in"), "--output_dir", "holds the input")
    done = run(input=f"file://{path}", output_dir=tmp_path / "in")
    assert refused(done, "holds the input")
    assert run(**given).code == 0 and len(texts(tmp_path / "out")) == 6


def test_a_worker_that_has_another_file_or_sees_another_folder_stops(tmp_path, run, file_of):
    """As on a node where the model was not copied, or whose /labelled is its own disk."""
    planned(tmp_path, run)
    with worker.locked(tmp_path / "out") as token:
        job = worker.Job(str(tmp_path / "out"), token, [str(file_of("CoLA"))])
        with pytest.raises(UserError, match="is another file on .* copy it there"):
            worker.Worker(job)
        job = job._replace(files=[str(file_of("SST-2"))])
        with pytest.raises(UserError, match="does not see this folder"):
            worker.Worker(job._replace(token="0" * 32))
        worker.Worker(job).classify.close()


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    """Before, meanwhile, and where fewer rows come than were planned."""
    path = tmp_path / "a.csv"
    path.write_text("sentence\na\nb\nc\n")
    (known,), form = reading.find([str(path)])
    schema, (span,) = reading.scan(known, form, reading.Cut(10), {})
    assert reading.read(known, form, span, schema, ["sentence"]).numbers == [2, 3, 4]
    with pytest.raises(ValueError, match="3 rows instead of 4"):
        reading.read(known, form, span._replace(rows=4), schema, ["sentence"])
    real = reading.FORMATS["csv"].read

    def meanwhile(*given):
        found = real(*given)
        path.write_text("sentence\na\nb\nd\n")
        return found

    changed = reading.FORMATS["csv"]._replace(read=meanwhile)
    monkeypatch.setitem(reading.FORMATS, "csv", changed)
    with pytest.raises(UserError, match="changed since the run was planned"):
        reading.read(known, form, span, schema, ["sentence"])


# What was written


@pytest.mark.parametrize(
    "how", ["flipped", "no digest", "another digest", "cut", "short", "another part", "gone"]
)
def test_a_damaged_part_is_run_again(tmp_path, run, how):
    """20 bytes flipped, with the same size, among them."""
    path = write_rows(tmp_path / "a.csv", [{"sentence": f"film {i}"} for i in range(9)])
    assert run(input=path).code == 0
    wanted, out = table_of(tmp_path / "out"), tmp_path / "out"
    first, second, _ = sorted(out.glob("part-*"))
    digests = [out / f"_{part.stem}.sha256" for part in (first, second)]
    content = second.read_bytes()
    flipped = bytes(byte ^ 0xFF for byte in content[100:120])
    change = {
        "flipped": lambda: second.write_bytes(content[:100] + flipped + content[120:]),
        "cut": lambda: second.write_bytes(content[:100] + content[120:]),
        "short": lambda: second.write_bytes(content[:-50]),
        "another part": lambda: second.write_bytes(first.read_bytes()),
        "gone": second.unlink,
        "no digest": digests[1].unlink,
        "another digest": lambda: digests[1].write_text(digests[0].read_text()),
    }
    change[how]()
    done = run(input=path)
    assert done.code == 0
    assert (f"{second}: not as it was written" in done.err) == (how != "gone")
    assert "2 of 3 parts are there" in done.err and table_of(out) == wanted
    done = run(input=path)
    assert "3 of 3 parts are there" in done.err and "not as it" not in done.err
    assert pyarrow.dataset.dataset(out).count_rows() == 9


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def end_of_pages(path, number):
    column = parquet.read_metadata(path).row_group(0).column(number)
    return column.data_page_offset + column.total_compressed_size - 2


def test_pages_of_parquet_are_checked_in_and_out(tmp_path, run):
    """A byte flipped in a page of the input fails its part; pages of the output have checksums."""
    text = "many words that no dictionary shortens"
    table = pyarrow.table({"sentence": [f"{text} {i}" for i in range(3)]})
    given = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    parquet.write_table(table, tmp_path / "a.parquet", **given)
    good = (tmp_path / "a.parquet").read_bytes()
    flip(tmp_path / "a.parquet", end_of_pages(tmp_path / "a.parquet", 0))
    done = run(input=tmp_path / "a.parquet")
    assert done.code == 1 and "part 0 failed" in done.err and not texts(tmp_path / "out")
    (tmp_path / "b.parquet").write_bytes(good)
    assert run(input=tmp_path / "b.parquet", output_dir=tmp_path / "b").code == 0
    (part,) = (tmp_path / "b").glob("part-*")
    flip(part, end_of_pages(part, 1))
    with pytest.raises(OSError, match="CRC|checksum|crc"):
        parquet.ParquetFile(part, page_checksum_verification=True).read()


def test_a_full_disk_is_named_where_the_lock_is_written(tmp_path, run, monkeypatch):
    path = write_rows(tmp_path / "a.csv", [{"sentence": "a"}])

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    done = run(input=path)
    assert refused(
        done, f"{tmp_path / 'out' / '_lock'}: cannot be written (No space left on device)"
    )


# Labels as Hugging Face writes GLUE


RTE = {"sentence1": "a b", "sentence2": "c", "label": 0, "idx": 0}


def hub_rows():
    return [{**RTE, "sentence1": f"film {i}", "label": i % 2, "idx": i} for i in range(6)]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_integer_labels_of_hugging_face_are_in_its_order(capfd, tmp_path, evaluate, file_of, form):
    """0 is entailment; a note says so, in both scripts, and --label_names says otherwise."""
    path = write_rows(tmp_path / f"a.{form}", hub_rows())
    named = [{**row, "label": ("entailment", "not_entailment")[row["label"]]} for row in hub_rows()]
    plain = write_rows(tmp_path / "plain.jsonl", named)
    given = {"aie_model_dir": file_of("RTE"), "label_column": "label"}
    counts = {}
    for number, (source, options) in enumerate(
        [(path, {}), (plain, {}), (path, {"label_names": "0=not_entailment,1=entailment"})]
    ):
        out = tmp_path / f"out{number}"
        done = label_corpus(capfd, **given, **options, input=source, output_dir=out)
        assert done.code == 0, done.err
        assert ("0 = entailment, 1 = not_entailment" in done.err) == (number < 2)
        counts[number] = summary_of(out)["accuracy"]["correct"]
        if source.suffix != ".parquet":
            out = tmp_path / f"eval{number}"
            done = evaluate(**given, **options, input=source, output_dir=out)
            assert ("0 = entailment, 1 = not_entailment" in done.err) == (number < 2), done.err
            told = json.loads((out / "eval.json").read_text())["accuracy"]["correct"]
            assert told == counts[number]
    assert counts[0] == counts[1] == 6 - counts[2]


@pytest.mark.parametrize(
    "name, texts, value, label",
    [
        ("MNLI", "premise hypothesis", "1", "neutral"),
        ("MNLI-MM", "premise hypothesis", "2", "contradiction"),
        ("QNLI", "question sentence", "0", "entailment"),
        ("QNLI", "question sentence", "not_entailment", "not_entailment"),
        ("MRPC", "sentence1 sentence2", "1", "equivalent"),
        ("QQP", "question1 question2", "0", "not_duplicate"),
        ("CoLA", "sentence", "1", "acceptable"),
        ("STS-B", "sentence1 sentence2", "2.5", 2.5),
    ],
)
def test_tasks_as_hugging_face_writes_them(tmp_path, name, texts, value, label):
    task = TASKS[name]
    words = ["a", "b"] if task.is_pair else ["a"]
    lines = [[*texts.split(), "label", "idx"], [*words, value, "0"]]
    (tmp_path / task.files["dev"]).write_text("".join("\t".join(line) + "\n" for line in lines))
    examples = datasets.read(tmp_path, "dev", task)
    (number,) = examples.labels
    assert examples.sentences == [tuple(words) if task.is_pair else "a"]
    assert examples.indices == ["0"]
    assert (number if task.regression else examples.classes[number]) == label
    assert ("as Hugging Face writes GLUE" in examples.note) == bool(task.hub)


def test_label_names_must_be_classes_and_have_a_column(capfd, tmp_path, evaluate, file_of):
    path = write_rows(tmp_path / "a.csv", hub_rows())
    given = {"aie_model_dir": file_of("RTE"), "input": path, "label_names": "0=yes,1=no"}
    for script in (
        evaluate,
        lambda **options: label_corpus(capfd, **options, output_dir=tmp_path / "no"),
    ):
        done = script(**given, label_column="label")
        assert refused(done, "--label_names 1=no: is no class of RTE, which are entailment")
        assert refused(script(**given), "--label_names: means something with --label_column only")


def test_quotes_are_noted_in_a_task_s_own_files_alone(tmp_path, evaluate, file_of):
    """In a CSV of one's own they were put there on purpose."""
    given = {"aie_model_dir": file_of("SST-2")}
    content = 'sentence\tlabel\n"a fine film"\t1\ndull\t0\n'
    for name in ("dev.tsv", "a.tsv"):
        (tmp_path / name).write_text(content)
    assert "stands in double quotes" in evaluate(**given, data_dir=tmp_path).err
    done = evaluate(**given, input=tmp_path / "a.tsv", label_column="label")
    assert done.code == 0 and "quotes" not in done.err
