"""Pairs and WordPiece: ids and segments are albert_pytorch's, on text that was made to differ."""

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import safetensors.torch
import tokenizers
import torch
from glue_sets import CHINESE, vocabulary, write_model, write_set
from helpers import ROOT, SPM, flags, fused_logits, python, refused, said

from albert_aie.albert import checkpoint, references
from albert_aie.base.encoding import Encoded
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape
from albert_aie.data import datasets, tasks
from albert_aie.run import compare
from albert_aie.run.batching import batches
from albert_aie.text import find_tokenizer as vocabularies
from albert_aie.text.library import JsonTokenizer, WordPiece
from albert_aie.text.sentencepiece_model import SentencePiece
from albert_aie.text.tokenizer_file import TokenizerFile

GOLDEN = ROOT / "tests" / "golden"
MADE = json.loads((GOLDEN / "pairs.json").read_text(encoding="utf-8"))
VOCABULARY = "\n".join(MADE["vocabulary"]).encode()


def wanted(case):
    return case["ids"], case["second"]


@pytest.mark.parametrize(
    "case", MADE["pairs"], ids=lambda case: f"{case['texts']} {case['length']}"
)
def test_pairs_are_cut_and_joined_as_upstream_does(case):
    found = SentencePiece(SPM.read_bytes()).encode(tuple(case["texts"]), case["length"])
    assert (found.ids, found.second) == wanted(case)
    whole = SentencePiece(SPM.read_bytes()).encode(tuple(case["texts"]))
    assert found.truncated == (len(found.ids) < len(whole.ids))


@pytest.mark.parametrize(
    "case", MADE["wordpiece"], ids=lambda case: f"{case['text'][:20]!r} {case['lower']}"
)
def test_wordpiece_equals_upstreams(case):
    found = WordPiece(VOCABULARY, do_lower_case=case["lower"]).encode(case["text"])
    assert (found.ids, found.second) == wanted(case)


@pytest.mark.parametrize("case", MADE["wordpiece_pairs"])
def test_pairs_of_wordpiece_equal_upstreams(case):
    found = WordPiece(VOCABULARY).encode(tuple(case["texts"]), case["length"])
    assert (found.ids, found.second) == wanted(case)


@pytest.mark.upstream
def test_golden_pairs_are_what_upstream_makes(patched_tree, tmp_path):
    tests = tmp_path / "tests"
    (tests / "golden").mkdir(parents=True)
    for name in ("golden/make_pairs.py", "glue_sets.py", "helpers.py"):
        (tests / name).write_text((ROOT / "tests" / name).read_text(encoding="utf-8"))
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    script = tests / "golden" / "make_pairs.py"
    run = python(script, *flags(upstream=patched_tree), cwd=tmp_path, env=env)
    assert run.code == 0, run.err
    assert json.loads((tests / "golden" / "pairs.json").read_text(encoding="utf-8")) == MADE


def test_segments_reach_the_batch_plain_and_packed():
    encoded = [Encoded([2, 5, 3, 6, 3], second=3), Encoded([2, 7, 3])]
    plain = next(batches(encoded, Shape(2, 6)))
    assert plain.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 0], [0] * 6]
    packed = next(batches(encoded, Shape(1, 10, 3)))
    assert packed.input_ids.tolist() == [[2, 5, 3, 6, 3, 2, 7, 3, 0, 0]]
    assert packed.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("shape", [Shape(2, 64), Shape(2, 128, 16), Shape(1, 300, 37)])
def test_segments_count_in_the_logits_as_in_transformers(tmp_path, shape):
    folder = write_model(tmp_path / "m", "MRPC")
    found = checkpoint.load(folder)
    tokenizer = found.tokenizer.load()
    pairs = datasets.read(write_set(tmp_path / "d", "MRPC"), task=tasks.TASKS["MRPC"]).sentences
    encoded = [tokenizer.encode(pair, 64) for pair in pairs]
    reference, _ = references.logits(found, encoded)
    got = fused_logits(found, encoded, shape)
    numpy.testing.assert_allclose(got, reference, rtol=0, atol=1e-5)
    without, _ = references.logits(found, [Encoded(one.ids) for one in encoded])
    assert numpy.abs(without - reference).max() > 1e-3


def test_a_json_tokenizer_gives_segments_to_pairs(saved_by):
    """transformers 5's file names none; the second text and its [SEP] are segment 1."""
    for name in ("5.23.0/json", "4.46.3/both"):
        tokenizer = checkpoint.load(saved_by(name)).tokenizer.load()
        first, second = tokenizer.encode("a fine film"), tokenizer.encode("dull")
        pair = tokenizer.encode(("a fine film", "dull"))
        assert pair.ids == first.ids + second.ids[1:]
        assert pair.second == len(first.ids) and first.second is None
        empty = tokenizer.encode(("a fine film", ""))
        assert empty.ids[empty.second :] == [3]


