"""One module per engine, one interface. Each module has

TITLE, OPTIONS                 its group of flags in --help, and its settings with a flag (Option)
PRECISIONS                     {precision: what the engine calls it}
CALIBRATED                     those for which `compile` takes real sentences
GRAPH                          the graph that is traced unless --graph says otherwise
LOADS                          the package that `load` imports
unavailable(device) -> Unavailable or None      why this machine cannot run it there
candidates(device) -> tuple    precisions that may be the default, the first if it is faster than
                               the last by as much as `FASTER` says
check(target)                  raises UserError for what it cannot compile
form(precision) -> fused.Form  how our fused graph is written down for it, and whether one program
                               serves every shape: where it does, grid(precision) is its Grid
compile(module, inputs, target, calibration) -> Compiled
                               `module` eager fp32 on the CPU, `inputs` int64 torch [batch, seq] x
                               3 of the largest shape; `calibration()`: Batches of real sentences,
                               for CALIBRATED. Raises Unfit for what must not be used
forward(compiled, floating, device, batch)      where there are candidates: a function to be timed
                               that computes one Batch in the precision `floating`, from BLOBS of
                               Compiled.blobs where it has any, else from the program
load(artifact, target) -> a Runner, with
    prepare(shapes)            makes ready for batches of all of these Shapes; one that was not
                               named is made ready for when it comes
    run(batch) -> Output       one Batch of a compiled shape; from `streams` threads at a time
    precision, device, threads, streams         read back from the engine
    precision_is               "read back", or "as compiled" where the engine cannot be asked
    grid                       choose_shapes.Grid, or None where the file's shapes are compiled
    close()
"""

import contextlib
import importlib
import math
from typing import NamedTuple, Optional

import numpy

from ..base import machine
from ..base.errors import UserError
from .runner import RunnerGroup

__all__ = [
    "Compiled",
    "DEVICES",
    "NAMES",
    "ORDER",
    "Output",
    "Target",
    "Unfit",
    "check",
    "get",
    "import_engine",
    "load",
    "onnx_gears",
    "options",
    "pick",
    "runner",
    "settings",
    "speed",
]
# In this order `--backend auto` tries them: a new backend is a file here and a line in this table.
ORDER = (
    *(("aie", "npu"), ("torchscript", "cuda"), ("openvino", "cpu"), ("torchscript", "cpu")),
    *(("onnx", "cpu"), ("onnx", "cuda"), ("onnx", "npu")),
)
ASKED_FOR = ("onnx",)  # by name alone: `auto` passes these over
NAMES = tuple(sorted({backend for backend, _ in ORDER}))
DEVICES = tuple(sorted({device for _, device in ORDER}))


class Option(NamedTuple):
    """A setting of an engine and its flag, --name. None is always the engine's own choice."""

    name: str
    help: str
    when: tuple = ("export",)  # "export", "evaluate" or both
    default: object = None
    type: type = int
    minimum: int = 0
    maximum: float = math.inf
    devices: Optional[tuple] = None  # where it means something; None: wherever the backend runs


# Those that several backends have.
_MOST = {"minimum": 1, "maximum": machine.THREADS}
THREADS = Option("threads", "threads, on a CPU", ("evaluate",), devices=("cpu",), **_MOST)
ONE_STREAM = Option("streams", "batches computed at a time", ("evaluate",), minimum=1, maximum=1)
_SETTINGS = "NAME=VALUE,...: settings of the compiler, see docs/backends.md"
COMPILER = Option("compile", _SETTINGS, type=str)
SOC = Option("soc_version", "chip to compile for", default="Ascend310P3", type=str)


class Target(NamedTuple):
    """What to compile for, or to run on; `options` are {name of an Option: value}."""

    backend: str
    device: str
    precision: str
    options: dict = {}


class Unavailable(NamedTuple):
    """Why a backend cannot run here, and how to change that; `broken`: it is there, but fails."""

    reason: str
    fix: str
    broken: bool = False

    def __str__(self):
        return f"{self.reason}: {self.fix}"


class Compiled(NamedTuple):
    """What a backend's compile gives to pt_file.save."""

    program: object  # torch.jit.ScriptModule
    operators: dict  # aten operator -> count, of the traced graph
    versions: dict  # package -> version of what compiled it
    requires: list = []  # modules to import before torch.jit.load
    blobs: dict = {}  # name -> bytes, stored beside the program
    options: dict = {}  # the backend's own settings
    files: dict = {}  # suffix -> bytes, written beside the .pt
    lines: tuple = ()  # (name, text) to print


