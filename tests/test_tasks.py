"""Data and model meet by the names of their classes, columns of a TSV file by theirs."""

import pytest
from helpers import said

from albert_aie.base.errors import UserError
from albert_aie.cli.parsing import label_map
from albert_aie.data import datasets, tasks
from albert_aie.data.tasks import SST2


@pytest.mark.parametrize(
    "names, own",
    [
        (None, False),
        ([], False),
        (["LABEL_0", "LABEL_1", "LABEL_2"], False),
        (["label_0", "label_1"], False),
        (["0", "1"], False),
        (["1", "0"], True),  # says something, and nobody knows what
        (["LABEL_1", "LABEL_0"], True),
        (["1", "2"], True),
        (["LABEL_0", "positive"], True),
        (["negative", "positive"], True),
    ],
)
def test_which_names_say_nothing(names, own):
    assert tasks.own_names(names) == (tuple(names) if own else None)


def test_a_label_map_replaces_some_names():
    assert SST2.model_classes(("a", "b", "c"), 3, {1: "negative"}) == ("a", "negative", "c")
    assert SST2.model_classes(None, 3, {0: "neg", 2: "pos"}) == ("neg", "1", "pos")
    # Half a map on a model without names: what it does not say is not guessed.
    assert SST2.model_classes(None, 2, {0: "positive"}) == ("positive", "1")
    with pytest.raises(UserError, match="--label_map 2=...: here has 2 classes, 0 to 1"):
        SST2.model_classes(None, 2, {2: "positive"}, "here")


def test_a_label_map_is_numbers_and_names():
    assert label_map("1=POSITIVE, 0 = a=b") == {1: "POSITIVE", 0: "a=b"}


# The files of a task


def written(folder, text, split="dev", task=SST2):
    (folder / f"{split}.tsv").write_bytes(text.encode("utf-8"))
    return datasets.read(folder, split, task)


@pytest.mark.parametrize(
    "text",
    [
        "sentence\tlabel\nfine\t1\ndull\t0\n",
        "label\tsentence\n1\tfine\n0\tdull\n",
        "idx\tsentence\tsource\tlabel\n0\tfine\tx\t1\n1\tdull\ty\t0\n",
        "Sentence\tLabel \r\nfine\t1\r\ndull\t0\r\n\r\n",
        "\ufeffsentence\tlabel\nfine\tpositive\ndull\tNEG",
    ],
)
def test_columns_are_found_by_their_names(tmp_path, text):
    examples = written(tmp_path, text)
    assert (examples.sentences, examples.labels) == (["fine", "dull"], [1, 0])
    assert list(map(str, examples.indices)) == ["0", "1"]


@pytest.mark.parametrize(
    "text, labels",
    [
        ("index\tsentence\n7\tfine\n9\tdull\n", None),
        ("idx\tsentence\tlabel\n7\tfine\t-1\n9\tdull\t-1\n", None),
        ("sentence\tlabel\tindex\nfine\t1\t7\ndull\t0\t9\n", [1, 0]),
    ],
)
def test_a_test_split_with_and_without_labels(tmp_path, text, labels):
    examples = written(tmp_path, text, "test")
    assert (examples.indices, examples.labels) == (["7", "9"], labels)


@pytest.mark.parametrize(
    "text, words",
    [
        ("sentence\nfine\n", "line 1: the header must name one column 'label'"),
        ("sentence\tlabel\tlabel\nfine\t1\t0\n", "one column 'label'"),
        ("idx\tidx\tsentence\tlabel\n1\t2\tfine\t1\n", "one column 'idx'"),
        ("a fine film\t1\n", "line 1: the header"),
        ("sentence\tlabel\nfine\t1\ndull\t-1\n", "line 3: label '-1' is not a class of SST-2"),
        ("sentence\tlabel\nfine\tgood\n", "'good' is not a class of SST-2 (0 negative, 1 pos"),
        ("sentence\tlabel\nfine\t1.5\n", "label '1.5' is not"),
        ("sentence\tlabel\na\rb\t1\n", "line 2: a carriage return"),
    ],
)
def test_a_table_that_is_none_of_the_tasks_is_named(tmp_path, text, words):
    told = said(written, tmp_path, text)
    assert f"{tmp_path / 'dev.tsv'}" in told and words in told


def test_a_missing_file_names_those_that_are_there(tmp_path):
    (tmp_path / "validation.tsv").write_text("sentence\tlabel\nfine\t1\n")
    with pytest.raises(UserError, match=r"dev\.tsv: no such file; of validation\.tsv there, give"):
        datasets.read(tmp_path)


@pytest.mark.parametrize(
    "sentences, words",
    [
        (['"it is ""great"" fun"', "fine", '"yes"'], "line 2 and 1 more: stands in double quotes"),
        (["fine", '"it is ""great"" fun"'], "line 3: stands in double quotes"),
        (['"great" they said "', 'a "fine" film', '"', '""'], ""),
    ],
)
def test_sentences_in_a_csvs_quotes_are_told_and_not_guessed(tmp_path, sentences, words):
    lines = "".join(f"{sentence}\t1\n" for sentence in sentences)
    examples = written(tmp_path, "sentence\tlabel\n" + lines)
    assert examples.sentences == sentences
    assert words in examples.note if words else not examples.note


