"""A fine-tuned ALBERT from an albert_pytorch folder, a Hugging Face folder or a hub id -> one Checkpoint.

Inside this program weights always have Hugging Face's key names, fp32, and Hugging Face's bias convention:
albert_pytorch classifies `pooled + 0.1`, so its classifier bias is folded on the way in (b + 0.1 * W.sum(1)) and
unfolded on the way out. Files are never trusted: safetensors, or torch.load(weights_only=True) behind a check.
"""

import hashlib
import json
import os
import pickle
import re
import socket
import tarfile
import warnings
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from . import UserError

UPSTREAM_COMMIT = "46de9ec"
UPSTREAM_SHIFT = 0.1  # what albert_pytorch adds to the pooled vector before its classifier
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu")
SPM_NAMES = ("30k-clean.model", "spiece.model")

# (Hugging Face, albert_pytorch) name parts below the one shared layer; weight and bias follow.
_LAYER_PARTS = (
    ("attention.query", "attention.self.query"),
    ("attention.key", "attention.self.key"),
    ("attention.value", "attention.self.value"),
    ("attention.dense", "attention.output.dense"),
    ("attention.LayerNorm", "LayerNorm"),
    ("ffn", "ffn.intermediate.dense"),
    ("ffn_output", "ffn.intermediate.output.dense"),
    ("full_layer_layer_norm", "LayerNorm_1"),
)
HF_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0."
UPSTREAM_LAYER = "bert.encoder.transformer.group.0.inner_group.0."
# Random weights only: sharp attention and a quiet FFN let a sentence's words reach [CLS] through twelve passes.
_DRAW_SCALES = (("query", 2), ("key", 2), ("ffn_output", 0.5))
# What a checkpoint may carry beside the classifier's weights: old position buffers and the pre-training heads.
_IGNORED = re.compile(r"(albert|bert)\.embeddings\.(position_ids|token_type_ids)$|predictions\.|sop_classifier\.|cls\.")


@dataclass(frozen=True)
class Config:
    """The architecture, with the names of ALBERT's config.json."""

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str
    layer_norm_eps: float
    num_labels: int
    label_names: tuple

    @property
    def head_size(self):
        return self.hidden_size // self.num_attention_heads

    def shapes(self):
        """Name -> shape of each of the 27 tensors of a checkpoint, in Hugging Face's layout."""
        h, e, i = self.hidden_size, self.embedding_size, self.intermediate_size
        shapes = {
            "albert.embeddings.word_embeddings.weight": (self.vocab_size, e),
            "albert.embeddings.position_embeddings.weight": (self.max_position_embeddings, e),
            "albert.embeddings.token_type_embeddings.weight": (self.type_vocab_size, e),
            "albert.embeddings.LayerNorm.weight": (e,),
            "albert.embeddings.LayerNorm.bias": (e,),
            "albert.encoder.embedding_hidden_mapping_in.weight": (h, e),
            "albert.encoder.embedding_hidden_mapping_in.bias": (h,),
        }
        weight_shapes = {"ffn": (i, h), "ffn_output": (h, i), "attention.LayerNorm": (h,), "full_layer_layer_norm": (h,)}
        for part, _ in _LAYER_PARTS:
            weight = weight_shapes.get(part, (h, h))
            shapes[f"{HF_LAYER}{part}.weight"] = weight
            shapes[f"{HF_LAYER}{part}.bias"] = weight[:1]
        shapes["albert.pooler.weight"] = (h, h)
        shapes["albert.pooler.bias"] = (h,)
        shapes["classifier.weight"] = (self.num_labels, h)
        shapes["classifier.bias"] = (self.num_labels,)
        return shapes


@dataclass(frozen=True)
class Checkpoint:
    """Config, weights (Hugging Face keys and bias convention, fp32) and where they came from.

    `layout` is "albert_pytorch", "huggingface" or "random"; `sha256` is the weight file's (random: of the seed's text).
    """

    config: Config
    tensors: dict
    tokenizer: Path
    layout: str
    source: str
    sha256: str

    @property
    def random(self):
        return self.layout == "random"


