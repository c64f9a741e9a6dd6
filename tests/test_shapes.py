"""Several shapes of one model: which sentence takes which, how they are chosen, files that belong
together, and one sentence at a time."""

import json
import random
import shutil
from types import SimpleNamespace

import numpy
import pytest
from helpers import refused, rewrite, write_checkpoint

from albert_aie import artifact, backends, batching, fitting, machine
from albert_aie.batching import EVERY, Ladder, Shape, batches
from albert_aie.checkpoint import load
from albert_aie.classifier import Classifier, softmax
from albert_aie.encoding import Encoded
from albert_aie.tasks import SST2

ON = {"backend": "openvino", "precision": "fp32"}


def encoded(*lengths):
    """A sentence of each length, whose tokens are all its number."""
    return [Encoded([number] * length) for number, length in enumerate(lengths)]


def taken(sentences, *shapes):
    """[(batch size, length, the sentences of each row)]: a row that repeats another is empty."""
    return [
        (
            *batch.shape[:2],
            [
                [s for s, r in zip(batch.sentences, batch.rows) if r == row]
                for row in range(batch.shape.batch_size)
            ],
        )
        for batch in batches(sentences, *shapes)
    ]


# Which shape a sentence takes


def test_a_sentence_takes_the_shortest_row_that_holds_it():
    shapes = Shape(1, 8), Shape(1, 16), Shape(1, 32)
    for length, row in ((3, 8), (8, 8), (9, 16), (16, 16), (17, 32), (32, 32)):
        assert taken(encoded(length), *shapes) == [(1, row, [[0]])]


def test_full_batches_first_and_singles_for_the_rest():
    shapes = Shape(1, 8), Shape(4, 8)
    assert taken(encoded(*[5] * 6), *shapes) == [
        (4, 8, [[0], [1], [2], [3]]),
        (1, 8, [[4]]),
        (1, 8, [[5]]),
    ]


def test_rows_that_would_repeat_another_take_shorter_sentences():
    """2 long ones in a batch of 4: both short ones ride with them. Of 3 that would need a batch of
    their own anyway none does."""
    shapes = Shape(4, 8), Shape(4, 32)
    assert taken(encoded(5, 30, 6, 31), *shapes) == [(4, 32, [[1], [3], [0], [2]])]
    assert taken(encoded(5, 30, 6, 31, 7), *shapes) == [
        (4, 32, [[1], [3], [], []]),
        (4, 8, [[0], [2], [4], []]),
    ]


def test_packed_rows_for_many_and_plain_ones_for_the_last():
    """Two whole packed batches; what is left computes 8 x 8 positions alone, 2 x 64 packed."""
    shapes = Shape(1, 8), Shape(2, 64, 8)
    made = [
        (batch.shape, sorted(batch.sentences)) for batch in batches(encoded(*[8] * 40), *shapes)
    ]
    assert [shape for shape, _ in made] == [shapes[1]] * 2 + [shapes[0]] * 8
    assert sorted(sum((numbers for _, numbers in made), [])) == list(range(40))


def test_what_a_packed_row_cannot_hold_goes_elsewhere():
    shapes = Shape(1, 16, 4), Shape(1, 64)
    made = {batch.sentences[0]: batch.shape for batch in batches(encoded(40, 5), *shapes)}
    assert made == {0: shapes[1], 1: shapes[0]}


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
    longest = max(shape.max_seq_length for shape in shapes)
    sentences = encoded(*(draw.randint(3, longest) for _ in range(draw.choice([1, 30, 1500]))))
    seen = []
    for batch in batches(sentences, *shapes):
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
    "shape, one_row, fits",
    [
        (Shape(2, 8), False, True),
        (Shape(1, 8), True, True),
        (Shape(1, 8), False, False),
        (Shape(3, 8), True, False),
        (Shape(2, 4), True, False),
        (Shape(2, 8, 2), False, False),
    ],
)
def test_a_runner_takes_the_shapes_of_its_file(shape, one_row, fits):
    artifact, (batch,) = SimpleNamespace(own_shapes=(Shape(2, 8),)), batches(encoded(3), shape)
    if fits:
        return backends.check_shape(batch, artifact, one_row)
    with pytest.raises(ValueError, match="for a file of"):
        backends.check_shape(batch, artifact, one_row)


