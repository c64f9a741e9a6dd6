"""Tokens equal albert_pytorch's, and GLUE's files are read as GLUE wrote them."""

import hashlib
import json

import pytest
from helpers import ROOT, small_vocabulary

from albert_aie.data import datasets
from albert_aie.text.sentencepiece_model import SentencePiece

GOLDEN = json.loads((ROOT / "tests" / "golden" / "tokens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(albert_files):
    return SentencePiece((albert_files / "30k-clean.model").read_bytes())


@pytest.mark.parametrize("split", ["dev", "test", "train"])
def test_tokens_of_sst2_equal_upstreams(tokenizer, sst2, split):
    rows = [tokenizer.encode(sentence)[0] for sentence in datasets.read(sst2, split).sentences]
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    digest = hashlib.sha256(text.encode()).hexdigest()
    made = {"sentences": len(rows), "tokens": sum(map(len, rows)), "sha256": digest}
    assert made == GOLDEN["files"][split]


@pytest.mark.parametrize("case", GOLDEN["tricky"], ids=lambda case: repr(case["text"]))
def test_tokens_of_tricky_text_equal_upstreams(tokenizer, case):
    assert tokenizer.encode(case["text"])[0] == case["ids"]


def test_an_unknown_number_and_its_comma_are_two_tokens():
    """As albert_pytorch takes them apart, also where one unknown piece stands for both."""
    tokenizer = SentencePiece(small_vocabulary())
    assert tokenizer.encode("fox 1994 dog").ids.count(1) == 1
    assert tokenizer.encode("fox 1994, dog").ids.count(1) == 2
    # within a word there is no blank before the number
    plain, comma = (tokenizer.encode(f"fox1994{mark} dog").ids for mark in ("", ","))
    assert plain.count(1) == 1 and comma == [*plain[: plain.index(1)], 1, *plain[plain.index(1) :]]


def test_truncation_keeps_cls_and_sep_and_says_so(tokenizer):
    whole = tokenizer.encode("one two three four five six")
    cut = tokenizer.encode("one two three four five six", 5)
    assert (whole.truncated, cut.truncated) == (False, True)
    assert cut.ids == whole.ids[:4] + [3]
    assert tokenizer.encode("one two three", 5) == tokenizer.encode("one two three")