class Unfit(Exception):
    """What was compiled would give wrong numbers: no file is written, exit code 1."""


class Output(NamedTuple):
    """float32 logits, and the seconds that each stage took; forward is synchronised before it is
    read. `started`: the reading of time.perf_counter() when forward began."""

    logits: numpy.ndarray
    copy_in: float
    forward: float
    copy_out: float
    started: float


def get(name):
    return importlib.import_module(f"{__name__}.{name}")


def import_engine(name):
    """Imports what the backend `name` loads a file with. What fails here fails again, and is told,
    where it is needed. Not for a thread beside others that import: Python ends with a deadlock of
    its import locks where two of them come to modules that import each other."""
    if name in NAMES:
        with contextlib.suppress(Exception):
            importlib.import_module(get(name).LOADS)


def pick(name="auto", device=None):
    """(backend name, device, why) for --backend and --device; "auto" is the first of ORDER that
    this machine can run. Raises UserError, with how to fix it, if none can."""
    named = set(NAMES) - set(ASKED_FOR) if name == "auto" else {name}
    candidates = [(b, d) for b, d in ORDER if b in named and device in (None, d)]
    if not candidates:
        runs = ", ".join(f"{b} on {d}" for b, d in ORDER)
        raise UserError(
            f"--backend {name} does not run on --device {device}; what there is: {runs}"
        )
    notes, refusals = [], []
    for backend, where in candidates:
        reason = get(backend).unavailable(where)
        if reason is None:
            why = "; ".join(notes) or "the first in the order of preference"
            return backend, where, why if name == "auto" else "asked for"
        # what is there and does not work is told with its fix, what is not here without
        notes.append(f"not {backend} on {where}: {reason if reason.broken else reason.reason}")
        refusals.append(f"--backend {backend} --device {where}: {reason}")
    raise UserError("; ".join(refusals))


def load(artifact, target):
    """A runner of the Artifact and of the files that belong to it."""
    runners = [get(target.backend).load(file, target) for file in artifact.files]
    return RunnerGroup(runners, artifact) if artifact.siblings else runners[0]


def options(when):
    """{name: [(backend, Option)]} of every setting of a script, "export" or "evaluate"."""
    declared = {}
    for backend in NAMES:
        for option in get(backend).OPTIONS:
            if when in option.when:
                declared.setdefault(option.name, []).append((backend, option))
    return declared


def settings(target, when):
    """{name: value} of all that the target's backend reads at "export" or "evaluate", by default
    too; what --compile says is a dictionary. Raises UserError for an option that means nothing
    there, or a value out of its range."""
    engine, place = get(target.backend), f"{target.backend} on {target.device}"
    later = {option.name for option in engine.OPTIONS if when not in option.when}
    options = {
        option.name: option
        for option in engine.OPTIONS
        if option.name not in later and target.device in (option.devices or (target.device,))
    }
    chosen = {name: option.default for name, option in options.items()}
    for name, value in target.options.items():
        if value is None or name in later:
            continue
        if name not in options:
            raise UserError(f"--{name}: means nothing to {place}; leave it out")
        kind, low, high = options[name].type, options[name].minimum, options[name].maximum
        if not isinstance(value, kind):
            wanted = "a whole number" if kind is int else "a text"
            raise UserError(f"--{name} {value!r}: must be {wanted}")
        if kind is int and not low <= value <= high:
            limits = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise UserError(f"--{name} {value}: must be {limits} for {place}")
        chosen[name] = value
    if "compile" in chosen:
        chosen["compile"] = _compile_settings(chosen["compile"] or "", engine.COMPILE)
    return chosen


def _compile_settings(text, choices_of):
    """{name: value} of an engine's COMPILE, {name: {as the flag has it: value}}: what --compile
    says, else the first of each."""
    chosen = {name: next(iter(values.values())) for name, values in choices_of.items()}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if value not in choices_of.get(name, ()):
            choices = ", ".join(f"{name}={'|'.join(values)}" for name, values in choices_of.items())
            raise UserError(f"--compile {part}: is none of {choices}")
        chosen[name] = choices_of[name][value]
    return chosen


def check(target):
    """Raises UserError, before any work, for what the target's backend cannot compile."""
    settings(target, "export")
    engine = get(target.backend)
    if target.precision not in engine.PRECISIONS:
        raise UserError(
            f"--precision {target.precision} on --backend {target.backend}: take one of "
            f"{', '.join(engine.PRECISIONS)}"
        )
    engine.check(target)