@pytest.mark.parametrize(
    "ids", [numpy.zeros((2, 7), numpy.int64), numpy.zeros((2, 8), numpy.int32)]
)
def test_a_runner_takes_arrays_of_the_batch_s_shape_in_int64(ids):
    artifact, (batch,) = (
        SimpleNamespace(own_shapes=(Shape(2, 8),)),
        batches(encoded(3), Shape(2, 8)),
    )
    with pytest.raises(ValueError, match="for a file of"):
        backends.check_shape(batch._replace(token_type_ids=ids), artifact)


def test_shapes_that_a_single_sentence_can_take():
    shapes = Shape(1, 8), Shape(8, 8), Shape(8, 16), Shape(1, 32), Shape(8, 32), Shape(8, 64, 8)
    assert batching.single_shapes(shapes) == [Shape(1, 8), Shape(1, 32), Shape(8, 64, 8)]
    assert batching.single_shapes([Shape(8, 64, 8)]) == [Shape(8, 64, 8)]


# How they are chosen


def test_a_ladder_leaves_the_least_padding():
    """Known by trying them all: of 3 rungs over these lengths."""
    lengths = [5, 5, 5, 9, 10, 11, 12, 20, 21, 22, 30, 50, 300]
    rungs = [*range(8, 64, 4)]
    every = [(a, b, 64) for a in rungs for b in rungs if a < b]
    best = min(every, key=lambda ladder: fitting.padding(lengths, ladder))
    made = fitting.ladder(lengths, 64, Ladder(4, 3))
    assert fitting.padding(lengths, made) == fitting.padding(lengths, best) and len(made) == 3


def test_a_ladder_has_no_rung_without_a_sentence():
    assert fitting.ladder([20, 20, 18], 128) == [20, 128]
    assert fitting.ladder([3], 5) == [5] and fitting.ladder([128] * 3, 128) == [128]


def test_a_ladder_keeps_the_step_of_its_engine():
    """Every 16 tokens from 16 on, every 2 from 8 on; at most so many."""
    lengths = [*range(3, 129)]
    assert fitting.ladder(lengths, 128, Ladder(16, 99)) == [*range(16, 129, 16)]
    assert fitting.ladder(lengths, 128, EVERY) == [*range(8, 129, 2)]
    assert len(fitting.ladder(lengths, 128, Ladder(16, 4))) == 4
    assert len(fitting.ladder(lengths, 128)) == 12
    assert batching.told(batching.shapes([1], range(8, 129, 2))) == (
        "batch 1 x 8 to 128 (61 lengths) tokens"
    )


@pytest.mark.parametrize(
    "precision, isa, steps",
    [
        ("fp32", {"avx2"}, (4, 16)),
        ("fp32", {"avx2", "amx_tile"}, (4, 16)),
        ("bf16", {"avx2", "amx_tile"}, (16, 8)),
        ("int8", {"avx2", "amx_tile"}, (16, 5)),
        ("int8", {"avx2"}, (4, 12)),
    ],
)
def test_a_ladder_suits_the_processor(monkeypatch, precision, isa, steps):
    """AMX multiplies 16 rows at a time, in bf16 and int8; lengths in int8 share no memory."""
    monkeypatch.setattr(machine, "isa", lambda: isa)
    assert backends.get("openvino").form(precision).ladder == steps


def test_padding_of_a_ladder():
    """3 of 8, 10 of 16 and 16 of 16, cut: 29 of 40."""
    assert fitting.padding([3, 10, 99], [16, 8]) == pytest.approx(11 / 40)


def test_slots_follow_the_sentences(tiny):
    """Rows of short sentences want many, those of long ones few."""
    config = load(tiny).config.to_json()
    assert fitting.best_slots([4] * 200, 64, config) == 16
    assert fitting.best_slots([30] * 200, 64, config) == 2


@pytest.fixture(scope="module")
def phrases(tmp_path_factory, sentences):
    """The small folder, with a training file of 3 lengths."""
    folder = tmp_path_factory.mktemp("phrases")
    shutil.copy(sentences / "dev.tsv", folder)
    texts = ["no", "a fine film .", "it was good and then it was not good again and again"] * 40
    rows = [f"{text}\t{i % 2}" for i, text in enumerate(texts)]
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder


