"""A checkpoint is run with the tokenizer it was trained with. tests/golden/transformers-*.tar.xz
hold small checkpoints as two versions of transformers saved them, and what their own models made of
SST-2 on their own tokens (make_checkpoints.py)."""

import hashlib
import json
import shutil
import tarfile
import time
import unicodedata

import numpy
import pytest
from helpers import ROOT, SPM, read_results, refused

from albert_aie.albert import checkpoint, references, upstream
from albert_aie.artifact import pt_file
from albert_aie.base.errors import UserError
from albert_aie.cli import arguments
from albert_aie.run import compare
from albert_aie.text import find_tokenizer, sentencepiece_model, tokenizer_file
from albert_aie.text.library import JsonTokenizer
from albert_aie.text.sentencepiece_model import SPM_OPTIONS
from albert_aie.text.tokenizer_file import TokenizerFile

GOLDEN = ROOT / "tests" / "golden"
ARCHIVES = sorted(GOLDEN.glob("transformers-*.tar.xz"))
SPECIAL = "[CLS] and [MASK] [SEP]"
SMALL = {"backend": "torchscript", "batch_size": 32, "max_seq_length": 128}


def golden_answers():
    """{"version/name": what transformers made of that checkpoint}"""
    answers = {}
    for path in ARCHIVES:
        with tarfile.open(path) as archive:
            golden = json.load(archive.extractfile("golden.json"))
        for name, answer in golden["checkpoints"].items():
            answers[f"{golden['transformers']}/{name}"] = answer
    return answers


ANSWERS = golden_answers()
JSON_CASES = [name for name in ANSWERS if "/spm" not in name]
each_checkpoint = pytest.mark.parametrize("name", ANSWERS)


def copy(folder, to, **settings):
    """A copy of a checkpoint whose tokenizer_config.json says `settings` too."""
    shutil.copytree(folder, to)
    path = to / find_tokenizer.CONFIG
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **settings}))
    return to


# Tokens and predictions of transformers


@each_checkpoint
def test_ids_of_hard_texts_are_those_of_the_transformers_that_saved_them(saved_by, name):
    tokenizer = checkpoint.load(saved_by(name)).tokenizer.load()
    for case in ANSWERS[name]["tricky"]:
        ids = tokenizer.encode(case["text"])[0]
        if case["text"] == SPECIAL and "/spm" in name:
            continue  # the one difference, tested below
        assert ids == case["ids"], case["text"]


