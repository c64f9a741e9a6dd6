"""albert.patch and the golden tokens against the real lonePatient/albert_pytorch.

ALBERT_PYTORCH_DIR names a clean checkout of 46de9ec; it is copied, never changed. Each look at it
is a fresh interpreter, because its package is called `model` whether patched or not.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT, STAND_INS, flags, python

PATCH = ROOT / "albert.patch"
GOLDEN = ROOT / "tests" / "golden"
PATCHED_FILES = {
    "model/configuration_utils.py",
    "model/file_utils.py",
    "model/modeling_albert.py",
    "model/modeling_utils.py",
    "model/tokenization_albert.py",
    "processors/glue.py",
}


# --- the patch as a file: needs no checkout


def test_patch_has_unix_line_endings_and_no_stray_blanks():
    text = PATCH.read_bytes()
    assert b"\r" not in text and text.endswith(b"\n")
    added = [
        line
        for line in text.decode("ascii").splitlines()
        if line.startswith("+") and not line.startswith("+++")
    ]
    assert [line for line in added if line != line.rstrip() or "\t" in line] == []


def test_patch_touches_six_files_and_its_hunk_headers_count_right():
    files, hunks, left = [], 0, {"old": 0, "new": 0}
    for line in PATCH.read_text().splitlines():
        header = re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line)
        if header or line.startswith("diff --git"):
            assert left == {"old": 0, "new": 0}
        if header:
            hunks += 1
            left = {"old": int(header.group(1) or 1), "new": int(header.group(2) or 1)}
        elif line.startswith("diff --git"):
            files.append(line.split(" b/")[1])
        elif any(left.values()):
            left["old"] -= line[:1] in (" ", "-")
            left["new"] -= line[:1] in (" ", "+")
    assert left == {"old": 0, "new": 0}
    assert set(files) == PATCHED_FILES and len(files) == 6
    assert hunks == 19


def test_patch_leaves_the_classifier_and_its_0_1_alone():
    changed = [line for line in PATCH.read_text().splitlines() if re.match(r"[+-](?![+-])", line)]
    assert not [line for line in changed if "0.1" in line or "classifier" in line]


# --- the patch on the real tree


def git_apply(tree, *flags):
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}  # no part of a repository
    command = ["git", "apply", *flags, str(PATCH)]
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)


def printed(code, cwd, *args):
    """What `code` prints as JSON, in a fresh interpreter: each tree has its own package `model`."""
    env = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    run = python("-W", "ignore", "-c", code, *args, env=env, cwd=cwd)
    assert run.code == 0, run.err
    return json.loads(run.out.splitlines()[-1])


BLOCK = """
import sys
for name in ("six", "boto3", "botocore", "requests", "tqdm", "transformers"):
    sys.modules[name] = None  # an import of it raises ImportError
"""

MODEL = """
import json, sys
sys.path.insert(0, "albert_pytorch")
import torch
from model.configuration_albert import AlbertConfig
from model.modeling_albert import AlbertForSequenceClassification

