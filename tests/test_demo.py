"""The embedded default: a trained ALBERT and sentences of our own."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, upstream_tree

from albert_aie import checkpoint, compare
from albert_aie.backends import openvino
from albert_aie.evaluate import encode
from albert_aie.text import Tokenizer, read_sst2

CHECKPOINT, DATA = ROOT / "demo" / "checkpoint", ROOT / "demo" / "SST-2"


def test_the_sentences_are_balanced_varied_and_our_own(sst2):
    examples = read_sst2(DATA)
    lengths = [len(sentence.split()) for sentence in examples.sentences]
    assert len(examples.sentences) >= 200 and len(set(examples.sentences)) == len(examples.sentences)
    assert abs(sum(examples.labels) * 2 - len(examples.labels)) <= 2
    assert min(lengths) <= 5 and max(lengths) >= 45 and max(lengths) <= 60
    published = {" ".join(s.split()) for split in ("train", "dev", "test") for s in read_sst2(sst2, split).sentences}
    assert not published & {" ".join(s.split()) for s in examples.sentences}


def test_the_checkpoint_is_albert_base_in_upstreams_layout_and_small():
    source = checkpoint.load(CHECKPOINT)
    assert source.layout == "albert_pytorch"
    config = source.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.intermediate_size, config.embedding_size, config.max_position_embeddings) == (3072, 128, 512)
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 25e6


def test_demo_flags_find_everything(tmp_path, export, evaluate):
    run = export("--demo", "--save_dir", tmp_path, "--batch_size", 8, "--max_seq_length", 64, "--backend", "torchscript")
    assert run.code == 0, run.err
    run = evaluate("--demo", "--aie_model_dir", tmp_path / "albert_seq64_bs8.pt", "--output_dir", tmp_path)
    assert run.code == 0, run.err
    accuracy = json.loads((tmp_path / "eval.json").read_text())["accuracy"]
    assert accuracy["total"] == len(read_sst2(DATA).sentences)
    assert accuracy["wilson95"][0] > 0.6  # it has learnt something: chance is 0.5


@pytest.mark.slow
@pytest.mark.parametrize("pack", [["--pack"], []])
@pytest.mark.parametrize(
    "engine, precision",
    [("torchscript", "fp32"), ("openvino", "fp32"), ("torchscript", "bf16"), ("openvino", "bf16"), ("openvino", "int8")],
)
def test_every_precision_passes_its_gate_on_dev(tmp_path, sst2, export, engine, precision, pack):
    if precision == "int8":
        pytest.importorskip("nncf", reason="--precision int8 needs nncf")
    if precision == "bf16" and "BF16" not in openvino._capabilities():
        pytest.skip("without bf16 instructions OpenVINO refuses, and torch emulates them: minutes")
    flags = ["--save_dir", tmp_path, "--batch_size", 8, "--max_seq_length", 64, *pack]
    flags += ["--backend", engine, "--precision", precision]
    run = export("--demo", "--data_dir", sst2, "--compare_cpu", *flags)
    print(run.out)
    assert run.code == 0 and "872 rows" in run.out and "compare_cpu PASS" in run.out
    if precision == "fp32":
        assert "label flips 0 (gate 0)" in run.out


@pytest.mark.slow
@pytest.mark.upstream
def test_unmodified_albert_pytorch_loads_it_and_predicts_the_same(tmp_path, sst2):
    """In a process of its own, with the packages that unpatched upstream imports made up where they are missing."""
    tree = shutil.copytree(upstream_tree(), tmp_path / "albert_pytorch", ignore=shutil.ignore_patterns(".git"))
    source = checkpoint.load(CHECKPOINT)
    encoded = encode(Tokenizer(source.tokenizer.read_bytes()), read_sst2(sst2).sentences, 128)[0]
    (tmp_path / "ids.json").write_text(json.dumps(encoded))
    code = """
import json, sys, types
for name in ("six", "boto3", "botocore", "botocore.config", "botocore.exceptions", "requests"):
    try:
        __import__(name)
    except ImportError:
        made_up = sys.modules[name] = types.ModuleType(name)
        made_up.PY2, made_up.Config, made_up.ClientError = False, None, OSError
sys.path.insert(0, sys.argv[1])
import torch
from model.modeling_albert import AlbertForSequenceClassification
model, info = AlbertForSequenceClassification.from_pretrained(sys.argv[2], output_loading_info=True)
assert info["missing_keys"] == [] and info["unexpected_keys"] == [] and info["error_msgs"] == [], info
model = model.float().eval()
labels = []
with torch.no_grad():
    for ids in json.load(open(sys.argv[3])):
        labels.append(int(model(torch.tensor([ids]))[0].argmax()))
print(json.dumps(labels))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tree), str(CHECKPOINT), str(tmp_path / "ids.json")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    reference, _ = compare.reference_logits(source, encoded)
    assert torch.tensor(json.loads(done.stdout.splitlines()[-1])).equal(reference.argmax(1))
