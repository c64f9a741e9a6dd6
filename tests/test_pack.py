"""Packed rows: several sentences in a row give what each gives alone."""

import json

import numpy
import pytest
import torch
from helpers import SPM, logits, tokens, traced

from albert_aie import graph, references
from albert_aie.batching import Shape, batches, pack
from albert_aie.checkpoint import load
from albert_aie.encoding import Encoded
from albert_aie.text import TokenizerFile


def test_every_sentence_is_packed_once_and_rows_are_full(sst2, albert_files):
    """The fill that the README quotes: SST-2 dev in ALBERT's own tokens, and in those of the
    embedded checkpoint."""
    for spm in (albert_files / "30k-clean.model", SPM):
        encoded = tokens(TokenizerFile("spm", spm, spm.read_bytes()), sst2)
        lengths = [len(sentence.ids) for sentence in encoded]
        rows = pack(lengths, 128, 16)
        assert sorted(i for row in rows for i in row) == list(range(872))
        assert max(sum(lengths[i] for i in row) for row in rows) <= 128
        assert max(map(len, rows)) <= 16
        assert sum(lengths) / (128 * len(rows)) >= 0.95


def test_rows_keep_to_their_slots():
    rows = pack([3] * 2500, 128, 5)
    assert [len(row) for row in rows] == [5] * 500
    assert sorted(i for row in rows for i in row) == list(range(2500))
    assert pack([128, 128], 128, 4) == [[0], [1]] and pack([], 128, 4) == []


@pytest.mark.parametrize("slots", [0, 5])
def test_a_long_file_streams_and_only_its_last_batch_is_short(slots):
    """Batches come out before all sentences were read; none is short because a window ended."""
    read = []
    encoded = (read.append(i) or Encoded([2, i % 9 + 5, 3]) for i in range(2500))
    stream = batches(encoded, Shape(8, 16, slots))
    first = next(stream)
    assert len(read) == 1024
    rest = [first, *stream]
    assert sorted(i for batch in rest for i in batch.sentences) == list(range(2500))
    rows = [len(set(batch.rows)) for batch in rest]
    assert set(rows[:-1]) == {8} and rows[-1] <= 8 and len(read) == 2500
    for batch in rest[::40]:
        places = zip(batch.sentences, batch.rows, batch.slots or [0] * len(batch.rows))
        for sentence, row, slot in places:
            ids = batch.input_ids[row][batch.attention_mask[row] == slot + 1]
            assert sentence % 9 + 5 in ids


SHAPES = Shape(1, 128, 16), Shape(4, 128, 16), Shape(8, 64, 3), Shape(2, 300, 37)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def test_packed_logits_equal_the_reference(tiny, sst2, shape):
    checkpoint = load(tiny)
    encoded = tokens(checkpoint.tokenizer, sst2, 90, min(shape.max_seq_length, 64))
    reference, _ = references.logits(checkpoint, encoded)
    got = logits(traced(checkpoint, shape), encoded, shape)
    torch.testing.assert_close(got, reference, rtol=0, atol=1e-5)


def test_row_mates_do_not_see_each_other(tiny, sst2):
    """Another sentence of the same length in its place: the row-mates' fp32 logits stay the same,
    bit by bit."""
    checkpoint = load(tiny)
    shape = Shape(2, 128, 16)
    program = traced(checkpoint, shape)
    encoded = tokens(checkpoint.tokenizer, sst2, 12)
    before = logits(program, encoded, shape)
    for changed, (ids, *_) in enumerate(encoded):
        other = [*encoded]
        other[changed] = Encoded([ids[0], *(i + 7 for i in ids[1:-1]), ids[-1]])
        after = logits(program, other, shape)
        mates = numpy.arange(len(encoded)) != changed
        assert numpy.array_equal(after[mates], before[mates])
        assert not numpy.array_equal(after[changed], before[changed])


