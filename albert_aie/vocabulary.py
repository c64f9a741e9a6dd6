"""Which tokenizer a checkpoint was trained with: its file, and what tokenizer_config.json changes
about it."""

import json
from dataclasses import replace
from pathlib import Path

from . import UserError
from .text import KINDS, SPM_OPTIONS, TokenizerFile

CONFIG = "tokenizer_config.json"
# Settings of transformers that change ids and that neither kind knows here: refused by name where
# they are set to anything but this.
_FIXED = {"truncation_side": "right", "split_special_tokens": False, "sp_model_kwargs": {}}
# Where each layout's training code looks first. albert_pytorch knows sentencepiece alone.
_ORDER = {"albert_pytorch": ("spm",), "huggingface": ("json", "spm")}
MULTIPLE = 128  # embedding rows are often rounded up to it


def find(folder, layout, rows, kind=None, spm_model_file=None, upstream_dir=None):
    """TokenizerFile of a checkpoint whose word embeddings have `rows` rows.

    `kind` and `spm_model_file` are the flags --tokenizer and --spm_model_file. Without them a
    Hugging Face folder's tokenizer.json goes first, then a sentencepiece model of the folder, then
    that of prev_trained_model/*/ in `upstream_dir`; an albert_pytorch folder's tokenizer.json is
    not asked. Raises UserError if there is none or it does not fit."""
    folder = Path(folder)
    if spm_model_file and kind == "json":
        raise UserError("--spm_model_file, --tokenizer json: contradict each other; leave one out")
    if spm_model_file and not Path(spm_model_file).is_file():
        raise UserError(
            f"{spm_model_file}: no such file; --spm_model_file wants ALBERT's sentencepiece model "
            "(30k-clean.model)"
        )
    order = ("spm",) if spm_model_file else (kind,) if kind else _ORDER[layout]
    found = [Path(spm_model_file)] if spm_model_file else _files(folder, order, upstream_dir)
    if not found:
        raise UserError(_nothing(folder, order, upstream_dir))
    fitting = [path for path in found if _misfit(_read(path), rows) is None] or found[:1]
    file = _read(fitting[0])
    if reason := _misfit(file, rows):
        raise UserError(reason)
    if layout == "huggingface":
        file = _configured(file, folder)
    beside = _files(folder, [other for other in KINDS if other != file.kind])
    return replace(file, beside=_read(beside[0]) if beside else None)