def test_other_segments_of_the_same_ids_fail_the_comparison(monkeypatch):
    """The ids of [CLS] a [SEP] b [SEP], by a reference that sees one segment."""
    logits = numpy.array([[1, 0]], numpy.float32)
    own = SimpleNamespace(encode=lambda *_: Encoded([2, 5, 3, 6, 3], second=3))
    saved = SimpleNamespace(
        shape=Shape(1, 8),
        tokenizer=SimpleNamespace(load=lambda: own),
        manifest={"precision": "fp32", "random_weights": False},
    )
    monkeypatch.setattr(references, "logits", lambda *_, **__: (logits, ""))
    given = datasets.Examples(tasks.TASKS["RTE"], "dev.tsv", [("a", "b")], None, [0], ("x", "y"))
    for second, passed in ((3, True), (None, False), (2, False)):
        theirs = Encoded([2, 5, 3, 6, 3], second=second)
        monkeypatch.setattr(
            references, "tokenizer", lambda *_, theirs=theirs: (lambda *_: theirs, "")
        )
        checkpoint = SimpleNamespace(tokenizer=None)
        reference = compare.reference_of(saved, checkpoint, given, None, len)
        (made,) = compare.against_reference([logits], reference, saved, given)
        assert (made.other_ids, made.passed) == (int(not passed), passed)