@each_checkpoint
def test_ids_of_sst2_are_those_of_the_transformers_that_saved_them(saved_by, sst2, name):
    tokenizer = checkpoint.load(saved_by(name)).tokenizer.load()
    lines = (sst2 / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [tokenizer.encode(line.split("\t")[0])[0] for line in lines]
    digest = hashlib.sha256("".join(" ".join(map(str, row)) + "\n" for row in rows).encode())
    assert len(rows) == 872 and digest.hexdigest() == ANSWERS[name]["sha256"]


@each_checkpoint
def test_predictions_of_sst2_are_those_of_transformers_own_model(
    saved_by, sst2, export, evaluate, tmp_path, name
):
    """Shards, prefixes, added tokens and reversed labels included."""
    given = {"data_dir": sst2, **SMALL}
    run = export(pth_dir=saved_by(name), save_dir=tmp_path, **given)
    assert run.code == 0, run.err
    file = tmp_path / "albert_seq128_bs32.pt"
    run = evaluate(aie_model_dir=file, data_dir=sst2, output_dir=tmp_path)
    assert run.code == 0, run.err
    report, (_, *rows) = read_results(tmp_path)
    assert "".join(row[1][0] for row in rows) == ANSWERS[name]["labels"]
    accuracy = report["accuracy"]
    assert (accuracy["correct"], accuracy["total"]) == (ANSWERS[name]["correct"], 872)


def test_the_installed_transformers_writes_what_is_read(tmp_path):
    """With a whole vocabulary and its nmt_nfkc."""
    transformers = pytest.importorskip("transformers")
    four = transformers.__version__.startswith("4.")
    if four:
        pytest.importorskip("google.protobuf", reason="transformers 4.46 converts with it")
    kind = transformers.AlbertTokenizerFast if four else transformers.AlbertTokenizer
    shutil.copy(SPM, tmp_path / "spiece.model")
    theirs = kind.from_pretrained(str(tmp_path))
    theirs.save_pretrained(tmp_path)
    ours = JsonTokenizer((tmp_path / "tokenizer.json").read_bytes())
    for case in ANSWERS[JSON_CASES[0]]["tricky"]:
        assert ours.encode(case["text"])[0] == theirs(case["text"])["input_ids"]
        cut = theirs(case["text"], truncation=True, max_length=4)["input_ids"]
        assert ours.encode(case["text"], 4)[0] == cut


def test_of_added_tokens_that_begin_alike_the_longest_is_found():
    tokenizer = sentencepiece_model.SentencePiece(
        SPM.read_bytes(), added_tokens={"<a": 19_000, "<a>b": 19_001}
    )
    assert tokenizer.encode("<a>b <a").ids[1:-1] == [19_001, 19_000]


def test_the_name_of_a_special_token_is_text_for_spm_and_the_token_for_json(saved_by):
    """docs/albert_pytorch.md says so."""
    spm = checkpoint.load(saved_by("4.46.3/spm")).tokenizer.load()
    ids = spm.encode("a [SEP] b")[0]
    assert ids.count(3) == 1 and ids == spm.encode("a [sep] b")[0]
    with_json = checkpoint.load(saved_by("4.46.3/both")).tokenizer.load()
    assert with_json.encode("a [SEP] b")[0].count(3) == 2


# Which tokenizer it is


def test_a_tokenizer_json_travels_in_the_pt(saved_by, export, tmp_path):
    folder = saved_by("5.23.0/json-cased")
    run = export(pth_dir=folder, save_dir=tmp_path, **SMALL)
    assert run.code == 0 and "tokenizer.json (json)" in run.said
    saved = pt_file.open_pt(tmp_path / "albert_seq128_bs32.pt")
    assert saved.manifest["tokenizer"] == {"kind": "json", "options": {}}
    assert saved.tokenizer.data == (folder / "tokenizer.json").read_bytes()
    assert saved.tokenizer.load().encode("CAFÉ")[0] != saved.tokenizer.load().encode("cafe")[0]


def test_what_tokenizer_config_says_travels_in_the_pt(saved_by, export, tmp_path):
    run = export(pth_dir=saved_by("4.46.3/spm-cased-added"), save_dir=tmp_path, **SMALL)
    assert run.code == 0, run.err
    saved = pt_file.open_pt(tmp_path / "albert_seq128_bs32.pt").tokenizer
    assert saved.options == {
        "do_lower_case": False,
        "keep_accents": True,
        "remove_space": True,
        "added_tokens": {"<url>": 600, "Foo": 601},
    }
    for case in ANSWERS["4.46.3/spm-cased-added"]["tricky"]:
        if case["text"] != SPECIAL:
            assert saved.load().encode(case["text"])[0] == case["ids"]


def test_blanks_are_kept_where_the_config_says_so(saved_by, tmp_path):
    folder = copy(saved_by("4.46.3/spm"), tmp_path / "c", remove_space=False)
    kept = checkpoint.load(folder).tokenizer.load()
    removed = checkpoint.load(saved_by("4.46.3/spm")).tokenizer.load()
    assert kept.encode("a\tb")[0] != removed.encode("a\tb")[0] == removed.encode("a b")[0]


@pytest.fixture
def hyphens(tmp_path):
    """Data of which the two tokenizers of transformers 4's fast class see two sentences
    differently."""
    folder = tmp_path / "hyphens"
    folder.mkdir()
    rows = ("a film\t1", "his ex-wife and her plans\t0", "so dull \t0", "no\t0")
    (folder / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder


@pytest.mark.parametrize(
    "flags, used, other, who",
    [
        ({}, "json", "spm", "by transformers' PreTrainedTokenizerFast"),
        ({"tokenizer": "spm"}, "spm", "json", "by albert_aie/text"),
    ],
)
def test_of_two_files_that_disagree_an_example_and_the_one_used_are_named(
    saved_by, export, evaluate, hyphens, tmp_path, flags, used, other, who
):
    """By both scripts, wherever they read both the folder and the data."""
    folder, file = saved_by("4.46.3/both"), tmp_path / "albert_seq128_bs32.pt"
    given = {"data_dir": hyphens, "compare_cpu": True}
    at_export = given if used == "json" else {}
    runs = [export(pth_dir=folder, save_dir=tmp_path, **at_export, **SMALL, **flags)]
    assert pt_file.open_pt(file).tokenizer.kind == used
    runs.append(evaluate(pth_dir=folder, aie_model_dir=file, **given))
    names = {"json": "tokenizer.json", "spm": "spiece.model"}
    for run in runs if at_export else runs[1:]:
        assert run.code == 0, run.err
        assert "different ids for 2 of 4 sentences, for example 'so dull '" in run.err
        assert f"{names[used]} is used, --tokenizer {other} takes {names[other]}" in run.err
        assert who in run.said and "other ids in 0 sentences (gate 0)" in run.said


def test_the_example_of_a_disagreement_is_the_shortest(saved_by):
    both = checkpoint.load(saved_by("4.46.3/both")).tokenizer
    said = tokenizer_file.disagreement(
        both, ["his ex-wife and her plans", "so dull ", "a film", "no"]
    )
    assert said == (
        f"{both.path} and {both.beside.path} give different ids for 2 of 4 sentences, for example "
        "'so dull '; tokenizer.json is used, --tokenizer spm takes spiece.model"
    )


def test_files_that_agree_or_stand_alone_are_no_note(saved_by):
    both = checkpoint.load(saved_by("4.46.3/both")).tokenizer
    assert (
        tokenizer_file.disagreement(both, [])
        == tokenizer_file.disagreement(both, ["a film", "no"])
        == ""
    )
    assert str(both) == f"{both.path} (json; spiece.model is not used)"
    alone = checkpoint.load(saved_by("5.23.0/json")).tokenizer
    assert str(alone) == f"{alone.path} (json)"
    assert alone.beside is None and tokenizer_file.disagreement(alone, ["so dull "]) == ""


def test_an_unusable_file_beside_the_one_used_does_no_harm(saved_by, tmp_path):
    folder = copy(saved_by("4.46.3/both"), tmp_path / "c")
    (folder / "spiece.model").write_bytes(b"damaged")
    found = checkpoint.load(folder).tokenizer
    assert (found.kind, found.beside) == ("json", None)
    with pytest.raises(UserError, match="spiece.model: not a sentencepiece model"):
        checkpoint.load(folder, kind="spm")


@pytest.mark.parametrize("piece", [b"[CLS]", b"ending"])
def test_a_piece_that_is_not_utf8_is_a_damaged_model(piece):
    damaged = SPM.read_bytes().replace(piece, b"\xbc" + piece[1:], 1)
    with pytest.raises(UserError, match="spiece.model: not a sentencepiece model"):
        sentencepiece_model.SentencePiece(damaged, "spiece.model")


def test_a_sentencepiece_model_by_flag_goes_before_tokenizer_json(saved_by):
    """And the two are still held against each other."""
    model = saved_by("4.46.3/spm/spiece.model")
    found = checkpoint.load(saved_by("5.23.0/json"), tokenizer_file=model).tokenizer
    assert (found.kind, found.path, found.beside.kind) == ("spm", model, "json")
    assert "1 of 1 sentences" in tokenizer_file.disagreement(found, ["his ex-wife and her plans"])


def test_an_albert_pytorch_folder_is_run_with_its_sentencepiece_model(saved_by, tiny, tmp_path):
    """Its code knows no other; a tokenizer.json there was put in later."""
    folder = copy(tiny, tmp_path / "c", do_lower_case=False)
    shutil.copy(saved_by("5.23.0/json/tokenizer.json"), folder)
    found = checkpoint.load(folder).tokenizer
    assert (found.kind, found.options, found.beside.kind) == ("spm", {}, "json")
    (folder / "30k-clean.model").unlink()
    with pytest.raises(UserError, match="by --tokenizer .--tokenizer json takes its"):
        checkpoint.load(folder)
    with pytest.raises(UserError, match="tokenizer.json: has 600 pieces"):
        checkpoint.load(folder, kind="json")


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"tokenizer": "json"}, ["no tokenizer.json here", "leave --tokenizer json out"]),
        ({"tokenizer": "bpe"}, ["bpe: no such file"]),
    ],
)
def test_flags_that_lead_to_no_tokenizer(tiny_hf, export, tmp_path, flags, words):
    run = export(pth_dir=tiny_hf, save_dir=tmp_path / "out", **SMALL, **flags)
    assert refused(run, *words)