def test_auto_and_slots_come_from_the_training_sentences(tmp_path, tiny, phrases, export):
    found = fitting.training_lengths(load(tiny).tokenizer.load(), phrases, SST2)
    given = {"pth_dir": tiny, "data_dir": phrases, "save_dir": tmp_path, "batch_size": 2, **ON}
    run = export(max_seq_length="auto", **given)
    rungs = fitting.ladder(found, 128)
    share = 100 * fitting.padding(found, rungs)
    words = f"ladder {' '.join(map(str, rungs))} tokens, {share:.1f} % padding on training data"
    assert run.code == 0 and words in run.said, run.out + run.err
    (file,) = tmp_path.glob("*.pt")
    assert file.name == f"albert_seq{rungs[0]}-128_bs2.pt"
    assert artifact.open_pt(file).shapes == tuple(Shape(2, length) for length in rungs)
    run = export(max_seq_length=64, pack=True, **given)
    slots = fitting.best_slots(found, 64, load(tiny).config.to_json())
    assert run.code == 0 and slots != 8 and f"up to {slots} sentences a row" in run.said


def test_without_training_sentences_auto_is_refused(tmp_path, tiny, sentences, export):
    given = {"pth_dir": tiny, "data_dir": sentences, "save_dir": tmp_path, **ON}
    words = "no training sentences to choose from", "name the lengths, such as 16 32 64 128"
    assert refused(export(max_seq_length="auto", **given), *words)
    for wrong in ({"max_seq_length": ["auto", 16]}, {"max_seq_length": "auto", "pack": True}):
        assert refused(export(**given, **wrong), "--max_seq_length auto: chooses all lengths")
    assert refused(export(max_seq_length=[16, 32], pack=True, **given), "--pack: a packed row has")
    assert refused(export(max_seq_length="some", **given), "--max_seq_length some: not a whole")
    assert refused(
        export(max_seq_length=[16, 600], **given), "--max_seq_length 600: the checkpoint"
    )
    run = export(max_seq_length=64, pack=True, batch_size=1, **given)
    assert run.code == 0 and "up to 8 sentences a row" in run.said
    assert len(list(tmp_path.iterdir())) == 1


# Through the scripts


def classes(folder):
    lines = (folder / "predictions.tsv").read_text(encoding="utf-8").split("\n")
    return [line.split("\t")[1] for line in lines[1:-1]]


LADDERS = (
    {"batch_size": 32, "max_seq_length": 64},
    {"batch_size": [1, 8], "max_seq_length": [12, 16, 24, 40, 64]},
    {"batch_size": 5, "max_seq_length": [32, 64]},
    {"batch_size": 3, "max_seq_length": 64, "pack": True},
    {"batch_size": [2, 6], "max_seq_length": [*range(8, 65, 2)]},
)


@pytest.mark.parametrize("backend", ["openvino", "torchscript"])
def test_predictions_are_the_same_through_every_ladder(
    tmp_path, tiny, sst2, export, evaluate, backend
):
    given = {"pth_dir": tiny, "data_dir": sst2, "backend": backend, "precision": "fp32"}
    found = {}
    for number, shape in enumerate(LADDERS):
        folder = tmp_path / str(number)
        run = export(save_dir=folder, compare_cpu=True, **given, **shape)
        assert run.code == 0 and "compare_cpu PASS" in run.said, run.out + run.err
        if number == 1:
            assert "compared batch 1 x 12 16 24 40 64 tokens" in run.said
            assert run.said.count("compare_cpu PASS") == 2
        (file,) = folder.glob("*.pt")
        for single in (False, True):
            name = f"{number} {single}"
            run = evaluate(
                aie_model_dir=file, data_dir=sst2, output_dir=folder, one_at_a_time=single
            )
            assert run.code == 0 and "872 of 872 sentences scored" in run.said, run.err
            found[name] = classes(folder)
    run = evaluate(
        aie_model_dir=[*(tmp_path / "1").glob("*.pt"), *(tmp_path / "3").glob("*.pt")],
        data_dir=sst2,
        output_dir=tmp_path / "mixed",
    )
    assert run.code == 0, run.err
    found["mixed"] = classes(tmp_path / "mixed")
    whole = json.loads((tmp_path / "mixed" / "eval.json").read_text())
    assert len(whole["more_files"]) == 1 and len(whole["shapes"]) == 11
    counts = {(s["batch_size"], s["max_seq_length"], s["slots"]): s for s in whole["shapes"]}
    assert sum(s["batches"] for s in whole["shapes"]) == whole["batches"]
    (packed,) = (s for s in counts if s[2])
    assert counts[packed]["batches"] > 100, "whole batches are packed"
    assert {name for name in found if found[name] != found["0 False"]} == set()


