"""A user's own text: every format in and out, pipes, errors, and the same function from Python."""

import csv
import io
import json
import os
import queue
import subprocess
import sys
import time

import numpy
import pytest
from glue_sets import write_model, write_names, write_set
from helpers import ROOT, export_file, python, read_results, refused

from albert_aie.base.errors import UserError
from albert_aie.data import datasets, formats, records
from albert_aie.data.tasks import TASKS
from albert_aie.run import classifier
from albert_aie.run.classifier import Answer, Classifier, chunks
from benchmarks import random_weights

SHAPE = {"backend": "torchscript", "batch_size": 8, "max_seq_length": 128}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny):
    """A small SST-2 file."""
    return export_file(tmp_path_factory.mktemp("own"), pth_dir=tiny, **SHAPE)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A small MRPC file."""
    folder = tmp_path_factory.mktemp("pairs")
    model = write_model(folder / "model", "MRPC")
    return export_file(folder, pth_dir=model, task_name="MRPC", **SHAPE)


@pytest.fixture
def feed(evaluate, exported, tmp_path):
    """run_aie_eval.py in this process, its standard input `text`: feed(text, **options) -> Run."""

    def run(text, **options):
        (tmp_path / "stdin").write_text(text)
        kept = os.dup(0)
        try:
            with open(tmp_path / "stdin") as file:
                os.dup2(file.fileno(), 0)
            return evaluate(aie_model_dir=exported, input="-", **options)
        finally:
            os.dup2(kept, 0)
            os.close(kept)

    return run


# The real SST-2, in every format


def test_every_way_in_gives_the_same_872_predictions(exported, evaluate, feed, sst2, tmp_path):
    """Its 872 sentences as GLUE's folder, TSV, CSV, JSON lines, plain lines and standard input."""
    given = {"aie_model_dir": exported}
    run = evaluate(**given, data_dir=sst2, task_name="sst2", output_dir=tmp_path)
    assert run.code == 0, run.err
    _, (_, *rows) = read_results(tmp_path)
    wanted = [row[1] for row in rows]
    sentences = [line.split("\t")[0] for line in (sst2 / "dev.tsv").read_text().splitlines()[1:]]
    assert len(wanted) == len(sentences) == 872

    (tmp_path / "a.txt").write_text("\n".join(sentences) + "\n")
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["number", "text"], *enumerate(sentences)])
    lines = [json.dumps({"n": i, "sentence": text}) for i, text in enumerate(sentences)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")

    got = {}
    for name, source in {
        "tsv": sst2 / "dev.tsv",
        **{k: tmp_path / f"a.{k}" for k in ("txt", "csv", "jsonl")},
    }.items():
        out = tmp_path / f"out.{name}"
        run = evaluate(**given, input=source, output=out)
        assert run.code == 0, run.err
        assert "(texts: 872, " in run.out and str(out) in run.out
        got[name] = out.read_text()
    run = feed((tmp_path / "a.txt").read_text())
    assert run.code == 0 and run.out == got["txt"], run.err
    labels = {
        "txt": [line.split("\t")[0] for line in got["txt"].splitlines()],
        "tsv": [line.split("\t")[2] for line in got["tsv"].splitlines()[1:]],
        "csv": [row["label"] for row in csv.DictReader(io.StringIO(got["csv"]))],
        "jsonl": [json.loads(line)["label"] for line in got["jsonl"].splitlines()],
    }
    for name, found in labels.items():
        assert found == wanted, name
    # every column of the input is there as it was
    assert [row["text"] for row in csv.DictReader(io.StringIO(got["csv"]))] == sentences
    assert [json.loads(line)["sentence"] for line in got["jsonl"].splitlines()] == sentences
    assert [line.split("\t")[2] for line in got["txt"].splitlines()] == sentences
    assert [line.split("\t")[0] for line in got["tsv"].splitlines()[1:]] == sentences
    assert got["tsv"].splitlines()[0].split("\t") == [
        "sentence", "label", "predicted_label", "predicted_probability_negative",
        "predicted_probability_positive",
    ]  # fmt: skip


def test_labels_in_a_users_own_file_are_measured(exported, evaluate, sst2, tmp_path):
    """The same accuracy as GLUE's folder, whatever the labels are called."""
    run = evaluate(aie_model_dir=exported, data_dir=sst2, output_dir=tmp_path / "glue")
    wanted = read_results(tmp_path / "glue")[0]["accuracy"]
    lines = [line.split("\t") for line in (sst2 / "dev.tsv").read_text().splitlines()[1:]]
    names = {"0": "Negative", "1": "POS"}
    with open(tmp_path / "own.csv", "w", newline="") as file:
        csv.writer(file).writerows([["gold", "review"]] + [[names[y], s] for s, y in lines])
    given = {"input": tmp_path / "own.csv", "text_column": ["review"], "label_column": "gold"}
    out, answered = tmp_path / "own", tmp_path / "answered.csv"
    run = evaluate(aie_model_dir=exported, **given, output_dir=out, output=answered)
    assert run.code == 0, run.err
    assert read_results(out)[0]["accuracy"] == wanted
    assert f"({wanted['correct']}/872)" in run.out and str(answered) in run.out
    with open(answered, newline="") as file:
        table = list(csv.DictReader(file))
    right = sum(
        names[{"negative": "0", "positive": "1"}[row["label"]]] == row["gold"] for row in table
    )
    assert right == wanted["correct"]


def test_labels_of_a_models_further_classes_are_measured(evaluate, tmp_path):
    """A model of three classes on a user's file of three."""
    model = write_model(tmp_path / "m", "SST-2", "hf", num_labels=3)
    write_names(model, ("neutral", "neg", "pos"))
    file = export_file(tmp_path, pth_dir=model, **SHAPE)
    rows = [["text", "label"], ["fine", "positive"], ["so so", "Neutral"], ["dull", "0"]]
    (tmp_path / "a.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    out = tmp_path / "out"
    run = evaluate(
        aie_model_dir=file, input=tmp_path / "a.csv", label_column="label", output_dir=out
    )
    assert run.code == 0, run.err
    _, (_, *table) = read_results(out)
    assert [row[2] for row in table] == ["positive", "neutral", "negative"]
    (tmp_path / "a.csv").write_text("text,label\nfine,great\n")
    run = evaluate(aie_model_dir=file, input=tmp_path / "a.csv", label_column="label")
    assert refused(run, "a.csv, line 2: label 'great' is not a class of SST-2", "neutral")


def test_one_text_on_the_command_line(exported, evaluate):
    run = evaluate(aie_model_dir=exported, text="a fine\tfilm")
    assert run.code == 0 and run.err == ""
    label, probability, text = run.out.rstrip("\n").split("\t", 2)
    assert label in ("negative", "positive") and 0.5 <= float(probability) <= 1
    assert text == "a fine\tfilm"


def test_a_pair_on_the_command_line_and_in_a_file(pairs, evaluate, tmp_path):
    run = evaluate(aie_model_dir=pairs, text="he left")
    assert refused(run, "--text: MRPC wants two texts, the pair")
    run = evaluate(aie_model_dir=pairs, text=["he left", "he went away"])
    assert run.code == 0, run.err
    label, probability, first, second = run.out.rstrip("\n").split("\t")
    assert label in ("equivalent", "not_equivalent")
    assert (first, second) == ("he left", "he went away")
    (tmp_path / "p.jsonl").write_text('{"b": "he went away", "a": "he left", "n": 1}\n')
    run = evaluate(aie_model_dir=pairs, input=tmp_path / "p.jsonl", text_column=["a", "b"])
    assert run.code == 0, run.err
    answer = json.loads(run.out)
    assert (answer["label"], answer["n"]) == (label, 1)
    assert answer[f"probability_{label}"] == pytest.approx(float(probability), abs=1e-6)
    swapped = evaluate(aie_model_dir=pairs, input=tmp_path / "p.jsonl", text_column=["b", "a"])
    assert json.loads(swapped.out)[f"probability_{label}"] != answer[f"probability_{label}"]


def test_a_regression_answers_with_a_score(evaluate, tmp_path):
    model = write_model(tmp_path / "m", "STS-B")
    file = export_file(tmp_path, pth_dir=model, task_name="sts-b", **SHAPE)
    data = write_set(tmp_path / "data", "STS-B")
    run = evaluate(aie_model_dir=file, input=data / "dev.tsv", output=tmp_path / "out.tsv")
    assert run.code == 0, run.err
    header, *rows = (line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines())
    assert header[-2:] == ["score", "predicted_score"] and len(rows) == 12
    run = evaluate(aie_model_dir=file, data_dir=data, output_dir=tmp_path)
    _, (_, *table) = read_results(tmp_path)
    assert [row[-1] for row in rows] == [row[1] for row in table]


def test_a_models_own_classes_need_no_task(evaluate, tmp_path):
    """--task_name text: no files, and whatever classes the model has."""
    names = ("sport", "politics", "film", "music")
    model = write_names(write_model(tmp_path / "m", "SST-2", "hf", num_labels=4), names)
    file = export_file(tmp_path, pth_dir=model, task_name="text", **SHAPE)
    run = evaluate(aie_model_dir=file, text="a fine film")
    assert run.code == 0 and run.out.split("\t")[0] in names
    (tmp_path / "a.csv").write_text("text,topic\na fine film,Film\nthe vote,politics\n")
    given = {"input": tmp_path / "a.csv", "label_column": "topic"}
    run = evaluate(aie_model_dir=file, **given, pth_dir=model, compare_cpu=True)
    assert run.code == 0 and "compare_cpu PASS" in run.said, run.err
    assert refused(
        evaluate(aie_model_dir=file), "--task_name text: has no files of its own", "--input"
    )


@pytest.mark.parametrize(
    "task, header, row",
    [
        ("CoLA", "id\ttext\tlang\tnote", "1\t{}\ten\tx"),
        ("LCQMC", "text_a\ttext_b\tgrade", "{}\tb\t1"),
    ],
)
def test_a_header_of_a_users_own_is_a_header(tmp_path, task, header, row):
    """Also where the task's own files have none: any known name of a column shows it."""
    path = tmp_path / "own.tsv"
    path.write_text("\n".join([header, row.format("fine"), row.format("dull")]) + "\n")
    with records.reading(path, "tsv", datasets.layout(TASKS[task])) as table:
        assert table.columns == header.split("\t") and len(list(table.records)) == 2
    path.write_text(row.format("fine") + "\n")
    with records.reading(path, "tsv", datasets.layout(TASKS[task], "lang", None)) as table:
        assert table.columns == [*TASKS[task].columns] and len(list(table.records)) == 1


def test_a_class_may_be_called_minus_one():
    task = TASKS["text"].of(("-1", "1"))
    assert not datasets.is_missing("-1", task) and datasets.is_missing("-1", TASKS["SST-2"])


def test_empty_values_and_outputs_of_one_name_are_refused(tmp_path, exported, evaluate, tiny):
    own = tmp_path / "own.csv"
    own.write_text("text,y\nfine,1\n")
    given = {"aie_model_dir": exported, "input": own, "label_column": "y"}
    for flag in ("input", "output_dir", "report", "label_column", "tokenizer"):
        done = evaluate(**{**given, flag: ""})
        assert refused(done, f"--{flag}: is given an empty value"), done.err
    out, page = tmp_path / "out", tmp_path / "a.html"
    for more in (
        {"output_dir": out, "output": out / "predictions.tsv"},
        {"report": page, "output": page},
        {"output": exported},
        {"report": page, "compare_output": page, "compare_cpu": True, "pth_dir": tiny},
    ):
        assert refused(
            evaluate(**given, **more),
            "is read or written for something else too; take another name",
        )
    assert refused(evaluate(aie_model_dir=exported, input=own, output=exported), "else too")
    assert own.read_text() == "text,y\nfine,1\n"
    names = {**given, "label_names": "1=negative,2=negative,5=positive"}
    assert refused(evaluate(**names), "--label_names: two numbers are negative")


# Pipes


def test_answers_come_while_the_input_is_still_open(exported):
    """After half a second's pause, not at the end."""
    command = [sys.executable, "run_aie_eval.py", f"--aie_model_dir={exported}", "--input=-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write("a fine film\ndull\n")
        process.stdin.flush()
        first = [process.stdout.readline() for _ in range(2)]
        assert [line.split("\t")[2] for line in first] == ["a fine film\n", "dull\n"]
        process.stdin.write("no\n")
        process.stdin.close()
        assert process.stdout.read().endswith("\tno\n")
    assert process.returncode == 0


def test_a_reader_that_leaves_ends_the_work(exported):
    script = f"{sys.executable} run_aie_eval.py --aie_model_dir={exported} --input=-"
    command = f"yes 'a fine film' | {script} | head -3"
    done = subprocess.run(
        ["bash", "-c", command + '; echo "${PIPESTATUS[1]}"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    *lines, status = done.stdout.splitlines()
    assert len(lines) == 3 and status == "0" and done.stderr == ""


def test_a_full_disk_is_one_sentence(exported):
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is not here")
    command = [sys.executable, "run_aie_eval.py", f"--aie_model_dir={exported}", "--text", "fine"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: stdout: No space left")
    assert len(done.stderr.splitlines()) == 1


def test_what_came_before_a_bad_record_is_answered(feed):
    run = feed('{"text": "fine"}\n{"text": "dull"}\n{"text": \n', input_format="jsonl")
    assert run.code == 2 and run.err.startswith("error: standard input, line 3: not JSON")
    assert [json.loads(line)["text"] for line in run.out.splitlines()] == ["fine", "dull"]


def test_nothing_in_is_nothing_out(exported, feed):
    script = f"{sys.executable} run_aie_eval.py --aie_model_dir={exported} --input=- <&-"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    run = feed("")
    assert (run.code, run.out, run.err) == (0, "", "")


def test_chunks_are_full_or_waited_for():
    assert list(chunks(range(7), size=3)) == [[0, 1, 2], [3, 4, 5], [6]]
    waiting = queue.Queue()
    got = chunks(iter(waiting.get, None), size=3, pause=0.05)
    for item in (1, 2):
        waiting.put(item)
    assert next(got) == [1, 2]
    for item in (3, None):
        waiting.put(item)
    assert list(got) == [[3]]


def test_chunks_raise_an_error_after_what_came_before():
    def items():
        yield 1
        raise UserError("line 2")

    got = chunks(items())
    assert next(got) == [1]
    with pytest.raises(UserError, match="line 2"):
        next(got)


def test_chunks_do_not_read_far_ahead():
    read = []
    got = chunks((read.append(i) or i for i in range(100_000)), size=4)
    next(got)
    time.sleep(0.2)
    assert len(read) < 50


# What is wrong is one sentence, and a FILE is whole or not there


REVIEWS = {"text_column": ["review"]}
LABELLED = {"label_column": "y"}


@pytest.mark.parametrize(
    "name, content, options, words",
    [
        ("a.csv", "text,n\nfine,1\n", REVIEWS, "line 1: has no column 'review', but text, n"),
        ("a.csv", 'text,n\nfine,1\n"dull,2\nno,3\n', {}, "line 3: a record that is not CSV"),
        ("a.csv", 'text,n\n"fi"ne,1\n', {}, "line 2: a record that is not CSV"),
        ("a.csv", 'text,n\n"a\nb",1\nfine\n', {}, "line 4: 1 column instead of 2 (text,n)"),
        ("a.jsonl", '{"text": "fine"}\n{"text": "dull"\n', {}, "line 2: not JSON"),
        ("a.jsonl", '{"text": "fine"}\n["dull"]\n', {}, "line 2: not a JSON object"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', {}, "line 2: has no text in column 'text'"),
        ("a.jsonl", '{"text": "fine", "x": NaN}\n', {}, "line 1: not JSON"),
        ("a.jsonl", '{"text": "\\ud800"}\n', {}, "line 1: not JSON"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "label": 1}\n', {}, "2: has a column 'label'"),
        (
            "a.jsonl",
            '{"text": "fine", "text": "dull"}\n',
            {},
            "line 1: not JSON (the key 'text' st",
        ),
        ("a.txt", b"fine\n\xff\n", {}, "line 2: not UTF-8"),
        ("a.txt", "fine\rdull\rno\r", {}, "line 1: a carriage return within the line; write a"),
        ("a.txt", "fine\ndull\n".encode("utf-16-le"), {}, "is UTF-16 or binary, not UTF-8 text; c"),
        ("a.csv", "text\nfine\n".encode("utf-16-be"), {}, "iconv -f utf-16be -t utf-8"),
        ("a.doc", "fine\n", {}, "names no format; say which it is with --input_format lines|tsv"),
        ("a.csv", "text\nfine\n", LABELLED, "no column 'y', but text; name the right one by --la"),
        ("a.csv", "text,y\nfine,2\n", LABELLED, "line 2: label '2' is not a class of SST-2 (0 neg"),
    ],
)
def test_wrong_input(exported, evaluate, tmp_path, name, content, options, words):
    path, out = tmp_path / name, tmp_path / f"out{(tmp_path / name).suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out.write_text("the old one")
    assert refused(evaluate(aie_model_dir=exported, input=path, output=out, **options), words)
    assert out.read_text() == "the old one"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, out.name])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"input": "nowhere.csv"}, "nowhere.csv: no such file"),
        ({"text": "fine", "input": "-"}, "--text, --input: both say what is to be read"),
        ({"text": "fine", "data_dir": "."}, "--text, --data_dir: both say"),
        ({"input": "-", "split": "test"}, "--input, --split: both say"),
        ({"text_column": ["a"]}, "--text_column: means something with --input only"),
        ({"label_column": "a"}, "--label_column: means something with --input only"),
        ({"text": "fine", "input_format": "csv"}, "--input_format: means something with"),
        ({"output": "x.tsv"}, "--output: means something with --text or --input only"),
        ({"text": ["a", "fine"]}, "--text: SST-2 wants one text; put it in quotes"),
        ({"text": "fine", "output": "-", "output_dir": "x"}, "--output -: the figures stand on"),
        ({"text": "fine", "output": "/proc/none/x"}, "/proc/none/x: cannot be written"),
    ],
)
def test_flags_that_lead_nowhere(exported, evaluate, options, words):
    assert refused(evaluate(aie_model_dir=exported, **options), words)


# Formats


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_fields_hold_commas_quotes_and_lines(exported, evaluate, tmp_path, ending):
    rows = [["id", "text"], ["1", 'a "fine", long\nfilm'], ["2", "dull"]]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file, lineterminator=ending).writerows(rows)
    run = evaluate(aie_model_dir=exported, input=tmp_path / "a.csv")
    assert run.code == 0, run.err
    table = list(csv.reader(io.StringIO(run.out)))
    assert [row[:2] for row in table] == rows and table[0][2] == "label"


