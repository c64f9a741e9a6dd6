"""What the runners of all engines have in common."""

import numpy

from ..base.errors import UserError
from ..base.shapes import slots_of


class Runner:
    """What the engines' runners have in common: `_run` computes a Batch whose shape was checked."""

    precision_is = "read back"
    streams = threads = 1
    grid = None
    providers = None  # of ONNX Runtime, as its session names them

    def __init__(self, artifact, device):
        self._artifact, self.device = artifact, device

    def prepare(self, shapes):
        """Nothing to do: the file's program is compiled."""

    def run(self, batch):
        check_shape(batch, self._artifact)
        output = self._run(batch)
        check_logits(output.logits, self._artifact, batch.shape)
        return output

    def close(self):
        self._program = None


class RunnerGroup:
    """A runner of files of one model, each for the batches of its own shape."""

    grid = None

    def __init__(self, runners, artifact):
        self._runners = dict(zip((file.own_shape for file in artifact.files), runners))
        for name in ("precision", "precision_is", "device", "threads", "streams", "providers"):
            setattr(self, name, getattr(runners[0], name))

    def prepare(self, shapes):
        for shape in shapes:
            self._runners[shape].prepare([shape])

    def run(self, batch):
        return self._runners[batch.shape].run(batch)

    def close(self):
        for runner in self._runners.values():
            runner.close()


def check_shape(batch, artifact):
    """A trace does not enforce the shape it was made with; we do. Raises ValueError (a bug)."""
    rows, length, slots = shape = batch.shape
    limit = artifact.own_shape
    fits = shape == limit
    if artifact.has_free_sizes:
        fits = 0 < length <= limit.max_seq_length and slots in (0, slots_of(length))
        fits = fits and 0 < rows * length <= limit.batch_size * limit.max_seq_length
    for array in batch.inputs:
        if not fits or array.shape != shape.inputs or array.dtype != numpy.int64:
            raise ValueError(f"batch of {array.shape} {array.dtype} for a file of {limit} int64")


def check_logits(logits, artifact, shape):
    """Raises UserError where the manifest says other logits for a batch of `shape`."""
    wanted = artifact.logits_shape(shape)
    if logits.shape != wanted:
        raise manifest_mismatch(artifact, f"logits of {wanted}, its program gave {logits.shape}")


def manifest_mismatch(artifact, what):
    """UserError for a manifest that is not that of its program."""
    return UserError(f"{artifact.path}: its manifest says {what}; export the file again")
