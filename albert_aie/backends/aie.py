"""Ascend310P3 and its sisters through torch_aie, or through mindietorch, its renamed successor.
Nothing here has run on a card yet; the tests hold it to a strict double.

Where samples of torch_aie 6.3.rc2 and mindietorch's documentation differ we use what both take:
keywords only for compile (position 2 is `inputs` in one, `ir` in the other), and dtype and format
for every Input (the default format differs)."""

import atexit
import importlib
import importlib.util
import time

from .. import backends
from ..base.errors import WHY, UserError, first_line, last_line, refusing
from .runner import Runner, manifest_mismatch

PACKAGES = ("torch_aie", "mindietorch")
TITLE = "Ascend (--backend aie)"
PRECISIONS = {"fp16": "FP16", "fp32": "FP32"}  # names of the package's PrecisionPolicy
LOADS = "torch"
GRAPH = "upstream"  # albert_pytorch's model is what is known to compile on a 310P3
CALIBRATED = ()
# A batch of int64 is narrowed to input_dtype; require_full_compilation fails rather than leave an
# operator to the host.
COMPILE = {
    "optimization_level": {"0": 0, "1": 1, "2": 2},
    "input_dtype": {"int32": "int32", "int64": "int64"},
    "require_full_compilation": {"false": False, "true": True},
}
OPTIONS = (
    backends.Option("device_id", "number of the card", ("export", "evaluate"), 0, minimum=0),
    backends.SOC,
    backends.COMPILER,
    backends.ONE_STREAM,
)
LOGS = (
    "set TORCH_AIE_LOG_LEVEL=0 and TORCH_AIE_LOG_PRINT_TO_STDOUT=1 (files: "
    "~/ascend/log/torch_aie_log/), for CANN ASCEND_GLOBAL_LOG_LEVEL=0 and "
    "ASCEND_SLOG_PRINT_TO_STDOUT=1, and for the engine below [log] in "
    "/usr/local/Ascend/aie/latest/conf/aie.conf, then run again"
)
_in_use = []  # the package, once a card has been taken into use


def unavailable(device):
    return _package()[1]


def candidates(device):
    return ("fp16",)


def check(target):
    """Nothing more: the compiler says what it cannot take."""


def form(precision):
    from ..albert.fused import Form

    return Form(expand_mask=True)


def compile(module, inputs, target, calibration=None):
    import torch

    from ..albert import graph

    chosen = backends.settings(target, "export")
    aie = _use(chosen["device_id"])
    compiler, chip = chosen["compile"], chosen["soc_version"]
    dtype = getattr(torch, compiler["input_dtype"])
    program = graph.trace(module, tuple(tensor.to(dtype) for tensor in inputs))
    operators = graph.operators(program)
    options = {"soc_version": chip, "optimization_level": compiler["optimization_level"]}
    if compiler["require_full_compilation"]:
        options["require_full_compilation"] = True
    if dtype == torch.int64:
        options["truncate_long_and_double"] = True
    known = getattr(getattr(aie, "_compile_spec", None), "SUPPORT_SOC_NAME", None) or ()
    chips = f" (known: {', '.join(sorted(map(str, known)))})" if known else ""
    message = (
        f"{aie.__name__}.compile failed for {chip}: {WHY}; check --soc_version against npu-smi "
        f"info{chips}, and that the compiler takes the graph's operators "
        f"({', '.join(operators)}); for the engine's own log {LOGS}"
    )
    nd = aie.TensorFormat.ND
    with refusing(message):  # of any type: the documentation says only that it raises
        compiled = aie.compile(
            program,
            inputs=[aie.Input(tuple(t.shape), dtype=dtype, format=nd) for t in inputs],
            precision_policy=getattr(aie.PrecisionPolicy, PRECISIONS[target.precision]),
            **options,
        )
    return backends.Compiled(
        compiled,
        operators,
        {aie.__name__: getattr(aie, "__version__", "unknown")},
        requires=[aie.__name__],
        options={**options, "input_dtype": compiler["input_dtype"]},
    )


def load(artifact, target):
    device_id = backends.settings(target, "evaluate")["device_id"]
    aie, wanted = _use(device_id), artifact.manifest["requires"][:1]
    if wanted != [aie.__name__]:
        raise UserError(
            f"{artifact.path}: was compiled by {' '.join(wanted)}, but {aie.__name__} is what is "
            "installed here; export the file again"
        )
    return AieRunner(artifact, aie, device_id)


