"""The graphs that are traced give the reference's logits, and hold nothing that troubles a static compiler."""

import pytest
import safetensors.torch
import torch
from conftest import TINY, upstream_tree, write_checkpoint

from albert_aie import checkpoint, compare, graph
from albert_aie.batching import batches
from albert_aie.evaluate import encode
from albert_aie.text import Tokenizer, read_sst2

BASE = {
    "vocab_size": TINY["vocab_size"],
    "embedding_size": 128,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu_new",
}


def fused_logits(source, encoded, batch_size, seq, which="fused", tree=None):
    module = graph.build(source, which, batch_size, seq, tree)
    program = graph.trace(module, graph.example_inputs(source.config, batch_size, seq))
    with torch.no_grad():
        return torch.cat([program(*batch.inputs)[: len(batch.sentences)] for batch in batches(encoded, batch_size, seq)])


def tokens(source, folder, count=None):
    return encode(Tokenizer(source.tokenizer.read_bytes()), read_sst2(folder).sentences[:count], 128)[0]


@pytest.mark.parametrize("activation", checkpoint.ACTIVATIONS)
def test_fused_graph_equals_transformers(tmp_path, sentences, activation):
    source = checkpoint.load(write_checkpoint(tmp_path, {**TINY, "hidden_act": activation}))
    encoded = tokens(source, sentences)
    reference, _ = compare.reference_logits(source, encoded)
    for batch_size, seq in ((1, 24), (4, 24), (4, 128)):
        torch.testing.assert_close(fused_logits(source, encoded, batch_size, seq), reference, rtol=0, atol=1e-5)


def write_base(folder, layout, data):
    """A base-size checkpoint in `layout` whose two classes are about equally frequent on real sentences."""
    write_checkpoint(folder, BASE, layout)
    source = checkpoint.load(folder)
    reference, _ = compare.reference_logits(source, tokens(source, data, 24))
    # between the two middle ones of 24, not on one (as median() would): that row's label would hang on rounding
    shift = (reference[:, 1] - reference[:, 0]).quantile(0.5)
    if layout == "hf":
        tensors = {**source.tensors, "classifier.bias": source.tensors["classifier.bias"] - torch.tensor([0, shift])}
        safetensors.torch.save_file(tensors, str(folder / "model.safetensors"))
    else:
        state = torch.load(folder / "pytorch_model.bin", weights_only=True)
        state["classifier.bias"][1] -= shift
        torch.save(state, folder / "pytorch_model.bin")
    return checkpoint.load(folder)


@pytest.mark.parametrize("layout", ["upstream", "hf"])
def test_base_size_equals_transformers_on_real_sentences(tmp_path, sst2, layout):
    source = write_base(tmp_path, layout, sst2)
    encoded = tokens(source, sst2, 16)
    reference, _ = compare.reference_logits(source, encoded)
    assert reference.argmax(1).unique().numel() == 2  # weights on which a swapped tensor would show
    torch.testing.assert_close(fused_logits(source, encoded, 8, 64), reference, rtol=0, atol=1e-5)


@pytest.mark.upstream
@pytest.mark.parametrize("layout", ["upstream", "hf"])
@pytest.mark.parametrize("which", ["upstream", "fused"])
def test_four_ways_equal_both_references(tmp_path, sst2, patched, layout, which):
    source = write_base(tmp_path, layout, sst2)
    encoded = tokens(source, sst2, 16)
    got = fused_logits(source, encoded, 8, 64, which, patched)
    for tree in (None, patched):
        reference, _ = compare.reference_logits(source, encoded, tree)
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.upstream
def test_no_label_flips_on_all_of_dev_against_upstream(tmp_path, sst2, patched):
    source = write_base(tmp_path, "hf", sst2)
    encoded = tokens(source, sst2)
    reference, name = compare.reference_logits(source, encoded, patched)
    other, _ = compare.reference_logits(source, encoded)
    assert "albert_pytorch" in name
    assert int((reference.argmax(1) != other.argmax(1)).sum()) == 0
    result = compare.compare(fused_logits(source, encoded, 16, 64), reference, None, "fp32")
    assert result.flips == 0 and result.max_abs <= 1e-5


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    import shutil
    import subprocess

    from conftest import ROOT

    tree = tmp_path_factory.mktemp("tree") / "albert_pytorch"
    shutil.copytree(upstream_tree(), tree, ignore=shutil.ignore_patterns(".git"))
    with open(ROOT / "albert.patch") as patch:
        subprocess.run(["patch", "-p1", "-s"], cwd=tree, stdin=patch, check=True)
    return tree


def test_the_fused_graph_is_static_and_keeps_its_weights_once(tmp_path, tiny, export, sentences):
    source = checkpoint.load(tiny)
    program = graph.trace(graph.build(source, "fused", 2, 16), graph.example_inputs(source.config, 2, 16))
    names = graph.operators(program)
    for forbidden in ("aten::size", "aten::arange", "aten::expand", "aten::div", "aten::dropout", "aten::masked_fill"):
        assert forbidden not in names
    assert names["aten::linear"] == 4 * source.config.num_hidden_layers + 2
    run = export("--pth_dir", tiny, "--save_dir", tmp_path, "--batch_size", 2, "--max_seq_length", 16, "--backend", "torchscript")
    assert run.code == 0
    weights = (tiny / "pytorch_model.bin").stat().st_size + (tiny / "30k-clean.model").stat().st_size
    assert (tmp_path / "albert_seq16_bs2.pt").stat().st_size < 1.3 * weights


def test_the_checkpoint_is_not_changed_by_building_a_graph(tiny):
    source, again = checkpoint.load(tiny), checkpoint.load(tiny)
    module = graph.build(source, "fused", 1, 8)
    for parameter in module.parameters():
        parameter.mul_(2)
    assert all(torch.equal(source.tensors[name], again.tensors[name]) for name in source.tensors)


def test_flops_of_a_row_are_what_torch_counts(tiny):
    from dataclasses import asdict

    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch counts FLOPs from 2.1 on")
    source = checkpoint.load(tiny)
    model = compare.transformers_model(source)
    counter = flop_counter.FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=torch.ones(1, 32, dtype=torch.long))
    assert graph.flops_per_row(asdict(source.config), 32) == counter.get_total_flops()
    for slots in (0, 5):
        module = graph.build(source, "fused", 1, 32, slots=slots)
        with flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
            module(*graph.example_inputs(source.config, 1, 32))
        assert graph.executed_flops_per_row(asdict(source.config), 32, slots) == counter.get_total_flops()
    base = {**BASE, "num_labels": 2}
    assert round(graph.flops_per_row(base, 128) / 1e9, 2) == 22.37
    assert round(graph.executed_flops_per_row(base, 128) / 1e9, 2) == 20.15
