"""The engines that peers.py compares, one class each: what a skilled user would set up by hand,
this project, and the ceiling. Each is made from a plan.Engine in a process of its own. It has

    sentences(texts)   float32 logits [n, class] of texts in their order: tokenising and all
    one(text)          the same of one text, and all that a service does for it
    dense(batch_size)  seconds of one forward of batch_size full rows of LENGTH tokens
    flops(lengths)     matrix-product FLOPs that one pass over sentences of these lengths executes

All hold the same weights, read by albert_aie.albert.checkpoint, and the same tokenizer.
"""

import copy
import math
import queue
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import torch

from albert_aie import backends
from albert_aie.albert.flops import executed_flops_per_row, flops_per_row
from albert_aie.albert.references import transformers_model
from albert_aie.base.choose_shapes import SINGLE, choose
from albert_aie.base.shapes import Batch, Shape, packed
from albert_aie.run.classifier import Classifier
from albert_aie.run.evaluate import shapes_to_come
from benchmarks.ceiling import Ceiling
from benchmarks.plan import LENGTH, load

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def padded(rows, length):
    """int64 [n, length] ids, mask and types of id lists."""
    ids, mask, types = numpy.zeros((3, len(rows), length), numpy.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask, types


def full_rows(vocab_size, batch_size):
    ids = numpy.random.default_rng(batch_size).integers(5, vocab_size, (batch_size, LENGTH))
    return ids, numpy.ones_like(ids), numpy.zeros_like(ids)


class Peer:
    """Batches of one size: sorted and padded to the longest of each, or in order and to LENGTH."""

    def __init__(self, spec):
        self.spec, self.batch_size = spec, spec.batch_size
        self.checkpoint, self.tokenizer = load(spec.made_from["pth_dir"])
        self.config = self.checkpoint.config
        self.prepare()

    def plan(self, lengths):
        """[(numbers of a batch's sentences, its length)]"""
        order, size = list(range(len(lengths))), self.batch_size
        if self.spec.sorted:
            order.sort(key=lambda i: lengths[i])
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        step = self.spec.multiple
        longest = [math.ceil(max(lengths[i] for i in group) / step) * step for group in groups]
        own = self.spec.sorted or self.spec.typed
        return list(zip(groups, longest if own else [LENGTH] * len(groups)))

    def inputs(self, text):
        """{input: int64 [1, length]} of one text."""
        ids = self.tokenizer.encode(text, LENGTH).ids
        return dict(zip(NAMES, padded([ids], len(ids))))

    def sentences(self, texts):
        encoded = [self.tokenizer.encode(text, LENGTH).ids for text in texts]
        logits = numpy.zeros((len(texts), self.config.num_labels), numpy.float32)
        plan = self.plan([len(ids) for ids in encoded])
        batches = [padded([encoded[i] for i in group], length) for group, length in plan]
        for (group, _), result in zip(plan, self.run_all(batches)):
            logits[group] = result
        return logits

    def one(self, text):
        return self.sentences([text])

    def run_all(self, batches):
        return (self.run(*batch) for batch in batches)

    def dense(self, batch_size):
        batch = full_rows(self.config.vocab_size, batch_size)
        start = time.perf_counter()
        self.run(*batch)
        return time.perf_counter() - start

    def flops(self, lengths):
        config = vars(self.config)
        return sum(len(group) * flops_per_row(config, n) for group, n in self.plan(lengths))


def convertible_model(checkpoint):
    """transformers' ALBERT that returns the logits in a tuple: what ONNX and OpenVINO convert."""
    model = transformers_model(checkpoint)
    model.config.return_dict = False
    return model


class Transformers(Peer):
    """transformers' own model, or the same under torch.compile with the weights frozen in."""

    def prepare(self):
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        self.model = transformers_model(self.checkpoint)
        if self.spec.attention != "eager":
            self.model.set_attn_implementation(self.spec.attention)
        self.model = self.model.to(self.spec.device, dtypes[self.spec.precision])
        if self.spec.compile:
            import torch._inductor.config as inductor

            inductor.freezing = True
            mode = "max-autotune" if self.spec.device == "cuda" else "default"
            self.model = torch.compile(self.model, mode=mode, dynamic=self.spec.sorted)

    @torch.no_grad()  # freezing wants no_grad; inference_mode is not enough for it
    def run(self, *batch):
        inputs = (torch.from_numpy(array).to(self.spec.device) for array in batch)
        return self.model(**dict(zip(NAMES, inputs))).logits.float().cpu().numpy()


class Pipeline(Peer):
    """transformers.pipeline, as its documentation types it. `sentences` has the probability of the
    predicted class alone."""

    def __init__(self, spec):
        import transformers

        transformers.logging.set_verbosity_error()
        self.spec, self.batch_size = spec, spec.batch_size
        self.pipeline = transformers.pipeline("text-classification", spec.made_from["folder"])
        self.numbers = self.pipeline.model.config.label2id

    def sentences(self, texts):
        logits = numpy.zeros((len(texts), len(self.numbers)), numpy.float32)
        for row, answer in zip(logits, self.pipeline(texts, batch_size=self.batch_size)):
            row[self.numbers[answer["label"]]] = answer["score"]
        return logits


class OnnxRuntime(Peer):
    """ONNX Runtime from torch's own export with free batch and length, graph optimised; int8 by
    dynamic quantisation."""

    def prepare(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if not self.spec.typed:
            options.intra_op_num_threads = max(1, torch.get_num_threads() // self.spec.streams)
            # threads that spin would starve the other engines
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        free = {name: {0: "batch", 1: "length"} for name in NAMES}
        example = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in NAMES)
        given = {"input_names": list(NAMES), "output_names": ["logits"], "opset_version": 17}
        given.update(dynamic_axes={**free, "logits": {0: "batch"}}, dynamo=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.onnx.export(convertible_model(self.checkpoint), example, str(path), **given)
            if self.spec.precision == "int8":
                path = quantised_onnx_file(path)
            on = ["CPUExecutionProvider"]
            self.session = onnxruntime.InferenceSession(str(path), options, providers=on)
        self.wanted = [port.name for port in self.session.get_inputs()]

    def run(self, *batch):
        inputs = dict(zip(NAMES, batch))
        return self.session.run(None, {name: inputs[name] for name in self.wanted})[0]


def quantised_onnx_file(path):
    """The same in int8. Every use of a shared weight gets its own copy first: on the plain export
    dynamic quantisation reaches 9 of 97 products."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(path))
    weights, seen = {tensor.name: tensor for tensor in model.graph.initializer}, set()
    # the exporter names a shared weight anew at each use
    same = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity"}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            name = same.get(name, name)
            if node.op_type == "MatMul" and name in weights:
                node.input[i] = name
                if name in seen:
                    twin = copy.deepcopy(weights[name])
                    twin.name = node.input[i] = f"{name}_{len(model.graph.initializer)}"
                    model.graph.initializer.append(twin)
                seen.add(name)
    unshared, result = path.with_name("unshared.onnx"), path.with_name("int8.onnx")
    onnx.save(model, str(unshared))
    # the extra option: for tensors whose type its shape inference does not find
    options = {"extra_options": {"DefaultTensorType": onnx.TensorProto.FLOAT}, "per_channel": True}
    quantize_dynamic(str(unshared), str(result), weight_type=QuantType.QInt8, **options)
    return result


class OpenVino(Peer):
    """OpenVINO from transformers' model, free shape, one or more streams; int8 by NNCF's
    post-training quantisation on training sentences, fp32 and bf16 by the engine's hint."""

    def prepare(self):
        import openvino

        example = (torch.from_numpy(array) for array in padded([[2, 7, 8, 3], [2, 7, 3]], 4))
        model, example = convertible_model(self.checkpoint), dict(zip(NAMES, example))
        model = openvino.convert_model(model, example_input=example)
        if self.spec.precision == "int8":
            import nncf

            nncf.set_log_level(40)
            rows = [padded([ids], len(ids)) for ids in self.spec.made_from["calibration"]]
            data = nncf.Dataset([dict(zip(NAMES, row)) for row in rows])
            kind = nncf.ModelType.TRANSFORMER
            model = nncf.quantize(model, data, model_type=kind, subset_size=len(rows))
        self.compiled = openvino.Core().compile_model(model, "CPU", self.options())
        self.idle = queue.SimpleQueue()
        for _ in range(self.spec.streams):
            self.idle.put(self.compiled.create_infer_request())

    def options(self):
        if self.spec.typed:
            return {}
        rest = "bf16" if "BF16" in backends.get("openvino").capabilities() else "f32"
        hint = {"fp32": "f32", "bf16": "bf16", "int8": rest}[self.spec.precision]
        singly = "one_at_a_time" in self.spec.settings
        way = {"PERFORMANCE_HINT": "LATENCY"} if singly else {"NUM_STREAMS": self.spec.streams}
        return {"INFERENCE_PRECISION_HINT": hint, **way}

    def run(self, *batch):
        request = self.idle.get()
        results = request.infer(dict(zip(NAMES, batch)), share_inputs=True)
        logits = numpy.array(results[0], dtype=numpy.float32)
        self.idle.put(request)
        return logits

    def run_all(self, batches):
        if self.spec.streams == 1:
            yield from super().run_all(batches)
            return
        with ThreadPoolExecutor(self.spec.streams) as pool:
            yield from pool.map(lambda batch: self.run(*batch), batches)


class Ours:
    """The file that export_albert_aie.py wrote, run as run_aie_eval.py and Classifier run it."""

    def __init__(self, spec):
        own = spec.typed or not spec.streams or spec.device != "cpu"
        options = {} if own else {"streams": spec.streams}
        self.spec, self.classify = spec, Classifier(spec.made_from["file"], **options)
        self.saved, self.runner = self.classify.saved, self.classify.runner
        self.config = self.saved.manifest["config"]
        if spec.backend == "onnx" and spec.precision == "int8":
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(self.saved.blob("model.onnx"))
                data = quantised_onnx_file(path).read_bytes()
            session = backends.get("onnx").session
            self.runner._program = session(data, "cpu", threads=self.runner.threads)

    def sentences(self, texts, **rows):
        if self.spec.typed:  # what README's seven lines give: labels and probabilities
            return numpy.array([list(a.probabilities.values()) for a in self.classify(texts)])
        return self.classify.evaluate(texts, warmup=0, **rows).logits

    def one(self, text):
        return self.sentences([text], rows=SINGLE)

    def dense(self, batch_size):
        """Of batch_size rows of LENGTH, one sentence in each or, packed, five."""
        ids, mask, types = full_rows(self.config["vocab_size"], batch_size)
        shape = self.full(batch_size)
        if self.spec.packed:
            mask = numpy.tile(1 + numpy.arange(LENGTH) // 26, (batch_size, 1))
        rows = list(range(batch_size))
        return self.runner.run(Batch(ids, mask, types, shape, rows, rows)).forward

    def full(self, batch_size):
        return (packed if self.spec.packed else Shape)(batch_size, LENGTH)

    def flops(self, lengths):
        if set(lengths) == {LENGTH}:  # dense
            return len(lengths) * executed_flops_per_row(self.config, self.full(1))
        shapes = choose(self.saved.shapes, self.runner.grid)
        used = shapes_to_come(lengths, shapes, streams=self.runner.streams)
        return sum(s.batch_size * executed_flops_per_row(self.config, s) for s in used)


KINDS = {"transformers": Transformers, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
KINDS.update(pipeline=Pipeline, ours=Ours, ceiling=Ceiling)