class AieRunner(Runner):
    # the engine cannot be asked what it computes in: it is the policy of the file
    precision_is = "as compiled"

    def __init__(self, artifact, aie, device_id):
        import torch

        super().__init__(artifact, f"npu:{device_id}")
        self._torch, self._aie = torch, aie
        dtype = artifact.manifest["options"].get("input_dtype")
        if dtype not in COMPILE["input_dtype"]:
            raise manifest_mismatch(artifact, f"inputs of {dtype}, which no program takes")
        self._dtype = getattr(torch, dtype)
        self._program = artifact.program(None).eval()
        self._stream = self._try(lambda: aie.npu.Stream(self.device))
        self.precision = artifact.manifest["precision"]

    def _run(self, batch):
        return self._try(lambda: self._compute(batch))

    def _compute(self, batch):
        """One stream, synchronised before each reading of the clock and of the result."""
        tensors = [self._torch.from_numpy(array) for array in batch.inputs]
        start = time.perf_counter()
        with self._torch.no_grad(), self._aie.npu.stream(self._stream):
            inputs = [tensor.to(self._dtype).to(self.device) for tensor in tensors]
            self._stream.synchronize()
            copied = time.perf_counter()
            logits = self._program(*inputs)
            self._stream.synchronize()
            done = time.perf_counter()
            logits = logits.to("cpu").float().numpy()
        copy_out = time.perf_counter() - done
        return backends.Output(logits, copied - start, done - copied, copy_out, copied)

    def _try(self, step):
        chip = self._artifact.manifest["options"].get("soc_version")
        message = (
            f"{self._artifact.path}: {self._aie.__name__} cannot run it ({WHY}); it was compiled "
            f"for {chip} with the versions in its manifest: export it again on this machine, and "
            f"for the engine's own log {LOGS}"
        )
        with refusing(message, reason=last_line):  # as in compile
            return step()


def _use(device_id):
    """The package with the card set; finalize() is called once, also after an error."""
    aie, reason = _package()
    if reason:
        raise UserError(str(reason))
    what = f"--device_id {device_id}: {aie.__name__} cannot take that card ({WHY})"
    with refusing(f"{what}; npu-smi info lists the cards, counted from 0"):
        aie.set_device(device_id)
    if aie not in _in_use:  # registered once, before what closes runners: it is called after that
        _in_use.append(aie)
        atexit.register(aie.finalize)
    return aie


def _package():
    """(torch_aie, else mindietorch; why it is not usable): one of the two is None. torch is
    imported before it, as its documentation asks."""
    import torch

    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            continue
        if name == "torch_aie" and importlib.util.find_spec("torch_npu") is not None:
            reason = "torch_npu is installed beside torch_aie, and the two conflict"
            return None, backends.Unavailable(reason, "pip uninstall torch_npu", broken=True)
        try:
            return importlib.import_module(name), None
        # ImportError and OSError mostly, but a wheel's start may raise any
        except Exception as error:
            reason = f"{name} is installed but cannot be imported ({first_line(error)})"
            fix = next(fix for sign, fix in FIXES.items() if sign in str(error))
            fix = fix.format(torch=torch.__version__, wheel=WHEELS[name])
            return None, backends.Unavailable(reason, fix, broken=True)
    return None, backends.Unavailable(
        "neither torch_aie nor mindietorch is installed",
        "install the wheel from Ascend-cann-torch-aie-*.tar.gz (pip install torch_aie-*.whl; "
        "docs/ascend.md)",
    )


WHEELS = {
    "torch_aie": "torch_aie 6.3.rc2 wants torch 2.0.1 on Python 3.9",
    "mindietorch": "mindietorch wants torch 2.1 or 2.6",
}
FIXES = {  # what the reason of a failed import holds, the first that fits
    "static TLS": "preload the library that it names: export LD_PRELOAD=<its path>",
    # GLIBCXX_ and GLIBC_ are the system's, not torch's
    "GLIBC": "the wheel was built for a newer Linux than this: use a newer OS image (mindietorch "
    "1.0 needs glibc 2.34)",
    "undefined symbol": "the wheel was built for another torch than {torch}: {wheel}",
    "": "source the CANN environment first: source /usr/local/Ascend/ascend-toolkit/set_env.sh and "
    "source /usr/local/Ascend/aie/set_env.sh",
}
