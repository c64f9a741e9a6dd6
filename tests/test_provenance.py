"""What an export writes down about itself, and what a comparison takes from it; each value by
hand."""

import contextlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, TINY, refused, said, write_checkpoint

from albert_aie.albert import checkpoint, references, upstream
from albert_aie.artifact.manifest import describe
from albert_aie.backends import Compiled, Target
from albert_aie.base import machine, process
from albert_aie.base.encoding import Encoded
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape
from albert_aie.base.version import __version__
from albert_aie.data.tasks import TASKS
from albert_aie.run import compare, evaluate


def compiled():
    made = {"operators": {"aten::linear": 3}, "versions": {"engine": "1.2"}}
    return Compiled(None, **made, requires=["engine"], options={"level": 2})


def test_every_key_of_a_manifest(tiny):
    found = checkpoint.load(tiny).named(TASKS["SST-2"])
    target = Target("aie", "npu", "fp16", {"level": 1})
    model = SimpleNamespace(
        checkpoint=found, graph_name="fused", free_sizes=False, upstream_commit=None
    )
    ratios = {"fp16": 2.5, "fp32": 1.0}
    made = describe(model, compiled(), target, Shape(4, 32, 8), ratios, TASKS["SST-2"])
    created = made.pop("created")
    assert len(created) == len("2026-01-01T00:00:00+00:00") and created.endswith("+00:00")
    assert made.pop("config") == found.config.__dict__
    assert made == {
        "format": "albert_aie",
        "format_version": 4,
        "backend": "aie",
        "device": "npu",
        "precision": "fp16",
        "options": {"level": 2},
        "requires": ["engine"],
        "graph": "fused",
        "batch_size": 4,
        "max_seq_length": 32,
        "slots": 8,
        "free_sizes": False,
        "measured": {"cpu": machine.cpu(), "times_as_fast": ratios},
        "task": "SST-2",
        "tokenizer": {"kind": "spm", "options": {}},
        "label_names": ["negative", "positive"],
        "random_weights": False,
        "source": {
            "checkpoint": str(tiny),
            "layout": "albert_pytorch",
            "sha256": found.sha256,
            "tokenizer_sha256": found.tokenizer.sha256,
            "upstream_commit": None,
        },
        "operators": {"aten::linear": 3},
        "versions": {
            "albert_aie": __version__,
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "engine": "1.2",
        },
    }


def test_a_manifest_names_upstreams_commit_and_the_task_of_the_model(tiny):
    """A path that is not UTF-8 is written as far as it can be."""
    found = replace(checkpoint.load(tiny).named(TASKS["SST-2"]), origin="a\udcffb")
    model = SimpleNamespace(
        checkpoint=found, graph_name="upstream", free_sizes=True, upstream_commit="46de9ec"
    )
    target = Target("torchscript", "cpu", "fp32")
    made = describe(model, compiled(), target, Shape(1, 8), task=TASKS["MNLI-MM"])
    assert made["source"]["upstream_commit"] == "46de9ec" and made["task"] == "MNLI"
    assert made["free_sizes"] is True and made["measured"] is None and made["slots"] == 0
    assert made["source"]["checkpoint"] == "a\\udcffb"


def saved_from(folder, **changed):
    """What compare.checkpoint_of reads of an Artifact made from a folder's checkpoint."""
    found = checkpoint.load(folder)
    source = {"layout": found.layout, "sha256": found.sha256}
    manifest = {"random_weights": False, "source": source, "config": vars(found.config)}
    kind = found.tokenizer.kind
    return SimpleNamespace(
        path="a.pt", manifest={**manifest, **changed}, tokenizer=SimpleNamespace(kind=kind)
    )


