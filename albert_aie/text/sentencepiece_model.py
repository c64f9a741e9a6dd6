"""sentencepiece exactly as albert_pytorch uses it (its model/tokenization_albert.py at 46de9ec;
tests/golden holds digests made with that code)."""

import re
import unicodedata

from ..base.encoding import framed, texts
from ..base.errors import UserError, refusing

WORD_START = "\u2581"  # sentencepiece's mark for a blank before a piece
SPECIAL_IDS = {"<pad>": 0, "<unk>": 1, "[CLS]": 2, "[SEP]": 3}
CLS, SEP = 2, 3

# What albert_pytorch does, whatever its --do_lower_case says; a Hugging Face folder may differ.
SPM_OPTIONS = {"do_lower_case": True, "keep_accents": False, "remove_space": True}


class SentencePiece:
    """A sentencepiece model, used as albert_pytorch uses it; with `added_tokens` {token: id} and
    SPM_OPTIONS as transformers 4 uses it. The name of a special token in a text, such as [SEP], is
    text."""

    ENTRY = "tokenizer.model"  # its name in a .pt
    NAMES = ("30k-clean.model", "spiece.model")  # and in a folder

    def __init__(self, model, name="the sentencepiece model", added_tokens=None, **options):
        """Of the bytes of a .model file; `name` is in errors. UserError if it is no ALBERT's."""
        import sentencepiece

        self._added, self._options = added_tokens or {}, {**SPM_OPTIONS, **options}
        if not model:  # sentencepiece itself would write to stderr
            raise UserError(f"{name}: is empty; use ALBERT's 30k-clean.model")
        message = f"{name}: not a sentencepiece model; use ALBERT's 30k-clean.model"
        with refusing(message, RuntimeError, TypeError, UnicodeDecodeError):
            self._spm = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = self._spm.get_piece_size()
            # a damaged file's need not be UTF-8
            named = self._spm.id_to_piece(list(range(pieces)))
        for piece, wanted in SPECIAL_IDS.items():
            if pieces <= wanted or self._spm.id_to_piece(wanted) != piece:
                raise UserError(
                    f"{name}: piece {wanted} is not {piece}, so it is no ALBERT vocabulary; "
                    "use the checkpoint's own sentencepiece model (30k-clean.model)"
                )
        # what `_pieces` may take apart; what stands for an unknown piece, only the text tells
        self._unsure = {i for i, piece in enumerate(named) if _is_number(piece)}
        self._unsure.add(self._spm.unk_id())
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
                continue
            text = clean(part, **self._options)
            ids = self._spm.encode(text)
            if not self._unsure.isdisjoint(ids):
                ids = map(self._spm.piece_to_id, self._pieces(text))
            yield from ids

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
        for piece in self._spm.encode(text, out_type=str):
            if _is_number(piece):
                number = self._spm.encode(piece[:-1].replace(WORD_START, ""), out_type=str)
                if not piece.startswith(WORD_START) and number[0].startswith(WORD_START):
                    number[:1] = [number[0][1:]] if number[0] != WORD_START else []
                yield from number
                yield ","
            else:
                yield piece


def _is_number(piece):
    """Whether it ends in digit + comma, as "1994," in prose: such a piece is encoded again without
    the comma, which then stands alone."""
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


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
