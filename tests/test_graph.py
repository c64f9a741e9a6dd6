"""The traced graphs give the reference's logits and hold nothing that troubles a compiler."""

from dataclasses import asdict

import numpy
import pytest
import torch
from helpers import BASE, ROOT, TINY, change_weights, fused_logits, tokens, traced, write_checkpoint

from albert_aie.albert import flops, graph, references
from albert_aie.albert.checkpoint import load
from albert_aie.albert.config import ACTIVATIONS
from albert_aie.base.shapes import Shape
from albert_aie.run import compare


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_graph_equals_transformers(tmp_path, sentences, activation):
    checkpoint = load(write_checkpoint(tmp_path, {**TINY, "hidden_act": activation}))
    encoded = tokens(checkpoint.tokenizer, sentences)
    reference, _ = references.logits(checkpoint, encoded)
    for shape in (Shape(1, 24), Shape(4, 24), Shape(4, 128)):
        got = fused_logits(checkpoint, encoded, shape)
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-5)


def test_weights_mean_in_albert_pytorch_what_they_mean_in_transformers(tiny, sentences):
    """In the plain code that has its names: two that were exchanged would be so in every other
    test."""
    checkpoint = load(tiny)
    encoded = tokens(checkpoint.tokenizer, sentences)
    stub = ROOT / "tests" / "stub_upstream"
    theirs, ours = (references.logits(checkpoint, encoded, tree)[0] for tree in (stub, None))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 1}, {"num_attention_heads": 1}])
def test_a_single_layer_and_a_single_head_run_in_every_row(
    tmp_path, sentences, export, evaluate, sizes
):
    model = write_checkpoint(tmp_path / "m", {**TINY, **sizes}, "hf")
    given = {"pth_dir": model, "data_dir": sentences, "compare_cpu": True}
    shape = {"batch_size": 4, "max_seq_length": 32, "backend": "openvino", "precision": "fp32"}
    assert export(save_dir=tmp_path, **shape, **given).code == 0
    file = tmp_path / "albert_seq32_bs4.pt"
    for rows in ({}, {"padded": True}, {"one_at_a_time": True}):
        run = evaluate(aie_model_dir=file, **rows, **given)
        assert run.code == 0 and "compare_cpu PASS" in run.said, run.err