def test_the_checkpoint_of_a_file_is_found_by_its_digest(tiny, tmp_path):
    found, note = compare.checkpoint_of(saved_from(tiny), tiny)
    assert note == "" and found.sha256 == checkpoint.load(tiny).sha256
    other = write_checkpoint(tmp_path / "other", seed=1)
    found, note = compare.checkpoint_of(saved_from(tiny), other)
    assert found.sha256 == checkpoint.load(other).sha256
    assert note == (
        f"the weights in {other} are not, byte by byte, those that the file was made from (sha256)"
    )
    assert compare.checkpoint_of(saved_from(tiny, source={}), tiny)[1] != ""


def test_another_architecture_is_refused_and_other_label_names_are_not(tiny):
    config = vars(checkpoint.load(tiny).config)
    named = saved_from(tiny, config={**config, "label_names": ["a", "b"]})
    assert compare.checkpoint_of(named, tiny)[1] == ""
    for name in ("hidden_size", "layer_norm_eps", "num_labels"):
        wrong = saved_from(tiny, config={**config, name: 7})
        assert said(compare.checkpoint_of, wrong, tiny) == (
            f"{tiny}: {name} is {config[name]}, but a.pt has 7; name the checkpoint that the file "
            "was made from"
        )
    more = saved_from(tiny, config={**config, "further": None})
    assert compare.checkpoint_of(more, tiny)[1] == ""  # what neither has


def test_a_file_without_the_shift_is_compared_without_it(tiny):
    source = {**saved_from(tiny).manifest["source"], "layout": checkpoint.UNSHIFTED}
    with_shift, _ = compare.checkpoint_of(saved_from(tiny), tiny)
    without, note = compare.checkpoint_of(saved_from(tiny, source=source), tiny)
    assert note == "" and without.layout == checkpoint.UNSHIFTED
    names = "classifier.bias"
    assert not torch.equal(without.tensors[names], with_shift.tensors[names])


def test_the_reference_is_transformers_own_model_in_eval_mode_and_eager(tiny):
    found = checkpoint.load(tiny)
    model = references.transformers_model(found)
    assert not model.training and model.config._attn_implementation == "eager"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act"):
        assert getattr(model.config, name) == TINY[name]
    state = model.state_dict()
    for name, tensor in found.tensors.items():
        assert torch.equal(state[name], tensor), name


def test_the_reference_holds_the_checkpoints_weights_and_no_others(tiny):
    found = checkpoint.load(tiny)
    kept = dict(found.tensors)
    kept.pop("classifier.bias")
    with pytest.raises(RuntimeError, match="classifier.bias"):
        references.transformers_model(replace(found, tensors=kept))