def test_one_sentence_at_a_time_takes_the_shortest_row(tmp_path, tiny, sentences, export, evaluate):
    export(pth_dir=tiny, save_dir=tmp_path, batch_size=[1, 4], max_seq_length=[8, 16, 64], **ON)
    (file,) = tmp_path.glob("*.pt")
    given = {"aie_model_dir": file, "data_dir": sentences, "output_dir": tmp_path}
    run = evaluate(one_at_a_time=True, **given)
    assert run.code == 0 and "1 stream(s)" in run.said and "ms a sentence, from text" in run.said
    assert "throughput" not in run.said and "ms a batch" not in run.said
    made = json.loads((tmp_path / "eval.json").read_text())
    tokenizer = load(tiny).tokenizer.load()
    texts = [line.split("\t")[0] for line in (sentences / "dev.tsv").read_text().split("\n")[1:-1]]
    wanted = [len(tokenizer.encode(text).ids) for text in texts]
    rungs = [next(rung for rung in (8, 16, 64) if n <= rung) for n in wanted]
    counts = {(s["batch_size"], s["max_seq_length"]): s["batches"] for s in made["shapes"]}
    assert counts == {(4, n): 0 for n in (8, 16, 64)} | {
        (1, n): rungs.count(n) for n in (8, 16, 64)
    }
    assert made["positions"] == sum(rungs)
    assert made["padding"] == pytest.approx(1 - sum(wanted) / sum(rungs))
    assert len(made["one_at_a_time"]["sentence_latencies_ms"]) == len(texts)
    words = "--one_at_a_time, --streams 2: one sentence keeps one stream busy"
    assert refused(evaluate(one_at_a_time=True, streams=2, **given), words)


@pytest.mark.parametrize(
    "given, took",
    [
        ({}, [[(1, 32)] * 3, [(4, 32), (1, 32)]]),
        ({"pack": True}, [[(1, 32)], [(1, 32)] * 2]),
        ({"backend": "torchscript"}, [[(4, 32)], [(4, 32)] * 2]),
    ],
)
def test_a_few_texts_cost_their_own_rows(tmp_path, tiny, export, given, took):
    """Three texts and five, for a batch of four: where the program takes any number of rows."""
    export(pth_dir=tiny, save_dir=tmp_path, batch_size=4, max_seq_length=32, **{**ON, **given})
    (file,) = tmp_path.glob("*.pt")
    texts = ["a fine film", "dull", "the plot is thin", "fine", "a dull film"]
    with Classifier(file) as classify:
        shapes, run = [], classify.runner.run
        classify.runner.run = lambda batch: shapes.append(batch.shape[:2]) or run(batch)
        for number, wanted in zip((3, 5), took):
            shapes.clear()
            found = classify(texts[:number])
            assert sorted(shapes) == sorted(wanted)
            whole = classify.evaluate(texts[:number], warmup=0)
            for one, logits in zip(found, softmax(whole.logits)):
                assert list(one.probabilities.values()) == pytest.approx(logits.tolist(), abs=1e-6)


def test_an_engine_is_not_asked_while_it_computes(tmp_path, tiny, export, monkeypatch):
    """OpenVINO answers for its settings when no batch is in work: asked once a batch, two streams
    computed 0.89 times as many sentences."""
    from albert_aie.backends import openvino

    export(pth_dir=tiny, save_dir=tmp_path, batch_size=2, max_seq_length=16, **ON)
    with Classifier(tmp_path / "albert_seq16_bs2.pt", streams=2) as classify:
        texts = ["a fine film", "dull"] * 20
        before = classify.evaluate(texts)
        monkeypatch.setattr(openvino.Runner, "_any", lambda runner: pytest.fail("asked again"))
        after = classify.evaluate(texts)
        assert classify.runner.streams == 2 and len(after.forward) == 20
        assert (before.logits == after.logits).all()


RUNGS = 4, 6, 8, 11, 12, 16


def programs(engine):
    """The distinct programs of a runner on OpenVINO, each a list of its shapes."""
    made = {}
    for shape, (compiled, _) in engine._programs.items():
        made.setdefault(id(compiled), []).append(shape)
    return sorted(made.values())


