"""GLUE's real dev files, read whole; RTE as Hugging Face writes it. They are not in this
repository: ALBERT_SHARED names the folder that has them."""

import pytest
from conftest import shared

from albert_aie.data import datasets
from albert_aie.data.tasks import TASKS

# Of each dev file its sentences, and how many of each class.
FILES = {
    "CoLA": (1043, {"unacceptable": 322, "acceptable": 721}),
    "MRPC": (408, {"not_equivalent": 129, "equivalent": 279}),
    "STS-B": (1500, None),
    "QNLI": (5463, {"entailment": 2702, "not_entailment": 2761}),
    "WNLI": (70, {"not_entailment": 35, "entailment": 35}),
    "RTE": (277, {"entailment": 146, "not_entailment": 131}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_sentence_of_the_real_dev_file_is_read(name):
    """As plain splitting of its lines has it; the classes are as many as GLUE's own are."""
    folder, task = shared("GLUE") / name, TASKS[name]
    count, classes = FILES[name]
    examples = datasets.read(folder, "dev", task)
    assert len(examples.sentences) == len(examples.labels) == count

    lines = (folder / "dev.tsv").read_bytes().decode("utf-8-sig").split("\n")
    lines = [line.rstrip("\r").split("\t") for line in lines if line]
    header = list(task.columns) or [column.lower() for column in lines.pop(0)]
    places = [header.index(column) for column in task.text]
    wanted = [[line[place] for place in places] for line in lines]
    assert [list(s) if task.is_pair else [s] for s in examples.sentences] == wanted
    if classes is None:
        scores = [float(line[header.index("score")]) for line in lines]
        assert examples.labels == scores and 0 <= min(scores) and max(scores) == 5
    else:
        named = [examples.classes[label] for label in examples.labels]
        assert {label: named.count(label) for label in classes} == classes
        assert len(named) == sum(classes.values())
    assert ("as Hugging Face writes GLUE" in examples.note) == (name == "RTE"), examples.note


def test_the_two_orders_of_rte_are_each_others_opposite():
    folder = shared("GLUE") / "RTE"
    examples = datasets.read(folder, "dev", TASKS["RTE"])
    turned = {0: "not_entailment", 1: "entailment"}
    other = datasets.read(folder, "dev", TASKS["RTE"], turned)
    assert [1 - label for label in examples.labels] == other.labels
    assert "Hugging Face" in examples.note and "Hugging Face" not in other.note
    first = "Dana Reeve, the widow of the actor Christopher Reeve, has died"
    assert examples.sentences[0][0].startswith(first)
    assert examples.classes[examples.labels[0]] == "not_entailment"
