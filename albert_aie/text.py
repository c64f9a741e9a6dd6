"""Sentences -> token ids, with the tokenizer that the checkpoint was trained with: a
tokenizer.json, or sentencepiece or WordPiece exactly as albert_pytorch uses them (its
model/tokenization_albert.py and processors/glue.py at 46de9ec; tests/golden holds digests made with
that code). A sentence is a str, or a pair of them."""

import contextlib
import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

from . import UserError, first_line, terminal

WORD_START = "\u2581"  # sentencepiece's mark for a blank before a piece
SPECIAL_IDS = {"<pad>": 0, "<unk>": 1, "[CLS]": 2, "[SEP]": 3}
CLS, SEP = 2, 3

# What albert_pytorch does, whatever its --do_lower_case says; a Hugging Face folder may differ.
SPM_OPTIONS = {"do_lower_case": True, "keep_accents": False, "remove_space": True}


class Encoded(NamedTuple):
    """Token ids of a sentence, whether they were cut, and of a pair the place of the first token
    that is of segment 1 (None: there is no second segment)."""

    ids: list
    truncated: bool = False
    second: Optional[int] = None


def framed(pieces, cls, sep, max_seq_length=None):
    """Encoded of the ids of one text or two: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]. Cut to
    max_seq_length as albert_pytorch cuts: of a pair the longer text loses its last token, the
    second where both are as long, again and again. A second text without a token is none."""
    first, *rest = pieces
    second = rest[0] if rest else []
    keep = None if max_seq_length is None else max_seq_length - (3 if second else 2)
    truncated = keep is not None and len(first) + len(second) > keep
    if truncated:
        first, second = _cut(first, second, max(0, keep))
    ids = [cls, *first, sep]
    if not second:
        return Encoded(ids, truncated)
    return Encoded([*ids, *second, sep], truncated, len(ids))


def _cut(first, second, keep):
    """The texts with `keep` tokens of both together."""
    a, b = len(first), len(second)
    while a + b > keep:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    return first[:a], second[:b]


def texts(sentence):
    """The one text or two of a sentence."""
    return (sentence,) if isinstance(sentence, str) else tuple(sentence)


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

    def encode(self, sentence, max_seq_length=None):
        """Encoded, as `framed` says."""
        pieces = [list(self._ids(text)) for text in texts(sentence)]
        return framed(pieces, CLS, SEP, max_seq_length)

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

    def encode(self, sentence, max_seq_length=None):
        """Encoded: as the file says, cut to max_seq_length with what it puts around a sentence
        kept. Segment 1 begins with the second text, whatever the file says of segments: that is how
        ALBERT was trained, and transformers 5 writes files that say nothing."""
        with self._errors("cannot tokenise a sentence"):
            if max_seq_length != self._length:
                self._length = max_seq_length
                self._tokenizer.no_truncation()
                if max_seq_length is not None:
                    self._tokenizer.enable_truncation(max_seq_length)
            encoding = self._tokenizer.encode(*texts(sentence))
        second = None
        if not isinstance(sentence, str):  # where the second text has no token, its [SEP] is left
            known = encoding.sequence_ids
            second = known.index(1) if 1 in known else len(known) - 1
        return Encoded(encoding.ids, bool(encoding.overflowing), second)

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


# A word that is longer is one [UNK]: albert_pytorch's number, and BERT's.
_LONGEST_WORD = 100


class WordPiece:
    """A vocab.txt as albert_pytorch and BERT use it, by the library `tokenizers`: what Chinese
    ALBERTs have. The name of a special token in a text, such as [SEP], is text; with
    `special_tokens` it becomes that token, as transformers does it."""

    ENTRY = "vocab.txt"
    NAMES = ("vocab.txt",)
    SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

    def __init__(self, data, name="vocab.txt", do_lower_case=True, special_tokens=False):
        """`data`: the bytes of the file, a piece a line; `name` appears in errors. Raises UserError
        if it is no such vocabulary."""
        import tokenizers

        try:
            lines = data.decode("utf-8").replace("\r\n", "\n").split("\n")
        except UnicodeDecodeError:
            raise UserError(f"{name}: not UTF-8; copy it again from the checkpoint") from None
        while lines and not lines[-1]:
            lines.pop()
        vocab = {piece: number for number, piece in enumerate(lines)}
        missing = [piece for piece in self.SPECIAL if piece not in vocab]
        if missing or vocab["[PAD]"] != 0:
            wrong = f"has no {missing[0]}" if missing else "does not begin with [PAD]"
            raise UserError(
                f"{name}: {wrong}, so it is no WordPiece vocabulary of an ALBERT; use the "
                "checkpoint's own vocab.txt"
            )
        self.vocab_size = len(lines)
        self._cls, self._sep = vocab["[CLS]"], vocab["[SEP]"]
        model = tokenizers.models.WordPiece(
            vocab, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD
        )
        self._tokenizer = tokenizers.Tokenizer(model)
        self._tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=do_lower_case)
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        if special_tokens:
            known = [piece for piece in (*self.SPECIAL, "[MASK]") if piece in vocab]
            self._tokenizer.add_special_tokens(known)

    def encode(self, sentence, max_seq_length=None):
        """Encoded, as `framed` says."""
        encode = self._tokenizer.encode
        pieces = [encode(text, add_special_tokens=False).ids for text in texts(sentence)]
        return framed(pieces, self._cls, self._sep, max_seq_length)


KINDS = {"spm": Tokenizer, "json": JsonTokenizer, "wordpiece": WordPiece}
# The options of each that are true or false.
SWITCHES = {
    "spm": tuple(SPM_OPTIONS),
    "json": (),
    "wordpiece": ("do_lower_case", "special_tokens"),
}


def is_description(value):
    """Whether it is what TokenizerFile.description can be."""
    if not isinstance(value, dict) or set(value) != {"kind", "options"}:
        return False
    kind, options = value["kind"], value["options"]
    if not (isinstance(options, dict) and isinstance(kind, str) and kind in SWITCHES):
        return False
    added = options.get("added_tokens", {}) if kind == "spm" else {}
    switches = [name for name in options if kind != "spm" or name != "added_tokens"]
    return (
        isinstance(added, dict)
        and all(type(number) is int and number >= 0 for number in added.values())
        and all(name in SWITCHES[kind] and type(options[name]) is bool for name in switches)
    )


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