def make():
    torch.manual_seed(0)
    model = AlbertForSequenceClassification(AlbertConfig(
        vocab_size_or_config_json_file=100, embedding_size=16, hidden_size=32,
        num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, num_labels=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and LayerNorms off their 0 and 1
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model

def inputs(rows, length):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (rows, length), generator=generator)
    mask = (torch.arange(length) < torch.arange(rows).unsqueeze(1) + 3).long()
    types = torch.randint(0, 2, (rows, length), generator=generator)
    return ids * mask, mask, types

model = make()
"""


@pytest.mark.upstream
@pytest.mark.skipif(not shutil.which("patch"), reason="patch is not installed")
def test_git_apply_and_patch_p1_give_the_same_tree(upstream_tree, patched_tree, tmp_path):
    tree = Path(shutil.copytree(upstream_tree, tmp_path / "tree"))
    with open(PATCH, "rb") as file:
        done = subprocess.run(
            ["patch", "-p1"], cwd=tree, stdin=file, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fuzz" not in done.stdout and "offset" not in done.stdout
    before, by_git, by_patch = map(_files, (upstream_tree, patched_tree, tree))
    assert by_git == by_patch and set(before) == set(by_git)
    assert {name for name in before if before[name] != by_git[name]} == PATCHED_FILES


def _files(tree):
    files = (path for path in tree.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in files}


@pytest.mark.upstream
def test_patch_is_refused_where_it_is_already_applied_and_can_be_taken_back(patched_tree, tmp_path):
    tree = Path(shutil.copytree(patched_tree, tmp_path / "tree"))
    assert git_apply(tree).returncode != 0
    assert git_apply(tree, "-R").returncode == 0
    assert git_apply(tree).returncode == 0


@pytest.mark.upstream
def test_same_keys_and_the_very_same_logits(upstream_tree, patched_tree):
    code = (
        MODEL
        + """
with torch.no_grad():
    shapes = [(1, 3), (4, 17), (8, 40)]
    logits = [model(*inputs(*shape))[0].tolist() for shape in shapes]
    ids, mask, types = inputs(4, 17)
    given = model(ids, mask, types, position_ids=torch.arange(17).unsqueeze(0))[0].tolist()
    bare = model(ids)[0].tolist()
keys = list(model.state_dict())
print(json.dumps({"keys": keys, "logits": logits, "given": given, "bare": bare}))
"""
    )
    before = printed(STAND_INS + code, upstream_tree.parent)
    after = printed(BLOCK + code, patched_tree.parent)
    assert len(after["keys"]) == 27
    assert after == before  # floats travel through JSON exactly
    assert after["given"] == after["logits"][1] != after["bare"]


@pytest.mark.upstream
@pytest.mark.parametrize("package", ["model", "albert_pytorch.model"])
def test_imports_without_six_boto3_requests_tqdm(patched_tree, package):
    code = (
        BLOCK
        + """
import importlib, json
root = sys.argv[1]
sys.path.insert(0, "albert_pytorch" if root == "model" else ".")
files, utils, albert, modeling, _, _ = [importlib.import_module(root + "." + name) for name in (
    "file_utils", "configuration_utils", "configuration_albert", "modeling_utils",
    "modeling_albert", "tokenization_albert")]
one = utils.PretrainedConfig
print(json.dumps({
    "one PretrainedConfig": modeling.PretrainedConfig is one in albert.AlbertConfig.__mro__,
    "exception": issubclass(files.ClientError, Exception),
    "no twin": root == "model" or "model" not in sys.modules,
}))
"""
    )
    assert all(printed(code, patched_tree.parent, package).values())


@pytest.mark.upstream
def test_a_saved_checkpoint_loads_back_and_a_pickle_with_code_does_not(patched_tree, tmp_path):
    code = (
        BLOCK
        + MODEL
        + """
import os, pickle
folder = sys.argv[1]
model.save_pretrained(folder)
again, info = AlbertForSequenceClassification.from_pretrained(folder, output_loading_info=True)
with torch.no_grad():
    same = torch.equal(again(*inputs(4, 17))[0], model(*inputs(4, 17))[0])

class Evil:
    def __reduce__(self):
        return os.mkdir, (os.path.join(folder, "ran"),)
torch.save({"bert.pooler.dense.bias": Evil()}, os.path.join(folder, "pytorch_model.bin"))
try:
    AlbertForSequenceClassification.from_pretrained(folder)
    refused = False
except pickle.UnpicklingError:
    refused = True
ran = os.path.exists(os.path.join(folder, "ran"))
print(json.dumps({"same": same, "info": info, "refused": refused, "ran": ran}))
"""
    )
    result = printed(code, patched_tree.parent, tmp_path)
    assert result["same"] and result["refused"] and not result["ran"]
    assert not any(result["info"].values())


SHAPE_OPERATORS = {
    "aten::size", "aten::Int", "aten::ScalarImplicit", "prim::NumToTensor", "aten::arange",
    "aten::expand", "aten::expand_as", "aten::unflatten", "aten::flatten", "aten::reshape",
}  # fmt: skip


@pytest.mark.upstream
def test_trace_holds_no_shape_operator_whether_positions_are_given_or_not(patched_tree):
    code = (
        BLOCK
        + MODEL
        + """
class Given(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
        self.register_buffer("position_ids", torch.arange(17).unsqueeze(0), persistent=False)
    def forward(self, ids, mask, types):
        return self.model(ids, mask, types, position_ids=self.position_ids)[0]

class Buffer(Given):
    def forward(self, ids, mask, types):
        return self.model(ids, mask, types)[0]

result = {}
for name, wrapper in (("given", Given()), ("buffer", Buffer())):
    with torch.no_grad():
        traced = torch.jit.trace(wrapper.eval(), inputs(4, 17))
        frozen = torch.jit.freeze(traced)
        pairs = [(program(*inputs(rows, 17)), wrapper(*inputs(rows, 17)))
                 for program in (traced, frozen) for rows in (4, 1, 9)]
        entry = {"difference": [float((one - other).abs().max()) for one, other in pairs]}
        try:
            frozen(*inputs(4, 34))
            entry["other length"] = "ran"
        except RuntimeError:
            entry["other length"] = "refused"
    for stage, graph in (("traced", traced.inlined_graph), ("frozen", frozen.inlined_graph)):
        entry[stage] = sorted({node.kind() for node in graph.nodes()})
    result[name] = entry
print(json.dumps(result))
"""
    )
    for entry in printed(code, patched_tree.parent).values():
        assert (
            max(entry["difference"]) < 2e-6
        )  # 0.0 on torch 2.13; 2.0.1 fuses on the CPU, patched or not
        assert entry["other length"] == "refused"
        for stage in ("traced", "frozen"):
            assert SHAPE_OPERATORS.isdisjoint(entry[stage]), stage
            assert "aten::view" in entry[stage]


@pytest.mark.upstream
def test_reader_of_the_unlabelled_test_file_and_fixed_length_batches(patched_tree, tmp_path):
    (tmp_path / "test.tsv").write_text('index\tsentence\n0\ta " b \n1\tc\n', encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nd e \t1\nf\t0\n", encoding="utf-8")
    code = (
        BLOCK
        + """
import json
sys.path.insert(0, "albert_pytorch")
import torch
from processors import collate_fn, glue_convert_examples_to_features, glue_processors

class Words:
    def tokenize(self, text):
        return text.split()
    def convert_tokens_to_ids(self, tokens):
        return [5 + len(token) for token in tokens]

processor = glue_processors["sst-2"]()
result = {}
for split, read in (("test", processor.get_test_examples), ("dev", processor.get_dev_examples)):
    examples = read(sys.argv[1])
    features = glue_convert_examples_to_features(
        examples, Words(), max_seq_length=12, label_list=processor.get_labels(),
        output_mode="classification")
    cache = sys.argv[1] + "/cached_" + split
    torch.save(features, cache)
    features = torch.load(cache)  # as run_classifier.py reads it: weights_only from torch 2.6 on
    names = ("input_ids", "attention_mask", "token_type_ids", "input_len", "label")
    batch = collate_fn([[torch.tensor(getattr(feature, name)) for name in names]
                        for feature in features])
    result[split] = {
        "text": [e.text_a for e in examples], "label": [e.label for e in examples],
        "guid": [e.guid for e in examples], "shapes": [list(tensor.shape) for tensor in batch],
        "labels": batch[3].tolist(), "lengths": batch[1].sum(1).tolist()}
print(json.dumps(result))
"""
    )
    result = printed(code, patched_tree.parent, tmp_path)
    shapes = [[2, 12], [2, 12], [2, 12], [2]]
    assert result["test"] == {
        "text": ['a " b ', "c"],
        "label": [None, None],
        "guid": ["test-1", "test-2"],
        "shapes": shapes,
        "labels": [-1, -1],
        "lengths": [5, 3],
    }
    assert result["dev"] == {
        "text": ["d e ", "f"],
        "label": ["1", "0"],
        "guid": ["dev-1", "dev-2"],
        "shapes": shapes,
        "labels": [1, 0],
        "lengths": [4, 3],
    }


@pytest.mark.upstream
def test_golden_tokens_are_what_upstream_makes(patched_tree, tmp_path, albert_files, sst2):
    script = shutil.copy(GOLDEN / "make_tokens.py", tmp_path)  # it writes tokens.json beside itself
    options = flags(upstream=patched_tree, spm=albert_files / "30k-clean.model", data=sst2)
    run = python(script, *options, cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert run.code == 0, run.err
    golden, made = (
        json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        for folder in (GOLDEN, tmp_path)
    )
    counts = {split: entry["sentences"] for split, entry in made["files"].items()}
    assert counts == {"dev": 872, "test": 1821, "train": 67349}
    for versions in ("python", "sentencepiece"):
        del golden[versions], made[versions]
    assert made == golden
