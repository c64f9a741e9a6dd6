"""Generated sets in the exact layout of each task's files, and small checkpoints for them.

Layouts: GLUE's download (gluebenchmark.com) as albert_pytorch's processors/glue.py at 46de9ec reads
it, and LCQMC's three columns."""

import json
import math

from helpers import TINY, write_checkpoint

from albert_aie.data.tasks import TASKS

PAIRS = [
    ("a fine film .", "the film is good"),
    ("dull , dull and dull again", "it 's ``great'' fun"),
    ("no", "yes"),
    ("one of the best things i saw all year", "one of the worst things"),
    ("i left early and so should you ", "stay"),
    ("charming", "it has charm , in 1994, and wit"),
    ("the plot makes no sense at all , not even once", "no sense"),
    ("well acted", "badly acted"),
    ("poor", "rich"),
    ("a slow start but what an ending !", "slow"),
    ("café naïve", "cafe naive"),
    ("the end", "the end"),
]
CHINESE = [
    ("喜欢打篮球的男生喜欢什么样的女生", "爱打篮球的男生喜欢什么样的女生"),
    ("我手机丢了，我想换个手机", "我想买个新手机，求推荐"),
    ("大家觉得她好看吗", "大家觉得跑男好看吗？"),
    ("求秋色之空漫画全集", "求秋色之空全集漫画"),
    ("晚上睡觉带着耳机听音乐有什么害处吗？", "孕妇可以戴耳机听音乐吗?"),
    ("学日语软件手机上的", "手机学日语的软件"),
    ("iPhone 15 Pro多少钱", "iphone15pro的价格是多少"),
    ("Python3.9怎么安装", "如何安装 Python 3.9 ?"),
    ("你好", "您好"),
    ("一", "二"),
    ("这个《书》好（吗）？", "这本书好不好……"),
    ("上海　南京路", "南京路，上海"),
]
MNLI_HEADER = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2 label1 gold_label"
)
# Task -> (header or None, function of number, first text, second, label -> fields, test's header,
# its fields)
LAYOUTS = {
    "CoLA": (
        None,
        lambda i, a, b, y: ["gj04", y, "" if y == "1" else "*", a],
        "index sentence",
        lambda i, a, b: [i, a],
    ),
    "SST-2": (
        "sentence label",
        lambda i, a, b, y: [a, y],
        "index sentence",
        lambda i, a, b: [i, a],
    ),
    "MRPC": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        lambda i, a, b, y: [y, 700 + i, 800 + i, a, b],
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
        lambda i, a, b: [i, 700 + i, 800 + i, a, b],
    ),
    "QQP": (
        "id qid1 qid2 question1 question2 is_duplicate",
        lambda i, a, b, y: [133273 + i, 213221 + i, 213222 + i, a, b, y],
        "id question1 question2",
        lambda i, a, b: [i, a, b],
    ),
    "STS-B": (
        "index genre filename year old_index source1 source2 sentence1 sentence2 score",
        lambda i, a, b, y: [i, "main-captions", "MSRvid", "2012test", i, "none", "none", a, b, y],
        "index genre filename year old_index source1 source2 sentence1 sentence2",
        lambda i, a, b: [i, "main-captions", "MSRvid", "2012test", i, "none", "none", a, b],
    ),
    "MNLI": (
        MNLI_HEADER,
        lambda i, a, b, y: [
            i,
            f"{i}",
            f"{i}e",
            "fiction",
            "( a )",
            "( b )",
            "(A)",
            "(B)",
            a,
            b,
            y,
            y,
        ],
        MNLI_HEADER.rsplit(" ", 2)[0],
        lambda i, a, b: [i, f"{i}", f"{i}e", "fiction", "( a )", "( b )", "(A)", "(B)", a, b],
    ),
    "QNLI": (
        "index question sentence label",
        lambda i, a, b, y: [i, a, b, y],
        "index question sentence",
        lambda i, a, b: [i, a, b],
    ),
    "RTE": (
        "index sentence1 sentence2 label",
        lambda i, a, b, y: [i, a, b, y],
        "index sentence1 sentence2",
        lambda i, a, b: [i, a, b],
    ),
    "LCQMC": (None, lambda i, a, b, y: [a, b, y], None, lambda i, a, b: [a, b, "0"]),
}
LAYOUTS["WNLI"], LAYOUTS["MNLI-MM"] = LAYOUTS["RTE"], LAYOUTS["MNLI"]


def labels_of(task, count):
    """What the files of a Task call the labels of `count` generated sentences."""
    if task.regression:
        return [f"{(i * 7 % 26) / 5:.3f}" for i in range(count)]
    called = task.labels or task.classes
    return [called[i * i % len(called)] for i in range(count)]


def write_set(folder, name, rows=None):
    """train, dev and test of a task in `folder`, each with the same sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    task = TASKS[name]
    rows = rows or (CHINESE if name == "LCQMC" else PAIRS)
    header, fields, test_header, test_fields = LAYOUTS[name]
    labels = labels_of(task, len(rows))
    labelled = [fields(i, a, b, y) for i, ((a, b), y) in enumerate(zip(rows, labels))]
    bare = [test_fields(i, a, b) for i, (a, b) in enumerate(rows)]
    for split, file in task.files.items():
        head, table = (test_header, bare) if split == "test" else (header, labelled)
        if head and "\t" not in head:
            head = head.replace(" ", "\t")
        lines = ([head] if head else []) + ["\t".join(map(str, row)) for row in table]
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def vocabulary(texts=CHINESE):
    """Lines of a small vocab.txt: letters, and most of the characters of the texts."""
    letters = sorted({letter for pair in texts for text in pair for letter in text.lower()})
    pieces = [letter for letter in letters if not letter.isspace() and letter not in "漫孕"]
    pieces += [f"##{letter}" for letter in pieces if letter.isascii()]
    words = ["iphone", "##15", "python", "##3", "pro", "film", "dull", "##ing", "the"]
    special = ["[PAD]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*special, *dict.fromkeys([*words, *pieces])]


def write_model(folder, name, layout="upstream", **config):
    """A small random checkpoint for a task, in the layout of albert_pytorch or Hugging Face; of
    LCQMC with a vocab.txt."""
    task = TASKS[name]
    outputs = 2 if task.classes is None else max(1, len(task.classes))
    config = {**TINY, "num_labels": outputs, **config}
    if name == "LCQMC":
        lines = vocabulary()
        folder.mkdir(parents=True, exist_ok=True)
        spm = folder / "vocab.txt"
        spm.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return write_checkpoint(folder, {**config, "vocab_size": len(lines)}, layout, spm)
    return write_checkpoint(folder, config, layout)


def write_names(folder, names):
    """Gives a checkpoint names for its classes."""
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    raw["id2label"] = {str(number): label for number, label in enumerate(names)}
    path.write_text(json.dumps(raw))
    return folder


def pearson(x, y):
    """By plain sums."""
    x, y = ([value - sum(values) / len(values) for value in values] for values in (x, y))
    above = sum(a * b for a, b in zip(x, y))
    return above / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
