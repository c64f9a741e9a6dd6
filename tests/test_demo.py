"""The embedded default: a trained ALBERT and sentences of our own."""

import json

import numpy
import pytest
from helpers import ROOT, flags, needs_nncf, python, tokens

from albert_aie.albert import references
from albert_aie.albert.checkpoint import load
from albert_aie.backends import openvino
from albert_aie.data import datasets

CHECKPOINT, DATA = ROOT / "demo" / "checkpoint", ROOT / "demo" / "SST-2"


def words(sentence):
    return " ".join(sentence.split())


def test_the_sentences_are_balanced_varied_and_our_own(sst2):
    examples = datasets.read(DATA)
    lengths = [len(sentence.split()) for sentence in examples.sentences]
    assert len(examples.sentences) >= 200
    assert len(set(examples.sentences)) == len(examples.sentences)
    assert abs(sum(examples.labels) * 2 - len(examples.labels)) <= 2
    assert min(lengths) <= 5 and max(lengths) >= 45 and max(lengths) <= 60
    splits = [datasets.read(sst2, split).sentences for split in ("train", "dev", "test")]
    published = {words(sentence) for split in splits for sentence in split}
    assert not published & {words(sentence) for sentence in examples.sentences}


def test_the_checkpoint_is_albert_base_in_upstreams_layout_and_small():
    checkpoint = load(CHECKPOINT)
    assert checkpoint.layout == "albert_pytorch"
    c = checkpoint.config
    assert (c.hidden_size, c.num_hidden_layers, c.num_attention_heads) == (768, 12, 12)
    assert (c.intermediate_size, c.embedding_size, c.max_position_embeddings) == (3072, 128, 512)
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 25e6


@pytest.mark.slow
def test_the_demo_checkpoint_has_learnt(tmp_path, export, evaluate):
    shape = {"batch_size": 8, "max_seq_length": 64}
    run = export(pth_dir=CHECKPOINT, save_dir=tmp_path, backend="torchscript", **shape)
    assert run.code == 0, run.err
    file = tmp_path / "albert_seq64_bs8.pt"
    run = evaluate(data_dir=DATA, aie_model_dir=file, output_dir=tmp_path)
    assert run.code == 0, run.err
    accuracy = json.loads((tmp_path / "eval.json").read_text())["accuracy"]
    assert accuracy["total"] == len(datasets.read(DATA).sentences)
    assert accuracy["wilson95"][0] > 0.6  # it has learnt something: chance is 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine, precision",
    [
        ("torchscript", "fp32"),
        ("openvino", "fp32"),
        ("torchscript", "bf16"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
    ],
)
def test_every_precision_passes_its_gate_on_dev(tmp_path, sst2, export, engine, precision):
    if precision == "int8":
        needs_nncf()
    if precision == "bf16" and "BF16" not in openvino.capabilities():
        pytest.skip("without bf16 instructions OpenVINO refuses, and torch emulates them: minutes")
    target = {"backend": engine, "precision": precision}
    shape = {"batch_size": 8, "max_seq_length": 64}
    given = {"pth_dir": CHECKPOINT, "data_dir": sst2, "save_dir": tmp_path, "compare_cpu": True}
    run = export(**given, **target, **shape)
    print(run.out)
    assert run.code == 0 and "872 sentences" in run.out and "compare_cpu PASS" in run.out
    if precision == "fp32":
        assert "label flips 0 (gate 0)" in run.out


def write_teacher(folder, texts):
    """A small random encoder of MiniLM-L6's form, whose vocabulary is the words of the texts."""
    transformers = pytest.importorskip("transformers")
    found = sorted({word for text in texts for word in text.split()})
    letters = sorted({letter for word in found for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters] + [word for word in found if len(word) > 1]
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    config = transformers.BertConfig(vocab_size=len(pieces), num_attention_heads=12, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


@pytest.mark.slow
def test_a_demo_checkpoint_is_made_in_ten_steps(tmp_path):
    """Each stage once, and none again when the command is repeated."""
    examples = datasets.read(DATA)
    write_teacher(tmp_path / "teacher", examples.sentences)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_bytes((DATA / "dev.tsv").read_bytes())
    out = tmp_path / "out"
    given = {"data_dir": tmp_path / "data", "teacher": tmp_path / "teacher", "vocab_size": 400}
    five_steps_each = {"teacher_tokens": 4000, "narrow_tokens": 4000}
    given.update(work_dir=tmp_path / "work", output_dir=out, **five_steps_each)
    runs = [python(ROOT / "demo" / "train.py", *flags(**given)) for _ in range(2)]
    assert [run.code for run in runs] == [0, 0], runs[0].err
    assert "narrow_state final: held out" in runs[0].out
    assert "held out 0" not in runs[1].out and "wrote" in runs[1].out
    checkpoint = load(out)
    assert checkpoint.config.hidden_size == 768 and checkpoint.config.vocab_size == 400
    wide, _ = references.logits(checkpoint, tokens(checkpoint.tokenizer, DATA, 20))
    assert numpy.isfinite(wide).all()


PREDICT = """
import json, sys, types
for name in ("six", "boto3", "botocore", "botocore.config", "botocore.exceptions", "requests"):
    try:
        __import__(name)
    except ImportError:
        made_up = sys.modules[name] = types.ModuleType(name)
        made_up.PY2, made_up.Config, made_up.ClientError = False, None, OSError
sys.path.insert(0, sys.argv[1])
import torch
from model.modeling_albert import AlbertForSequenceClassification as Albert
model, info = Albert.from_pretrained(sys.argv[2], output_loading_info=True)
assert info["missing_keys"] == [] and info["unexpected_keys"] == [], info
assert info["error_msgs"] == [], info
model = model.float().eval()
labels = []
with torch.no_grad():
    for ids in json.load(open(sys.argv[3])):
        labels.append(int(model(torch.tensor([ids]))[0].argmax()))
print(json.dumps(labels))
"""


@pytest.mark.slow
@pytest.mark.upstream
def test_unmodified_albert_pytorch_loads_it_and_predicts_the_same(tmp_path, sst2, upstream_tree):
    """In a process of its own, with the packages that unpatched upstream imports made up where they
    are missing."""
    checkpoint = load(CHECKPOINT)
    encoded = tokens(checkpoint.tokenizer, sst2)
    (tmp_path / "ids.json").write_text(json.dumps([sentence.ids for sentence in encoded]))
    run = python("-c", PREDICT, upstream_tree, CHECKPOINT, tmp_path / "ids.json")
    assert run.code == 0, run.err
    reference, _ = references.logits(checkpoint, encoded)
    assert json.loads(run.out.splitlines()[-1]) == reference.argmax(1).tolist()