def test_a_further_kind_is_found_in_a_folder_and_by_its_files_name(tmp_path, monkeypatch):
    """One class and one row of KINDS are all that it takes."""

    class Letters:
        ENTRY, NAMES = "letters.txt", ("letters.txt",)

        def __init__(self, data, name):
            self.vocab_size = len(data)

    monkeypatch.setitem(tokenizer_file.KINDS, "letters", Letters)
    (tmp_path / "letters.txt").write_text("abc")
    assert find_tokenizer.find(tmp_path, 3, huggingface=True).kind == "letters"
    with pytest.raises(UserError, match="no 30k-clean.model or spiece.model or vocab.txt here"):
        find_tokenizer.find(tmp_path, 3, huggingface=False)
    asked = str(tmp_path / "letters.txt")
    assert arguments.tokenizer_file(asked) == (asked, "letters")
    for name, kind in (("a.txt", "wordpiece"), ("a.json", "json"), ("a.model", "spm")):
        assert arguments.tokenizer_file(name) == (name, kind)


def test_flags_that_contradict_the_file(saved_by, export, evaluate, sentences, tmp_path):
    assert export(pth_dir=saved_by("5.23.0/json"), save_dir=tmp_path, **SMALL).code == 0
    given = {"aie_model_dir": tmp_path / "albert_seq128_bs32.pt", "data_dir": sentences}
    assert evaluate(tokenizer="json", **given).code == 0
    assert refused(evaluate(tokenizer="spm", **given), "--tokenizer spm", "holds the json")
    model = saved_by("4.46.3/spm/spiece.model")
    assert refused(evaluate(spm_model_file=model, **given), "holds the json tokenizer")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"truncation_side": "left"}, "truncation_side is 'left'"),
        ({"split_special_tokens": True}, "split_special_tokens is True"),
        ({"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs is"),
        ({"do_lower_case": "no"}, "do_lower_case is 'no', not true or false"),
        ({"added_tokens_decoder": {"600": "<url>"}}, "not as transformers writes it"),
        ({"added_tokens_decoder": [1]}, "not as transformers writes it"),
        (
            {"added_tokens_decoder": {"600": {"content": "<url>", "single_word": True}}},
            "'<url>' is a single_word or not normalized",
        ),
    ],
)
def test_settings_that_cannot_be_followed_are_refused_by_name(saved_by, tmp_path, settings, words):
    folder = copy(saved_by("4.46.3/spm"), tmp_path / "c", **settings)
    with pytest.raises(UserError, match=f"tokenizer_config.json: .*{words}"):
        checkpoint.load(folder)


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000])
def test_a_tokenizer_config_that_is_no_object_is_refused(saved_by, tmp_path, content):
    folder = copy(saved_by("4.46.3/spm"), tmp_path / "c")
    (folder / find_tokenizer.CONFIG).write_text(content)
    with pytest.raises(UserError, match="tokenizer_config.json: not a"):
        checkpoint.load(folder)