def test_a_task_of_pairs_reads_two_columns(tmp_path):
    texts, classes = ("question", "answer"), ("entailment", "not_entailment")
    task = SST2._replace(text=texts, classes=classes, spellings={})
    text = "index\tanswer\tquestion\tlabel\n3\tb\ta\tentailment\n"
    examples = written(tmp_path, text, task=task)
    assert (examples.sentences, examples.labels) == ([("a", "b")], [0])


def test_labels_become_numbers_of_the_models_classes():
    examples = datasets.Examples(SST2, "dev.tsv", ["a", "b"], [0, 1], [0, 1], SST2.classes)
    seen = examples.for_model(("neutral", "POS", "Neg"))
    assert (seen.classes, seen.labels) == (("neutral", "positive", "negative"), [2, 1])
    assert examples.labels == [0, 1] and seen.first(1).labels == [2]


def test_without_labels_a_models_own_names_are_kept():
    examples = datasets.Examples(SST2, "test.tsv", ["a"], None, [0], SST2.classes)
    assert examples.for_model(("bad", "good")).classes == ("bad", "good")
    with pytest.raises(UserError, match="the model's neg, NEGATIVE"):  # two of one name
        examples.for_model(("neg", "NEGATIVE"))


def test_a_whole_set_of_examples(tmp_path):
    """Every field; a sentence keeps the blank at its end, wherever its column stands."""
    path = tmp_path / "dev.tsv"
    examples = written(tmp_path, "label\tsentence\n1\tfine \r\n0\tdull\n0\tno\n")
    known = SST2, path, ["fine ", "dull", "no"], [1, 0, 0], [0, 1, 2], SST2.classes, ""
    assert examples == datasets.Examples(*known)
    two = SST2, path, ["fine ", "dull"], [1, 0], [0, 1], SST2.classes, ""
    assert examples.first(2) == datasets.Examples(*two) and examples.first(None) == examples


@pytest.mark.parametrize(
    "content, words",
    [
        (
            b"a\tb\tc\td\te\tf\tg\th\ti\n",
            ", line 1: the header must name one column 'sentence' and has a, b, c, d, e, f, g, h "
            "and 1 more; GLUE's SST-2 dev file begins with a line that names sentence and label, "
            "apart by tabs",
        ),
        (
            b"sentence\tlabel\nfine\t1\n\xff\t1\n",
            ", line 3: not UTF-8; convert the file: iconv -f cp1252 -t utf-8 FILE > NEW (cp1252 is "
            "what Windows writes in the West; name the file's own encoding)",
        ),
        (b"\n\n", ": is empty; download it again"),
        (b"sentence\tlabel\n\n", ": holds a header and no sentence; download it again"),
        (
            b"sentence\tlabel\nfine\t1\t2\n",
            ", line 2: 3 columns instead of 2 (sentence<TAB>label); correct the line",
        ),
        (
            b"sentence\tlabel\nfine\t1\ndull\n",
            ", line 3: 1 column instead of 2 (sentence<TAB>label); correct the line",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_whole_sentence(tmp_path, content, words):
    (tmp_path / "dev.tsv").write_bytes(content)
    assert said(datasets.read, tmp_path) == f"{tmp_path / 'dev.tsv'}{words}"


def test_a_folder_without_tables_says_what_is_wanted(tmp_path):
    text = said(datasets.read, tmp_path)
    words = "no such file; --data_dir wants the folder of GLUE's SST-2"
    assert words in text and text.endswith("to download it); this repository has one in demo/SST-2")


def test_names_of_a_model():
    assert SST2.model_classes(None, 2) == SST2.model_classes(("LABEL_0", "LABEL_1"), 2)
    assert SST2.model_classes(None, 2) == SST2.classes == ("negative", "positive")
    assert SST2.model_classes(None, 3) == ("0", "1", "2")
    assert SST2.model_classes(["Bad", "Good"], 2) == ("Bad", "Good")
    for name in ("", " ", "a\tb", "a\nb", "\ud800", "a\u2028b", "a\rb"):
        assert said(SST2.model_classes, ["a", name], 2) == (
            f"the model: class 1 is called {name!r}, which cannot stand in a table; give it a "
            "name with --label_map 1=NAME"
        )


def test_a_model_whose_names_do_not_meet_the_datas_is_one_whole_sentence():
    examples = datasets.Examples(SST2, "dev.tsv", ["a"], [0], [0], SST2.classes)
    for names in (("bad", "good"), ("negative", "good")):
        assert said(examples.for_model, names) == (
            f"dev.tsv: the data's classes are negative, positive, the model's {', '.join(names)}; "
            "say what the model's are with --label_map, such as 0=negative,1=positive (number of "
            "the model's class = class of the data)"
        )
    assert examples.for_model(SST2.classes) == examples


@pytest.mark.parametrize(
    "sentence, csv",
    [
        ('"a"', True),
        ('"it is ""great"""', True),
        ('"""great"" it is"', True),
        ('" "', True),
        ('""', False),
        ('"', False),
        ('"a" or "b"', False),
        ('a"', False),
    ],
)
def test_which_sentences_look_like_a_csvs(tmp_path, sentence, csv):
    note = written(tmp_path, f"sentence\tlabel\n{sentence}\t1\n").note
    assert note == csv * (
        f"{tmp_path / 'dev.tsv'}, line 2: stands in double quotes; GLUE has no quoting, so they "
        "are part of the sentence: take them out if they are not"
    )
