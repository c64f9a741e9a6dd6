"""Which code turns a checkpoint's sentences into token ids: that of the tokenizer it was trained
with."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..base.encoding import texts
from .library import JsonTokenizer, WordPiece
from .sentencepiece_model import SPM_OPTIONS, SentencePiece


@dataclass(frozen=True)
class TokenizerFile:
    """A checkpoint's tokenizer, from its folder or from a .pt.

    `kind` is a key of KINDS, `path` says where `data` was read, `options` are keywords of its
    class, `beside` is the folder's file of the other kind, which is not used; `folder` is the
    Hugging Face folder whose other files say more of it."""

    kind: str
    path: Path
    data: bytes
    options: dict = field(default_factory=dict)
    beside: Optional["TokenizerFile"] = None
    folder: Optional[Path] = None

    @property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @property
    def description(self):
        """As the manifest has it."""
        return {"kind": self.kind, "options": self.options}

    def __str__(self):
        beside = f"; {self.beside.path.name} is not used" if self.beside else ""
        return f"{self.path} ({self.kind}{beside})"

    def load(self):
        """The tokenizer. Raises UserError naming the file if it cannot be one."""
        return KINDS[self.kind](self.data, str(self.path), **self.options)


KINDS = {"spm": SentencePiece, "json": JsonTokenizer, "wordpiece": WordPiece}
# The options of each that are true or false, and those that are {token: id}.
SWITCHES = {"spm": tuple(SPM_OPTIONS), "json": (), "wordpiece": ("do_lower_case", "special_tokens")}


def disagreement(file, sentences):
    """Where `file` and the one beside it give different ids for some of the sentences: how many,
    which is used, and an example; else an empty text."""
    if file.beside is None:
        return ""
    used, other = file.load(), file.beside.load()
    differing = [s for s in sentences if used.encode(s).ids != other.encode(s).ids]
    if not differing:
        return ""
    example = min(differing, key=lambda sentence: sum(map(len, texts(sentence))))
    return (
        f"{file.path} and {file.beside.path} give different ids for {len(differing)} of "
        f"{len(sentences)} sentences, for example {example!r}; {file.path.name} is "
        f"used, --tokenizer {file.beside.kind} takes {file.beside.path.name}"
    )
