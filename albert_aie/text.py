"""GLUE's SST-2 files and their sentences -> token ids, exactly as albert_pytorch does it (its
model/tokenization_albert.py and processors/glue.py at 46de9ec; tests/golden holds digests made with
that code)."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from . import UserError

WORD_START = "\u2581"  # sentencepiece's mark for a blank before a piece
SPECIAL_IDS = {"<pad>": 0, "<unk>": 1, "[CLS]": 2, "[SEP]": 3}
CLS, SEP = 2, 3
HEADERS = {
    "dev": ["sentence", "label"],
    "train": ["sentence", "label"],
    "test": ["index", "sentence"],
}


@dataclass(frozen=True)
class Examples:
    """Sentences of one SST-2 split in file order; `labels` is None where the file has none (GLUE's
    test). `indices` are the file's own where it has them, else 0, 1, ..."""

    path: Path
    sentences: list
    labels: Optional[list]
    indices: list

    def first(self, count):
        """The first `count` of them; all of them where it is None."""
        labels = self.labels and self.labels[:count]
        return Examples(self.path, self.sentences[:count], labels, self.indices[:count])


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


def read_sst2(data_dir, split="dev", num_labels=2):
    """Examples of data_dir/{split}.tsv. GLUE has no quoting: a quote is text.

    dev and train: `sentence<TAB>label`; test: `index<TAB>sentence`, without labels.
    Raises UserError with file and line for anything else.
    """
    path, header = Path(data_dir) / f"{split}.tsv", HEADERS[split]
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; --data_dir wants the folder of GLUE's SST-2 (train.tsv, "
            "dev.tsv, "
            'test.tsv; README, "Your own checkpoint", says where to download it); --demo takes '
            "this repository's own"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8; convert the file, for example with iconv -t utf-8"
        ) from None
    lines = [line.rstrip("\r").split("\t") for line in text.split("\n")]
    while lines and lines[-1] == [""]:
        lines.pop()
    if not lines:
        raise UserError(f"{path}: is empty; download GLUE's SST-2 again")
    if lines[0] != header:
        raise UserError(
            f"{path}, line 1: the header {'<TAB>'.join(header)} is missing; GLUE's SST-2 {split} "
            "file begins with it"
        )
    if len(lines) == 1:
        raise UserError(f"{path}: holds a header and no sentence; download GLUE's SST-2 again")
    for number, fields in enumerate(lines[1:], start=2):
        if len(fields) != 2:
            raise UserError(
                f"{path}, line {number}: {len(fields)} column{'s'[: len(fields) != 1]} instead of "
                "2 "
                f"({'<TAB>'.join(header)}); correct the line"
            )
    if header[0] == "index":
        return Examples(
            path, [sentence for _, sentence in lines[1:]], None, [index for index, _ in lines[1:]]
        )
    classes = {str(i): i for i in range(num_labels)}
    for number, (_, label) in enumerate(lines[1:], start=2):
        if label not in classes:
            raise UserError(
                f"{path}, line {number}: label {label!r} is not a class of the model "
                f"({', '.join(classes)}); correct the line"
            )
    sentences, labels = zip(*lines[1:])
    return Examples(
        path, list(sentences), [classes[label] for label in labels], list(range(len(labels)))
    )
