"""Rows are chosen when the sentences are there: however a sentence is sent it has one answer, the
file is a plain program for torch as well, and what is compiled for many calls stays little."""

import random
from types import SimpleNamespace

import numpy
import pyarrow
import pytest
import torch
from glue_sets import PAIRS, write_model
from helpers import export_file, flags
from pyarrow import parquet

import run_aie_corpus
from albert_aie.artifact import pt_file
from albert_aie.backends.openvino import ir
from albert_aie.base.choose_shapes import CHOSEN, PADDED, SINGLE, choose
from albert_aie.base.encoding import Encoded
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape, packed
from albert_aie.data.datasets import read
from albert_aie.run.batching import batches
from albert_aie.run.classifier import Classifier

ENGINES = "openvino", "torchscript"


def exported(folder, pth_dir, engine, **given):
    return export_file(folder, pth_dir=pth_dir, backend=engine, precision="fp32", **given)


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny):
    """{engine: the default file of it}."""
    return {name: exported(tmp_path_factory.mktemp(name), tiny, name) for name in ENGINES}


def close(got, wanted):
    """Whether logits are those of other rows of the same program, but for the order of sums."""
    return numpy.linalg.norm(got - wanted) <= 1e-4 * numpy.linalg.norm(wanted)


def every_way(classify, texts, twice=(CHOSEN, PADDED, SINGLE)):
    """{how rows were made: Evaluation}; those of `twice` give the same digits twice."""
    found = {rows: classify.evaluate(texts, rows=rows) for rows in (CHOSEN, PADDED, SINGLE)}
    for rows in twice:
        again = classify.evaluate(texts, rows=rows)
        assert again.shapes == found[rows].shapes and (again.logits == found[rows].logits).all()
    for rows, each in found.items():
        assert each.rows_are == rows and close(each.logits, found[CHOSEN].logits)
    assert set(found[PADDED].shapes) == {classify.saved.shape}
    assert found[PADDED].positions > max(found[CHOSEN].positions, found[SINGLE].positions)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_every_way_gives_the_same_872_predictions(tmp_path, files, sst2, engine):
    sentences = read(sst2).sentences
    with Classifier(files[engine]) as classify:
        found = every_way(classify, sentences, twice=())
        names = {
            rows: [classify.names[i] for i in each.logits.argmax(1)] for rows, each in found.items()
        }
        for count in (1, 7, 872):
            parts = [sentences[i : i + count] for i in range(0, 872, count)]
            names[count] = [answer.label for part in parts for answer in classify(part)]
    parquet.write_table(pyarrow.table({"sentence": sentences}), tmp_path / "a.parquet")
    line = flags(aie_model_dir=files[engine], input=tmp_path / "a.parquet", part_rows=300)
    assert run_aie_corpus.main([*line, f"--output_dir={tmp_path / 'out'}"]) == 0
    names["corpus"] = parquet.read_table(tmp_path / "out")["label"].to_pylist()
    assert len(names[CHOSEN]) == 872
    assert [how for how in names if names[how] != names[CHOSEN]] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_pairs_and_long_sentences_have_one_answer_too(tmp_path, tiny, engine):
    """Pairs in both orders; sentences of 24, 64, 300 and 512 tokens in rows of up to 512."""
    model = write_model(tmp_path / "model", "MRPC")
    given = {"batch_size": 4, "max_seq_length": 64, "task_name": "MRPC"}
    pairs = PAIRS + [pair[::-1] for pair in PAIRS]
    with Classifier(exported(tmp_path, model, engine, **given)) as classify:
        found = every_way(classify, pairs)[CHOSEN]
        answers = [classify(part) for part in (pairs[:1], pairs[1:8], pairs[8:])]
        labels = [answer.label for part in answers for answer in part]
        for bad in (("a", "\udfff"), ("a", None), ("a",)):
            with pytest.raises(UserError, match="row 1: "):
                classify([("a", "b"), bad])
        assert labels == [classify.names[i] for i in found.logits.argmax(1)]
    lengths = [24, 64, 300, 512, 250, *[24] * 12]
    file = exported(tmp_path / "long", tiny, engine, batch_size=2, max_seq_length=512)
    with Classifier(file) as classify:
        texts = [" ".join(["film", "dull"] * 256)[: 5 * (n - 2) - 1] for n in lengths]
        encoded = [classify.saved.tokenizer.load().encode(text) for text in texts]
        assert [len(one.ids) for one in encoded] == lengths
        found = every_way(classify, texts)
        assert {shape.max_seq_length for shape in found[CHOSEN].shapes} == {64, 256, 512}
        for text, logits in zip(texts, found[PADDED].logits):  # of slot 1, and of a row to itself
            assert close(classify.evaluate([text, text], warmup=0).logits, [logits, logits])