def test_probabilities_are_the_softmax_in_the_models_order():
    """e^0 : e^1 : e^0 and no answer where a logit is not finite."""
    logits = numpy.array([[0, 1, 0], [numpy.nan, 1, 0], [1000, 0, 0]], numpy.float32)
    first, lost, sure = classifier.answers(logits, ("a", "b", "c"))
    e = numpy.e
    assert first.label == "b" and first.probability == pytest.approx(e / (e + 2))
    assert list(first.probabilities) == ["a", "b", "c"]
    assert first.probabilities["a"] == pytest.approx(1 / (e + 2))
    assert lost == Answer(None, None, {}) and sure.probability == 1.0
    assert classifier.answers(logits[:, :1], ()) == [
        Answer(None, None, {}, 0.0),
        Answer(None, None, {}, None),
        Answer(None, None, {}, 1000.0),
    ]


TSV = "text\tlabel\tprobability_a\tprobability_b\nx y\tb\t0.250000\t0.750000\n"
JSON = '{"text": "x y", "label": "b", "probability_a": 0.25, "probability_b": 0.75}\n'
JSON_NONE = '{"text": "x y", "label": null, "probability_a": null, "probability_b": null}\n'


@pytest.mark.parametrize(
    "form, answer, written",
    [
        ("lines", Answer("b", 0.75, {"a": 0.25, "b": 0.75}), "b\t0.750000\tx y\n"),
        ("lines", Answer(None, None, {}), "\t\tx y\n"),
        ("tsv", Answer("b", 0.75, {"a": 0.25, "b": 0.75}), TSV),
        ("csv", Answer(None, None, {}), "text,label,probability_a,probability_b\nx y,,,\n"),
        ("jsonl", Answer("b", 0.75, {"a": 0.25, "b": 0.75}), JSON),
        ("jsonl", Answer(None, None, {}), JSON_NONE),
    ],
)
def test_how_an_answer_is_written(form, answer, written):
    text = []
    table = records.Table("a", ["text"], [])
    writer = records.Writer(text.append, form, table, ("a", "b"))
    writer.add(formats.Record(1, {"text": "x y"}), answer)
    assert "".join(text) == written


