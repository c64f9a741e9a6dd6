"""Which precision is fast enough on this machine to be the default."""

from ..base import choose_shapes, machine
from ..base.shapes import full_batch
from . import Compiled, get

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
    file = Compiled(None, {}, {}, blobs={name: artifact.blob(name) for name in engine.BLOBS})
    compiled = dict.fromkeys(engine.candidates(target.device), file)
    shape = choose_shapes.timed(artifact.shape, artifact.has_free_sizes)
    ratios = faster(target.backend, compiled, target.device, full_batch(shape))
    if not ratios:
        return f"{text}, which has no choice but fp32"
    best = fastest(ratios, target.precision)
    if ratios[best] <= ratios[own]:
        return f"{text}, where an export would choose it too"
    times = ratios[best] / ratios[own]
    return f"{text}, where {best} is {times:.2f} times as fast; export the file again here"
