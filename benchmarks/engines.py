"""The engines that peers.py compares, one class each: what a skilled user would set up by hand, and this project.

Every engine is made in a process of its own by `make(spec)`. It has

    label              what the table calls it
    precision          what it computes in, where it can be asked
    sentences(texts)   float32 logits [n, class] of texts, in their order: tokenising, batching and all
    dense(batch_size)  float seconds of one forward of batch_size full rows of LENGTH tokens, after the copy in
    flops(lengths)     matrix-product FLOPs that one pass over sentences of these lengths executes

All hold the same weights, read by albert_aie.checkpoint, and the same sentencepiece tokenizer.
"""

import math
import time
from pathlib import Path

import numpy
import torch
from tables import SIZE

LENGTH = 128


def load(pth_dir):
    """(Checkpoint, Tokenizer) of --pth_dir."""
    from albert_aie import checkpoint

    source = checkpoint.load(pth_dir)
    return source, source.tokenizer.load()


def padded(rows, length=None):
    """int64 [n, length] ids, mask, types of id lists; length: their longest where it is not given."""
    length = length or max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask, torch.zeros_like(ids)


def full_rows(vocab_size, batch_size):
    ids = torch.randint(5, vocab_size, (batch_size, LENGTH), generator=torch.Generator().manual_seed(batch_size))
    return ids, torch.ones_like(ids), torch.zeros_like(ids)


class Peer:
    """Batches of one size, in order and padded to LENGTH, or sorted and padded to the longest of each batch."""

    def __init__(self, spec):
        self.spec, self.label, self.precision = spec, spec["label"], spec["precision"]
        self.sorted, self.batch_size, self.streams = spec["sorted"], spec["batch_size"], spec.get("streams", 1)
        self.source, self.tokenizer = load(spec["pth_dir"])
        self.config = self.source.config
        self.prepare()

    def plan(self, lengths):
        order = sorted(range(len(lengths)), key=lambda i: lengths[i]) if self.sorted else list(range(len(lengths)))
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def sentences(self, texts):
        encoded = [self.tokenizer.encode(text, LENGTH)[0] for text in texts]
        logits = torch.zeros(len(texts), self.config.num_labels)
        plan = self.plan([len(ids) for ids in encoded])
        batches = [padded([encoded[i] for i in group], None if self.sorted else LENGTH) for group in plan]
        for group, result in zip(plan, self.run_all(batches)):
            logits[group] = result
        return logits

    def run_all(self, batches):
        return (self.run(*batch) for batch in batches)

    def dense(self, batch_size):
        batch = full_rows(self.config.vocab_size, batch_size)
        start = time.perf_counter()
        self.run(*batch)
        return time.perf_counter() - start

    def flops(self, lengths):
        from albert_aie.graph import flops_per_row

        groups = self.plan(lengths)
        rows = [(len(group), max(lengths[i] for i in group) if self.sorted else LENGTH) for group in groups]
        return sum(n * flops_per_row(vars(self.config), length) for n, length in rows)


class Transformers(Peer):
    """transformers' AlbertForSequenceClassification, eager, or under torch.compile with weights frozen in."""

    def prepare(self):
        from albert_aie.compare import transformers_model

        self.model = transformers_model(self.source)
        if self.spec.get("attention"):
            self.model.set_attn_implementation(self.spec["attention"])
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        self.device = self.spec.get("device", "cpu")
        self.model = self.model.to(self.device, dtype)
        if self.spec.get("compile"):
            import torch._inductor.config as inductor

            inductor.freezing = True
            mode = "max-autotune" if self.device == "cuda" else "default"
            self.model = torch.compile(self.model, mode=mode, dynamic=self.sorted)

    @torch.no_grad()  # freezing wants no_grad; inference_mode is not enough for it
    def run(self, ids, mask, types):
        ids, mask, types = (tensor.to(self.device) for tensor in (ids, mask, types))
        return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits.float().cpu()


def onnx_file(source, folder):
    """The checkpoint as ONNX with free batch and length, by torch's own exporter."""
    import warnings

    from albert_aie.compare import transformers_model

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids, mask, types):
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits

    path = Path(folder) / "model.onnx"
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in names)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(transformers_model(source)).eval(),
            example,
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**{name: {0: "batch", 1: "length"} for name in names}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return path


class OnnxRuntime(Peer):
    """ONNX Runtime, graph optimised. int8: dynamic quantisation after every use of a shared weight has got its own copy;
    on the plain export it would reach 9 of 97 products (cpu_engines.md)."""

    def prepare(self):
        import tempfile

        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would starve the other engines
        with tempfile.TemporaryDirectory() as folder:
            path = onnx_file(self.source, folder)
            if self.precision == "int8":
                path = self.quantised(path)
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    @staticmethod
    def quantised(path):
        import copy

        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        model = onnx.load(str(path))
        weights, seen = {tensor.name: tensor for tensor in model.graph.initializer}, set()
        same = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                name = same.get(name, name)  # the exporter names a shared weight anew at each use
                if node.op_type == "MatMul" and name in weights:
                    node.input[i] = name
                    if name in seen:
                        twin = copy.deepcopy(weights[name])
                        twin.name = node.input[i] = f"{name}_{len(model.graph.initializer)}"
                        model.graph.initializer.append(twin)
                    seen.add(name)
        unshared, result = path.with_name("unshared.onnx"), path.with_name("int8.onnx")
        onnx.save(model, str(unshared))
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # for tensors whose type its shape inference does not find
        quantize_dynamic(str(unshared), str(result), weight_type=QuantType.QInt8, per_channel=True, extra_options=options)
        return result

    def run(self, ids, mask, types):
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "token_type_ids": types.numpy()}
        feed = {name: feed[name] for name in (port.name for port in self.session.get_inputs())}
        return torch.from_numpy(self.session.run(None, feed)[0])