def load(folder, spm_model_file=None, tree=None):
    """Checkpoint from a folder in either layout, or from a Hugging Face hub id such as "org/name".

    `tree` is an albert_pytorch checkout, whose prev_trained_model/*/ is searched for the sentencepiece model last.
    Raises UserError naming the file and what is missing, unexpected, misshapen or dangerous in it.
    """
    source, folder = str(folder), _folder(folder)
    config = read_config(folder / "config.json")
    weights = _weight_file(folder)
    raw = _read_safetensors(weights) if weights.suffix == ".safetensors" else _read_torch(weights)
    layout, tensors = _to_hf(raw, weights)
    _check(tensors, config, weights)
    tensors = {name: tensors[name].to(torch.float32) for name in config.shapes()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{weights}: {name} holds NaN or infinity; the training run diverged, export another checkpoint")
    if layout == "albert_pytorch":
        tensors["classifier.bias"] = tensors["classifier.bias"] + UPSTREAM_SHIFT * tensors["classifier.weight"].sum(1)
    tokenizer = find_tokenizer(folder, config.vocab_size, spm_model_file, tree)
    return Checkpoint(config, tensors, tokenizer, layout, source, sha256(weights))


def draw(folder, spm_model_file=None, tree=None, seed=0):
    """Checkpoint with the architecture of folder/config.json and weights drawn from `seed`: for speed, not accuracy.

    The scales keep twelve passes through one layer alive (logits of different sentences differ), and every bias and
    LayerNorm is off its usual 0 and 1, so that a comparison on these weights notices a swapped or lost tensor.
    """
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
    tokenizer = find_tokenizer(folder, config.vocab_size, spm_model_file, tree)
    text = f"seed {seed} {json.dumps(asdict(config), sort_keys=True)}"
    return Checkpoint(
        config, tensors, tokenizer, "random", f"random weights, seed {seed}", hashlib.sha256(text.encode()).hexdigest()
    )


def to_upstream(tensors):
    """The same weights under albert_pytorch's keys and bias convention (its code adds the 0.1 itself)."""
    upstream = {_upstream_key(name): tensor for name, tensor in tensors.items()}
    shift = UPSTREAM_SHIFT * tensors["classifier.weight"].sum(1)
    upstream["classifier.bias"] = tensors["classifier.bias"] - shift
    return upstream


def read_config(path):
    """Config from ALBERT's config.json, albert_pytorch's or Hugging Face's; what we cannot run is refused by name."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a checkpoint folder holds the config.json it was trained with") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); copy it again from where it was trained") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a JSON object; copy it again from where it was trained")
    if raw.get("model_type", "albert") != "albert":
        raise UserError(f"{path}: model_type is {raw['model_type']!r}; this program runs ALBERT only")
    for name in ("num_hidden_groups", "inner_group_num"):
        if raw.get(name, 1) != 1:
            raise UserError(f"{path}: {name} is {raw[name]}; only ALBERTs that share one layer ({name} 1) can be run")
    sizes = {}
    for name in (
        "vocab_size",
        "embedding_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
    ):
        value = raw.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{path}: {name} is {value!r}, not a whole number above 0; restore it from training")
        sizes[name] = value
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise UserError(
            f"{path}: hidden_size {sizes['hidden_size']} is not a multiple of num_attention_heads {sizes['num_attention_heads']}"
        )
    if sizes["embedding_size"] == sizes["hidden_size"]:
        raise UserError(
            f"{path}: embedding_size equals hidden_size ({sizes['hidden_size']}), where albert_pytorch and "
            "Hugging Face disagree on the model; only factorised embeddings can be run"
        )
    if raw.get("hidden_act", "gelu_new") not in ACTIVATIONS:
        raise UserError(f"{path}: hidden_act is {raw['hidden_act']!r}; one of {', '.join(ACTIVATIONS)} can be run")
    eps = raw.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float) or eps <= 0:
        raise UserError(f"{path}: layer_norm_eps is {eps!r}, not a number such as 1e-12; restore it from training")
    labels = raw.get("id2label")
    num_labels = len(labels) if isinstance(labels, dict) and labels else raw.get("num_labels", 2)
    if not isinstance(num_labels, int) or num_labels < 2:
        raise UserError(f"{path}: num_labels is {num_labels!r}; a classifier has two or more")
    return Config(
        hidden_act=raw.get("hidden_act", "gelu_new"),
        layer_norm_eps=eps,
        num_labels=num_labels,
        label_names=_label_names(labels, num_labels, path),
        **sizes,
    )


def find_tokenizer(folder, vocab_size, spm_model_file=None, tree=None):
    """Path of the sentencepiece model: the flag's, else the checkpoint folder's, else prev_trained_model/*/ of `tree`."""
    if spm_model_file:
        path = Path(spm_model_file)
        if not path.is_file():
            raise UserError(f"{path}: no such file; --spm_model_file wants ALBERT's sentencepiece model (30k-clean.model)")
    else:
        folders = [Path(folder)] + (sorted(Path(tree).glob("prev_trained_model/*/")) if tree else [])
        found = [f / name for f in folders for name in SPM_NAMES if (f / name).is_file()]
        if not found:
            raise UserError(
                f"{folder}: no {' or '.join(SPM_NAMES)} here"
                + (f" or in {tree}/prev_trained_model/*/" if tree else "")
                + "; name the sentencepiece model with --spm_model_file"
            )
        path = found[0]
    from .text import Tokenizer

    pieces = Tokenizer(path.read_bytes(), str(path)).vocab_size
    if pieces != vocab_size:
        raise UserError(
            f"{path}: has {pieces} pieces, but the checkpoint's vocab_size is {vocab_size}; "
            "name the model it was trained with by --spm_model_file"
        )
    return path


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _folder(source):
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path}: is a file; --pth_dir wants the folder that holds config.json and the weights")
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source)):
        return _from_hub(str(source))
    raise UserError(
        f"{path}: no such folder; --pth_dir wants a fine-tuned checkpoint: albert_pytorch's output folder, "
        'a Hugging Face folder, or a hub id such as org/name (README, "The real job", says where to '
        "download one); --demo takes the checkpoint in this repository"
    )