def test_an_ordinary_mask_gives_the_ordinary_answer_in_slot_1(tiny, sst2):
    checkpoint = load(tiny)
    batch = next(batches(tokens(checkpoint.tokenizer, sst2, 8), Shape(8, 64)))
    inputs = [torch.from_numpy(array) for array in batch.inputs]
    with torch.no_grad():
        packed, plain = (traced(checkpoint, Shape(8, 64, slots))(*inputs) for slots in (5, 0))
    assert packed.shape == (8, 5, 2) and plain.shape == (8, 2)
    torch.testing.assert_close(packed[:, 0], plain, rtol=0, atol=1e-5)
    assert packed.isfinite().all()  # empty slots too, also in half precision:
    module = graph.build(checkpoint, "fused", Shape(8, 64, 5)).to(torch.bfloat16)
    assert module(*inputs).isfinite().all()


def test_positions_are_exact_in_bf16_beyond_256(tiny):
    """bf16 counts 256, 256, 258: the count is taken in float32 whatever the module's dtype."""
    module = graph.build(load(tiny), "fused", Shape(1, 512, 4)).to(torch.bfloat16)
    numbers = torch.tensor([[1] * 400 + [2] * 100 + [0] * 12])
    position, select, _, _ = module._unpack(numbers.to(torch.float32), torch.int64, (1, 512))
    wanted = torch.cat([torch.arange(400), torch.arange(100), torch.arange(12)])
    assert torch.equal(position[0], module.position[wanted])
    assert select[0].nonzero().tolist() == [[0, 0], [1, 400]]


def test_the_packed_graph_is_static(tiny):
    names = graph.operators(traced(load(tiny), Shape(2, 32, 4)))
    for forbidden in ("size", "arange", "expand", "masked_fill", "nonzero", "where"):
        assert f"aten::{forbidden}" not in names


@pytest.mark.parametrize(
    "engine", ["torchscript", pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_all_modes_predict_the_same_on_all_of_dev(tmp_path, tiny, sst2, export, evaluate, engine):
    """872 rows through the two scripts: plain at 64 and 128, packed at several batch sizes, one
    stream and two."""
    modes = ((16, 64, False), (8, 128, False), (1, 128, True), (8, 128, True), (4, 64, True))
    target = {"pth_dir": tiny, "save_dir": tmp_path, "backend": engine, "precision": "fp32"}
    seen = {}
    streams = 0
    for batch_size, seq, packed in modes:
        run = export(batch_size=batch_size, max_seq_length=seq, pack=packed, **target)
        assert run.code == 0, run.err
        file = tmp_path / f"albert_seq{seq}_bs{batch_size}{'_packed' if packed else ''}.pt"
        streams = streams % 2 + 1 if engine == "openvino" else 1
        run = evaluate(aie_model_dir=file, data_dir=sst2, output_dir=tmp_path, streams=streams)
        assert f"{streams} stream(s)" in run.out
        assert run.code == 0 and "872 of 872 sentences scored" in run.out
        report = json.loads((tmp_path / "eval.json").read_text())
        if packed:
            assert report["padding"] < 0.05 and report["sentences_per_row"] > 4 * seq / 128
        lines = (tmp_path / "predictions.tsv").read_text().splitlines()
        seen[file.name] = json.dumps([line.split("\t")[:3] for line in lines])
    assert len(seen) == 5 and len(set(seen.values())) == 1


def test_compare_cpu_holds_a_packed_file_to_the_reference(tmp_path, tiny, sentences, export):
    folders = {"pth_dir": tiny, "data_dir": sentences, "save_dir": tmp_path}
    shape = {"batch_size": 2, "max_seq_length": 48, "pack": True, "slots": 6}
    run = export(precision="fp32", compare_cpu=True, **folders, **shape)
    assert run.code == 0 and "compare_cpu PASS" in run.out
    assert "11 sentences" in run.out and "up to 6 sentences a row" in run.said
