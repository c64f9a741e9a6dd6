"""One module per engine, one interface. Each module has

TITLE                          of its group of flags in --help
PRECISIONS                     {precision: what the engine calls it}
GRAPH                          the graph that is traced unless --graph says otherwise
LOADS                          the package that `load` imports
OPTIONS                        the settings that it alone understands, each with a flag (Option)
unavailable(device) -> Unavailable or None      why this machine cannot run it there
candidates(device) -> tuple    precisions that may be the default, the first if it is faster than
                               the last by as much as `FASTER` says
check(target)                  raises UserError, before any work, for what it cannot compile
form(precision) -> fused.Form  how our fused graph is written down for it, and whether one program
                               serves every shape
grid(precision)                choose_shapes.Grid, where it does
compile(module, inputs, target, calibration) -> Compiled
                               `module` eager fp32 on the CPU, `inputs` int64 torch [batch, seq] x
                               3 of the largest shape; `calibration()`: Batches of real sentences,
                               for int8 alone
forward(compiled, floating, device, batch)      a function that computes one Batch, in the
                               floating-point precision `floating`: to be timed; where there are
                               candidates
BLOBS                          names of Compiled.blobs from which alone `forward` can be made
load(artifact, target) -> a runner with
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
from typing import NamedTuple, Optional

import numpy

from ..base import choose_shapes, machine
from ..base.errors import UserError
from ..base.shapes import full_batch, slots_of

__all__ = [
    "Compiled",
    "DEVICES",
    "NAMES",
    "ORDER",
    "Output",
    "Target",
    "check_precision",
    "fastest",
    "faster",
    "get",
    "import_engine",
    "load",
    "note_speed",
    "options",
    "pick",
    "settings",
]
# In this order `--backend auto` tries them: a new backend is a file here and a line in this table.
ORDER = (("aie", "npu"), ("torchscript", "cuda"), ("openvino", "cpu"), ("torchscript", "cpu"))
NAMES = tuple(sorted({backend for backend, _ in ORDER}))
DEVICES = tuple(sorted({device for _, device in ORDER}))


class Option(NamedTuple):
    """A setting of an engine and its flag, --name. None is always the engine's own choice."""

    name: str
    help: str
    when: tuple = ("export",)  # "export", "evaluate" or both
    default: object = None
    type: type = int  # bool: a switch
    choices: Optional[tuple] = None
    minimum: Optional[int] = None
    maximum: Optional[int] = None
    devices: Optional[tuple] = None  # where it means something; None: wherever the backend runs


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
    """What a backend's compile gives to artifact.save."""

    program: object  # torch.jit.ScriptModule
    operators: dict  # aten operator -> count, of the traced graph
    versions: dict  # package -> version of what compiled it
    requires: list = []  # modules to import before torch.jit.load
    blobs: dict = {}  # name -> bytes, stored beside the program
    options: dict = {}  # the backend's own settings


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
    candidates = [(b, d) for b, d in ORDER if name in ("auto", b) and device in (None, d)]
    if not candidates:
        runs = ", ".join(f"{b} on {d}" for b, d in ORDER)
        raise UserError(
            f"--backend {name} does not run on --device {device}; what there is: {runs}"
        )
    passed_over = []
    for backend, where in candidates:
        reason = get(backend).unavailable(where)
        if reason is None:
            notes = "; ".join(f"not {b} on {d}: {_brief(r)}" for b, d, r in passed_over)
            why = "asked for" if name != "auto" else notes or "the first in the order of preference"
            return backend, where, why
        passed_over.append((backend, where, reason))
    raise UserError("; ".join(f"--backend {b} --device {d}: {r}" for b, d, r in passed_over))


def _brief(reason):
    """What is there and does not work is told with its fix, what is simply not here without."""
    return str(reason) if reason.broken else reason.reason


def load(artifact, target):
    """A runner of the Artifact and of the files that belong to it."""
    engine = get(target.backend)
    if not artifact.siblings:
        return engine.load(artifact, target)
    return Several([engine.load(each, target) for each in artifact.files], artifact)


class Several:
    """A runner of files of one model, each for the batches of its own shapes."""

    def __init__(self, runners, artifact):
        self._all = runners
        self._by = {s: r for r, file in zip(runners, artifact.files) for s in file.own_shapes}
        self.grid = None
        first = runners[0]
        self.precision, self.precision_is = first.precision, first.precision_is
        self.device, self.threads, self.streams = first.device, first.threads, first.streams

    def prepare(self, shapes):
        for runner in self._all:
            runner.prepare([shape for shape in shapes if self._by[shape] is runner])

    def run(self, batch):
        return self._by[batch.shape].run(batch)

    def close(self):
        for runner in self._all:
            runner.close()


FASTER = 1.1  # times as fast as fp32 a narrower precision has to be, or it is not worth its error