def test_names_of_the_answers_collide_with_none():
    assert records.names_beside(["text"], ["label", "p"]) == ["label", "p"]
    assert records.names_beside(["label"], ["label", "p"]) == ["predicted_label", "predicted_p"]
    twice = records.names_beside(["p", "predicted_label"], ["label", "p"])
    assert twice == ["predicted_predicted_label", "predicted_predicted_p"]


# From Python


def test_the_readmes_python_call(exported, feed):
    """Lists of texts in, labels and probabilities out; the same as the script's."""
    with Classifier(exported) as classify:
        answers = classify(["a fine film", "dull, dull, dull"])
        assert [answer.label in ("negative", "positive") for answer in answers] == [True, True]
        assert classify([]) == []
        with pytest.raises(UserError, match="row 0: .* is not what a file for SST-2 wants: a text"):
            classify([("a", "b")])
    wanted = f"{answers[0].label}\t{answers[0].probability:.6f}\ta fine film\n"
    assert feed("a fine film\n").out == wanted


def test_an_openvino_file_answers_without_torch(made_by):
    code = """
import sys
from albert_aie import Classifier
with Classifier(sys.argv[1]) as classify:
    print(classify(["a fine film"])[0].label)
print([name for name in ("torch", "transformers", "sklearn", "scipy") if name in sys.modules])
"""
    run = python("-c", code, made_by["openvino"])
    assert run.out.splitlines()[1:] == ["[]"], run.err


