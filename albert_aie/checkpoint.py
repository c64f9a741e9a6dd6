"""A fine-tuned ALBERT from an albert_pytorch folder, a Hugging Face folder or a hub id -> one
Checkpoint. Its weights always have Hugging Face's names and bias convention, in fp32."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace

import torch

from . import UserError, folders, some, tasks, upstream, vocabulary, weights
from .config import Config, read_config
from .files import sha256
from .text import TokenizerFile

# Random weights only: sharp attention and a quiet FFN let a sentence's words reach [CLS].
_DRAW_SCALES = (("query", 2), ("key", 2), ("ffn_output", 0.5))
# What a checkpoint may carry beside the classifier: old position buffers and pre-training heads.
_IGNORED = re.compile(
    r"(albert|bert)\.embeddings\.(position_ids|token_type_ids)$"
    r"|predictions\.|sop_classifier\.|cls\."
)
_WRAPPERS = re.compile(r"^(module\.|model\.)+")  # of data parallelism, and of a model in a model
_COMPILED = "_orig_mod."  # torch.compile's, wherever it was applied
_TENSORFLOW = {"gamma": "weight", "beta": "bias"}  # of a LayerNorm converted from TensorFlow
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Hugging Face's layout, albert_pytorch's, and what albert_pytorch wrote before its classifier added
# 0.1.
HF, UPSTREAM, UNSHIFTED = "huggingface", "albert_pytorch", "albert_pytorch without shift"


@dataclass(frozen=True)
class Checkpoint:
    """Config, weights {name: tensor} and where they came from.

    `tokenizer` is the one it was trained with; `layout` is HF, UPSTREAM, UNSHIFTED or "random";
    `origin` is what the user named; `sha256` is the weight file's (of shards: of the index and the
    shards one after another; random: of the seed and the config)."""

    config: Config
    tensors: dict
    tokenizer: TokenizerFile
    layout: str
    origin: str
    sha256: str

    @property
    def random(self):
        return self.layout == "random"

    def named(self, task, label_map=None):
        """The same checkpoint whose config has names for all its classes. Raises UserError for one
        that was trained for another kind of task."""
        known, count = self.config.label_names, self.config.num_labels
        names = task.model_classes(known, count, label_map, self.origin, self.layout != HF)
        return replace(self, config=replace(self.config, label_names=names))


def load(folder, tokenizer_file=None, upstream_dir=None, shift=True, kind=None):
    """Checkpoint from a folder in either layout, or from a Hugging Face hub id such as "org/name".

    `tokenizer_file`, `upstream_dir` (an albert_pytorch checkout) and `kind` say which tokenizer it
    has, see vocabulary.find. `shift` False: albert_pytorch from before 2020-01-01, whose classifier
    adds no 0.1. Raises UserError naming the file and what is missing, unexpected, misshapen or
    dangerous in it.
    """
    origin, folder = str(folder), folders.find(folder)
    config = read_config(folder / "config.json")
    path, layout, tensors = _weights(folder, config)
    named = tokenizer_file, upstream_dir, kind
    tokenizer = vocabulary.find(folder, config.vocab_size, layout == HF, *named)
    if layout == UPSTREAM and shift:
        tensors = upstream.fold_shift(tensors)
    elif layout == UPSTREAM:
        layout = UNSHIFTED
    elif not shift:
        raise UserError(
            f"--no_shift: {path} has {layout}'s layout, which never adds 0.1; leave the flag out"
        )
    return Checkpoint(config, tensors, tokenizer, layout, origin, sha256(*weights.files(path)))


def draw(folder, tokenizer_file=None, upstream_dir=None, kind=None, seed=0):
    """Checkpoint with the architecture of folder/config.json and weights drawn from `seed`: for
    speed, not accuracy.

    The scales keep twelve passes through one layer alive (logits of different sentences differ),
    and every bias and LayerNorm is off its usual 0 and 1, so that a comparison on these weights
    notices a swapped or lost tensor."""
    folder = folders.find(folder)
    config = read_config(folder / "config.json")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in config.shapes().items():
        noise = torch.randn(shape, generator=generator)
        if "LayerNorm.weight" in name or "layer_norm.weight" in name:
            tensors[name] = 1 + 0.1 * noise
        elif name.endswith("bias"):
            tensors[name] = 0.05 * noise
        elif "embeddings" in name:
            tensors[name] = 0.5 * noise
        else:
            tensors[name] = noise / shape[-1] ** 0.5
            tensors[name] *= next((scale for part, scale in _DRAW_SCALES if part in name), 1.0)
    tensors["classifier.weight"] *= 2
    named = tokenizer_file, upstream_dir, kind
    tokenizer = vocabulary.find(folder, config.vocab_size, True, *named)
    # With the names that files of format version 1 were made with: the digest stays theirs.
    positions = tuple(map(str, range(config.num_labels)))
    names = config.label_names or (tasks.SST2.classes if len(positions) == 2 else positions)
    known = {**asdict(config), "label_names": names}
    recipe = f"seed {seed} {json.dumps(known, sort_keys=True)}"
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    return Checkpoint(config, tensors, tokenizer, "random", f"random weights, seed {seed}", digest)


def _weights(folder, config):
    """(path, layout, fp32 tensors with Hugging Face's names) of a folder's weights. Of several
    files any will do, so long as all hold the same."""
    paths = weights.find(folder)
    if not paths:
        folders.check_whole(folder)
        raise UserError(
            f"{folder}: neither model.safetensors nor pytorch_model.bin is here, whole or in "
            "shards; give the folder that fine-tuning wrote"
        )
    (path, layout, tensors), *others = [(path, *_read(path, config)) for path in paths]
    for other, its_layout, theirs in others:
        wrong = [name for name in tensors if not torch.equal(tensors[name], theirs[name])]
        if wrong or its_layout != layout:
            raise UserError(
                f"{folder}: {path.name} and {other.name} hold different weights "
                f"({some(wrong or (layout, its_layout))}); move away the one that is not meant"
            )
    return path, layout, tensors


def _read(path, config):
    """(layout, fp32 tensors) of a weight file that fits the config."""
    layout, tensors = _to_hf(_unwrapped(weights.read(path), path), path)
    _check(tensors, config, path)
    tensors = {name: tensors[name].to(torch.float32) for name in config.shapes()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{path}: {name} holds NaN or infinity; the training run diverged, export another "
                "checkpoint"
            )
    return layout, tensors


def _unwrapped(raw, path):
    """The same tensors under the names of the model itself, without those of what held it while it
    was trained; those of a LayerNorm as torch calls them."""
    bare = {}
    for name, tensor in raw.items():
        parent, dot, last = name.rpartition(".")
        name = parent + dot + _TENSORFLOW.get(last, last)
        short = _WRAPPERS.sub("", name.replace(_COMPILED, ""))
        if short in bare:
            raise UserError(f"{path}: holds {short} more than once; save the weights of one model")
        bare[short] = tensor
    return bare


def _to_hf(raw, path):
    """(layout, tensors under Hugging Face's names) of a raw state dict, the classifier's bias as it
    is; buffers and pre-training heads are dropped."""
    raw = {name: tensor for name, tensor in raw.items() if not _IGNORED.match(name)}
    if any(name.startswith("albert.") for name in raw):
        return HF, raw
    if upstream.is_upstream(raw):
        return UPSTREAM, upstream.rename(raw)
    raise UserError(
        f"{path}: keys of another model ({some(raw)}); expected albert_pytorch's bert.… with "
        "encoder.transformer.group, or Hugging Face's albert.…"
    )


def _check(tensors, config, path):
    shapes = config.shapes()
    missing = [name for name in shapes if name not in tensors]
    other_head = [name for name in tensors if re.match(r"classifier\.(?!weight$|bias$)", name)]
    if other_head:
        raise UserError(
            f"{path}: its classifier is no single linear layer ({some(other_head)}); only "
            "classifier.weight and classifier.bias can be run, as AlbertForSequenceClassification "
            "has them"
        )
    if any(name.startswith("classifier.") for name in missing):
        raise UserError(
            f"{path}: missing {some(missing)}: a pre-trained model without a classifier; "
            "fine-tune it on SST-2 first"
        )
    unexpected = [name for name in tensors if name not in shapes]
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, config.json says {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    wrong += [
        f"{name} is {tensors[name].dtype}"
        for name in shapes
        if name in tensors and tensors[name].dtype not in _DTYPES
    ]
    parts = [
        f"{kind} {some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong))
        if names
    ]
    if parts:
        raise UserError(
            f"{path}: does not fit its config.json: {'; '.join(parts)}; give the config.json and "
            "the weights of one training run"
        )