@pytest.mark.upstream
def test_the_reference_tokenizes_pairs_by_the_real_albert_pytorch(patched_tree, tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_bytes(VOCABULARY + b"\n")
    for file, cases in (
        (TokenizerFile("spm", SPM, SPM.read_bytes()), MADE["pairs"]),
        (TokenizerFile("wordpiece", vocab, VOCABULARY), MADE["wordpiece_pairs"]),
    ):
        encode, name = references.tokenizer(file, patched_tree)
        assert name == f"albert_pytorch in {patched_tree}"
        for case in cases:
            found = encode(tuple(case["texts"]), case["length"])
            assert (found.ids, found.second) == wanted(case)


# vocab.txt


def test_a_chinese_checkpoint_in_both_layouts(tmp_path, export, evaluate):
    """albert_pytorch's folder and Hugging Face's; the .pt carries the vocabulary."""
    data = write_set(tmp_path / "data", "LCQMC")
    shape = {"backend": "torchscript", "batch_size": 4, "max_seq_length": 64}
    for layout in ("upstream", "hf"):
        model = write_model(tmp_path / layout, "LCQMC", layout)
        given = {"task_name": "lcqmc", "pth_dir": model, "data_dir": data, "save_dir": tmp_path}
        run = export(**given, **shape, compare_cpu=True)
        assert run.code == 0 and "vocab.txt (wordpiece)" in run.said, run.err
        run = evaluate(aie_model_dir=tmp_path / "albert_seq64_bs4.pt", data_dir=data)
        assert run.code == 0 and "12 of 12 sentences scored, 0 truncated" in run.said


def test_a_special_tokens_name_is_text_for_albert_pytorch_and_the_token_for_transformers():
    sep = MADE["vocabulary"].index("[SEP]")
    text = "画[SEP]全"
    assert WordPiece(VOCABULARY).encode(text).ids.count(sep) == 1
    assert WordPiece(VOCABULARY, special_tokens=True).encode(text).ids.count(sep) == 2


def test_tokenizer_config_says_whether_a_vocabulary_is_cased(tmp_path):
    folder = write_model(tmp_path / "m", "LCQMC", "hf")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    options = checkpoint.load(folder).tokenizer.options
    assert options == {"do_lower_case": False, "special_tokens": True}
    for raw, words in (
        ('{"do_lower_case": true, "strip_accents": false}', "strip_accents is False"),
        ('{"tokenize_chinese_chars": false}', "tokenize_chinese_chars is not true"),
    ):
        (folder / "tokenizer_config.json").write_text(raw)
        with pytest.raises(UserError, match=words):
            checkpoint.load(folder)


ADDED = len(MADE["vocabulary"])
DECODER = {
    str(ADDED): {"content": "<url>", "special": True, "normalized": False},
    str(ADDED + 1): {"content": "Brand", "special": False, "normalized": True},
    "1": {"content": "[unused1]", "special": True},  # of the vocabulary's own
}
BOTH = {"<url>": ADDED, "Brand": ADDED + 1}
HARD = (
    "画<url>film",
    "a BRAND new Brand",
    "[unused1] [SEP] [unused2]",
    "Café <URL> brands filmbrandfilm",
    ("<url>", "the Brand 画"),
    ("画", ""),
    "",
)


def with_beside(folder, files):
    """A Hugging Face folder of LCQMC whose table has room for two added tokens."""
    folder = write_model(folder, "LCQMC", "hf")
    raw = json.loads((folder / "config.json").read_text())
    raw["vocab_size"] += 2
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    name = "albert.embeddings.word_embeddings.weight"
    tensors[name] = torch.nn.functional.pad(tensors[name], (0, 0, 0, 2), value=0.5)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    for name, content in {"config.json": raw, **files}.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize(
    "files, special",
    [
        ({"added_tokens.json": BOTH}, False),
        ({"tokenizer_config.json": {"added_tokens_decoder": DECODER}}, True),
        (
            {
                "tokenizer_config.json": {"added_tokens_decoder": DECODER},
                "added_tokens.json": BOTH,
                "special_tokens_map.json": {"additional_special_tokens": ["<url>", "[unused1]"]},
            },
            True,
        ),
    ],
)
def test_added_tokens_of_a_vocabulary_are_followed(tmp_path, files, special, cased):
    """By the files beside it, whichever are there; transformers' BertTokenizer reads them itself
    and is what --compare_cpu compares with."""
    pytest.importorskip("transformers")
    settings = {"do_lower_case": not cased, **files.get("tokenizer_config.json", {})}
    folder = with_beside(tmp_path / "m", {**files, "tokenizer_config.json": settings})
    file = checkpoint.load(folder).tokenizer
    exact, normalized = {"<url>": ADDED, "[unused1]": 1}, {"Brand": ADDED + 1}
    assert file.options.get("exact_tokens", {}) == (exact if special else {})
    assert file.options["added_tokens"] == (normalized if special else BOTH)
    own = file.load()
    assert own.vocab_size == ADDED + 2 and ADDED in own.encode("画<url>film").ids
    assert own.encode("a Brand").ids[-2] == ADDED + 1
    encode, name = references.tokenizer(file, None)
    assert name == "transformers' BertTokenizer"
    for sentence in HARD:
        for length in (6, 64):
            found, wanted = own.encode(sentence, length), encode(sentence, length)
            assert (found.ids, found.second) == (wanted.ids, wanted.second), sentence


def test_a_comparison_sees_added_tokens_that_were_not_followed(
    tmp_path, export, evaluate, monkeypatch
):
    """Planted: the .pt has the vocabulary alone. The file that has them passes."""
    pytest.importorskip("transformers")
    model = with_beside(tmp_path / "m", {"added_tokens.json": BOTH})
    data = tmp_path / "own.tsv"
    data.write_text("sentence1\tsentence2\tlabel\n画<url>\t画\t0\n全\t画\t1\n")
    shape = {"backend": "torchscript", "batch_size": 2, "max_seq_length": 16}
    given = {"task_name": "lcqmc", "pth_dir": model, "save_dir": tmp_path}
    compared = {"input": data, "compare_cpu": True, "pth_dir": model, "prefix_dir": tmp_path}
    compared["aie_model_dir"] = tmp_path / "albert_seq16_bs2.pt"
    assert export(**given, **shape).code == 0
    run = evaluate(**compared)
    assert run.code == 0 and "transformers' BertTokenizer other ids in 0 sentences" in run.said
    with monkeypatch.context() as patch:
        patch.setattr(vocabularies, "_added_tokens", lambda *_: [])
        assert export(**given, **shape).code == 0
        run = evaluate(**compared)
    assert run.code == 1 and "other ids in 1 sentences" in run.said


def beside(**tokens):
    return {"tokenizer_config.json": {"added_tokens_decoder": tokens}}


@pytest.mark.parametrize(
    "files, words",
    [
        ({"added_tokens.json": {"<url>": ADDED + 1}}, f"'<url>' has id {ADDED + 1}, where"),
        ({"added_tokens.json": {"film": ADDED}}, f"'film' has id {ADDED}, where"),
        ({"added_tokens.json": {"<url>": "x"}}, "not as transformers writes it"),
        (
            {"tokenizer_config.json": {"additional_special_tokens": ["<url>"]}},
            "the special token '<url>' has no id",
        ),
        (beside(**{"9": {"content": "[e]"}}), "'[e]' has id 9, where"),
        (beside(**{str(ADDED): {"content": "[e]", "single_word": True}}), "'[e]' is a single_word"),
        ({"tokenizer_config.json": {"do_basic_tokenize": False}}, "do_basic_tokenize is not true"),
    ],
)
def test_added_tokens_that_cannot_have_their_ids_are_refused(tmp_path, files, words):
    told = said(checkpoint.load, with_beside(tmp_path / "m", files))
    assert words in told and told.startswith(str(tmp_path))


@pytest.mark.parametrize(
    "named",
    [
        {"additional_special_tokens": ["<a>"]},
        {"extra_special_tokens": ["<a>"]},
        {"extra_special_tokens": {"image_token": {"content": "<a>"}}},
        {"mask_token": "<a>", "pad_token": None},
    ],
)
def test_an_added_token_that_is_named_elsewhere_is_special(tmp_path, named):
    """By special_tokens_map.json or tokenizer_config.json: it is looked for in the text as it
    stands."""
    (tmp_path / "added_tokens.json").write_text('{"<b>": 10, "<a>": 9}')
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    wanted = [("<a>", 9, True, False, False), ("<b>", 10, False, True, False)]
    assert vocabularies._added_tokens(tmp_path, {}) == wanted
    (tmp_path / "special_tokens_map.json").unlink()
    assert vocabularies._added_tokens(tmp_path, named) == wanted


def test_a_long_word_and_the_name_of_the_mask():
    """100 letters are a word, 101 are unknown; [MASK] is a special token where there is one."""
    data = "\n".join((*WordPiece.SPECIAL, "a", "##a", "[MASK]")).encode()
    assert WordPiece(data).encode(100 * "a").ids == [2, 4, *[5] * 99, 3]
    assert WordPiece(data).encode(101 * "a").ids == [2, 1, 3]
    assert WordPiece(data, special_tokens=True).encode("a[MASK]").ids == [2, 4, 6, 3]
    assert WordPiece(data).encode("a[MASK]").ids == [2, 4, 1, 1, 1, 3]


def test_tokens_of_both_kinds_have_their_own_ids_in_any_order():
    given = {"exact_tokens": {"<b>": ADDED + 1}, "added_tokens": {"<c>": ADDED + 2, "<a>": ADDED}}
    found = WordPiece(VOCABULARY, special_tokens=True, **given).encode("<c><b><a>").ids
    assert found[1:-1] == [ADDED + 2, ADDED + 1, ADDED]


def test_albert_pytorch_adds_no_tokens_to_a_vocabulary(tmp_path):
    folder = write_model(tmp_path / "m", "LCQMC")
    (folder / "added_tokens.json").write_text(json.dumps({"<url>": ADDED}))
    file = checkpoint.load(folder).tokenizer
    assert file.options == {} and file.load().vocab_size == ADDED
    encode, name = references.tokenizer(file, tmp_path)
    assert name == "transformers' BertTokenizer"
    for sentence in HARD[:-2]:
        assert encode(sentence, 64).ids == file.load().encode(sentence, 64).ids


def test_a_vocabulary_elsewhere_is_named_by_its_flag(tmp_path, export, evaluate):
    folder = write_model(tmp_path / "m", "LCQMC")
    elsewhere = (folder / "vocab.txt").rename(tmp_path / "other.txt")
    given = {"task_name": "lcqmc", "pth_dir": folder, "save_dir": tmp_path}
    shape = {"backend": "torchscript", "batch_size": 1, "max_seq_length": 16}
    assert refused(export(**given, **shape), "vocab.txt", "--tokenizer")
    run = export(**given, **shape, tokenizer=elsewhere)
    assert run.code == 0, run.err
    file = tmp_path / "albert_seq16_bs1.pt"
    assert evaluate(aie_model_dir=file, text=["你好", "您好"], tokenizer=elsewhere).code == 0
    run = evaluate(aie_model_dir=file, text=["你好", "您好"], tokenizer=SPM)
    assert refused(run, "--tokenizer", "holds the wordpiece tokenizer")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "has no [PAD]"),
        (b"[UNK]\n[CLS]\n[SEP]\n[PAD]\n", "does not begin with [PAD]"),
        (b"[PAD]\n[UNK]\n[CLS]\n", "has no [SEP]"),
        (b"[PAD]\n\xff\n", "not UTF-8"),
    ],
)
def test_what_is_no_vocabulary(content, words):
    assert said(WordPiece, content, "c/vocab.txt").startswith(f"c/vocab.txt: {words}")


