"""Our own files as an engine (see engines.py), and the ceiling that all engines are held against."""

import math
import time

import numpy
from engines import full_rows
from plan import LENGTH
from readings import SIZE

from albert_aie import artifact, backends, text
from albert_aie.batching import Batch, pack
from albert_aie.evaluate import evaluate
from albert_aie.flops import executed_flops_per_row


class Ours:
    """The file that export_albert_aie.py wrote, run as run_aie_eval.py runs it."""

    def __init__(self, spec):
        self.saved = artifact.open_pt(spec.made_from["file"])
        self.shape, self.config = self.saved.shape, self.saved.manifest["config"]
        self.tokenizer = text.Tokenizer(self.saved.tokenizer)
        name = self.saved.manifest["backend"]
        options = {"streams": spec.streams} if name == "openvino" else {}
        target = backends.Target(name, spec.device, spec.precision, options)
        self.runner = backends.get(name).load(self.saved, target)

    def sentences(self, texts):
        return evaluate(self.runner, self.saved, self.tokenizer, texts, warmup=0).logits

    def dense(self, batch_size):
        """Of the one shape that the file has: batch_size rows of LENGTH."""
        ids, mask, types = full_rows(self.config["vocab_size"], batch_size)
        if self.shape.slots:  # as full a row, of five sentences
            mask = numpy.tile(1 + numpy.arange(LENGTH) // 26, (batch_size, 1))
        rows = list(range(batch_size))
        return self.runner.run(Batch(ids, mask, types, rows, rows)).forward

    def flops(self, lengths):
        size, length, slots = self.shape
        rows = len(pack(lengths, length, slots)) if slots else len(lengths)
        return math.ceil(rows / size) * size * executed_flops_per_row(self.config, self.shape)


class Ceiling:
    """What the machine can do: a square product, weights packed beforehand, through OpenVINO's
    (oneDNN's) kernels in fp32, bf16 and int8. `dense` gives its seconds; no text."""

    def __init__(self, spec):
        import openvino
        from openvino import opset13 as ops

        def bounds(most):
            return [ops.constant(numpy.float32(bound)) for bound in (-most, most, -most, most)]

        generator = numpy.random.default_rng(0)
        left = x = ops.parameter([SIZE, SIZE], numpy.float32)
        right = ops.constant(generator.standard_normal((SIZE, SIZE), numpy.float32) * 0.02)
        if spec.precision == "int8":
            left = ops.fake_quantize(x, *bounds(4), 256)
            right = ops.fake_quantize(right, *bounds(0.1), 255)
        model = openvino.Model([ops.matmul(left, right, False, True)], [x])
        options = {"INFERENCE_PRECISION_HINT": "bf16" if spec.precision == "bf16" else "f32"}
        compiled = openvino.Core().compile_model(model, "CPU", options)
        self.request = compiled.create_infer_request()
        self.x = generator.standard_normal((SIZE, SIZE), numpy.float32)

    def dense(self, batch_size):
        start = time.perf_counter()
        self.request.infer([self.x], share_inputs=True)
        return time.perf_counter() - start

    def flops(self, lengths):
        return 2 * SIZE**3
