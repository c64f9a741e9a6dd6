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
    ends = 3 if second or empty_second else 2
    keep = None if max_seq_length is None else max_seq_length - ends
    truncated = keep is not None and len(first) + len(second) > keep
    if truncated:
        first, second = _cut(first, second, max(0, keep))
    ids = [cls, *first, sep]
    if not (second or empty_second):
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
