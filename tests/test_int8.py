"""--precision int8: quantised at export, read back from the engine, held to its own gate."""

import contextlib
import json
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy
import pytest
import torch
from glue_sets import write_model, write_set
from helpers import ROOT, TINY, needs_nncf, refused
from test_equalise import twin

import export_albert_aie
from albert_aie import backends
from albert_aie.albert import equalise, graph
from albert_aie.albert.checkpoint import load
from albert_aie.albert.layouts import to_upstream
from albert_aie.artifact import pt_file
from albert_aie.backends import Target
from albert_aie.backends.openvino import int8 as quantised
from albert_aie.backends.openvino import ir, smoothing
from albert_aie.base.choose_shapes import SINGLE, choose
from albert_aie.base.shapes import Shape
from albert_aie.data.datasets import Examples
from albert_aie.data.tasks import SST2
from albert_aie.run import calibration, compare, recipes
from albert_aie.run.classifier import Classifier

INT8 = {"backend": "openvino", "precision": "int8"}


def test_int8_is_read_back_and_passes_its_gate(tmp_path, tiny, sst2, export, evaluate):
    """Embeddings stay in floating point: a table in int8 would be made anew, in fp32, by each shape
    that is compiled."""
    needs_nncf()
    given = {**INT8, "batch_size": 8, "max_seq_length": 64, "compare_cpu": True}
    run = export(pth_dir=tiny, data_dir=sst2, save_dir=tmp_path, **given)
    assert run.code == 0 and "872 sentences" in run.out and "(gate 8)" in run.out, run.out + run.err
    assert "compare_cpu PASS" in run.out
    file = tmp_path / "albert_seq64_bs8.pt"
    run = evaluate(aie_model_dir=file, data_dir=sst2, output_dir=tmp_path)
    assert "precision int8 (read back)" in run.out and "872 of 872 sentences scored" in run.out
    manifest = json.loads((tmp_path / "eval.json").read_text())["manifest"]
    assert manifest["precision"] == "int8" and manifest["versions"]["nncf"]
    saved = pt_file.open_pt(file)
    nodes = ir.read(saved.blob("ir.xml"), saved.blob("ir.bin")).get_ordered_ops()
    tables = [n.input_value(0).get_node() for n in nodes if n.get_type_name() == "Gather"]
    static = [node for node in tables if node.get_output_partial_shape(0).is_static]
    words = [node for node in static if list(node.output(0).shape)[:1] == [TINY["vocab_size"]]]
    assert [node.get_type_name() for node in words] == ["Constant"]
    assert any(node.get_type_name() == "FakeQuantize" for node in nodes)


@pytest.mark.parametrize("name", ["MRPC", "QNLI"])
def test_pairs_pass_the_gate(tmp_path, sst2, export, evaluate, name):
    """Pairs of real sentences, generated in the layout of a task; both scripts see every row."""
    needs_nncf()
    lines = (sst2 / "dev.tsv").read_text(encoding="utf-8").split("\n")[1:201]
    texts = [line.split("\t")[0] for line in lines]
    data = write_set(tmp_path / "data", name, list(zip(texts, texts[7:] + texts[:7])))
    model = write_model(tmp_path / "model", name)
    both = {"task_name": name, "data_dir": data, "pth_dir": model}
    chosen = {**INT8, "batch_size": 4, "max_seq_length": 128}
    run = export(**both, **chosen, save_dir=tmp_path / "file", compare_cpu=True)
    assert run.code == 0 and "compare_cpu PASS" in run.out, run.out + run.err
    assert "200 sentences" in run.out and "(gate 2)" in run.out
    file = next((tmp_path / "file").glob("*.pt"))
    run = evaluate(**both, aie_model_dir=file, output_dir=tmp_path)
    assert "precision int8 (read back)" in run.out and "200 of 200" in run.out, run.out + run.err
    with Classifier(file) as classify:
        shapes = choose(classify.saved.shapes, classify.runner.grid, SINGLE)[2:6]
        classify.runner.prepare(shapes)
        programs = {id(compiled) for compiled, _ in classify.runner._programs.values()}
        assert len(programs) == len(shapes), "a branch would be slower"


