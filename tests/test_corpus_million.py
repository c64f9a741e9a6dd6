"""A million rows with all that people's files have, by two workers of which one is killed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from corpora import actors, skipped_of, summary_of, write_file
from helpers import ROOT, flags
from pyarrow import parquet

ROWS = 1_000_000
EVERY = 1_000  # rows: a stray quote, a newline within a cell, a wrong type


def write_csv(path, count):
    """CSV, quoted where it must be: keys of good rows and lines of those that are none."""
    good, bad, line = [], [], 2
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("key,sentence\n")
        for key in range(count):
            kind = key % EVERY
            text = f"{key},a fine film number {key % 7}\n"
            if kind == 100:
                text = f'{key},a 5" screen\n'
            elif kind == 200:
                cell = io.StringIO()
                csv.writer(cell, lineterminator="\n").writerow([key, 'two\nlines, "quoted"'])
                text = cell.getvalue()
            elif kind == 300:
                text = f'{key},"a quote that opens\n'
            elif kind == 400:
                text = f"{key},a fine, broken film\n"
            (bad if kind in (300, 400) else good).append(line if kind in (300, 400) else key)
            file.write(text)
            line += text.count("\n")
    return good, bad


def write_jsonl(path, count):
    good, bad = [], []
    with open(path, "w", encoding="utf-8") as file:
        for key in range(count):
            kind = key % EVERY
            values = {"key": key, "sentence": "a fine film", "n": 20 + key % 3}
            if kind == 100:
                values["sentence"] = 'a 5" screen'
            elif kind == 200:
                values["sentence"] = "two\nlines"
            elif kind == 300:
                values["key"] = f"x-{key}"
            text = json.dumps(values)
            if kind == 400:
                text = text.replace("fine", 'f"ine')
            (bad if kind in (300, 400) else good).append(key + 1 if kind in (300, 400) else key)
            file.write(text + "\n")
    return good, bad


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    shape = {"batch_size": 4, "max_seq_length": 64}
    folder = tmp_path_factory.mktemp("million")
    return write_file(folder, "SST-2", **shape)


@pytest.mark.slow
@pytest.mark.parametrize("form, write", [("csv", write_csv), ("jsonl", write_jsonl)])
def test_a_million_rows_each_once_or_listed(tmp_path, file, form, write):
    """Two Ray workers, one killed when a tenth is done. A stray quote in a field is text; one that
    opens a field and takes 800 lines costs its own."""
    pytest.importorskip("ray", reason="needs ray: pip install -e .[ray]")
    count = int(os.environ.get("CORPUS_ROWS", ROWS))
    good, bad = write(tmp_path / f"a.{form}", count)
    out = tmp_path / "out"
    given = {"aie_model_dir": file, "input": tmp_path / f"a.{form}", "output_dir": out}
    given.update(on_bad_row="skip", ray="local", workers=2, threads=1, part_rows=5_000)
    command = [sys.executable, str(ROOT / "run_aie_corpus.py"), *flags(**given)]
    with open(tmp_path / "log", "w") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        until, killed = time.monotonic() + 440, False
        while child.poll() is None and time.monotonic() < until:
            if not killed and len(list(out.glob("part-*"))) > count // 5_000 // 10:
                os.kill(actors(child.pid)[0], signal.SIGKILL)
                killed = True
            time.sleep(0.1)
        if child.poll() is None:
            child.kill()
    said = (tmp_path / "log").read_text()
    assert child.wait() == 0 and killed, said
    keys = []
    for path in sorted(out.glob("part-*")):
        keys += map(int, parquet.read_table(path, columns=["key"]).column(0).to_pylist())
    assert keys == good
    assert [number for _, number, _ in skipped_of(out)] == bad
    summary = summary_of(out)
    assert summary["rows"] == summary["rows_planned"] == count
    assert (summary["rows_written"], summary["skipped"]) == (len(good), len(bad))
