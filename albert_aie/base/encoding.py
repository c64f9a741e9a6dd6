"""A sentence, which is a text or a pair of them, as token ids."""

from typing import NamedTuple, Optional


class Encoded(NamedTuple):
    """Token ids of a sentence, whether they were cut, and of a pair the place of the first token
    that is of segment 1 (None: there is no second segment)."""

    ids: list
    truncated: bool = False
    second: Optional[int] = None


def framed(pieces, cls, sep, max_seq_length=None, empty_second=False):
    """Encoded of the ids of one text or two: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]. Cut to
    max_seq_length as albert_pytorch cuts: of a pair the longer text loses its last token, the
    second where both are as long, again and again. A second text without a token is none, but for
    transformers (`empty_second`), which ends it with a [SEP] too."""
    first, *rest = pieces
    second = rest[0] if rest else []
    empty_second = empty_second and bool(rest)
    a, b = len(first), len(second)
    if max_seq_length is not None:
        keep = max(0, max_seq_length - (3 if second or empty_second else 2))
        while a + b > keep:
            a, b = (a - 1, b) if a > b else (a, b - 1)
    truncated = a + b < len(first) + len(second)
    ids = [cls, *first[:a], sep]
    if not (b or empty_second):
        return Encoded(ids, truncated)
    return Encoded([*ids, *second[:b], sep], truncated, len(ids))


def texts(sentence):
    """The one text or two of a sentence."""
    return (sentence,) if isinstance(sentence, str) else tuple(sentence)