def test_calibration_on_dev_is_said_aloud(tmp_path, tiny, sentences, export):
    needs_nncf()
    given = {**INT8, "batch_size": 2, "max_seq_length": 32}
    run = export(pth_dir=tiny, data_dir=sentences, save_dir=tmp_path, **given)
    assert run.code == 0 and "int8 ranges are taken from dev itself" in run.err


def test_int8_elsewhere_is_refused(tmp_path, tiny, export):
    run = export(pth_dir=tiny, save_dir=tmp_path, backend="torchscript", precision="int8")
    assert run.code == 2 and "--precision int8 on --backend torchscript" in run.err
    assert not list(tmp_path.iterdir())


def test_the_gates_of_every_precision_can_fail():
    """1,000 sentences: one flip more than allowed, and accuracy lost without a flip too many."""
    reference, numbers = numpy.array([[0, 1]] * 1000, numpy.float32), list(range(1000))

    def compared(flips, precision, labels=None):
        got = numpy.concatenate([reference[:flips, ::-1], reference[flips:]])
        examples = Examples(SST2, "dev.tsv", numbers, labels, numbers, SST2.classes)
        return compare.compare(got, reference, examples, precision)

    for precision, allowed in (("fp32", 0), ("bf16", 5), ("fp16", 5), ("int8", 10)):
        for flips in (allowed, allowed + 1):
            result = compared(flips, precision)
            close = result.relative <= compare.GATES[precision].relative
            assert (result.flips, result.passed) == (flips, close and flips <= allowed)
    assert compared(8, "int8", [1] * 1000).passed is False  # 8, all lost: 0.8 points
    assert compared(8, "int8", [0] * 4 + [1] * 996).passed is True  # 4 won, 4 lost
    # 995 right, then 990: just what the gate lets pass, though 0.995 - 0.99 > 0.005 in floats
    assert compared(5, "int8", [1] * 995 + [0] * 5).passed is True
    assert compared(6, "int8", [1] * 995 + [0] * 5).passed is False
    nothing = reference * numpy.nan
    assert compare.compare(nothing, reference, None, "int8").passed is False


def lines(path, count=240):
    """A file of different sentences, every third of ten words or more."""
    noun = ["film", "plot", "cast", "score", "ending"]
    made = [
        f"the {noun[i % 5]} number {i} is fine" + " and goes on for a while" * (i % 3 == 0)
        for i in range(count)
    ]
    path.write_text("\n".join(made) + "\n\n")
    return path


def test_held_out_sentences_are_never_those_of_the_ranges(tmp_path):
    path = lines(tmp_path / "own.txt")
    ranges, held_out, note = calibration.read(tmp_path, SST2, path, held_out=True)
    assert len(ranges) == 80 and not note  # a third is long
    assert all(len(sentence.split()) >= calibration.WORDS for sentence in ranges)
    assert len(held_out) == 160 and not set(ranges) & set(held_out)
    assert calibration.read(tmp_path, SST2, path) == (ranges, [], "")


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_what_is_compiled(tiny, monkeypatch, precision):
    """int8 has balanced weights; its ranges are of the calibration sentences alone."""
    given, plain = [], load(tiny)
    monkeypatch.setattr(equalise, "equalise", lambda one: "balanced" if one is plain else None)
    monkeypatch.setattr(graph, "build", lambda source, *_: given.append(source))
    monkeypatch.setattr(backends.get("openvino"), "compile", lambda *each: given.append(each[-1]()))
    model = export_albert_aie.Model(plain, "fused", True, ["a fine film"], ["dull", "no"], "")
    export_albert_aie.compile_model(model, Target("openvino", "cpu", precision), Shape(4, 32))
    assert given[0] == ("balanced" if precision == "int8" else plain)
    (batch,) = given[1]
    ids = plain.tokenizer.load().encode("a fine film").ids
    assert batch.input_ids[batch.attention_mask > 0].tolist() == ids