def test_the_smallest_vocabulary_is_traced(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    checkpoint = load(write_checkpoint(tmp_path, {**TINY, "vocab_size": 5}, "hf", vocabulary))
    ids, mask, _ = graph.example_inputs(checkpoint.config, Shape(2, 8))
    assert (ids == 4 * mask).all()


def write_base(folder, layout, data):
    """A base-size checkpoint whose two classes are about equally frequent on real sentences."""
    write_checkpoint(folder, BASE, layout)
    checkpoint = load(folder)
    reference, _ = references.logits(checkpoint, tokens(checkpoint.tokenizer, data, 24))
    # between the two middle ones of 24, not on one (as median() would): that row's label would
    # hang on rounding
    shift = float(numpy.quantile(reference[:, 1] - reference[:, 0], 0.5))
    return load(change_weights(folder, lambda state: state["classifier.bias"][1].sub_(shift)))


@pytest.mark.parametrize("layout", ["upstream", pytest.param("hf", marks=pytest.mark.slow)])
def test_base_size_equals_transformers_on_real_sentences(tmp_path, sst2, layout):
    checkpoint = write_base(tmp_path, layout, sst2)
    encoded = tokens(checkpoint.tokenizer, sst2, 16)
    reference, _ = references.logits(checkpoint, encoded)
    assert set(reference.argmax(1)) == {0, 1}  # a swapped tensor would show
    got = fused_logits(checkpoint, encoded, Shape(8, 64))
    torch.testing.assert_close(got, reference, rtol=0, atol=1e-5)


@pytest.mark.upstream
@pytest.mark.parametrize("layout", ["upstream", "hf"])
@pytest.mark.parametrize("graph_name", ["upstream", "fused"])
def test_four_ways_equal_both_references(tmp_path, sst2, patched_tree, layout, graph_name):
    checkpoint = write_base(tmp_path, layout, sst2)
    encoded = tokens(checkpoint.tokenizer, sst2, 16)
    got = fused_logits(checkpoint, encoded, Shape(8, 64), graph_name, patched_tree)
    for tree in (None, patched_tree):
        reference, _ = references.logits(checkpoint, encoded, tree)
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.upstream
def test_no_label_flips_on_all_of_dev_against_upstream(tmp_path, sst2, patched_tree):
    checkpoint = write_base(tmp_path, "hf", sst2)
    encoded = tokens(checkpoint.tokenizer, sst2)
    reference, name = references.logits(checkpoint, encoded, patched_tree)
    other, _ = references.logits(checkpoint, encoded)
    assert "albert_pytorch" in name
    assert int((reference.argmax(1) != other.argmax(1)).sum()) == 0
    got = fused_logits(checkpoint, encoded, Shape(16, 64))
    result = compare.compare(got, reference, None, "fp32")
    assert result.flips == 0 and result.max_abs <= 1e-5


def test_the_fused_graph_keeps_its_weights_once(tmp_path, tiny, export):
    checkpoint = load(tiny)
    names = graph.operators(traced(checkpoint, Shape(2, 16)))
    assert names["aten::linear"] == 4 * checkpoint.config.num_hidden_layers + 2
    shape = {"batch_size": 2, "max_seq_length": 16}
    run = export(pth_dir=tiny, save_dir=tmp_path, backend="torchscript", **shape)
    assert run.code == 0
    weights = sum((tiny / name).stat().st_size for name in ("pytorch_model.bin", "30k-clean.model"))
    assert (tmp_path / "albert_seq16_bs2.pt").stat().st_size < 1.3 * weights


def test_the_checkpoint_is_not_changed_by_building_a_graph(tiny):
    checkpoint, again = load(tiny), load(tiny)
    module = graph.build(checkpoint, "fused", Shape(1, 8))
    for parameter in module.parameters():
        parameter.mul_(2)
    assert checkpoint.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(checkpoint.tensors[name], again.tensors[name]) for name in again.tensors)


def test_flops_of_a_row_are_what_torch_counts(tiny):
    why = "torch counts FLOPs from 2.1 on"
    counting = pytest.importorskip("torch.utils.flop_counter", reason=why).FlopCounterMode
    checkpoint = load(tiny)
    config = asdict(checkpoint.config)
    model = references.transformers_model(checkpoint)
    with counting(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(1, 32, dtype=torch.long))
    assert flops.flops_per_row(config, 32) == counter.get_total_flops()
    for slots in (0, 5):
        shape = Shape(1, 32, slots)
        module = graph.build(checkpoint, "fused", shape)
        with counting(display=False) as counter, torch.no_grad():
            module(*graph.example_inputs(checkpoint.config, shape))
        assert flops.executed_flops_per_row(config, shape) == counter.get_total_flops()
    assert round(flops.flops_per_row(BASE, 128) / 1e9, 2) == 22.37
    assert round(flops.executed_flops_per_row(BASE, Shape(1, 128)) / 1e9, 2) == 20.15


# (hidden size, heads) as published; v1 has gelu, v2 gelu_new, all an embedding of 128.
SIZES = {"base": (768, 12), "large": (1024, 16), "xlarge": (2048, 16), "xxlarge": (4096, 64)}


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize(
    "size",
    [pytest.param(size, marks=pytest.mark.slow if size != "large" else ()) for size in SIZES],
)
def test_every_published_size_equals_transformers(tmp_path, sentences, size, activation):
    """With two layers: they are one layer, used again and again."""
    hidden, heads = SIZES[size]
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": 4 * hidden}
    config = {**BASE, **sizes, "num_hidden_layers": 2, "hidden_act": activation}
    checkpoint = load(write_checkpoint(tmp_path / size, config, "hf"))
    encoded = tokens(checkpoint.tokenizer, sentences, 5, 16)
    reference, _ = references.logits(checkpoint, encoded)
    for shape in (Shape(2, 16), Shape(1, 32, 4)):
        got = fused_logits(checkpoint, encoded, shape)
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-5)