WATCHED = """
import sys, threading
class Watch:
    def find_spec(self, name, *_):
        if threading.current_thread() is not threading.main_thread():
            print("imported beside:", name, file=sys.stderr)
sys.meta_path.insert(0, Watch())
import run_aie_eval
code = run_aie_eval.main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


def test_a_text_of_several_lines_is_answered_in_one(evaluate, exported):
    texts = "a\r\nfine\nfilm", "a fine film"
    told = [evaluate(aie_model_dir=exported, text=text) for text in texts]
    answers = [run.out.rstrip("\n").split("\t") for run in told]
    assert [answer[-1] for answer in answers] == ["a  fine film", "a fine film"]
    assert answers[0][:-1] == answers[1][:-1]


@pytest.mark.parametrize("backend", ["openvino", "torchscript"])
def test_one_thread_alone_imports(made_by, tmp_path, sentences, backend):
    """Two that import modules which import each other end in a deadlock of Python's import locks,
    now and then."""
    file = f"--aie_model_dir={made_by[backend]}"
    (tmp_path / "a.txt").write_text("a fine film\ndull\n")
    for what in ("--text=a fine film", f"--input={tmp_path / 'a.txt'}", f"--data_dir={sentences}"):
        run = python("-c", WATCHED, file, what)
        assert run.code == 0, run.err
        assert "imported beside" not in run.err, run.err
        assert run.out.splitlines()[-1] == str(backend == "torchscript")  # OpenVINO needs no torch


def test_nothing_is_told_to_openvinos_makers(tiny, tmp_path, monkeypatch):
    """Their telemetry keeps a number of the user in ~/intel, and sends from a forked process."""
    pytest.importorskip("openvino")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("CI", "TF_BUILD", "JENKINS_URL", "PYTEST_CURRENT_TEST"):  # it is off in those
        monkeypatch.delenv(name, raising=False)
    given = ("--backend=openvino", "--precision=fp32", "--batch_size=2", "--max_seq_length=32")
    made = python("export_albert_aie.py", f"--pth_dir={tiny}", f"--save_dir={tmp_path}", *given)
    assert made.code == 0, made.err
    file = f"--aie_model_dir={tmp_path / 'albert_seq32_bs2.pt'}"
    run = python("run_aie_eval.py", file, "--text=a fine film")
    assert run.code == 0, run.err
    assert not list(home.glob("intel*"))


def test_what_was_cut_and_what_has_no_answer_is_counted(
    tiny, tmp_path, export, evaluate, monkeypatch
):
    """Of three texts one is longer than the file's 8 tokens; then all logits overflow."""
    made = {"backend": "torchscript", "batch_size": 2, "max_seq_length": 8}
    assert export(pth_dir=tiny, save_dir=tmp_path, **made).code == 0
    (tmp_path / "a.txt").write_text("fine\none two three four five six seven eight nine\nno\n")
    given = {"aie_model_dir": tmp_path / "albert_seq8_bs2.pt", "input": tmp_path / "a.txt"}
    run = evaluate(**given)
    assert run.code == 0 and run.err == "note        texts cut to 8 tokens: 1\n"
    whole = classifier.answers

    def overflow(logits, names):
        logits[1] = numpy.inf
        return whole(logits, names)

    monkeypatch.setattr(classifier, "answers", overflow)
    run = evaluate(**given)
    assert run.code == 1 and run.out.splitlines()[1].startswith("\t\tone two")
    assert "texts without an answer, for their logits are not finite: 1" in run.err
    assert [line.split("\t")[0] != "" for line in run.out.splitlines()] == [True, False, True]


