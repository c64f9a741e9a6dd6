"""An untrusted weight file, whole or in shards -> named tensors. Nothing in the file is ever run:
safetensors, or torch.load(weights_only=True) behind a check of what kind of file it is."""

import pickle
import re
import tarfile
import warnings
from pathlib import Path

import torch

from ..base.archive import Archive, Damaged
from ..base.errors import WHY, UserError, first_line, refusing, some
from ..base.files import AGAIN, check_readable, read_json

INDEX = ".index.json"  # beside shards: {"weight_map": {tensor: file}}
WHOLE = "model.safetensors", "pytorch_model.bin"
NAMES = tuple(name + part for name in WHOLE for part in ("", INDEX))
SAVE = "save the weights with torch.save(model.state_dict(), …)"


def find(folder):
    """Paths of the weight files in a folder, none or several: each is all of a model's weights."""
    return [Path(folder) / name for name in NAMES if (Path(folder) / name).is_file()]


def files(path):
    """What `path` consists of: itself and, where it is an index, its shards, each once."""
    shards = set(_weight_map(path).values()) if path.name.endswith(INDEX) else ()
    return [path, *(path.parent / name for name in sorted(shards))]


def read(path):
    """{name: tensor} of a weight file or of the shards of an index. Raises UserError for what is
    cut short, damaged, dangerous or no state dict of plain tensors."""
    path = Path(path)
    check_readable(path)
    if path.name.endswith(INDEX):
        return _read_shards(path)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for name, tensor in state.items():
        kind = _odd(tensor)
        if kind:
            raise UserError(f"{path}: {name!r} is a {kind} tensor; save the weights as plain ones")
    return state


def _read_shards(index):
    state, mapped = {}, _weight_map(index)
    for shard in files(index)[1:]:
        wanted = {name for name, file in mapped.items() if file == shard.name}
        tensors = read(shard)
        if tensors.keys() != wanted:
            raise UserError(
                f"{shard}: does not hold the tensors that {index.name} names "
                f"({some(sorted(tensors.keys() ^ wanted))}); {AGAIN}"
            )
        state.update(tensors)
    return state


def _weight_map(index):
    content = read_json(index)
    mapped = content.get("weight_map") if isinstance(content, dict) else None
    if not (mapped and isinstance(mapped, dict)) or not all(
        isinstance(file, str) and file == Path(file).name and not file.endswith(INDEX)
        for file in mapped.values()
    ):
        raise UserError(f"{index}: names no weight files beside it in its weight_map; {AGAIN}")
    return mapped


def _odd(tensor):
    """What makes this no plain tensor in memory; None for a plain one."""
    if tensor.layout is not torch.strided:
        return str(tensor.layout).replace("torch.", "")
    if tensor.is_nested or tensor.is_quantized:
        return "nested" if tensor.is_nested else "quantized"
    return None if tensor.device.type == "cpu" else tensor.device.type


def _read_safetensors(path):
    import safetensors.torch

    # SafetensorError, OSError or ValueError, by version
    with refusing(f"{path}: not a whole safetensors file ({WHY}); {AGAIN}"):
        return safetensors.torch.load_file(str(path))


def _read_torch(path):
    _check_kind(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own code, and of odd tensors
            state = torch.load(str(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = r"GLOBAL [\w.]+|class [\w.]+|global [\w.]+|[Cc]an only .*|operand \S+"
        named = re.search(culprit, str(error))
        raise UserError(
            f"{path}: refused: its pickle wants to run code or make other objects than tensors "
            f"({named[0] if named else first_line(error)}); save only model.state_dict()"
        ) from None
    # torch raises RuntimeError, EOFError, KeyError, ... for damaged files
    except Exception as error:
        raise UserError(f"{path}: cut short or damaged ({first_line(error)}); {AGAIN}") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise UserError(f"{path}: not a state dict of tensors; {SAVE}")
    return state


def _check_kind(path):
    """Refuse, before torch sees them, a tar archive, a zip that holds a TorchScript program, and a
    zip whose entries are not what their CRCs say: torch.load checks none."""
    with open(path, "rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        message = f"{path}: cut short or damaged ({WHY}); {AGAIN}, or save it again with CRCs"
        with refusing(message, Damaged, reason=str), Archive(path) as archive:
            # torch 2.0.1 hands it to torch.jit.load in spite of weights_only=True, which may run it
            if any(Path(n).name == "constants.pkl" or "/code/" in f"/{n}" for n in archive.names):
                raise UserError(
                    f"{path}: holds a TorchScript program, not weights; refused, because loading "
                    "one runs code"
                )
            archive.check_crcs()
    elif tarfile.is_tarfile(path):
        raise UserError(f"{path}: a tar archive; {SAVE} or as safetensors")
    elif head[:1] != b"\x80":
        raise UserError(f"{path}: neither a torch zip nor a torch pickle; {SAVE} or as safetensors")
