"""Packed rows: several sentences in a row give what each gives alone."""

import numpy
import pytest
import torch
from helpers import SPM, logits, tokens, traced

from albert_aie.albert import graph, references
from albert_aie.albert.checkpoint import load
from albert_aie.albert.fused import Form
from albert_aie.base.encoding import Encoded
from albert_aie.base.shapes import Shape, packed
from albert_aie.run.batching import batches, pack
from albert_aie.text.tokenizer_file import TokenizerFile


def test_every_sentence_is_packed_once_and_rows_are_full(sst2, albert_files):
    """The fill that the README quotes: SST-2 dev in ALBERT's own tokens, and in those of the
    embedded checkpoint."""
    for spm in (albert_files / "30k-clean.model", SPM):
        encoded = tokens(TokenizerFile("spm", spm, spm.read_bytes()), sst2)
        lengths = [len(sentence.ids) for sentence in encoded]
        rows = pack(lengths, {64: 16, 128: 32})
        assert sorted(i for _, row in rows for i in row) == list(range(872))
        assert all(sum(lengths[i] for i in row) <= capacity for capacity, row in rows)
        assert all(4 * len(row) <= capacity for capacity, row in rows)
        assert sum(lengths) / sum(capacity for capacity, _ in rows) >= 0.95


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


@pytest.mark.parametrize("free_sizes", [False, True])
def test_positions_are_exact_in_bf16_beyond_256(tiny, free_sizes):
    """bf16 counts 256, 256, 258: the count is taken in float32 whatever the module's dtype."""
    form = Form(free_sizes=free_sizes)
    module = graph.build(load(tiny), "fused", packed(1, 512), form=form).to(torch.bfloat16)
    for length in (512, 200) if free_sizes else (512,):
        counts = length - 112, 100, 12
        numbers = torch.tensor([[1] * counts[0] + [2] * counts[1] + [0] * counts[2]])
        given = torch.zeros_like(numbers), numbers, torch.zeros_like(numbers)
        logits, positions, select, mask, last_mask = module.rows_and_places(*given)
        assert positions[0].tolist() == [i for count in counts for i in range(count)]
        places = [[0, 0], [1, counts[0]]]
        assert select[0].nonzero().tolist() == places and select.sum() == 2
        k = (length + 1) // 4
        assert logits.shape == (1, k, 2) and select.shape == (1, k, length)
        seen = (mask[0, 0] == 0).sum(-1)  # tokens that each may attend to: those of its sentence
        assert seen.tolist() == [count for count in counts for _ in range(count)]
        assert (last_mask[0, 0] == 0).sum(-1)[:2].tolist() == [*counts[:2]]
