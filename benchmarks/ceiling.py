"""The ceiling beside the engines: what this machine's own matrix product reaches."""

import time

import numpy

from benchmarks.readings import SIZE


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
