"""The .pt: a TorchScript archive that torch.jit.load opens, plus extra files with all that is
needed to run it.

extra/albert_aie/manifest.json     backend, precision, shape, labels, origin, digests, versions
extra/albert_aie/tokenizer.model   the sentencepiece model
extra/albert_aie/<name>            a backend's own blobs (OpenVINO: ir.xml, ir.bin)
"""

import io
import json
import platform
import zipfile
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from . import UserError, __version__, backends, first_line
from .batching import Shape
from .files import replacing, sha256
from .tasks import SST2

FORMAT = "albert_aie"
FORMAT_VERSION = 1
PREFIX = "albert_aie/"
AGAIN = "export the file again"
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


def file_name(shape):
    packed = "_packed" if shape.slots else ""
    return f"albert_seq{shape.max_seq_length}_bs{shape.batch_size}{packed}.pt"


def manifest(checkpoint, compiled, target, graph_name, shape):
    """The JSON object that describes a compiled file; docs/file-format.md says what its keys
    mean."""
    import torch

    from .upstream import UPSTREAM_COMMIT

    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backend": target.backend,
        "device": target.device,
        "precision": target.precision,
        "options": compiled.options,
        "requires": compiled.requires,
        "graph": graph_name,
        **shape._asdict(),
        "task": "SST-2",
        "label_names": list(checkpoint.config.label_names),
        "config": asdict(checkpoint.config),
        "random_weights": checkpoint.random,
        "source": {
            "checkpoint": checkpoint.origin,
            "layout": checkpoint.layout,
            "sha256": checkpoint.sha256,
            "tokenizer_sha256": sha256(checkpoint.tokenizer),
            "upstream_commit": UPSTREAM_COMMIT if graph_name == "upstream" else None,
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
    """Write the .pt. It appears under `path` whole or not at all: written beside it, flushed,
    renamed.

    `tokenizer`: the sentencepiece model's bytes. Raises UserError if the folder cannot be written
    or the disk is full."""
    import torch

    from .graph import torchscript_warnings_off

    extra = {
        PREFIX + "manifest.json": json.dumps(manifest, indent=1, ensure_ascii=False).encode(),
        PREFIX + "tokenizer.model": tokenizer,
        **{PREFIX + name: blob for name, blob in compiled.blobs.items()},
    }
    with replacing(path) as temporary:
        # By way of memory: on a full disk torch's own file writer ends the process instead of
        # raising.
        buffer = io.BytesIO()
        with torchscript_warnings_off():
            torch.jit.save(compiled.program, buffer, _extra_files=extra)
        temporary.write_bytes(buffer.getbuffer())


@dataclass(frozen=True)
class Artifact:
    """An opened .pt: its manifest and tokenizer; the program and the blobs are read when asked
    for."""

    path: Path
    manifest: dict
    tokenizer: bytes

    @property
    def shape(self):
        return Shape(*(self.manifest[name] for name in Shape._fields))

    @property
    def num_labels(self):
        return len(self.manifest["label_names"])

    def classes(self, label_map=None, task=SST2):
        """The names of the program's classes; `label_map` {number: name} replaces some."""
        names = self.manifest["label_names"]
        return task.model_classes(names, len(names), label_map, str(self.path))

    @property
    def target(self):
        """What it was compiled for, without options."""
        names = ("backend", "device", "precision")
        return backends.Target(*(self.manifest[name] for name in names))

    def blob(self, name):
        return _read(self.path, name)

    def program(self, device="cpu"):
        """The TorchScript program on `device`. What manifest["requires"] names must have been
        imported before."""
        import torch

        from .graph import torchscript_warnings_off

        try:
            with torchscript_warnings_off():
                return torch.jit.load(str(self.path), map_location=device)
        except Exception as error:  # RuntimeError mostly; a damaged file raises others
            raise UserError(
                f"{self.path}: its program cannot be loaded ({first_line(error)}); {AGAIN}"
            ) from None


def open_pt(path):
    """Artifact of a .pt written by export_albert_aie.py. The manifest is read before any program is
    loaded. Raises UserError for a file that is missing, cut short, from another program or
    newer."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; write it with export_albert_aie.py and name it by "
            "--aie_model_dir"
        )
    try:
        manifest = json.loads(_read(path, "manifest.json"))
    except ValueError:
        raise UserError(f"{path}: its manifest is not JSON; {AGAIN}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(
            f"{path}: its manifest is another program's; export the file with export_albert_aie.py"
        )
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {manifest.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; use the version of this program that wrote it, or {AGAIN}"
        )
    for key, kind in _KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise UserError(f"{path}: its manifest has no usable {key!r}; {AGAIN}")
    wrong = [] if manifest["backend"] in backends.NAMES else ["backend"]
    wrong += [key for key in ("batch_size", "max_seq_length") if manifest[key] < 1]
    wrong += [] if {"num_labels", "hidden_size"} <= set(manifest["config"]) else ["config"]
    if wrong:
        raise UserError(f"{path}: its manifest has no usable {wrong[0]!r}; {AGAIN}")
    return Artifact(path, manifest, _read(path, "tokenizer.model"))


def _read(path, name):
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = f"extra/{PREFIX}{name}"
            entries = [e for e in archive.namelist() if e.split("/", 1)[-1] == wanted]
            if not entries:
                raise UserError(
                    f"{path}: has no {PREFIX}{name} inside; it was not written by "
                    "export_albert_aie.py"
                )
            return archive.read(entries[0])
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(
            f"{path}: not a whole .pt file ({error}); it was cut short or is no TorchScript "
            "archive: "
            f"{AGAIN}"
        ) from None