@pytest.mark.parametrize("settings", [{"do_lower_case": False}, {"keep_accents": True}])
def test_a_config_that_contradicts_its_tokenizer_json_is_refused(saved_by, tmp_path, settings):
    """transformers 4 follows the one and transformers 5 the other."""
    folder = copy(saved_by("5.23.0/json"), tmp_path / "c", **settings)
    (name,) = settings
    with pytest.raises(UserError, match=f"{name} is .*, but tokenizer.json does the opposite"):
        checkpoint.load(folder)


# The comparison


def test_the_reference_tokenizes_by_the_code_that_knows_how(saved_by, tiny, tmp_path):
    """By albert_pytorch where there is a checkout, by transformers where there is a tokenizer.json,
    else by our own code."""
    stub = ROOT / "tests" / "stub_upstream"
    own = "albert_aie/text, not compared with other code"
    for folder, upstream_dir, who in (
        (tiny, stub, f"albert_pytorch in {stub}"),
        (tiny, tmp_path, own),
        (saved_by("4.46.3/spm"), stub, f"albert_pytorch in {stub}"),
        (saved_by("4.46.3/spm-added"), stub, own),
        (saved_by("4.46.3/spm-cased-added"), stub, own),
        (saved_by("5.23.0/json"), stub, "transformers' PreTrainedTokenizerFast"),
        (saved_by("4.46.3/both"), tmp_path, "transformers' PreTrainedTokenizerFast"),
    ):
        file = checkpoint.load(folder).tokenizer
        encode, name = references.tokenizer(file, upstream_dir)
        assert name == who
        for sentence in ("a Fine Film , <url>", "in 1994, he", "", "so dull "):
            for length in (4, 128):
                assert encode(sentence, length).ids == file.load().encode(sentence, length).ids