def test_the_demo_vocabulary_has_what_the_texts_need():
    assert MADE["vocabulary"] == vocabulary()
    letters = {letter for pair in CHINESE for text in pair for letter in text.lower()}
    assert len(letters & set(MADE["vocabulary"])) > 100 and "漫" not in MADE["vocabulary"]
    assert Path(GOLDEN / "make_pairs.py").is_file()


# tokenizer.json: what transformers_tokenizer and JsonTokenizer do with lengths and special tokens


def test_a_json_tokenizer_cuts_anew_for_each_length(saved_by):
    """Lengths in any order, and none again; the vocabulary's size counts every id."""
    path = saved_by("5.23.0/json/tokenizer.json")
    raw = json.loads(path.read_bytes())
    tokenizer = JsonTokenizer(path.read_bytes(), "c/tokenizer.json")
    whole = tokenizer.encode("one two three four five")
    for length in (5, 4, None, 6, None):
        found = tokenizer.encode("one two three four five", length)
        assert len(found.ids) == min(length or len(whole.ids), len(whole.ids))
        assert found.truncated == (len(found.ids) < len(whole.ids)) and found.second is None
        assert found.ids[:-1] == whole.ids[: len(found.ids) - 1] and found.ids[-1] == 3
    size = len(raw["model"]["vocab"])
    assert tokenizer.vocab_size == max(size, *(one["id"] + 1 for one in raw["added_tokens"]))
    assert tokenizer.normalized("A\u0301") == "a"


