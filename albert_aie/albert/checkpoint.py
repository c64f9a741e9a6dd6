"""A fine-tuned ALBERT from an albert_pytorch folder, a Hugging Face folder or a hub id -> one
Checkpoint. Its weights always have Hugging Face's names and bias convention, in fp32."""

from dataclasses import dataclass, replace

import torch

from ..base.errors import UserError, some
from ..base.files import sha256
from ..text import find_tokenizer
from ..text.tokenizer_file import TokenizerFile
from . import folders, weights
from .config import Config, read_config
from .layouts import HF, UNSHIFTED, shifted, to_hf

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Checkpoint:
    """Config, weights {name: tensor} and the tokenizer that they were trained with. `layout` is a
    Layout's name or UNSHIFTED, `origin` what the user named, `sha256` the weight file's (of shards:
    of the index and the shards one after another)."""

    config: Config
    tensors: dict
    tokenizer: TokenizerFile
    layout: str
    origin: str
    sha256: str

    def named(self, task, label_map=None):
        """The same checkpoint with names for all its classes. Raises UserError for one that was
        trained for another kind of task."""
        own_names, count = self.config.label_names, self.config.num_labels
        names = task.model_classes(own_names, count, label_map, self.origin, self.layout != HF)
        if task.is_pair and self.config.type_vocab_size < 2:
            raise UserError(
                f"{self.origin}: type_vocab_size is {self.config.type_vocab_size}, so it knows no "
                f"second text, and {task.name} has pairs; name the task that it was fine-tuned "
                "for by --task_name"
            )
        return replace(self, config=replace(self.config, label_names=names))


def load(folder, tokenizer_file=None, upstream_dir=None, shift=True, kind=None):
    """Checkpoint from a folder in either layout, or from a Hugging Face hub id such as "org/name".

    `tokenizer_file`, `upstream_dir` (an albert_pytorch checkout) and `kind` say which tokenizer it
    has, see find_tokenizer.find. `shift` False: albert_pytorch from before 2020-01-01, whose
    classifier adds no 0.1. Raises UserError for what is missing, unexpected, misshapen or
    dangerous."""
    origin, folder = str(folder), folders.find(folder)
    config = read_config(folder / "config.json")
    path, layout, tensors = _weights(folder, config)
    named = tokenizer_file, upstream_dir, kind
    tokenizer = find_tokenizer.find(folder, config.vocab_size, layout.name == HF, *named)
    if shift:
        name, tensors = layout.name, shifted(tensors, layout.shift)
    elif layout.shift:
        name = UNSHIFTED
    else:
        raise UserError(
            f"--no_shift: {path} has {layout.name}'s layout, which never adds 0.1; leave it out"
        )
    return Checkpoint(config, tensors, tokenizer, name, origin, sha256(*weights.files(path)))


def _weights(folder, config):
    """(path, Layout, fp32 tensors with Hugging Face's names) of a folder's weights. Several files
    must hold the same."""
    paths = weights.find(folder)
    if not paths:
        folders.check_whole(folder)
        raise UserError(
            f"{folder}: holds neither {' nor '.join(weights.WHOLE)}, whole or in shards; give the "
            "folder that fine-tuning wrote"
        )
    (path, layout, tensors), *others = [(path, *_read(path, config)) for path in paths]
    for other, its_layout, theirs in others:
        wrong = [name for name in tensors if not torch.equal(tensors[name], theirs[name])]
        if wrong or its_layout != layout:
            raise UserError(
                f"{folder}: {path.name} and {other.name} hold different weights "
                f"({some(wrong or (layout.name, its_layout.name))}); move away the one that is not "
                "meant"
            )
    return path, layout, tensors


def _read(path, config):
    """(Layout, fp32 tensors) of a weight file that fits the config."""
    layout, tensors = to_hf(weights.read(path), path)
    _check(tensors, config, path)
    tensors = {name: tensors[name].to(torch.float32) for name in config.shapes()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{path}: {name} holds NaN or infinity, as training diverged; export another one"
            )
    return layout, tensors


def _check(tensors, config, path):
    shapes = config.shapes()
    missing = [name for name in shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in shapes]
    other_head = [name for name in unexpected if name.startswith("classifier.")]
    if other_head:
        raise UserError(
            f"{path}: its classifier is no single linear layer ({some(other_head)}); only that of "
            "AlbertForSequenceClassification can be run"
        )
    if any(name.startswith("classifier.") for name in missing):
        raise UserError(
            f"{path}: missing {some(missing)}: a model without a classifier; fine-tune it first"
        )
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, config.json says {shape}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    wrong += [f"{name} is {t.dtype}" for name, t in tensors.items() if t.dtype not in _DTYPES]
    faults = {"missing": missing, "unexpected": unexpected, "misshapen": wrong}
    parts = [f"{kind} {some(names)}" for kind, names in faults.items() if names]
    if parts:
        raise UserError(
            f"{path}: does not fit its config.json: {'; '.join(parts)}; give the config.json and "
            "the weights of one training run"
        )