def test_what_albert_pytorch_is_asked_to_tokenize(saved_by, monkeypatch, tmp_path):
    """The very file, in the very checkout, and only where the options are its own."""
    asked = []
    monkeypatch.setattr(upstream, "has_upstream", lambda given: given == tmp_path)
    monkeypatch.setattr(upstream, "upstream_tokenizer", lambda *given: asked.append(given) or len)
    file = checkpoint.load(saved_by("4.46.3/spm")).tokenizer
    assert references.tokenizer(file, tmp_path) == (len, f"albert_pytorch in {tmp_path}")
    assert asked == [(file, tmp_path)]
    for kind, options, same in (
        ("spm", {}, True),
        ("spm", {"do_lower_case": True}, True),
        ("spm", {"do_lower_case": False}, False),
        ("spm", {"keep_accents": not SPM_OPTIONS["keep_accents"]}, False),
        ("spm", {"added_tokens": {"<url>": 1}}, False),
        ("wordpiece", {"do_lower_case": True, "special_tokens": False}, True),
        ("wordpiece", {"do_lower_case": True}, True),
        ("wordpiece", {"do_lower_case": False}, False),
        ("wordpiece", {"special_tokens": True}, False),
    ):
        assert references.as_upstream(TokenizerFile(kind, tmp_path, b"", options)) is same, options


def test_errors_of_a_tokenizer_json_say_what_was_done(saved_by):
    data = (saved_by("5.23.0/json") / "tokenizer.json").read_bytes()
    tokenizer = tokenizer_file.KINDS["json"](data)
    with pytest.raises(UserError, match="^tokenizer.json: cannot tokenise a sentence "):
        tokenizer.encode("a \ud800 film")
    plain = json.loads(data)
    plain["normalizer"] = None
    tokenizer = tokenizer_file.KINDS["json"](json.dumps(plain).encode())
    assert tokenizer.normalized("A Fine\u00a0Film") == "A Fine\u00a0Film"


@pytest.mark.upstream
def test_the_reference_tokenizes_by_the_real_albert_pytorch(patched_tree, albert_files, sst2):
    path = albert_files / "30k-clean.model"
    file = TokenizerFile("spm", path, path.read_bytes())
    encode, name = references.tokenizer(file, patched_tree)
    assert name == f"albert_pytorch in {patched_tree}"
    golden = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))
    for case in golden["tricky"]:
        assert encode(case["text"], 512).ids == case["ids"]
        assert encode(case["text"], 5).ids == file.load().encode(case["text"], 5).ids


def test_a_file_with_another_tokenizer_than_the_checkpoints_fails(
    saved_by, export, evaluate, tmp_path
):
    """Whatever the logits say: the gate of int8, for one, has room for a few such sentences."""
    folder = copy(saved_by("4.46.3/spm"), tmp_path / "c", do_lower_case=False)
    assert export(pth_dir=folder, save_dir=tmp_path, **SMALL).code == 0
    data = tmp_path / "data"
    data.mkdir()
    (data / "dev.tsv").write_text("sentence\tlabel\na Film\t1\na film\t1\n")
    run = evaluate(
        pth_dir=saved_by("4.46.3/spm"),
        aie_model_dir=tmp_path / "albert_seq128_bs32.pt",
        data_dir=data,
        compare_cpu=True,
        compare_output=tmp_path / "compared.json",
    )
    assert run.code == 1 and "other ids in 1 sentences (gate 0)" in run.out
    verdict = json.loads((tmp_path / "compared.json").read_text())
    assert (verdict["passed"], verdict["other_ids"]) == (False, 1)


def test_one_sentence_with_other_ids_fails_although_the_logits_are_equal():
    logits = numpy.array([[1.0, -1.0], [-2.0, 2.0]], numpy.float32)
    passed = [
        compare.compare(logits, logits, None, "int8", other_ids=count).passed for count in (0, 1)
    ]
    assert passed == [True, False]


# tokenizer.json itself