def test_a_users_own_numbers_can_be_missing_or_hold_tabs_and_lines(exported, evaluate, tmp_path):
    lines = ['{"text": "fine", "id": "a\\tb", "y": 1}', '{"text": "dull", "y": 0}']
    lines += ['{"text": "no", "id": [1, 2], "y": "0"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    given = {"input": tmp_path / "a.jsonl", "label_column": "y", "output_dir": tmp_path}
    run = evaluate(aie_model_dir=exported, **given)
    assert run.code == 0, run.err
    _, rows = read_results(tmp_path)
    assert [row[0] for row in rows] == ["index", "a b", "1", "[1, 2]"]
    assert [row[-1] for row in rows[1:]] == ["fine", "dull", "no"]


def test_labels_of_random_weights_are_said_to_mean_nothing(tiny, tmp_path, export, evaluate):
    made = {"backend": "torchscript", "batch_size": 1, "max_seq_length": 8}
    random_weights.write(tiny, tmp_path / "random")
    assert export(pth_dir=tmp_path / "random", save_dir=tmp_path, **made).code == 0
    run = evaluate(aie_model_dir=tmp_path / "albert_seq8_bs1.pt", text="fine")
    assert run.code == 0 and run.err == "note        random weights: the labels mean nothing\n"


def test_a_pipe_is_read_whole(exported, evaluate):
    """`--input <(command)`: no text of it is lost to a look at what kind of file it is."""

    def piped(content):
        read, write = os.pipe()
        os.write(write, content)
        os.close(write)
        return f"/dev/fd/{read}"

    if not os.path.isdir("/dev/fd"):
        pytest.skip("needs /dev/fd")
    run = evaluate(aie_model_dir=exported, input=piped(b"fine\ndull\n"), input_format="lines")
    assert run.code == 0
    assert [line.split("\t")[2] for line in run.out.splitlines()] == ["fine", "dull"]
    table = b"sentence,label\nfine,positive\ndull,negative\n"
    given = {"input": piped(table), "input_format": "csv", "label_column": "label"}
    run = evaluate(aie_model_dir=exported, **given)
    assert run.code == 0 and "2 of 2 sentences scored" in run.out


def test_texts_that_were_cut_are_counted_alone_and_over_all_slices(exported, monkeypatch):
    monkeypatch.setattr(classifier, "SLICE", 2)
    long, short = "so " * 200, "a fine film"
    with Classifier(exported) as classify:
        for texts, cut in (([long], 1), ([short], 0), ([long, short, long], 2), ([long] * 5, 5)):
            answers, count = classify.answers(texts)
            assert (len(answers), count) == (len(texts), cut)


@pytest.mark.parametrize(
    "given, count",
    [
        ("a fine film", None),
        ({"text": "a fine film"}, None),
        (numpy.array("a fine film"), None),
        (["a fine film"], 1),
        (("a fine film", "dull"), 2),  # of a file for single texts no pair
        (iter(["a fine film", "dull", "no"]), 3),
        (numpy.array(["a fine film", "dull"]), 2),
        ([{"text": "a fine film"}, "dull"], 2),
        ([], 0),
    ],
)
def test_one_text_is_one_answer_and_several_are_a_list(exported, given, count):
    with Classifier(exported) as classify:
        wanted = classify(["a fine film"])[0].label
        found = classify(given)
        assert (found.label == wanted) if count is None else (len(found) == count)
        assert not count or found[0].label == wanted


def test_an_evaluation_takes_what_a_call_takes(exported):
    with Classifier(exported) as classify:
        for given, count in (("a fine film", 1), (iter(["a", "b"]), 2), ([{"text": "a"}], 1)):
            assert len(classify.evaluate(given).logits) == count
        with pytest.raises(UserError, match="row 1: None is not"):
            classify.evaluate(["a", None])


@pytest.mark.parametrize(
    "given, words",
    [
        (None, "a NoneType is neither a text nor a list"),
        (5, "a int is neither"),
        ({"a", "b"}, "a set is neither"),
        (["a", None], "row 1: None is not"),
        ([float("nan")], "row 0: nan is not"),
        (["a", "b", "\ud800"], "row 2: .*half of a surrogate pair"),
        ({"sentence": "a"}, "wants the keys text and text_pair"),
        ([{"text": "a", "x": "b"}], "row 0: .*wants the keys"),
        ({"text": "a", "text_pair": "b"}, "wants: a text"),
    ],
)
def test_what_is_no_text_is_named_by_its_row(exported, given, words):
    with Classifier(exported) as classify, pytest.raises(UserError, match=words):
        classify(given)


@pytest.mark.parametrize(
    "files, options, words",
    [
        ([], {}, "no file was named"),
        (None, {"streams": "2"}, "--streams '2': must be a whole number"),
        (None, {"label_map": {"one": "x"}}, "label_map .*wants {number of a class: its name}"),
        (None, {"label_map": ["x"]}, "label_map .*wants {number of a class: its name}"),
        (None, {"label_map": {1: "a", "1": "b"}}, "label_map .*wants {number of a class"),
        (None, {"label_map": {0.9: "a"}}, "label_map .*wants {number of a class"),
        (None, {"label_map": {-1: "a"}}, "label_map .*wants {number of a class"),
        (None, {"label_map": {0: None}}, "label_map .*wants {number of a class"),
    ],
)
def test_what_no_classifier_can_be_made_of(exported, files, options, words):
    with pytest.raises(UserError, match=words):
        Classifier(exported if files is None else files, **options)


def test_names_of_classes_by_numbers_as_json_has_them(exported):
    with Classifier(exported, label_map={"1": "good", 0: "bad"}) as classify:
        assert classify.classes == ("bad", "good")


def test_a_closed_classifier_and_that_of_another_process_say_so(exported, monkeypatch):
    classify = Classifier(exported)
    monkeypatch.setattr("albert_aie.run.classifier.os.getpid", lambda: 1)  # as in a forked child
    for call in (lambda: classify("a fine film"), classify.warm_up, lambda: classify.evaluate([])):
        with pytest.raises(UserError, match="another process, of which this one is a fork"):
            call()
    monkeypatch.undo()
    assert classify("a fine film").label
    classify.close(), classify.close()
    for call in (lambda: classify("a fine film"), classify.warm_up):
        with pytest.raises(UserError, match="this Classifier is closed"):
            call()