def faster(name, compiled, device, batch, seconds=2.0):
    """How many times as fast as the last of the backend's candidates each of them computes a Batch,
    {precision: ratio} of medians; `compiled` is {precision: Compiled}. They take turns for
    `seconds`, but three at least. None where there is nothing to choose from."""
    engine = get(name)
    names = [one for one in engine.candidates(device) if one in compiled]
    if len(names) < 2:
        return None
    runs = {one: engine.forward(compiled[one], one, device, batch) for one in names}
    medians = machine.take_turns(runs, seconds)
    return {one: medians[names[-1]] / medians[one] for one in names}


def fastest(ratios, precision=None):
    """Which of the precisions that `faster` has timed to take: the first that is FASTER times as
    fast as the last. For what a file in int8 leaves in floating point as fast is enough, for beside
    int8 it adds no error of note."""
    *narrow, wide = ratios
    least = 1.0 if precision == "int8" else FASTER
    return next((name for name in narrow if ratios[name] >= least), wide)


def note_speed(artifact, timed):
    """What the user should know where an Artifact's precision was chosen by its time on another
    processor, "" where it was not. `timed`: time it again here, where the file alone allows it."""
    measured, target = artifact.manifest.get("measured"), artifact.target
    if not measured or target.device != "cpu" or measured["cpu"] == machine.cpu():
        return ""
    engine = get(target.backend)
    own = artifact.manifest["options"].get("floating", target.precision)
    text = f"{artifact.path}: {own} was chosen on {measured['cpu']}, and this is {machine.cpu()}"
    if not timed or not engine.BLOBS:
        return f"{text}, where it was not timed; export the file again here"
    compiled = Compiled(None, {}, {}, blobs={name: artifact.blob(name) for name in engine.BLOBS})
    shape = choose_shapes.timed(artifact.shape, artifact.has_free_sizes)
    compiled = dict.fromkeys(engine.candidates(target.device), compiled)
    ratios = faster(target.backend, compiled, target.device, full_batch(shape))
    if not ratios:
        return f"{text}, which has no choice but fp32"
    best = fastest(ratios, target.precision)
    if ratios[best] <= ratios[own]:
        return f"{text}, where an export would choose it too"
    times = ratios[best] / ratios[own]
    return f"{text}, where {best} is {times:.2f} times as fast; export the file again here"


def options(when):
    """{name: [(backend, Option)]} of every setting of a script, "export" or "evaluate"."""
    found = {}
    for backend in NAMES:
        for option in get(backend).OPTIONS:
            if when in option.when:
                found.setdefault(option.name, []).append((backend, option))
    return found


def settings(target, when):
    """{name: value} of all that the target's backend reads at "export" or "evaluate": what the
    target says, else the default. Raises UserError for an option that means nothing there, or a
    value out of its range."""
    known, later = {}, set()  # later: what the other script reads
    for option in get(target.backend).OPTIONS:
        if when not in option.when:
            later.add(option.name)
        elif target.device in (option.devices or (target.device,)):
            known[option.name] = option
    for name, value in target.options.items():
        if value is None or value is False or name in later:
            continue
        option = known.get(name)
        if option is None:
            raise UserError(
                f"--{name}: means nothing to {target.backend} on {target.device}; leave it out"
            )
        low, high = option.minimum, option.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            limits = f"{low} or more" if high is None else f"{low} to {high}"
            raise UserError(
                f"--{name} {value}: must be {limits} for {target.backend} on {target.device}"
            )
    given = {name: value for name, value in target.options.items() if value is not None}
    return {name: given.get(name, option.default) for name, option in known.items()}


def check_precision(target):
    """Raises UserError for a precision that the target's backend does not have."""
    known = get(target.backend).PRECISIONS
    if target.precision not in known:
        raise UserError(
            f"--precision {target.precision} on --backend {target.backend}: take one of "
            f"{', '.join(known)}"
        )


def check_shape(batch, artifact):
    """A trace does not enforce the shape it was made with; we do. Raises ValueError (a bug)."""
    rows, length, slots = shape = batch.shape
    if artifact.has_free_sizes:
        limit = artifact.shape
        known = 0 < length <= limit.max_seq_length and slots in (0, slots_of(length))
        known = known and 0 < rows * length <= limit.batch_size * limit.max_seq_length
    else:
        known = shape in artifact.own_shapes
    for array in batch.inputs:
        if not known or array.shape != shape.inputs or array.dtype != numpy.int64:
            raise ValueError(
                f"batch of {array.shape} {array.dtype} for a file of {artifact.own_shapes} int64"
            )


def check_logits(logits, artifact, shape):
    """Raises UserError where the program answers a batch of `shape` otherwise than its manifest
    says."""
    wanted = artifact.logits_shape(shape)
    if logits.shape != wanted:
        raise contradiction(artifact, f"logits of {wanted}, its program gave {logits.shape}")


def check_read_back(precision, artifact):
    """Raises UserError where the engine computes in another precision than the manifest says."""
    if precision != artifact.manifest["precision"]:
        raise contradiction(
            artifact, f"{artifact.manifest['precision']}, but the engine computes in {precision}"
        )


def contradiction(artifact, what):
    """UserError for a manifest that is not that of its program."""
    return UserError(f"{artifact.path}: its manifest says {what}; export the file again")
