"""An untrusted weight file -> named tensors. Nothing in the file is ever run: safetensors, or
torch.load(weights_only=True) behind a check of what kind of file it is."""

import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path

import torch

from . import UserError, first_line

NAMES = ("model.safetensors", "pytorch_model.bin")
AGAIN = "copy or download it again"
SAVE = "save the weights with torch.save(model.state_dict(), …)"


def find(folder):
    """Path of the weight file in a checkpoint's folder. Raises UserError if there is none."""
    for name in NAMES:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise UserError(
        f"{folder}: neither {' nor '.join(NAMES)} is here; give the folder that fine-tuning wrote"
    )


def read(path):
    """{name: tensor} of a weight file, as it stands there. Raises UserError naming the file for
    what is cut short, damaged, dangerous or no state dict of tensors."""
    path = Path(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_safetensors(path):
    import safetensors.torch

    try:
        return safetensors.torch.load_file(str(path))
    except Exception as error:  # SafetensorError, OSError or ValueError, by version
        raise UserError(
            f"{path}: not a whole safetensors file ({first_line(error)}); {AGAIN}"
        ) from None


def _read_torch(path):
    """State dict from torch's zip or its older plain-pickle format."""
    _check_kind(path)
    try:
        with warnings.catch_warnings():
            # torch 2.0.1, of its own code
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")
            state = torch.load(str(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search(
            r"[Uu]nsupported (global|class|operand)|not an allowed|Weights only load failed",
            str(error),
        ):
            raise UserError(
                f"{path}: refused: its pickle wants to run code or make other objects than tensors "
                f"({_culprit(error)}); save only model.state_dict()"
            ) from None
        raise UserError(f"{path}: not a torch pickle ({first_line(error)}); {AGAIN}") from None
    except (
        Exception
    ) as error:  # torch raises RuntimeError, EOFError, KeyError, ... for damaged files
        raise UserError(f"{path}: cut short or damaged ({first_line(error)}); {AGAIN}") from None
    named = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    )
    if not named:
        raise UserError(f"{path}: not a state dict of tensors; {SAVE}")
    return state


def _check_kind(path):
    """Refuse, before torch sees them, a tar archive and a zip that holds a TorchScript program."""
    with open(path, "rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile:
            raise UserError(
                f"{path}: cut short or damaged (a torch zip without its directory); {AGAIN}"
            ) from None
        # torch 2.0.1 hands such a zip to torch.jit.load in spite of weights_only=True, which may
        # run it
        if any(name.rsplit("/", 1)[-1] == "constants.pkl" or "/code/" in name for name in names):
            raise UserError(
                f"{path}: holds a TorchScript program, not weights; refused, because loading one "
                "runs code"
            )
    elif head[:1] != b"\x80" or tarfile.is_tarfile(path):
        kind = (
            "a tar archive"
            if tarfile.is_tarfile(path)
            else "neither a torch zip nor a torch pickle"
        )
        raise UserError(f"{path}: {kind}; {SAVE} or as safetensors")


def _culprit(error):
    pattern = r"GLOBAL ([\w.]+)|class ([\w.]+)|global ([\w.]+)|[Cc]an only .*|operand \S+"
    found = re.search(pattern, str(error))
    return found.group(0) if found else first_line(error)