def _from_hub(name):
    try:
        from transformers.utils import cached_file
    except ImportError:
        raise UserError(f"{name}: no such folder; to fetch it as a hub id, pip install transformers") from None
    wanted = [("config.json",), SPM_NAMES, ("model.safetensors", "pytorch_model.bin")]
    folder, reason, offline = None, "no such repository", not _hub_answers()
    for names in wanted:
        hit = None
        for file_name in names:
            try:
                hit = cached_file(name, file_name, local_files_only=offline)
                break
            except (OSError, ValueError, RuntimeError) as error:  # offline, unknown or forbidden: all reach us so
                reason = str(error).strip().splitlines()[0]
        if hit:
            folder = Path(hit).parent
        elif names is not SPM_NAMES:  # the sentencepiece model may come from --spm_model_file
            raise UserError(
                f"{name}: no such folder here, and as a hub id {names[0]} could not be fetched ({reason}); "
                "download the model and give its folder"
            )
    return folder


def _hub_answers():
    """Whether the hub's host can be reached; without this check the library retries for half a minute."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _weight_file(folder):
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: neither model.safetensors nor pytorch_model.bin is here; give the folder that fine-tuning wrote")


def _read_safetensors(path):
    import safetensors.torch

    try:
        return safetensors.torch.load_file(str(path))
    except Exception as error:  # the library raises its own SafetensorError, and OSError or ValueError by version
        raise UserError(f"{path}: not a whole safetensors file ({_first_line(error)}); copy or download it again") from None


def _read_torch(path):
    """State dict from torch's zip or its older plain-pickle format; nothing in the file is ever executed."""
    again = "copy or download it again"
    with open(path, "rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile:
            raise UserError(f"{path}: cut short or damaged (a torch zip without its directory); {again}") from None
        # torch 2.0.1 hands such a zip to torch.jit.load in spite of weights_only=True, and loading may run it.
        if any(name.rsplit("/", 1)[-1] == "constants.pkl" or "/code/" in name for name in names):
            raise UserError(f"{path}: holds a TorchScript program, not weights; refused, because loading one runs code")
    elif head[:1] != b"\x80" or tarfile.is_tarfile(path):
        kind = "a tar archive" if tarfile.is_tarfile(path) else "neither a torch zip nor a torch pickle"
        raise UserError(f"{path}: {kind}; save the weights with torch.save(model.state_dict(), …) or as safetensors")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch 2.0.1, of its own code
            state = torch.load(str(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search(r"[Uu]nsupported (global|class|operand)|not an allowed|Weights only load failed", str(error)):
            raise UserError(
                f"{path}: refused: its pickle wants to run code or make other objects than tensors "
                f"({_culprit(error)}); save only model.state_dict()"
            ) from None
        raise UserError(f"{path}: not a torch pickle ({_first_line(error)}); {again}") from None
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... for damaged files
        raise UserError(f"{path}: cut short or damaged ({_first_line(error)}); {again}") from None
    named = isinstance(state, dict) and all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in state.items())
    if not named:
        raise UserError(f"{path}: not a state dict of tensors; save the weights with torch.save(model.state_dict(), …)")
    return state


def _culprit(error):
    found = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)|global ([\w.]+)|[Cc]an only .*|operand \S+", str(error))
    return found.group(0) if found else _first_line(error)


def _first_line(error):
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


def _to_hf(raw, path):
    """(layout, tensors under Hugging Face keys) of a raw state dict; buffers and pre-training heads are dropped."""
    raw = {name: tensor for name, tensor in raw.items() if not _IGNORED.match(name)}
    if any(name.startswith("albert.") for name in raw):
        return "huggingface", raw
    if any(name.startswith("bert.encoder.transformer.group.") for name in raw):
        hf = {}
        for name, tensor in raw.items():
            hf[_hf_key(name)] = tensor
        return "albert_pytorch", hf
    raise UserError(
        f"{path}: keys of another model ({_some(raw)}); expected albert_pytorch's bert.… with "
        "encoder.transformer.group, or Hugging Face's albert.…"
    )


def _hf_key(name):
    for hf, upstream in _LAYER_PARTS:
        for kind in (".weight", ".bias"):
            if name == UPSTREAM_LAYER + upstream + kind:
                return HF_LAYER + hf + kind
    if name.startswith("bert.pooler.dense."):
        return name.replace("bert.pooler.dense.", "albert.pooler.")
    return "albert." + name[len("bert.") :] if name.startswith("bert.") else name


def _upstream_key(name):
    for hf, upstream in _LAYER_PARTS:
        for kind in (".weight", ".bias"):
            if name == HF_LAYER + hf + kind:
                return UPSTREAM_LAYER + upstream + kind
    if name.startswith("albert.pooler."):
        return name.replace("albert.pooler.", "bert.pooler.dense.")
    return "bert." + name[len("albert.") :] if name.startswith("albert.") else name


def _check(tensors, config, path):
    shapes = config.shapes()
    missing = [name for name in shapes if name not in tensors]
    if any(name.startswith("classifier.") for name in missing):
        raise UserError(
            f"{path}: missing {_some(missing)}: a pre-trained model without a classifier; fine-tune it on SST-2 first"
        )
    unexpected = [name for name in tensors if name not in shapes]
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, config.json says {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    wrong += [f"{name} is {tensors[name].dtype}" for name in shapes if name in tensors and not tensors[name].is_floating_point()]
    parts = [
        f"{kind} {_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong))
        if names
    ]
    if parts:
        raise UserError(
            f"{path}: does not fit its config.json: {'; '.join(parts)}; give the config.json and the weights of one training run"
        )


def _some(names, most=4):
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _label_names(labels, num_labels, path):
    if isinstance(labels, dict):
        if sorted(labels) != sorted(map(str, range(len(labels)))):
            raise UserError(f'{path}: id2label wants the keys "0", "1", ..., not {_some(labels)}; mend it')
        names = tuple(str(name) for _, name in sorted(labels.items(), key=lambda item: int(item[0])))
        if not all(name.startswith("LABEL_") for name in names):
            return names
    return ("negative", "positive") if num_labels == 2 else tuple(str(i) for i in range(num_labels))
