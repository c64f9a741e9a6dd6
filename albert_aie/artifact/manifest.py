"""The JSON object that describes a .pt."""

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import datetime, timezone

from .. import backends
from ..base import machine
from ..base.version import __version__
from ..data.tasks import SST2, TASKS
from ..text.tokenizer_file import KINDS, SWITCHES

FORMAT = "albert_aie"
FORMAT_VERSION = 4


def describe(model, compiled, target, shape, faster=None, task=SST2):
    """The JSON object that describes a file exported for `shape`; docs/file-format.md says what its
    keys mean. `model` has a checkpoint, a graph_name, free_sizes and the upstream_commit of
    albert_pytorch's graph; `faster` is what backends.speed.faster has measured, if it was asked."""
    import torch

    checkpoint = model.checkpoint
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backend": target.backend,
        "device": target.device,
        "precision": target.precision,
        "options": compiled.options,
        "requires": compiled.requires,
        "graph": model.graph_name,
        **shape._asdict(),
        "free_sizes": model.free_sizes,
        "measured": faster and {"cpu": machine.cpu(), "times_as_fast": faster},
        "task": task.trained_as,
        "tokenizer": checkpoint.tokenizer.description,
        "label_names": list(checkpoint.config.label_names),
        "config": asdict(checkpoint.config),
        "random_weights": checkpoint.config.random_weights,
        "source": {
            # a path need not be UTF-8, the manifest is
            "checkpoint": checkpoint.origin.encode(errors="backslashreplace").decode(),
            "layout": checkpoint.layout,
            "sha256": checkpoint.sha256,
            "tokenizer_sha256": checkpoint.tokenizer.sha256,
            "upstream_commit": model.upstream_commit,
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


def digest(manifest):
    """sha256 of a manifest without its own: of its JSON with sorted keys and without blanks."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def first_unknown_key(manifest):
    """The first key that names what this program does not have, or None: files of a later version.
    Its digest tells that it is as it was written, and what was written is not doubted here."""
    backend, kind = manifest["backend"], manifest["tokenizer"]["kind"]
    options = {*SWITCHES.get(kind, ()), "added_tokens", "exact_tokens"}
    is_known = {
        "backend": (backend, manifest["device"]) in backends.ORDER,
        "precision": backend in backends.NAMES
        and manifest["precision"] in backends.get(backend).PRECISIONS,
        "task": manifest["task"] in TASKS,
        "tokenizer": kind in KINDS and manifest["tokenizer"].get("options", {}).keys() <= options,
    }
    return next((key for key in is_known if not is_known[key]), None)
