"""The embedded default: a trained ALBERT and sentences of our own."""

import json

import pytest
from helpers import ROOT, needs_nncf, python, tokens

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
@pytest.mark.parametrize("pack", [True, False])
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
def test_every_precision_passes_its_gate_on_dev(tmp_path, sst2, export, engine, precision, pack):
    if precision == "int8":
        needs_nncf()
    if precision == "bf16" and "BF16" not in openvino.capabilities():
        pytest.skip("without bf16 instructions OpenVINO refuses, and torch emulates them: minutes")
    target = {"backend": engine, "precision": precision, "pack": pack}
    shape = {"batch_size": 8, "max_seq_length": 64}
    given = {"pth_dir": CHECKPOINT, "data_dir": sst2, "save_dir": tmp_path, "compare_cpu": True}
    run = export(**given, **target, **shape)
    print(run.out)
    assert run.code == 0 and "872 sentences" in run.out and "compare_cpu PASS" in run.out
    if precision == "fp32":
        assert "label flips 0 (gate 0)" in run.out


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