@pytest.mark.parametrize(
    "given, words",
    [
        ({"calibration": "few.txt", "max_flips": 1}, ("--max_flips", "few.txt", "100")),
        ({"calibration": "missing.txt"}, ("missing.txt",)),
        ({"calibration": "text.doc"}, ("text.doc", "suffix", ".txt")),
        ({"calibration": "empty.txt"}, ("empty.txt", "holds no text")),
        ({"max_flips": 1}, ("--max_flips", "dev is not for choosing", "--calibration")),
        ({"task_name": "text"}, ("--task_name text: has no files", "give text by --calibration")),
        ({"max_flips": 101}, ("--max_flips", "0 to 100")),
        ({"max_flips": 1, "precision": "fp32"}, ("--max_flips", "--precision int8 only")),
    ],
)
def test_what_cannot_calibrate_is_refused(tmp_path, tiny, sentences, export, given, words):
    needs_nncf()
    lines(tmp_path / "few.txt", 60)
    (tmp_path / "text.doc").write_text("a fine film\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "out").mkdir()
    if "calibration" in given:
        given = {**given, "calibration": tmp_path / given["calibration"]}
    options = {**INT8, "batch_size": 2, "max_seq_length": 32, **given}
    run = export(pth_dir=tiny, data_dir=sentences, save_dir=tmp_path / "out", **options)
    assert refused(run, *words)
    assert not list((tmp_path / "out").iterdir())


def test_max_flips_takes_the_fastest_that_holds_and_records_it(
    tmp_path, tiny, sentences, export, monkeypatch
):
    needs_nncf()
    holds = recipes.Tried.holds
    monkeypatch.setattr(
        recipes.Tried, "holds", lambda one, p: one.recipe != "all" and holds(one, p)
    )
    options = {**INT8, "batch_size": 8, "max_seq_length": 32, "max_flips": 100}
    options["calibration"] = lines(tmp_path / "own.txt")
    run = export(pth_dir=tiny, data_dir=sentences, save_dir=tmp_path, **options)
    assert run.code == 0, run.err
    assert "half ffn_output" in run.out and run.out.count("/160") == 2, run.out
    told = [line for line in run.out.splitlines() if "/160" in line or "in bf16" in line]
    assert len(told) == 3 and all(len(line) <= 80 for line in told)
    saved = pt_file.open_pt(tmp_path / "albert_seq32_bs8.pt")
    assert saved.manifest["options"]["recipe"] == "half ffn_output"
    assert saved.manifest["options"]["floating"] in ("bf16", "fp32")
    products = saved.blob("ir.xml").count(b'type="FakeQuantize"')

    monkeypatch.setattr(recipes.Tried, "holds", lambda one, p: True)
    run = export(pth_dir=tiny, data_dir=sentences, save_dir=tmp_path, **options)
    saved = pt_file.open_pt(tmp_path / "albert_seq32_bs8.pt")
    assert saved.manifest["options"]["recipe"] == "all"
    assert saved.blob("ir.xml").count(b'type="FakeQuantize"') > products


def test_where_no_recipe_holds_no_file_is_written(tmp_path, tiny, sentences, export, monkeypatch):
    needs_nncf()
    monkeypatch.setattr(recipes.Tried, "holds", lambda one, percent: False)
    monkeypatch.setattr(backends.get("openvino"), "RECIPES", ("all",))
    options = {**INT8, "batch_size": 8, "max_seq_length": 32, "max_flips": 0.5}
    options["calibration"] = lines(tmp_path / "own.txt")
    run = export(pth_dir=tiny, data_dir=sentences, save_dir=tmp_path, **options)
    assert run.code == 1 and "no recipe keeps flips at 0.5 % or less" in run.err
    assert not list(tmp_path.glob("*.pt"))


def test_flips_are_counted_and_bound():
    reference = numpy.array([[0, 2]] * 200, numpy.float32)
    got = reference.copy()
    got[:2] = [[2, 0]]
    got[2, 1] = numpy.nan  # where the reference has its largest
    two = compare.compare(got[:2], reference[:2], None, "int8")
    assert (two.flips, two.relative) == (2, 2.0)  # turned round: as far again as the reference
    attempt = recipes.Tried("all", compare.compare(got, reference, None, "int8"), 1.0)
    assert (attempt.comparison.flips, attempt.comparison.sentences) == (3, 200)
    assert attempt.holds(1.5) and not attempt.holds(1.4)


def test_the_rate_of_a_recipe_is_that_of_the_wall_clock(monkeypatch, tiny):
    """Not of the forwards' sum, which two streams run side by side."""
    logits = numpy.array([[0, 2]] * 3, numpy.float32)
    ran = SimpleNamespace(logits=logits, end_to_end=2.0, forward=[1.0, 1.0, 2.0])
    running = SimpleNamespace(evaluate=lambda _: ran)
    monkeypatch.setattr(recipes, "Classifier", lambda _: contextlib.nullcontext(running))
    monkeypatch.setattr(recipes.references, "logits", lambda *_, **__: (logits, "by hand"))
    target = Target("openvino", "cpu", "int8", {})
    given = load(tiny), target, 32, ["a", "b", "c"], None, iter
    made = SimpleNamespace(save=lambda path: None)
    found, (one,) = recipes.fastest(lambda _: made, "a.pt", 1.0, *given)
    compared = one.comparison
    assert found is made and (one.rate, compared.sentences, compared.flips) == (1.5, 3, 0)


def test_what_was_seen_of_an_activation_is_of_all_batches_and_both_signs():
    low, high = numpy.array([-3.0, 0.0, -1.0]), numpy.array([1.0, 2.0, -0.5])
    old = smoothing._Seen(low, high, numpy.zeros((1, 3)))
    assert old.span.tolist() == [3, 2, 1]
    both = smoothing._both(old, smoothing._Seen(low + 1, high + 1, numpy.ones((1, 3))))
    assert both.least.tolist() == low.tolist() and both.largest.tolist() == (high + 1).tolist()
    assert both.rows.tolist() == [[0, 0, 0], [1, 1, 1]]


def seen(rows, least=None, largest=None):
    """smoothing._Seen of these rows, and of others that reached further."""
    rows = numpy.array(rows, numpy.float32)
    least, largest = (numpy.array(one, numpy.float32) for one in (least, largest))
    return smoothing._Seen(least, largest, rows)


def test_the_error_of_an_int8_product_by_hand():
    """Weights in steps of a 127th of their row's largest, activations in 255 of what was seen."""
    error = smoothing._error
    plain = seen([[0, 200]], [0, 0], [255, 255])  # steps of 1: 0.4 becomes 0, nothing is left
    weight = numpy.array([[127, 0.4]], numpy.float32)
    assert error([plain], weight, None) == pytest.approx(1)
    assert error([plain, plain], weight, None) == pytest.approx(2)
    below = seen([[-100, 1], [155, -99]], [-100, -99], [155, 1])  # steps of 1, from -100 on
    weight = numpy.array([[127, 127], [-254, 254]], numpy.float32)
    assert error([below], weight, None) == pytest.approx(0, abs=1e-12)
    halves = seen([[0.5, 0]], [0, 0], [255, 0])  # half a step: rounded to the even 0
    assert error([halves], weight, None) == pytest.approx(1)
    scale, weight = numpy.array([100, 1], numpy.float32), numpy.array([[1, 100]], numpy.float32)
    apart = seen([[100, 0]], [0, 0], [25500, 255])  # the outlier moves into the weight of 1
    assert error([apart], weight, scale) == pytest.approx(0, abs=1e-9)
    assert error([apart], weight, None) == pytest.approx((100 / 127 - 1) ** 2, rel=1e-3)


def test_a_scale_is_of_all_layers_and_all_weights(monkeypatch):
    """An outlier counts in whichever layer it stands, and a strong weight in whichever product; the
    strength is the one of the least error."""
    size = 8
    rows = numpy.random.default_rng(0).standard_normal((16, size)).astype(numpy.float32)

    def layer(channel=0, factor=1.0):
        own = rows.copy()
        own[:, channel] *= factor
        return seen(own, own.min(0), own.max(0))

    def strong(channel):
        made = numpy.full((size, size), 0.01, numpy.float32)
        made[:, channel] = 1
        return made

    weight, given = numpy.ones((size, size), numpy.float32), []

    def error(layers, whole, scale):
        given.append((len(layers), whole, scale))
        return abs(len(given) - 6)  # the last of STRENGTHS, after none

    monkeypatch.setattr(smoothing, "_error", error)
    plain = smoothing._best_scale([layer(), layer()], [weight, weight])
    for layers in ([layer(3, 50), layer()], [layer(), layer(3, 50)]):
        given.clear()
        best = smoothing._best_scale(layers, [weight, weight])
        assert best[3] > 1.2 * plain[3] and best[3] == best.max()
        assert best is given[5][2] and given[0][2] is None
        assert [count for count, _, _ in given] == [2] * (1 + len(smoothing.STRENGTHS))
    given.clear()
    weights = [strong(5), strong(0)]
    scale = smoothing._best_scale([layer()], weights)
    assert given[0][1].tolist() == numpy.concatenate(weights).tolist()
    assert scale[[0, 5]].max() < numpy.delete(scale, [0, 5]).min() / 2
    assert numpy.exp(numpy.log(scale).mean()) == pytest.approx(1, rel=1e-5)


def test_what_a_recipe_leaves_in_floating_point():
    """By the shape of the weights, in every layer or every other."""

    def layers(kind, rows, channels):
        weight = SimpleNamespace(get_shape=lambda: [rows, channels])
        names = [lambda i=i: f"{kind} {i}" for i in range(3)]
        own = {"input_value": lambda _: weight}
        nodes = [SimpleNamespace(get_friendly_name=name, **own) for name in names]
        return [smoothing.Product(None, [node]) for node in nodes]

    groups = [layers("attention", 8, 8), layers("ffn", 32, 8), layers("ffn_output", 8, 32)]
    left = {name: quantised.floating(name, groups) for name in quantised.RECIPES}
    out, half = [f"ffn_output {i}" for i in range(3)], ["ffn_output 0", "ffn_output 2"]
    ffn = [f"ffn {i}" for i in range(3)]
    assert left == {
        "all": [],
        "half ffn_output": half,
        "ffn_output": out,
        "ffn_output, half ffn": [*out, ffn[0], ffn[2]],
        "ffn, ffn_output": [*out, *ffn],
    }


def test_what_nncf_is_asked_for(made_by, monkeypatch):
    """Ranges of all that was seen in all sentences, of a model that was smoothed before; what is no
    product of several layers, and what the recipe names, stays in floating point."""
    needs_nncf()
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    saved, asked = pt_file.open_pt(made_by["openvino"]), []
    model = ir.read(saved.blob("ir.xml"), saved.blob("ir.bin"))
    monkeypatch.setattr(smoothing, "smooth", lambda *given: asked.append(given))
    monkeypatch.setattr(nncf, "quantize", lambda *given, **named: asked.append((given, named)))
    inputs, left = [{"x": 1}, {"x": 2}, {"x": 3}], {}
    for recipe in ("all", "half ffn_output"):
        asked.clear()
        quantised.quantise(model, inputs, recipe)
        smoothed, ((of, data), named) = asked
        assert smoothed == (model, inputs) and of is model and [*data.get_data()] == inputs
        assert named["subset_size"] == 3 and named["preset"] == nncf.QuantizationPreset.MIXED
        ranges = named["advanced_parameters"].activations_range_estimator_params
        assert ranges == Ranges.MINMAX
        left[recipe] = set(named["ignored_scope"].names)
    others, weights, shapes = set(), {}, {}
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        if kind in ("ScaledDotProductAttention", "Gather"):
            others.add(name)
        elif kind == "MatMul":
            weight = node.input_value(1).get_node()
            constant = weight.get_type_name() == "Constant"
            weights[name] = weight.get_data().tobytes() if constant else name
            shapes[name] = weight.output(0).get_partial_shape().to_string()
    times = Counter(weights.values())
    single = {name for name, weight in weights.items() if times[weight] == 1}
    assert left["all"] == others | single and others and single and len(weights) > len(single)
    more = left["half ffn_output"] - left["all"]
    assert [shapes[name] for name in more] == ["[64,96]"] * 2


def test_smoothing_moves_outlier_channels_and_changes_no_result():
    openvino = pytest.importorskip("openvino")
    ops = smoothing.ops
    draw = numpy.random.default_rng(0)
    size, rows = 64, 32
    weight = (draw.standard_normal((size, size)) / 8).astype(numpy.float32)
    outlier = numpy.ones(size, numpy.float32)
    outlier[7] = 80

    def model():
        x = ops.parameter([rows, size], numpy.float32, name="x")
        out = ops.multiply(x, ops.constant(outlier))
        shared = ops.constant(weight)
        out = ops.relu(ops.matmul(out, shared, False, True))
        out = ops.matmul(ops.multiply(out, ops.constant(outlier)), shared, False, True)
        made = openvino.Model([out], [x])
        made.inputs[0].get_tensor().set_names({"x"})
        return made

    batch = {"x": draw.standard_normal((rows, size)).astype(numpy.float32)}
    run = {"INFERENCE_PRECISION_HINT": "f32"}
    core, smoothed = openvino.Core(), model()
    smoothing.smooth(smoothed, [batch])
    plain, got = (core.compile_model(one, "CPU", run)(batch)[0] for one in (model(), smoothed))
    numpy.testing.assert_allclose(got, plain, rtol=1e-3, atol=1e-3 * numpy.abs(plain).max())
    (group,) = smoothing.products(smoothed)
    assert len(group) == 2
    new = group[0].nodes[0].input_value(1).get_node().get_data()
    ratio = new[0] / weight[0]
    assert ratio[7] > 3 * numpy.median(ratio)


def test_attention_s_output_is_left_to_the_weights():
    """Two layers of attention and one shared product behind: no scale stands between them."""
    openvino = pytest.importorskip("openvino")
    ops = smoothing.ops
    draw = numpy.random.default_rng(1)
    weight = ops.constant(draw.standard_normal((8, 8)).astype(numpy.float32))
    x = ops.parameter([1, 2, 5, 4], numpy.float32, name="x")
    out = x
    for _ in range(2):
        seen = ops.scaled_dot_product_attention(out, out, out)
        rows = ops.transpose(seen, ops.constant(numpy.array([0, 2, 1, 3])))
        rows = ops.reshape(rows, ops.constant(numpy.array([1, 5, 8])), False)
        rows = ops.matmul(rows, weight, False, True)
        out = ops.reshape(rows, ops.constant(numpy.array([1, 2, 5, 4])), False)
    model = openvino.Model([out], [x])
    model.inputs[0].get_tensor().set_names({"x"})
    assert [len(group) for group in smoothing.products(model)] == [2]
    smoothing.smooth(model, [{"x": draw.standard_normal((1, 2, 5, 4)).astype(numpy.float32)}])
    assert "Multiply" not in {node.get_type_name() for node in model.get_ordered_ops()}


@pytest.mark.slow  # six quantisations of a base-size checkpoint
@pytest.mark.parametrize("kinds", [["value"], ["query"], ["value", "query"]])
def test_rescaled_twins_of_the_demo_pass_like_the_demo(tmp_path, sst2, export, kinds):
    needs_nncf()
    demo = ROOT / "demo" / "checkpoint"
    found = {}
    for name in ("plain", "twin"):
        folder = tmp_path / name
        shutil.copytree(demo, folder)
        if name == "twin":
            tensors = to_upstream(twin(load(demo), kinds, share=0.02).tensors)
            torch.save(tensors, folder / "pytorch_model.bin")
        given = {**INT8, "batch_size": 3, "max_seq_length": 64, "compare_cpu": True}
        told = folder / "comparison.json"
        run = export(pth_dir=folder, data_dir=sst2, save_dir=folder, compare_output=told, **given)
        found[name] = json.loads(told.read_text())
        assert run.code == 0 and "compare_cpu PASS" in run.out, run.out + run.err
    assert abs(found["twin"]["flips"] - found["plain"]["flips"]) <= 2, found
