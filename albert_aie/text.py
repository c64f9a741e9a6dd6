"""Sentences -> token ids, with the tokenizer that the checkpoint was trained with: a
tokenizer.json, or sentencepiece exactly as albert_pytorch uses it (its model/tokenization_albert.py
and processors/glue.py at 46de9ec; tests/golden holds digests made with that code)."""

import contextlib
import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from . import UserError, first_line, terminal

WORD_START = "\u2581"  # sentencepiece's mark for a blank before a piece
SPECIAL_IDS = {"<pad>": 0, "<unk>": 1, "[CLS]": 2, "[SEP]": 3}
CLS, SEP = 2, 3

# What albert_pytorch does, whatever its --do_lower_case says; a Hugging Face folder may differ.
SPM_OPTIONS = {"do_lower_case": True, "keep_accents": False, "remove_space": True}


@dataclass(frozen=True)
class TokenizerFile:
    """A checkpoint's tokenizer, from its folder or from a .pt.

    `kind` is a key of KINDS, `path` says where `data` was read, `options` are keywords of its
    class, `beside` is the folder's file of the other kind, which is not used."""

    kind: str
    path: Path
    data: bytes
    options: dict = field(default_factory=dict)
    beside: Optional["TokenizerFile"] = None

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


class Tokenizer:
    """A sentencepiece model, used as albert_pytorch uses it; with `added_tokens` {token: id} and
    SPM_OPTIONS as transformers 4 uses it. The name of a special token in a text, such as [SEP], is
    text."""

    ENTRY = "tokenizer.model"  # its name in a .pt
    NAMES = ("30k-clean.model", "spiece.model")  # and in a folder

    def __init__(self, model, name="the sentencepiece model", added_tokens=None, **options):
        """`model`: the bytes of a .model file; `name` appears in errors. Raises UserError if it is
        not ALBERT-like."""
        import sentencepiece

        self._added, self._options = added_tokens or {}, {**SPM_OPTIONS, **options}
        if not model:  # sentencepiece itself would write to stderr
            raise UserError(f"{name}: is empty; use ALBERT's 30k-clean.model")
        try:
            self._spm = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = self._spm.get_piece_size()
            self._spm.id_to_piece(list(range(pieces)))  # a damaged file's need not be UTF-8
        except (RuntimeError, TypeError, UnicodeDecodeError):
            raise UserError(
                f"{name}: not a sentencepiece model; use ALBERT's 30k-clean.model"
            ) from None
        for piece, wanted in SPECIAL_IDS.items():
            if pieces <= wanted or self._spm.id_to_piece(wanted) != piece:
                raise UserError(
                    f"{name}: piece {wanted} is not {piece}, so it is no ALBERT vocabulary; "
                    "use the checkpoint's own sentencepiece model (30k-clean.model)"
                )
        self.vocab_size = max([pieces - 1, *self._added.values()]) + 1
        longest_first = sorted(map(re.escape, self._added), key=len, reverse=True)
        self._split = re.compile("(" + "|".join(longest_first) + ")").split

    def encode(self, text, max_seq_length=None):
        """(ids, truncated): [CLS] a [SEP] as a list of int, cut to max_seq_length with both
        kept."""
        ids = list(self._ids(text))
        truncated = max_seq_length is not None and len(ids) > max_seq_length - 2
        if truncated:
            ids = ids[: max_seq_length - 2]
        return [CLS] + ids + [SEP], truncated

    def piece(self, number):
        """The text of a piece, as sentencepiece has it."""
        return self._spm.id_to_piece(number)

    def _ids(self, text):
        for part, number in self._parts(text):
            if number is not None:
                yield number
            else:
                for piece in self._pieces(clean(part, **self._options)):
                    yield self._spm.piece_to_id(piece)

    def _parts(self, text):
        """(part of the text, its id if it is an added token): as transformers' slow tokenizer
        splits, first by tokens as they stand, then by those that it finds once lower-cased."""
        if not self._added:
            yield text, None
            return
        for part in self._split(text):
            if part in self._added:
                yield part, self._added[part]
            elif self._options["do_lower_case"]:
                yield from ((word, self._added.get(word)) for word in self._split(part.lower()))
            else:
                yield part, None

    def _pieces(self, text):
        # A piece that ends in digit + comma is encoded again without the comma, which stands alone
        # ("1994," in prose).
        for piece in self._spm.encode(text, out_type=str):
            if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
                number = self._spm.encode(piece[:-1].replace(WORD_START, ""), out_type=str)
                if not piece.startswith(WORD_START) and number[0].startswith(WORD_START):
                    number[:1] = [number[0][1:]] if number[0] != WORD_START else []
                yield from number
                yield ","
            else:
                yield piece