def test_lengths_are_compiled_alone_for_a_few_texts_and_together_for_many(tmp_path, tiny, export):
    """A length that comes alone, the next two, then all as branches of one program: with the logits
    of their own, to the bit."""
    sizes = {"batch_size": [1, 4], "max_seq_length": RUNGS}
    export(pth_dir=tiny, save_dir=tmp_path, **sizes, **ON)
    (file,) = tmp_path.glob("*.pt")
    shapes = [Shape(rows, length) for rows in (1, 4) for length in RUNGS]
    few = {
        shape: next(batches([Encoded([2, *range(9, 9 + shape[1] - 2), 3])] * shape[0], shape))
        for shape in shapes
    }
    own = {}
    for shape in shapes:
        with Classifier(file) as classify:
            own[shape] = classify.runner.run(few[shape]).logits
            assert programs(classify.runner) == [[shape]]
    one, other = [shapes[: len(RUNGS)], shapes[len(RUNGS) :]]
    with Classifier(file) as classify:
        for number, shape in enumerate(one, 1):
            assert (classify.runner.run(few[shape]).logits == own[shape]).all()
            assert len(programs(classify.runner)) == (number if number < 4 else 1)
        for shape in one:
            assert (classify.runner.run(few[shape]).logits == own[shape]).all()
        assert programs(classify.runner) == [one]
    with Classifier(file) as classify:
        classify.runner.prepare(shapes)
        assert programs(classify.runner) == [one, other]
        before = dict(classify.runner._programs)
        classify.runner.prepare(shapes[3:])
        assert all((classify.runner.run(few[s]).logits == own[s]).all() for s in shapes)
        assert classify.runner._programs == before


def test_files_of_several_shapes_are_each_made_ready(tmp_path, tiny, export):
    for length in ([4, 8], [16]):
        run = export(pth_dir=tiny, save_dir=tmp_path, batch_size=2, max_seq_length=length, **ON)
        assert run.code == 0
    with Classifier([*tmp_path.glob("*.pt")]) as classify:
        classify.evaluate(["a fine film", "dull"] * 3)
        made = sorted(sum((programs(runner) for runner in classify.runner._all), []))
        assert made == [[Shape(2, 4), Shape(2, 8)], [Shape(2, 16)]]


def test_files_that_are_used_together_are_of_one_model(tmp_path, tiny, sentences, export, evaluate):
    def made(folder, **given):
        common = {"pth_dir": tiny, "batch_size": 2, "max_seq_length": 32, **ON}
        assert export(save_dir=tmp_path / folder, **{**common, **given}).code == 0
        return next((tmp_path / folder).glob("*.pt"))

    def run(*files):
        return evaluate(aie_model_dir=list(files), data_dir=sentences)

    first, short = made("a"), made("short", max_seq_length=16)
    assert refused(run(first, made("b")), "both are for batch 2 x 32 tokens; leave one of them out")
    precise = made("c", precision="bf16", max_seq_length=16, backend="torchscript")
    assert refused(run(first, precise), "not of one model", "backend openvino on cpu and torch")
    other = write_checkpoint(tmp_path / "other" / "SST-2", seed=5)
    assert refused(run(first, made("d", pth_dir=other, max_seq_length=16)), "checkpoint")
    together = tmp_path / "together"
    together.mkdir()
    assert refused(run(together), f"{together}: holds no .pt file")
    shutil.copy(first, together), shutil.copy(short, together)
    done = run(together)
    assert done.code == 0 and "batch 2 x 16 32 tokens" in done.said
    digests = {artifact.open_all(files).digest for files in ([first], [short], [together])}
    assert len(digests) == 3 and artifact.open_all([short, first]).digest in digests
    assert done.said.count(".pt") == 2
    for wrong in (
        [[2, 32, 0], [2, 16, 0]],
        [[2, 16, 0]],
        [],
        [[2, 32, 0]] * 2,
        [[0, 8, 0], [2, 32, 0]],
    ):
        bad = rewrite(first, tmp_path / "bad.pt", {"shapes": wrong})
        assert refused(run(bad), "its manifest has no usable 'shapes'")


def test_a_known_flag_may_name_any_batch_size_of_the_file(
    tmp_path, tiny, sentences, export, evaluate
):
    export(pth_dir=tiny, save_dir=tmp_path, batch_size=[1, 4], max_seq_length=[8, 32], **ON)
    given = {"aie_model_dir": tmp_path / "albert_seq8-32_bs1-4.pt", "data_dir": sentences}
    assert evaluate(batch_size=1, max_seq_length=32, **given).code == 0
    assert refused(evaluate(batch_size=2, **given), "--batch_size 2", "was compiled for 1, 4")
    assert refused(evaluate(max_seq_length=8, **given), "was compiled for 32")