class OpenVino(Peer):
    """OpenVINO from the transformers model, free shape, sorted batches, several streams; int8 by NNCF's post-training
    quantisation on training sentences, fp32 and bf16 by the engine's hint."""

    def prepare(self):
        import queue

        import openvino

        from albert_aie.backends.openvino import _capabilities
        from albert_aie.compare import transformers_model

        class Logits(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, input_ids, attention_mask, token_type_ids):
                return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits

        example = padded([[2, 7, 8, 3], [2, 7, 3]])
        names = ("input_ids", "attention_mask", "token_type_ids")
        model = openvino.convert_model(Logits(transformers_model(self.source)).eval(), example_input=dict(zip(names, example)))
        if self.precision == "int8":
            import nncf

            nncf.set_log_level(40)
            batches = [dict(zip(names, (t.numpy() for t in padded([ids])))) for ids in self.spec["calibration"]]
            model = nncf.quantize(model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
        rest = "bf16" if "BF16" in _capabilities() else "f32"
        hint = {"fp32": "f32", "bf16": "bf16", "int8": rest}[self.precision]
        options = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": self.streams}
        compiled = openvino.Core().compile_model(model, "CPU", options)
        self.names, self.idle = names, queue.SimpleQueue()
        for _ in range(self.streams):
            self.idle.put(compiled.create_infer_request())

    def run(self, *batch):
        request = self.idle.get()
        results = request.infer(dict(zip(self.names, (t.numpy() for t in batch))), share_inputs=True)
        logits = torch.from_numpy(numpy.array(results[0], dtype=numpy.float32))
        self.idle.put(request)
        return logits

    def run_all(self, batches):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.streams) as pool:
            yield from pool.map(lambda batch: self.run(*batch), batches)


class Ours:
    """The file that export_albert_aie.py wrote, run as run_aie_eval.py runs it."""

    def __init__(self, spec):
        from albert_aie import artifact, backends

        saved = artifact.open_pt(spec["file"])
        self.label, self.manifest, self.config = spec["label"], saved.manifest, saved.manifest["config"]
        self.tokenizer = saved.tokenizer.load()
        name, device, precision = (saved.manifest[key] for key in ("backend", "device", "precision"))
        target = backends.Target(name, device, precision, streams=spec.get("streams", 1))
        self.runner = backends.get(name).load(saved, target)
        self.precision = self.runner.precision

    def sentences(self, texts):
        from albert_aie.evaluate import evaluate

        return evaluate(self.runner, self.manifest, self.tokenizer, texts, warmup=0).logits

    def dense(self, batch_size):
        from albert_aie.batching import Batch

        if batch_size != self.manifest["batch_size"]:
            return math.nan
        ids, mask, types = full_rows(self.config["vocab_size"], batch_size)
        if self.manifest["slots"]:  # as full a row, of five sentences
            mask = (1 + torch.arange(LENGTH) // 26).expand(batch_size, LENGTH).contiguous()
        rows = list(range(batch_size))
        return self.runner.run(Batch(ids, mask, types, rows, rows)).forward

    def flops(self, lengths):
        from albert_aie.batching import pack
        from albert_aie.graph import executed_flops_per_row

        batch_size, length, slots = (self.manifest[key] for key in ("batch_size", "max_seq_length", "slots"))
        rows = len(pack(lengths, length, slots)) if slots else len(lengths)
        return math.ceil(rows / batch_size) * batch_size * executed_flops_per_row(self.config, length, slots)


class Ceiling:
    """What the machine can do: a 2,048-cube product, weights packed beforehand, through OpenVINO's (oneDNN's) kernels in
    fp32 and bf16 and int8. `dense` gives its seconds; no text."""

    def __init__(self, spec):
        import openvino
        from openvino import opset13 as ops

        self.label, self.precision = spec["label"], spec["precision"]
        n = SIZE
        generator = numpy.random.default_rng(0)
        x = ops.parameter([n, n], numpy.float32)
        weight = ops.constant(generator.standard_normal((n, n), numpy.float32) * 0.02)
        left, right = x, weight
        if self.precision == "int8":
            bounds = [ops.constant(numpy.float32(b)) for b in (-4, 4, -4, 4)]
            left = ops.fake_quantize(x, *bounds, 256)
            small = [ops.constant(numpy.float32(b)) for b in (-0.1, 0.1, -0.1, 0.1)]
            right = ops.fake_quantize(weight, *small, 255)
        model = openvino.Model([ops.matmul(left, right, False, True)], [x])
        hint = "bf16" if self.precision == "bf16" else "f32"
        self.request = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint}).create_infer_request()
        self.x = generator.standard_normal((n, n), numpy.float32)

    def dense(self, batch_size):
        start = time.perf_counter()
        self.request.infer([self.x], share_inputs=True)
        return time.perf_counter() - start

    def flops(self, lengths):
        return 2 * SIZE**3


KINDS = {"transformers": Transformers, "onnxruntime": OnnxRuntime, "openvino": OpenVino, "ours": Ours, "ceiling": Ceiling}


def make(spec):
    return KINDS[spec["kind"]](spec)