class _Unaccented(dict):
    """Code point -> its NFKD form without combining marks, for str.translate. Code point by code
    point, because unicodedata takes seconds to sort the marks of a long run, and their order is of
    no account once they are dropped."""

    def __missing__(self, code):
        form = unicodedata.normalize("NFKD", chr(code))
        self[code] = "".join(c for c in form if not unicodedata.combining(c))
        return self[code]


_UNACCENTED = _Unaccented()


def clean(text, do_lower_case=True, keep_accents=False, remove_space=True):
    if remove_space:
        text = " ".join(text.split())
    text = text.replace("``", '"').replace("''", '"')
    if not keep_accents:
        text = text.translate(_UNACCENTED)
    return text.lower() if do_lower_case else text


# Reaches most of what can fail in a tokenizer: known words, accents, an unknown character.
_PROBE = "Caf\u00e9 \u96fb -- a ``long'' [SEP] 1994,"


class JsonTokenizer:
    """A tokenizer.json, run by the library `tokenizers` as transformers runs it. The name of a
    special token in a text, such as [SEP], becomes that token."""

    ENTRY = "tokenizer.json"
    NAMES = ("tokenizer.json",)

    def __init__(self, data, name="tokenizer.json"):
        """`data`: the bytes of the file; `name` appears in errors. Raises UserError if it is no
        tokenizer."""
        import tokenizers

        self._name, self._length = name, None
        wrong = f"not a tokenizer that tokenizers {tokenizers.__version__} reads"
        with terminal.silent(), self._errors(wrong):  # a panic writes lines of its own
            self._tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8-sig"))
            self._tokenizer.no_padding()  # the file can ask for either
            self._tokenizer.no_truncation()
            empty = self._tokenizer.encode("").ids
            self._tokenizer.encode(_PROBE)
            self.vocab_size = max(*self._tokenizer.get_vocab().values(), *empty) + 1
        if not empty:
            raise UserError(
                f"{name}: puts no [CLS] and [SEP] around a sentence; save the tokenizer again with "
                "the post-processor that the checkpoint was trained with"
            )

    def encode(self, text, max_seq_length=None):
        """(ids, truncated): as the file says, cut to max_seq_length with what it puts around a
        sentence kept."""
        with self._errors("cannot tokenise a sentence"):
            if max_seq_length != self._length:
                self._length = max_seq_length
                self._tokenizer.no_truncation()
                if max_seq_length is not None:
                    self._tokenizer.enable_truncation(max_seq_length)
            encoding = self._tokenizer.encode(text)
        return encoding.ids, bool(encoding.overflowing)

    def normalized(self, text):
        """A text as the model of the tokenizer gets it."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    @contextlib.contextmanager
    def _errors(self, what):
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library's panics are no Exception
            raise UserError(
                f"{self._name}: {what} ({first_line(error)}); save the tokenizer again, or pip "
                "install the version of tokenizers that wrote it"
            ) from None


KINDS = {"spm": Tokenizer, "json": JsonTokenizer}


def is_description(value):
    """Whether it is what TokenizerFile.description can be."""
    if not isinstance(value, dict) or set(value) != {"kind", "options"}:
        return False
    kind, options = value["kind"], value["options"]
    if kind == "json" or not isinstance(options, dict):
        return kind == "json" and options == {}
    added = options.get("added_tokens", {})
    switches = [name for name in options if name != "added_tokens"]
    return (
        kind == "spm"
        and isinstance(added, dict)
        and all(type(number) is int and number >= 0 for number in added.values())
        and all(name in SPM_OPTIONS and type(options[name]) is bool for name in switches)
    )


def disagreement(file, sentences):
    """Where `file` and the one beside it give different ids for some of the sentences: how many,
    which is used, and an example; else an empty text."""
    if file.beside is None:
        return ""
    used, other = file.load(), file.beside.load()
    differing = [s for s in sentences if used.encode(s)[0] != other.encode(s)[0]]
    if not differing:
        return ""
    return (
        f"{file.path} and {file.beside.path} give different ids for {len(differing)} of "
        f"{len(sentences)} sentences, for example {min(differing, key=len)!r}; {file.path.name} is "
        f"used, --tokenizer {file.beside.kind} takes {file.beside.path.name}"
    )


def encode_all(tokenizer, sentences, max_seq_length):
    """(list of id lists, number of truncated sentences)."""
    encoded = [tokenizer.encode(sentence, max_seq_length) for sentence in sentences]
    return [ids for ids, _ in encoded], sum(truncated for _, truncated in encoded)
