"""The .pt: a TorchScript archive that torch.jit.load opens, plus extra files with all that is needed to run it.

extra/albert_aie/manifest.json     what it is: backend, precision, shape, labels, source, digests, versions
extra/albert_aie/tokenizer.model   the sentencepiece model
extra/albert_aie/<name>            a backend's own blobs (OpenVINO: ir.xml, ir.bin)
"""

import contextlib
import io
import json
import os
import platform
import zipfile
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from . import UserError, __version__, backends
from .checkpoint import UPSTREAM_COMMIT, sha256

FORMAT = "albert_aie"
FORMAT_VERSION = 1
PREFIX = "albert_aie/"
_KEYS = {
    "backend": str,
    "device": str,
    "precision": str,
    "graph": str,
    "batch_size": int,
    "max_seq_length": int,
    "slots": int,
    "config": dict,
    "label_names": list,
    "random_weights": bool,
    "source": dict,
    "requires": list,
    "options": dict,
}


def file_name(batch_size, max_seq_length, slots=0):
    return f"albert_seq{max_seq_length}_bs{batch_size}{'_packed' if slots else ''}.pt"


def manifest(checkpoint, compiled, target, graph, batch_size, max_seq_length, slots=0):
    """The JSON object that describes a compiled file; see the README for its keys. `slots`: sentences that a row can carry
    in a packed file, 0 in a plain one."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backend": target.backend,
        "device": target.device,
        "precision": target.precision,
        "options": compiled.options,
        "requires": compiled.requires,
        "graph": graph,
        "batch_size": batch_size,
        "max_seq_length": max_seq_length,
        "slots": slots,
        "task": "SST-2",
        "label_names": list(checkpoint.config.label_names),
        "config": asdict(checkpoint.config),
        "random_weights": checkpoint.random,
        "source": {
            "checkpoint": checkpoint.source,
            "layout": checkpoint.layout,
            "sha256": checkpoint.sha256,
            "tokenizer_sha256": sha256(checkpoint.tokenizer),
            "upstream_commit": UPSTREAM_COMMIT if graph == "upstream" else None,
        },
        "operators": compiled.operators,
        "versions": {
            "albert_aie": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **compiled.versions,
        },
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def save(path, compiled, manifest, tokenizer):
    """Write the .pt. It appears under `path` whole or not at all: written beside it, flushed, then renamed.

    `tokenizer`: the sentencepiece model's bytes. Raises UserError if the folder cannot be written or the disk is full.
    """
    path = Path(path)
    extra = {
        PREFIX + "manifest.json": json.dumps(manifest, indent=1, ensure_ascii=False).encode(),
        PREFIX + "tokenizer.model": tokenizer,
        **{PREFIX + name: blob for name, blob in compiled.blobs.items()},
    }
    with replacing(path) as temporary:
        # By way of memory: on a full disk torch's own file writer ends the process instead of raising.
        buffer = io.BytesIO()
        torch.jit.save(compiled.program, buffer, _extra_files=extra)
        temporary.write_bytes(buffer.getbuffer())


def check_writable(path):
    """Raises UserError if `path` could not be written: before the work whose result goes there."""
    with contextlib.suppress(_Untouched), replacing(path):
        raise _Untouched


class _Untouched(Exception):
    """Leaves `replacing` without a change."""


class replacing:
    """`with replacing(path) as temporary:` write `temporary`; it becomes `path` if all went well, else nothing changes.

    A write that fails is a UserError. The temporary name carries our
    process id; those that a killed process left behind are swept away by the next one.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def __enter__(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise IsADirectoryError("is a folder")
            self._sweep()
            self.temporary.touch()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror or error}); choose another folder") from None
        return self.temporary

    def __exit__(self, kind, error, _):
        try:
            if kind is None:
                with open(self.temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.path)
                return
        except OSError as late:
            error, kind = late, OSError
        finally:
            if self.temporary.exists():
                self.temporary.unlink()
        if issubclass(kind, OSError):
            raise UserError(
                f"{self.path}: could not be written ({error.strerror or error}); nothing was changed: free disk space or "
                "choose another folder"
            ) from None

    def _sweep(self):
        for stale in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            process = stale.name.rsplit(".", 2)[-2]
            if process.isdigit() and not _alive(int(process)):
                stale.unlink()


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@dataclass(frozen=True)
class Artifact:
    """An opened .pt: its manifest and tokenizer; the program and the blobs are read when asked for."""

    path: Path
    manifest: dict
    tokenizer: bytes

    @property
    def shape(self):
        return self.manifest["batch_size"], self.manifest["max_seq_length"]

    def blob(self, name):
        return _read(self.path, name)

    def program(self, device="cpu"):
        """The TorchScript program on `device`. What manifest["requires"] names must have been imported before."""
        try:
            return torch.jit.load(str(self.path), map_location=device)
        except Exception as error:  # RuntimeError mostly; a damaged file raises others
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"{self.path}: its program cannot be loaded ({reason}); export it again") from None


def open_pt(path):
    """Artifact of a .pt written by export_albert_aie.py. The manifest is read before any program is loaded.

    Raises UserError for a file that is missing, cut short, from another program or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; write it with export_albert_aie.py and name it by --aie_model_dir")
    try:
        manifest = json.loads(_read(path, "manifest.json"))
    except ValueError:
        raise UserError(f"{path}: its manifest is not JSON; export the file again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path}: its manifest is another program's; export the file with export_albert_aie.py")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {manifest.get('format_version')}, this program reads {FORMAT_VERSION}; "
            "use the version of this program that wrote it, or export it again"
        )
    for key, kind in _KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise UserError(f"{path}: its manifest has no usable {key!r}; export the file again")
    known = {"backend": backends.NAMES, "precision": backends.PRECISIONS}
    wrong = [key for key, names in known.items() if manifest[key] not in names]
    wrong += [key for key in ("batch_size", "max_seq_length") if manifest[key] < 1]
    if wrong or not {"num_labels", "hidden_size"} <= set(manifest["config"]):
        raise UserError(f"{path}: its manifest has no usable {(wrong or ['config'])[0]!r}; export the file again")
    return Artifact(path, manifest, _read(path, "tokenizer.model"))


def _read(path, name):
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [e for e in archive.namelist() if e.split("/", 1)[-1] == f"extra/{PREFIX}{name}"]
            if not entries:
                raise UserError(f"{path}: has no {PREFIX}{name} inside; it was not written by export_albert_aie.py")
            return archive.read(entries[0])
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(
            f"{path}: not a whole .pt file ({error}); it was cut short or is no TorchScript archive: export it again"
        ) from None
