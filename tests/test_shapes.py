"""Which rows sentences take: the shapes that are chosen, how sentences are packed into them and
batched, and files of compiled shapes that belong together."""

import json
import random
import shutil
from types import SimpleNamespace

import numpy
import pytest
from helpers import refused, static, write_checkpoint

from albert_aie import backends
from albert_aie.albert.checkpoint import load
from albert_aie.artifact import pt_file
from albert_aie.backends import runner
from albert_aie.backends.openvino import runner as openvino_runner
from albert_aie.base import choose_shapes, machine
from albert_aie.base.choose_shapes import CALL, CHOSEN, PADDED, SINGLE, Grid, choose
from albert_aie.base.encoding import Encoded
from albert_aie.base.shapes import Shape, packed
from albert_aie.run import batching
from albert_aie.run.batching import batches
from albert_aie.run.classifier import Classifier

ON = {"backend": "openvino", "precision": "fp32"}
COMPILES, TAKES_ALL = Grid(4, compiles=True), Grid(2, compiles=False)


def encoded(*lengths):
    """A sentence of each length, whose tokens are all its number."""
    return [Encoded([number] * length) for number, length in enumerate(lengths)]


def taken(sentences, *shapes, **given):
    """[(batch size, length, the sentences of each row)]: a row that repeats another is empty."""
    return [
        (
            *batch.shape[:2],
            [
                [s for s, r in zip(batch.sentences, batch.rows) if r == row]
                for row in range(batch.shape.batch_size)
            ],
        )
        for batch in batches(sentences, *shapes, **given)
    ]


# The shapes that are chosen