def test_the_reference_of_a_checkout_gets_ids_mask_and_types(tiny, monkeypatch, tmp_path):
    """It runs its own model on what was encoded, and answers with its logits."""
    asked = []

    def model(*given, **named):
        asked.append((given, named))
        return torch.arange(6.0).view(3, 2), "hidden states"

    def upstream_model(*given):
        asked.append(given)
        return model

    monkeypatch.setattr(upstream, "has_upstream", lambda folder: folder == tmp_path)
    monkeypatch.setattr(upstream, "upstream_model", upstream_model)
    found = checkpoint.load(tiny)
    encoded = [Encoded([2, 7, 3]), Encoded([2, 3]), Encoded([2, 8, 3, 9, 3], second=3)]
    logits, name = references.logits(found, encoded, tmp_path)
    assert name == f"albert_pytorch in {tmp_path}, eager fp32"
    assert logits.tolist() == [[2, 3], [0, 1], [4, 5]]  # the shortest was run first
    (checkout, ((ids,), named)) = asked
    assert checkout == (found, tmp_path) and sorted(named) == ["attention_mask", "token_type_ids"]
    assert ids.tolist() == [[2, 3, 0, 0, 0], [2, 7, 3, 0, 0], [2, 8, 3, 9, 3]]
    assert named["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1] * 5]
    assert named["token_type_ids"].tolist() == [[0] * 5, [0] * 5, [0, 0, 0, 1, 1]]
    _, name = references.logits(found, encoded)
    assert name == "transformers' ALBERT, eager fp32"


def test_the_checkpoint_of_a_file_is_read_with_the_files_kind_of_tokenizer(tiny, monkeypatch):
    """A folder can hold two; the file was made with one."""
    saved, asked = saved_from(tiny), []
    saved.tokenizer = SimpleNamespace(kind="json")
    found = checkpoint.load(tiny)
    monkeypatch.setattr(
        checkpoint, "load", lambda *where, **kind: asked.append((where, kind)) or found
    )
    compare.checkpoint_of(saved, tiny, "x.model", "checkout")
    where = tiny, "x.model", "checkout"
    assert asked == [(where, {"shift": True, "kind": "json"})]


def test_no_reference_is_one_sentence_before_the_work(tiny, monkeypatch, tmp_path, export):
    monkeypatch.setitem(sys.modules, "transformers", None)
    words = (
        "--compare_cpu needs a reference: give an albert_pytorch checkout by --prefix_dir, or pip "
        "install transformers"
    )
    run = export(pth_dir=tiny, save_dir=tmp_path, compare_cpu=True, prefix_dir=tmp_path)
    assert refused(run, words) and not list(tmp_path.iterdir())
    compare.check_reference(ROOT / "tests" / "stub_upstream")


def test_a_fresh_process_loads_runs_and_closes(monkeypatch):
    """Of compiled files by the shapes of each batch size apart; of free sizes in chosen rows, and
    by the published program. Closed whether it answers or fails."""
    told = []
    tokenizer = SimpleNamespace(load=lambda: "tokenizer")
    saved = SimpleNamespace(tokenizer=tokenizer, shapes=(Shape(1, 8), Shape(2, 8), Shape(2, 16)))
    saved.has_free_sizes = False
    runner = SimpleNamespace(close=lambda: told.append("closed"))
    target = Target("openvino", "cpu", "fp32")

    def load(*given):
        assert given == (saved, target)
        return runner

    def run(*given, shapes=(), warmup=3):
        assert given == (runner, saved, "tokenizer", ["a"])
        if told:
            raise UserError("b")
        return SimpleNamespace(logits=len(shapes))

    monkeypatch.setattr(evaluate.pt_file, "open_all", lambda paths: {"a.pt": saved}[paths[0]])
    monkeypatch.setattr(evaluate.backends, "load", load)
    monkeypatch.setattr(evaluate, "evaluate", run)
    wanted = [("batch 1 x 8 tokens", 1), ("batch 2 x 8 16 tokens", 2)]
    assert evaluate._logits(["a.pt"], target, ["a"]) == wanted and told == ["closed"]
    with pytest.raises(UserError, match="b"):
        evaluate._logits(["a.pt"], target, ["a"])
    assert told == ["closed", "closed"]
    told.clear()
    saved.has_free_sizes = True
    monkeypatch.setattr(evaluate, "published", lambda *given: (*given, told.copy()))
    rows, published = evaluate._logits(["a.pt"], target, ["a"])
    assert rows == ("chosen rows", 0)
    assert published == (saved, "tokenizer", ["a"], ["closed"]), "not both in memory"


def test_a_fresh_process_that_dies_is_told(monkeypatch, tmp_path):
    @contextlib.contextmanager
    def calling(function, *given):
        assert (function, given) == (evaluate._logits, ([str(tmp_path)], "target", ["a"]))

        def answer():
            raise process.Died("was killed")

        yield answer

    monkeypatch.setattr(evaluate.process, "calling", calling)
    with pytest.raises(UserError) as error:
        with evaluate.logits_in_fresh_process([tmp_path], "target", ["a"]) as answer:
            answer()
    assert str(error.value) == (
        f"{tmp_path}: the process that ran it for the comparison was killed; it is written: "
        "compare it with run_aie_eval.py --compare_cpu, or take a smaller --batch_size"
    )