def changed(path, **keys):
    """The bytes of a tokenizer.json with other values for some keys."""
    return json.dumps({**json.loads(path.read_bytes()), **keys}).encode()


def test_padding_and_truncation_in_the_file_are_not_followed(saved_by):
    """They are how it was last used, and no part of the checkpoint."""
    path = saved_by("5.23.0/json/tokenizer.json")
    padding = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    odd = JsonTokenizer(changed(path, padding=padding, truncation=truncation))
    plain = JsonTokenizer(path.read_bytes())
    for length in (None, 6):
        for sentence in ("one two three four five six", "no"):
            assert odd.encode(sentence, length) == plain.encode(sentence, length)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: b"",
        lambda path: path.read_bytes()[:-100],
        lambda path: b"[" * 100_000,
        lambda path: b"\xff\xfe",
        lambda path: changed(path, model={"type": "Unigram", "vocab": []}),
        # it fails at an unknown word
        lambda path: changed(path, model={**json.loads(path.read_text())["model"], "unk_id": None}),
    ],
)
def test_a_damaged_tokenizer_json_is_refused(saved_by, tmp_path, change):
    folder = copy(saved_by("5.23.0/json"), tmp_path / "c")
    path = folder / "tokenizer.json"
    path.write_bytes(change(path))
    with pytest.raises(UserError, match="tokenizer.json: not a tokenizer that"):
        checkpoint.load(folder)


def test_a_tokenizer_json_of_another_size_is_refused(saved_by, tmp_path):
    folder = copy(saved_by("5.23.0/json"), tmp_path / "c")
    shutil.copy(saved_by("5.23.0/json-added/tokenizer.json"), folder)
    with pytest.raises(UserError, match="has 601 pieces, but the checkpoint's vocab_size is 600"):
        checkpoint.load(folder)


def test_an_id_that_only_the_post_processor_has_counts(saved_by):
    """What it puts around a sentence must have a row in the embedding too."""
    path = saved_by("5.23.0/json/tokenizer.json")
    post = json.loads(path.read_bytes())["post_processor"]
    post["special_tokens"]["[SEP]"]["ids"] = [700]
    assert JsonTokenizer(path.read_bytes()).vocab_size == 600
    assert JsonTokenizer(changed(path, post_processor=post)).vocab_size == 701


def test_what_cannot_be_tokenized_is_one_sentence(saved_by):
    """A pattern whose search is given up in a long word only."""
    path = saved_by("5.23.0/json/tokenizer.json")
    pattern = {"Regex": "(a+)+$"}
    normalizer = {"type": "Replace", "pattern": pattern, "content": ""}
    tokenizer = JsonTokenizer(changed(path, normalizer=normalizer), "c/tokenizer.json")
    with pytest.raises(UserError, match="c/tokenizer.json: cannot tokenise a sentence"):
        tokenizer.encode("a" * 100 + "b")


def test_a_panic_of_the_library_writes_nothing(saved_by, capfd):
    """One of its own, and a word that its template does not know."""
    raw = json.loads(saved_by("5.23.0/json/tokenizer.json").read_bytes())
    raw["post_processor"]["single"][0] = {"SpecialToken": {"id": "[X]", "type_id": 0}}
    with pytest.raises(UserError, match="not a tokenizer that"):
        JsonTokenizer(json.dumps(raw).encode())
    assert capfd.readouterr() == ("", "")


# Long and odd text


@pytest.mark.parametrize("kind", ["spm", "json"])
def test_a_hundred_thousand_combining_marks_take_no_time(saved_by, kind):
    """unicodedata sorts a run of marks in quadratic time: 20 s for these."""
    folder = {"spm": "4.46.3/spm", "json": "5.23.0/json"}[kind]
    tokenizer = checkpoint.load(saved_by(folder)).tokenizer.load()
    started = time.perf_counter()
    ids = tokenizer.encode("a" + "\u0301\u0323" * 50_000, 128).ids
    assert time.perf_counter() - started < 5
    assert ids == tokenizer.encode("a")[0]


def test_accents_are_dropped_as_unicodedata_drops_them_from_whole_sentences():
    points = "a".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))
    whole = unicodedata.normalize("NFKD", points.replace("``", '"').replace("''", '"'))
    wanted = "".join(c for c in whole if not unicodedata.combining(c)).lower()
    assert sentencepiece_model.clean(points, remove_space=False) == wanted
