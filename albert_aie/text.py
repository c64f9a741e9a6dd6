"""Sentences -> token ids, exactly as albert_pytorch does it (its model/tokenization_albert.py and
processors/glue.py at 46de9ec; tests/golden holds digests made with that code)."""

import unicodedata

from . import UserError

WORD_START = "\u2581"  # sentencepiece's mark for a blank before a piece
SPECIAL_IDS = {"<pad>": 0, "<unk>": 1, "[CLS]": 2, "[SEP]": 3}
CLS, SEP = 2, 3


class Tokenizer:
    """albert_pytorch's sentencepiece tokenizer. It always lower-cases, as upstream does whatever
    --do_lower_case says."""

    def __init__(self, model, name="the sentencepiece model"):
        """`model`: the bytes of a .model file; `name` appears in errors. Raises UserError if it is
        not ALBERT-like."""
        import sentencepiece

        if not model:  # sentencepiece itself would write to stderr
            raise UserError(f"{name}: is empty; use ALBERT's 30k-clean.model")
        try:
            self._spm = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.vocab_size = self._spm.get_piece_size()
        except (RuntimeError, TypeError):
            raise UserError(
                f"{name}: not a sentencepiece model; use ALBERT's 30k-clean.model"
            ) from None
        for piece, wanted in SPECIAL_IDS.items():
            if self.vocab_size <= wanted or self._spm.id_to_piece(wanted) != piece:
                raise UserError(
                    f"{name}: piece {wanted} is not {piece}, so it is no ALBERT vocabulary; "
                    "use the checkpoint's own sentencepiece model (30k-clean.model)"
                )

    def encode(self, text, max_seq_length=None):
        """(ids, truncated): [CLS] a [SEP] as a list of int, cut to max_seq_length with both
        kept."""
        ids = [self._spm.piece_to_id(piece) for piece in self._pieces(_clean(text))]
        truncated = max_seq_length is not None and len(ids) > max_seq_length - 2
        if truncated:
            ids = ids[: max_seq_length - 2]
        return [CLS] + ids + [SEP], truncated

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


def _clean(text):
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    text = unicodedata.normalize("NFKD", text)
    return "".join(c for c in text if not unicodedata.combining(c)).lower()


def encode_all(tokenizer, sentences, max_seq_length):
    """(list of id lists, number of truncated sentences)."""
    encoded = [tokenizer.encode(sentence, max_seq_length) for sentence in sentences]
    return [ids for ids, _ in encoded], sum(truncated for _, truncated in encoded)