@pytest.mark.parametrize("engine", ENGINES)
def test_torch_jit_load_gives_the_published_program(files, sst2, engine):
    """Three int64 inputs, float32 [batch, class], the exported shape: the padded logits."""
    sentences = read(sst2).sentences[:32]
    program = torch.jit.load(str(files[engine]))
    with Classifier(files[engine]) as classify:
        padded = classify.evaluate(sentences, rows=PADDED).logits
        encoded = map(classify.saved.tokenizer.load().encode, sentences)
        (batch,) = batches(encoded, classify.saved.shape)
    inputs = [torch.from_numpy(array) for array in batch.inputs]
    logits = program(*inputs)
    assert {(*each.shape, each.dtype) for each in inputs} == {(32, 128, torch.int64)}
    assert logits.dtype == torch.float32 and logits.shape == (32, 2)
    assert close(logits.detach().numpy(), padded)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_plain_row_is_slot_1_of_a_packed_one(files, engine):
    """On OpenVINO it is the packed program whose places were put in as constants."""
    sentences = [Encoded([2, *range(20, 30 + i), 3]) for i in range(8)]
    with Classifier(files[engine]) as classify:
        for size, length in ((1, 20), (3, 24), (2, 100)):
            plain = next(batches(sentences[:size], Shape(size, length)))
            together = plain._replace(shape=packed(size, length))
            logits = classify.runner.run(together).logits
            assert logits.shape == (size, (length + 1) // 4, 2) and numpy.isfinite(logits).all()
            assert close(classify.runner.run(plain).logits, logits[:, 0])


def test_a_specialised_model_computes_no_places(files):
    saved = pt_file.open_pt(files["openvino"])
    model = ir.read(saved.blob("ir.xml"), saved.blob("ir.bin"))
    before = len(model.get_ordered_ops())
    plain, rows = (ir.specialised(model, shape) for shape in (Shape(2, 24), packed(2, 24)))
    assert [list(one.output(0).shape) for one in (plain, rows)] == [[2, 1, 2], [2, 6, 2]]
    names = [{node.get_friendly_name() for node in one.get_ordered_ops()} for one in (plain, rows)]
    assert set(ir.PLACES) & names[0] == {"last_mask"} and set(ir.PLACES) <= names[1]
    assert len(model.get_ordered_ops()) == before, "it is a copy"


def test_a_sentence_alone_has_all_threads_and_many_have_streams(files):
    asked = {}
    with Classifier(files["openvino"]) as classify, Classifier(files["openvino"], streams=2) as two:
        for name, runner in (("own", classify.runner), ("two", two.runner)):
            core = runner._core

            def compile_model(model, device, options, name=name, core=core):
                asked.setdefault(name, []).append(options["NUM_STREAMS"])
                return core.compile_model(model, device, options)

            runner._core = SimpleNamespace(compile_model=compile_model)
            runner.prepare([Shape(1, 16)]), runner.prepare([packed(1, 64), packed(8, 64)])
    assert asked == {"own": [1, "AUTO", "AUTO"], "two": [2, 2, 2]}


def test_streams_are_those_of_many_whichever_came_first(files):
    """A sentence alone, whose program has one stream, once left the others idle for good."""
    streams = []
    for first in ("a fine film", ["a fine film", "dull"] * 10):
        with Classifier(files["openvino"]) as classify:
            classify(first)
            streams.append(classify.runner.streams)
            model, _ = classify.runner._program(packed(1, 64))
            assert classify.runner.streams == model.get_property("NUM_STREAMS")
    assert streams[0] == streams[1]


def test_a_call_that_fails_gives_its_stream_back(files):
    def fail():
        raise RuntimeError("no memory")

    with Classifier(files["openvino"]) as classify:
        classify("a fine film")
        _, idle = next(iter(classify.runner._programs.values()))
        idle.put(SimpleNamespace(set_tensor=idle.get().set_tensor, infer=fail))
        with pytest.raises(RuntimeError, match="no memory"):
            classify("a fine film")
        assert idle.get(timeout=1).infer is fail


def test_what_many_calls_compile_stays_little(files):
    """150 calls of random length and number: at most four programs of packed rows, and of a
    sentence alone no more than the lengths of the grid. Few texts compile none for whole calls."""
    draw = random.Random(0)
    with Classifier(files["openvino"]) as classify:
        programs = classify.runner._programs
        classify(["a fine film", "dull"] * 60)
        assert {shape.batch_size for shape in programs} == {1}
        classify(["a fine film"] * 300)
        for _ in range(150):
            count = draw.choice([1, 1, 2, 7, 30, 300 if draw.random() < 0.2 else 3])
            texts = ["film " * draw.choice([1, 5, 20, 70, 200]) for _ in range(count)]
            assert len(classify(texts)) == count
        alone = choose([classify.saved.shape], classify.runner.grid, SINGLE)
        bulk = [shape for shape in programs if shape.slots]
        assert set(bulk) == {packed(1, 64), packed(8, 64), packed(1, 128), packed(4, 128)}
        assert set(programs) <= {*bulk, *alone}
