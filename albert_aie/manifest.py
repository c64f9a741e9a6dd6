"""The JSON object that describes a .pt: how it is made, and whether it can be true."""

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import datetime, timezone

from . import __version__, backends, machine
from .batching import TOKENS
from .config import problem as config_problem
from .tasks import SST2, TASKS
from .text import is_description

FORMAT = "albert_aie"
FORMAT_VERSION = 4
_KEYS = {
    "backend": str,
    "device": str,
    "precision": str,
    "graph": str,
    "batch_size": int,
    "max_seq_length": int,
    "slots": int,
    "task": str,
    "tokenizer": dict,
    "config": dict,
    "label_names": list,
    "random_weights": bool,
    "source": dict,
    "requires": list,
    "options": dict,
}


def describe(checkpoint, compiled, target, graph_name, shape, free_sizes, faster=None, task=SST2):
    """The JSON object that describes a file exported for `shape`; docs/file-format.md says what its
    keys mean. `faster` is what backends.faster has measured, if it was asked."""
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
        "free_sizes": free_sizes,
        "measured": faster and {"cpu": machine.cpu(), "times_as_fast": faster},
        "task": task.trained_as,
        "tokenizer": checkpoint.tokenizer.description,
        "label_names": list(checkpoint.config.label_names),
        "config": asdict(checkpoint.config),
        "random_weights": checkpoint.random,
        "source": {
            # a path need not be UTF-8, the manifest is
            "checkpoint": checkpoint.origin.encode(errors="backslashreplace").decode(),
            "layout": checkpoint.layout,
            "sha256": checkpoint.sha256,
            "tokenizer_sha256": checkpoint.tokenizer.sha256,
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


def digest(manifest):
    """sha256 of a manifest without its own: of its JSON with sorted keys and without blanks."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def untrue(manifest):
    """The first key whose value cannot be true, as it is printed, or None."""
    for key, kind in _KEYS.items():
        if type(manifest.get(key)) is not kind:
            return repr(key)
    config, names = manifest["config"], manifest["label_names"]
    reason = config_problem(config)
    if reason:
        return f"'config': {reason}"
    seq, slots = manifest["max_seq_length"], manifest["slots"]
    task = manifest["task"]
    known = (manifest["backend"], manifest["device"]) in backends.ORDER
    checks = {
        "backend": known,
        "precision": known
        and manifest["precision"] in backends.get(manifest["backend"]).PRECISIONS,
        "batch_size": manifest["batch_size"] >= 1,
        "max_seq_length": TOKENS <= seq <= config["max_position_embeddings"],
        "slots": 0 <= slots <= seq // TOKENS,
        "free_sizes": type(manifest.get("free_sizes", False)) is bool,
        "task": task in TASKS,
        "label_names": _fits(names, TASKS.get(task, SST2)),
        "num_labels": config.get("num_labels") == len(names),
        "requires": all(isinstance(name, str) for name in manifest["requires"]),
        "tokenizer": is_description(manifest["tokenizer"]),
    }
    return next((repr(key) for key, right in checks.items() if not right), None)


def _fits(names, task):
    """Whether a program of this task can have outputs of these names."""
    right = len(names) == 1 if task.regression else len(names) >= 2
    return right and all(isinstance(name, str) for name in names)