def test_a_pair_is_cut_as_the_library_cuts_it(saved_by):
    path = saved_by("5.23.0/json/tokenizer.json")
    library = tokenizers.Tokenizer.from_file(str(path))
    library.no_padding()
    tokenizer = JsonTokenizer(path.read_bytes())
    words = "a fine film [SEP] of 1994, café xyzzy".split()
    parts = ["", *(" ".join(words[start:end]) for start in (0, 3) for end in range(4, 9))]
    for pair in itertools.product(parts, [*parts, "long " * 40]):
        for length in (3, 4, 5, 8, 9, 16, 31):
            library.enable_truncation(length)
            wanted, found = library.encode(*pair), tokenizer.encode(pair, length)
            assert found.ids == wanted.ids and found.truncated == bool(wanted.overflowing)
            second = (
                wanted.sequence_ids.index(1) if 1 in wanted.sequence_ids else len(found.ids) - 1
            )
            assert found.second == second


def test_the_library_itself_cuts_no_pair(saved_by):
    """Its own cut keeps each piece of one text beside each of the other: 3 GB for 6,000 words."""
    tokenizer = JsonTokenizer(saved_by("5.23.0/json/tokenizer.json").read_bytes())
    tokenizer.encode("a fine film", 8)
    assert tokenizer._tokenizer.truncation
    assert tokenizer.encode(("a fine film", "dull"), 5).truncated
    assert not tokenizer._tokenizer.truncation


def test_a_tokenizer_that_frames_nothing_is_refused(saved_by):
    raw = json.loads(saved_by("5.23.0/json/tokenizer.json").read_bytes())
    bare = json.dumps({**raw, "post_processor": None}).encode()
    assert said(JsonTokenizer, bare, "c/tokenizer.json") == (
        "c/tokenizer.json: puts no [CLS] and [SEP] around a sentence; save the tokenizer again "
        "with the post-processor that the checkpoint was trained with"
    )
    told = said(JsonTokenizer, b"{}", "c/tokenizer.json")
    assert told.startswith("c/tokenizer.json: not a tokenizer that tokenizers ")
    cure = "; save the tokenizer again, or pip install the version of tokenizers that wrote it"
    assert told.endswith(cure)
    marked = JsonTokenizer(b"\xef\xbb\xbf" + json.dumps(raw).encode())
    assert marked.encode("no") == JsonTokenizer(json.dumps(raw).encode()).encode("no")


def test_the_reference_of_a_json_tokenizer_cuts_and_needs_transformers(saved_by, monkeypatch):
    file = checkpoint.load(saved_by("5.23.0/json")).tokenizer
    encode, name = references.tokenizer(file, None)
    assert name == "transformers' PreTrainedTokenizerFast"
    for sentence in ("one two three four five", ("one two", "three four five")):
        for length in (6, 32):
            own, found = file.load().encode(sentence, length), encode(sentence, length)
            assert (found.ids, found.second) == (own.ids, own.second)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert said(references.transformers_tokenizer, file) == (
        f"--compare_cpu: tokenizing by {file.path} needs a reference too; pip install transformers"
    )


def test_a_piece_by_its_number():
    spm = SentencePiece(SPM.read_bytes())
    assert (spm.piece(2), spm.piece(3)) == ("[CLS]", "[SEP]")