@pytest.mark.parametrize(
    "limit, grid, rows, few, wanted",
    [
        (Shape(32, 128), COMPILES, CHOSEN, False, [(1, 64), (8, 64), (1, 128), (4, 128)]),
        (Shape(32, 128), COMPILES, CHOSEN, True, [(1, 64), (1, 128)]),
        (Shape(3, 64), COMPILES, CHOSEN, False, [(1, 64), (3, 64)]),
        (Shape(1, 128), COMPILES, CHOSEN, False, [(1, 64), (2, 64), (1, 128)]),
        (Shape(4, 100), COMPILES, CHOSEN, False, [(1, 64), (6, 64), (1, 100), (4, 100)]),
        (Shape(8, 16), COMPILES, CHOSEN, False, [(1, 16), (8, 16)]),
        (Shape(2, 512), COMPILES, CHOSEN, True, [(1, 64), (1, 128), (1, 256), (1, 512)]),
        (Shape(3, 64), TAKES_ALL, CHOSEN, True, [(1, 64), (2, 64), (3, 64)]),
        (Shape(1, 8), TAKES_ALL, CHOSEN, False, [(1, 8)]),
    ],
)
def test_sentences_share_rows_of_64_and_longer_ones_of_twice_that(limit, grid, rows, few, wanted):
    """A call computes 512 tokens at most, and what is left goes row by row."""
    made = choose([limit], grid, rows, few)
    assert made == tuple(Shape(*shape, (shape[1] + 1) // 4) for shape in wanted)
    most = min(CALL, limit.batch_size * limit.max_seq_length)
    assert all(size * length <= most or size == 1 for size, length, _ in made)


@pytest.mark.parametrize(
    "longest, grid, lengths",
    [
        (16, COMPILES, [4, 8, 12, 16]),
        (10, TAKES_ALL, [2, 4, 6, 8, 10]),
        (9, TAKES_ALL, [2, 4, 6, 8, 9]),
        (40, Grid(16, True), [16, 32, 40]),
        (130, Grid(16, True), [16, 32, 48, 64, 80, 96, 112, 128, 130]),
        (300, COMPILES, [*range(4, 65, 4), *range(80, 129, 16), *range(160, 257, 32), 300]),
        (140, TAKES_ALL, [*range(2, 141, 2)]),
    ],
)
def test_a_sentence_alone_is_a_row_of_its_own_length(longest, grid, lengths):
    """Rounded up to the engine's step, which grows with the length where each is compiled."""
    made = choose([Shape(8, longest)], grid, SINGLE)
    assert made == tuple(Shape(1, length) for length in lengths)


def test_padded_is_the_exported_shape_and_compiled_shapes_are_what_they_are():
    assert choose([Shape(4, 32)], COMPILES, PADDED) == (Shape(4, 32),)
    shapes = Shape(1, 8), Shape(4, 32)
    assert {choose(shapes, None, rows) for rows in (CHOSEN, PADDED, SINGLE)} == {shapes}


def test_lengths_of_one_octave_are_those_of_one_row():
    """A length that fills a row is of that row's octave, and not of the next."""
    lengths = (1, 63, 64, 65, 128, 129, 256, 257, 512)
    assert [choose_shapes.octave(length) for length in lengths] == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_precisions_are_timed_on_half_a_call():
    wanted = {Shape(32, 128): (4, 64), Shape(2, 64): (2, 64), Shape(8, 16): (8, 16)}
    assert {s: choose_shapes.timed(s, True)[:2] for s in wanted} == wanted
    assert choose_shapes.timed(Shape(32, 128), True).slots == 16
    assert choose_shapes.timed(Shape(32, 128), False) == Shape(32, 128)


@pytest.mark.parametrize(
    "precision, isa, step",
    [
        ("fp32", {"avx2", "amx_tile"}, 4),
        ("bf16", {"avx2"}, 4),
        ("bf16", {"avx2", "amx_tile"}, 16),
        ("int8", {"avx2", "amx_tile"}, 16),
        ("int8", {"avx2"}, 8),
    ],
)
def test_lengths_suit_the_processor(monkeypatch, precision, isa, step):
    """AMX multiplies 16 rows at a time, in bf16 and int8; lengths in int8 share no memory."""
    monkeypatch.setattr(machine, "isa", lambda: isa)
    assert backends.get("openvino").grid(precision) == Grid(step, compiles=True)
    assert backends.get("torchscript").grid(precision) == TAKES_ALL


# Which shape a sentence takes


def test_a_sentence_takes_the_shortest_row_that_holds_it():
    shapes = Shape(1, 8), Shape(1, 16), Shape(1, 32)
    for length, row in ((3, 8), (8, 8), (9, 16), (16, 16), (17, 32), (32, 32)):
        assert taken(encoded(length), *shapes) == [(1, row, [[0]])]


def test_full_batches_first_and_singles_for_the_rest():
    full = (4, 8, [[0], [1], [2], [3]])
    made = taken(encoded(*[5] * 6), Shape(1, 8), Shape(4, 8))
    assert made == [full, (1, 8, [[4]]), (1, 8, [[5]])]


def test_rows_that_would_repeat_another_take_shorter_sentences():
    """2 long ones in a batch of 4: both short ones ride with them. Of 3 that would need a batch of
    their own anyway none does."""
    shapes = Shape(4, 8), Shape(4, 32)
    assert taken(encoded(5, 30, 6, 31), *shapes) == [(4, 32, [[1], [3], [0], [2]])]
    assert taken(encoded(5, 30, 6, 31, 7), *shapes) == [
        (4, 32, [[1], [3], [], []]),
        (4, 8, [[0], [2], [4], []]),
    ]


@pytest.mark.parametrize(
    "lengths, shapes, wanted",
    [
        (
            (5, 12, 6),
            (Shape(2, 8), Shape(4, 16)),
            [(2, 8, [[0], [2]]), (4, 16, [[1], [], [], []])],
        ),
        ((10,), (Shape(8, 16), Shape(1, 32)), [(1, 32, [[0]])]),
    ],
)
def test_no_batch_is_larger_than_it_has_to_be(lengths, shapes, wanted):
    """A whole batch of short rows does not wait for what one of longer rows would hold; the last
    sentence takes 1 x 32 positions instead of 8 x 16."""
    assert taken(encoded(*lengths), *shapes) == wanted


def test_packed_rows_for_many_and_plain_ones_for_the_last():
    """Two whole packed batches; what is left computes 8 x 8 positions alone, 2 x 64 packed."""
    shapes = Shape(1, 8), Shape(2, 64, 8)
    made = list(batches(encoded(*[8] * 40), *shapes))
    assert [batch.shape for batch in made] == [shapes[1]] * 2 + [shapes[0]] * 8
    assert sorted(number for batch in made for number in batch.sentences) == list(range(40))


def test_what_a_packed_row_cannot_hold_goes_elsewhere():
    shapes = Shape(1, 16, 4), Shape(1, 64)
    made = {batch.sentences[0]: batch.shape for batch in batches(encoded(40, 5), *shapes)}
    assert made == {0: shapes[1], 1: shapes[0]}


def test_a_longer_sentence_takes_a_longer_row_which_shorter_ones_fill_up():
    shapes = [packed(size, length) for size in (1, 4) for length in (64, 128)]
    assert taken(encoded(8, 70, 20, 30), *shapes) == [(1, 128, [[1, 3, 2, 0]])]
    assert taken(encoded(70, 30, 30, 20, 50), *shapes) == [
        (1, 128, [[0, 4]]),
        (1, 64, [[1, 2]]),
        (1, 64, [[3]]),
    ]


@pytest.mark.parametrize(
    "sizes, rows, streams, wanted",
    [
        ((1, 8), 23, 1, [8, 8] + 7 * [1]),
        ((1, 8), 15, 1, [8] + 7 * [1]),
        ((1, 8), 15, 2, 15 * [1]),
        ((1, 8), 24, 2, [8, 8] + 8 * [1]),
        (range(1, 9), 23, 1, [8, 8, 7]),
    ],
)
def test_whole_batches_go_out_as_long_as_every_stream_has_one(sizes, rows, streams, wanted):
    shapes = [packed(size, 64) for size in sizes]
    made = batches(encoded(*[60] * rows), *shapes, streams=streams)
    assert [batch.shape.batch_size for batch in made] == wanted


@pytest.mark.parametrize("seed", range(60))
def test_every_sentence_once_with_its_own_tokens(seed):
    draw = random.Random(seed)
    lengths = draw.sample([8, 16, 24, 64], draw.randint(1, 4))
    shapes = [
        Shape(size, n) for size in draw.sample([1, 3, 8], draw.randint(1, 3)) for n in lengths
    ]
    if seed % 2:
        shapes.append(Shape(draw.choice([1, 4]), draw.choice([16, 64]), draw.choice([2, 5])))
    if seed % 6 == 5:
        shapes = shapes[-1:]
    if seed % 3 == 0:
        limit = Shape(draw.randint(1, 40), draw.choice([16, 64, 128, 300]))
        grid, rows = draw.choice([COMPILES, TAKES_ALL]), draw.choice([CHOSEN, PADDED])
        shapes = choose([limit], grid, rows, few=draw.random() < 0.5)
    longest = max(shape.max_seq_length for shape in shapes)
    sentences = encoded(*(draw.randint(3, longest) for _ in range(draw.choice([1, 30, 1500]))))
    seen = []
    for batch in batches(sentences, *shapes, streams=draw.randint(1, 3)):
        assert batch.shape in shapes and batch.input_ids.shape == batch.shape.inputs
        assert batch.attention_mask.any(1).all(), "no row is empty"
        for i, (number, row) in enumerate(zip(batch.sentences, batch.rows)):
            own = batch.attention_mask[row] == (batch.slots[i] + 1 if batch.slots else 1)
            assert batch.input_ids[row][own].tolist() == sentences[number].ids
            seen.append(number)
    assert sorted(seen) == list(range(len(sentences)))
    for sentence in sentences[:20]:
        batch, (same,) = batching.alone(sentence, tuple(shapes)), batches([sentence], *shapes)
        assert (batch.shape, *batch[4:]) == (same.shape, *same[4:])
        assert numpy.array_equal(batch.inputs, same.inputs)


@pytest.mark.parametrize(
    "shape, free_sizes, fits",
    [
        (Shape(2, 8), False, True),
        (Shape(1, 8), False, False),
        (Shape(2, 8, 2), False, False),
        (Shape(2, 8, 2), True, True),
        (Shape(2, 8, 3), True, False),
        (Shape(4, 4), True, True),
        (Shape(3, 6), True, False),
        (Shape(1, 9), True, False),
    ],
)
def test_a_runner_takes_the_shapes_of_its_file(shape, free_sizes, fits):
    """Of free sizes every shape within the exported one, with the slots of its length."""
    own = Shape(2, 8)
    artifact = SimpleNamespace(own_shape=own, shape=own, has_free_sizes=free_sizes)
    (batch,) = batches(encoded(3), shape)
    wrong = [batch]
    if fits:
        runner.check_shape(batch, artifact)
        others = batch.input_ids[:, 1:], batch.input_ids.astype(numpy.int32)
        wrong = [batch._replace(token_type_ids=array) for array in others]
    for one in wrong:
        with pytest.raises(ValueError, match="for a file of"):
            runner.check_shape(one, artifact)


# Through the scripts


def test_one_sentence_at_a_time_takes_the_shortest_row(tmp_path, tiny, sentences, export, evaluate):
    export(pth_dir=tiny, save_dir=tmp_path, batch_size=4, max_seq_length=64, **ON)
    (file,) = tmp_path.glob("*.pt")
    given = {"aie_model_dir": file, "data_dir": sentences, "output_dir": tmp_path}
    run = evaluate(one_at_a_time=True, **given)
    assert run.code == 0 and "ms a sentence, from text" in run.said
    assert "throughput" not in run.said and "ms a batch" not in run.said
    made = json.loads((tmp_path / "eval.json").read_text())
    tokenizer = load(tiny).tokenizer.load()
    texts = [line.split("\t")[0] for line in (sentences / "dev.tsv").read_text().split("\n")[1:-1]]
    wanted = [len(tokenizer.encode(text).ids) for text in texts]
    rungs = [4 * -(-n // 4) for n in wanted]
    assert made["rows"] == "one at a time" and "rows one at a time" in run.said.replace("  ", " ")
    assert [(s["batch_size"], s["max_seq_length"], s["batches"]) for s in made["shapes"]] == [
        (1, n, rungs.count(n)) for n in sorted(set(rungs))
    ]
    assert made["positions"] == sum(rungs)
    assert made["padding"] == pytest.approx(1 - sum(wanted) / sum(rungs))
    assert len(made["latencies_ms"]) == len(texts)


def test_an_engine_is_not_asked_while_it_computes(tmp_path, tiny, export, monkeypatch):
    """OpenVINO answers for its settings when no batch is in work: asked once a batch, two streams
    computed 0.89 times as many sentences."""

    export(pth_dir=tiny, save_dir=tmp_path, batch_size=2, max_seq_length=16, **ON)
    with Classifier(tmp_path / "albert_seq16_bs2.pt", streams=2) as classify:
        texts = ["a fine film", "dull"] * 20
        before = classify.evaluate(texts)
        monkeypatch.setattr(
            openvino_runner.OpenVinoRunner, "_any", lambda runner: pytest.fail("asked again")
        )
        after = classify.evaluate(texts)
        assert classify.runner.streams == 2 and after.shapes == before.shapes
        assert (before.logits == after.logits).all()


def programs(engine):
    """The distinct programs of a runner on OpenVINO, each a list of its shapes."""
    made = {}
    for shape, (compiled, _) in engine._programs.items():
        made.setdefault(id(compiled), []).append(shape)
    return sorted(made.values())


def test_lengths_are_compiled_alone_for_a_few_texts_and_together_for_many(tmp_path, tiny, export):
    """A length that comes alone, the next two, then all as branches of one program: with the logits
    of their own, to the bit. Rows for many have a program each."""
    export(pth_dir=tiny, save_dir=tmp_path, batch_size=4, max_seq_length=20, **ON)
    (file,) = tmp_path.glob("*.pt")
    shapes = choose([Shape(4, 20)], COMPILES, SINGLE)
    few = {
        shape: next(batches([Encoded([2, *range(9, 7 + shape[1]), 3])], shape)) for shape in shapes
    }
    own = {}
    for shape in shapes:
        with Classifier(file) as classify:
            own[shape] = classify.runner.run(few[shape]).logits
            assert programs(classify.runner) == [[shape]]
    with Classifier(file) as classify:
        for number, shape in enumerate(shapes, 1):
            assert (classify.runner.run(few[shape]).logits == own[shape]).all()
            assert len(programs(classify.runner)) == (number if number < 4 else 1)
        for shape in shapes:
            assert (classify.runner.run(few[shape]).logits == own[shape]).all()
        assert programs(classify.runner) == [[*shapes]]
    with Classifier(file) as classify:
        bulk = packed(1, 20), packed(4, 20)
        classify.runner.prepare([*bulk, *shapes])
        assert programs(classify.runner) == sorted([[*shapes], *([each] for each in bulk)])
        before = dict(classify.runner._programs)
        classify.runner.prepare(shapes[3:])
        assert all((classify.runner.run(few[s]).logits == own[s]).all() for s in shapes)
        assert classify.runner._programs == before


# Files whose shapes are compiled


def test_files_of_compiled_shapes_that_belong_together(tmp_path, tiny, sentences, export, evaluate):
    """The cheapest shape for each sentence; only files of one model."""
    given = {"backend": "torchscript", "precision": "fp32", "batch_size": 4, "max_seq_length": 64}
    for name, options in (
        ("free", {}),
        ("bf16", {"precision": "bf16"}),
        ("other", {"pth_dir": write_checkpoint(tmp_path / "checkpoint", seed=5)}),
    ):
        run = export(**{"pth_dir": tiny, "save_dir": tmp_path / name, **given, **options})
        assert run.code == 0, run.err
    free, bf16, other = (tmp_path / n / "albert_seq64_bs4.pt" for n in ("free", "bf16", "other"))
    folder = tmp_path / "together"
    folder.mkdir()

    def run(*files, **options):
        return evaluate(aie_model_dir=list(files), data_dir=sentences, **options)

    assert refused(run(folder), f"{folder}: holds no .pt file")
    first = static(free, folder / "a.pt", Shape(4, 64))
    short = static(free, folder / "b.pt", Shape(1, 8))
    bulk = static(free, folder / "c.pt", packed(2, 64))
    done = run(folder, output_dir=tmp_path)
    assert done.code == 0 and done.said.count(".pt") == 3, done.err
    made = json.loads((tmp_path / "eval.json").read_text())
    assert made["rows"] == "compiled" and len(made["more_files"]) == 2
    with Classifier(free) as classify, Classifier([first, short, bulk]) as several:
        texts = [line.split("\t")[0] for line in (sentences / "dev.tsv").read_text().split("\n")]
        one, all_three = classify.evaluate(texts), several.evaluate(texts)
        numpy.testing.assert_allclose(one.logits, all_three.logits, rtol=0, atol=1e-5)
        assert set(all_three.shapes) < {Shape(4, 64), Shape(1, 8), packed(2, 64)}
        alone = several.evaluate(texts, rows=SINGLE)
        assert set(alone.shapes) == {Shape(1, 8), packed(2, 64)}, "the fewest positions"
        numpy.testing.assert_allclose(one.logits, alone.logits, rtol=0, atol=1e-5)
    digests = {pt_file.open_all(files).digest for files in ([first], [short], [folder])}
    assert len(digests) == 3 and pt_file.open_all([bulk, short, first]).digest in digests
    assert run(first, short, batch_size=1, max_seq_length=64).code == 0
    assert refused(run(first, short, batch_size=2), "--batch_size 2", "was compiled for 1, 4")
    assert refused(run(first, max_seq_length=8), "was compiled for 64")
    assert refused(run(bulk, padded=True), "--padded", "c.pt", "was compiled for packed rows")
    assert run(first, padded=True).code == 0
    again = shutil.copy(first, tmp_path / "again.pt")
    assert refused(run(first, again), "both are for batch 4 x 64 tokens; leave one of them out")
    for source, words in ((bf16, "precision fp32 and bf16"), (other, "checkpoint")):
        wrong = static(source, tmp_path / "wrong.pt", Shape(1, 16))
        assert refused(run(first, wrong), "not of one model", words)
    assert refused(run(first, free), "name one; it chooses its rows by itself")


def test_a_sentence_alone_keeps_one_stream_busy(tiny, tmp_path, export, evaluate):
    given = {"backend": "torchscript", "batch_size": 1, "max_seq_length": 8}
    assert export(pth_dir=tiny, save_dir=tmp_path, **given).code == 0
    run = evaluate(aie_model_dir=tmp_path / "albert_seq8_bs1.pt", one_at_a_time=True, streams=2)
    assert refused(run, "--one_at_a_time", "leave --streams out")
