"""A fine-tuned ALBERT from an albert_pytorch folder, a Hugging Face folder or a hub id -> one
Checkpoint. Its weights always have Hugging Face's names and bias convention, in fp32."""

import hashlib
import json
import os
import re
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import torch

from . import UserError, first_line, some, tasks, text, upstream, weights
from .config import Config, read_config
from .files import sha256

SPM_NAMES = ("30k-clean.model", "spiece.model")
# Random weights only: sharp attention and a quiet FFN let a sentence's words reach [CLS].
_DRAW_SCALES = (("query", 2), ("key", 2), ("ffn_output", 0.5))
# What a checkpoint may carry beside the classifier: old position buffers and pre-training heads.
_IGNORED = re.compile(
    r"(albert|bert)\.embeddings\.(position_ids|token_type_ids)$|predictions\.|sop_classifier\.|cls\."
)


@dataclass(frozen=True)
class Checkpoint:
    """Config, weights {name: tensor} and where they came from.

    `tokenizer` is the sentencepiece model's path; `layout` is "albert_pytorch", "huggingface" or
    "random"; `origin` is what the user named; `sha256` is the weight file's (random: of the seed
    and the config)."""

    config: Config
    tensors: dict
    tokenizer: Path
    layout: str
    origin: str
    sha256: str

    @property
    def random(self):
        return self.layout == "random"

    def named(self, label_map=None, task=tasks.SST2):
        """The same checkpoint whose config has names for all its classes."""
        known, count = self.config.label_names, self.config.num_labels
        names = task.model_classes(known, count, label_map, self.origin)
        return replace(self, config=replace(self.config, label_names=names))


def load(folder, spm_model_file=None, upstream_dir=None):
    """Checkpoint from a folder in either layout, or from a Hugging Face hub id such as "org/name".

    `upstream_dir` is an albert_pytorch checkout, whose prev_trained_model/*/ is searched for the
    sentencepiece model last. Raises UserError naming the file and what is missing, unexpected,
    misshapen or dangerous in it.
    """
    origin, folder = str(folder), _folder(folder)
    config = read_config(folder / "config.json")
    path = weights.find(folder)
    layout, tensors = _to_hf(weights.read(path), path)
    _check(tensors, config, path)
    tensors = {name: tensors[name].to(torch.float32) for name in config.shapes()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{path}: {name} holds NaN or infinity; the training run diverged, export another "
                "checkpoint"
            )
    if layout == "albert_pytorch":
        tensors = upstream.fold_shift(tensors)
    tokenizer = find_tokenizer(folder, config.vocab_size, spm_model_file, upstream_dir)
    return Checkpoint(config, tensors, tokenizer, layout, origin, sha256(path))


def draw(folder, spm_model_file=None, upstream_dir=None, seed=0):
    """Checkpoint with the architecture of folder/config.json and weights drawn from `seed`: for
    speed, not accuracy.

    The scales keep twelve passes through one layer alive (logits of different sentences differ),
    and every bias and LayerNorm is off its usual 0 and 1, so that a comparison on these weights
    notices a swapped or lost tensor."""
    folder = _folder(folder)
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
    tokenizer = find_tokenizer(folder, config.vocab_size, spm_model_file, upstream_dir)
    # With the names that files of format version 1 were made with: the digest stays theirs.
    names = config.label_names or tasks.SST2.model_classes(None, config.num_labels)
    known = {**asdict(config), "label_names": names}
    recipe = f"seed {seed} {json.dumps(known, sort_keys=True)}"
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    return Checkpoint(config, tensors, tokenizer, "random", f"random weights, seed {seed}", digest)


def find_tokenizer(folder, vocab_size, spm_model_file=None, upstream_dir=None):
    """Path of the sentencepiece model: the flag's, else the checkpoint folder's, else that in
    prev_trained_model/*/ of `upstream_dir`. Raises UserError if there is none or it does not
    fit."""
    if spm_model_file:
        path = Path(spm_model_file)
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; --spm_model_file wants ALBERT's sentencepiece model "
                "(30k-clean.model)"
            )
    else:
        folders = [Path(folder)]
        folders += sorted(Path(upstream_dir).glob("prev_trained_model/*/")) if upstream_dir else []
        found = [f / name for f in folders for name in SPM_NAMES if (f / name).is_file()]
        if not found:
            raise UserError(
                f"{folder}: no {' or '.join(SPM_NAMES)} here"
                + (f" or in {upstream_dir}/prev_trained_model/*/" if upstream_dir else "")
                + "; name the sentencepiece model with --spm_model_file"
            )
        path = found[0]
    pieces = text.Tokenizer(path.read_bytes(), str(path)).vocab_size
    if pieces != vocab_size:
        raise UserError(
            f"{path}: has {pieces} pieces, but the checkpoint's vocab_size is {vocab_size}; "
            "name the model it was trained with by --spm_model_file"
        )
    return path


def _folder(source):
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(
            f"{path}: is a file; --pth_dir wants the folder that holds config.json and the weights"
        )
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source)):
        return _from_hub(str(source))
    raise UserError(
        f"{path}: no such folder; --pth_dir wants a fine-tuned checkpoint: albert_pytorch's "
        "output folder, "
        'a Hugging Face folder, or a hub id such as org/name (README, "Your own checkpoint"); '
        "--demo takes the checkpoint in this repository"
    )


def _from_hub(name):
    try:
        from transformers.utils import cached_file
    except ImportError:
        raise UserError(
            f"{name}: no such folder; to fetch it as a hub id, pip install transformers"
        ) from None
    wanted = [("config.json",), SPM_NAMES, ("model.safetensors", "pytorch_model.bin")]
    folder, reason, offline = None, "no such repository", not _hub_answers()
    for names in wanted:
        hit = None
        for file_name in names:
            try:
                hit = cached_file(name, file_name, local_files_only=offline)
                break
            except (
                OSError,
                ValueError,
                RuntimeError,
            ) as error:  # offline, unknown or forbidden: all reach us so
                reason = first_line(error)
        if hit:
            folder = Path(hit).parent
        elif names is not SPM_NAMES:  # the sentencepiece model may come from --spm_model_file
            raise UserError(
                f"{name}: no such folder here, and as a hub id {names[0]} could not be fetched "
                f"({reason}); "
                "download the model and give its folder"
            )
    return folder


def _hub_answers():
    """Whether the hub's host can be reached; without this the library retries for half a minute."""
    from huggingface_hub import constants

    if any(
        os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    ):
        return True
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _to_hf(raw, path):
    """(layout, tensors under Hugging Face's names) of a raw state dict, the classifier's bias as it
    is; buffers and pre-training heads are dropped."""
    raw = {name: tensor for name, tensor in raw.items() if not _IGNORED.match(name)}
    if any(name.startswith("albert.") for name in raw):
        return "huggingface", raw
    if upstream.is_upstream(raw):
        return "albert_pytorch", upstream.rename(raw)
    raise UserError(
        f"{path}: keys of another model ({some(raw)}); expected albert_pytorch's bert.… with "
        "encoder.transformer.group, or Hugging Face's albert.…"
    )


def _check(tensors, config, path):
    shapes = config.shapes()
    missing = [name for name in shapes if name not in tensors]
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
        if name in tensors and not tensors[name].is_floating_point()
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
