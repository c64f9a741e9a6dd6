"""Which tokenizer a checkpoint was trained with: its file, and what the files beside it say about
it."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..base.errors import UserError, refusing, some
from ..base.files import check_readable, read_json
from .tokenizer_file import KINDS, SWITCHES, TokenizerFile

CONFIG, ADDED, SPECIAL = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
# All that a Hugging Face folder may hold of a tokenizer: of each row, the first that is there.
NAMES = (*(tokenizer.NAMES for tokenizer in KINDS.values()), (CONFIG,), (ADDED,), (SPECIAL,))
# Settings of transformers that change ids and are not followed here: refused unless they are this.
_FIXED = {"truncation_side": "right", "split_special_tokens": False, "sp_model_kwargs": {}}
_UPSTREAM = ("spm", "wordpiece")  # what albert_pytorch's code knows
_MULTIPLE = 128  # to which embedding rows are often rounded up


def find(folder, rows, huggingface, tokenizer_file=None, upstream_dir=None, kind=None):
    """TokenizerFile of the checkpoint in `folder`, whose word embeddings have `rows` rows and which
    is in Hugging Face's layout or else in albert_pytorch's, whose code knows no tokenizer.json.

    `kind` is a key of KINDS; `tokenizer_file`, of that kind, is taken instead of what lies in
    the folder. Without them it is a Hugging Face folder's tokenizer.json, else the folder's
    sentencepiece model or vocab.txt, else the one in prev_trained_model/*/ of `upstream_dir` that
    fits. Raises UserError if there is none, it does not fit, or several different ones do."""
    folder = Path(folder)
    kinds = (kind,) if kind else _UPSTREAM
    if huggingface and not kind:
        kinds = sorted(KINDS, key=lambda name: name != "json")
    if tokenizer_file:
        paths = {Path(tokenizer_file): kind or "spm"}
    else:
        paths = dict(list(_files(folder, kinds).items())[:1])
    if not paths and upstream_dir:
        trained = sorted(Path(upstream_dir).glob("prev_trained_model/*/"))
        theirs = [name for name in kinds if name in _UPSTREAM]
        paths = {path: name for one in trained for path, name in _files(one, theirs).items()}
    if not paths:
        raise UserError(_none_here(folder, kinds, upstream_dir))
    files = _usable(paths, folder, huggingface)
    fitting = [file for file in files if _fits(file, rows)]
    if not fitting:
        raise UserError(
            f"{files[0].path}: has {files[0].load().vocab_size} pieces, but the "
            f"checkpoint's vocab_size is {rows}; give the tokenizer that it was trained with "
            "(--tokenizer names a file)"
        )
    if len({file.data for file in fitting}) > 1:
        raise UserError(
            f"{folder}: has no tokenizer, and different ones fit it "
            f"({some(str(file.path) for file in fitting)}); name the one it was trained with by "
            "--tokenizer"
        )
    other = [kind for kind in KINDS if kind != fitting[0].kind]
    with contextlib.suppress(UserError):  # one that is of no use cannot disagree
        for beside in _usable(_files(folder, other), folder, huggingface):
            return replace(fitting[0], beside=beside)
    return fitting[0]


def _files(folder, kinds):
    """{path: kind} of the first file of each kind that a folder holds."""
    named = {kind: [folder / name for name in KINDS[kind].NAMES] for kind in kinds}
    paths_of = {kind: [path for path in paths if path.is_file()] for kind, paths in named.items()}
    return {paths[0]: kind for kind, paths in paths_of.items() if paths}


def _usable(paths, folder, huggingface):
    """TokenizerFiles of these paths. Those that are none are passed over, unless all are."""
    files, errors = [], []
    for path, kind in paths.items():
        try:
            files.append(_read(path, kind, folder, huggingface))
        except UserError as error:
            errors.append(error)
    if errors and not files:
        raise errors[0]
    return files


def _fits(file, rows):
    """A row for every id. There may be more, which fill the table up; other numbers are how a wrong
    vocabulary is noticed."""
    ids = file.load().vocab_size
    return ids <= rows <= -(-ids // _MULTIPLE) * _MULTIPLE


def _none_here(folder, kinds, upstream_dir):
    names = " or ".join(name for kind in kinds for name in KINDS[kind].NAMES)
    if not set(kinds) & set(_UPSTREAM):
        return f"{folder}: no {names} here; leave --tokenizer json out"
    where = f" or in {upstream_dir}/prev_trained_model/*/" if upstream_dir else ""
    other = " (--tokenizer json takes its tokenizer.json)" if _files(folder, ("json",)) else ""
    return (
        f"{folder}: no {names} here{where}; name the sentencepiece model or the vocab.txt by "
        f"--tokenizer{other}"
    )


def _read(path, kind, folder, huggingface):
    check_readable(path)
    file = TokenizerFile(kind, path, path.read_bytes(), folder=folder if huggingface else None)
    loaded = file.load()
    if kind == "wordpiece":
        file = replace(file, options=_wordpiece_options(folder, huggingface, loaded))
        file.load()  # refuses added tokens that cannot have their ids
        return file
    if not huggingface:  # albert_pytorch reads the model and nothing beside it
        return file
    settings = _settings(folder / CONFIG)
    if kind == "json":
        _check_agreement(file, settings, folder)
        return file
    options = {name: settings[name] for name in SWITCHES["spm"] if name in settings}
    added = _spm_added_tokens(folder, settings, loaded.vocab_size)
    return replace(file, options={**options, **({"added_tokens": added} if added else {})})


def _wordpiece_options(folder, huggingface, vocabulary):
    """Lower-cased, as published Chinese ALBERTs are, unless tokenizer_config.json says otherwise:
    albert_pytorch writes no file that tells. Only transformers adds tokens to a vocab.txt."""
    settings = _settings(folder / CONFIG)
    lower, accents = settings.get("do_lower_case", True), settings.get("strip_accents")
    if accents not in (None, lower):
        raise UserError(
            f"{folder / CONFIG}: strip_accents is {accents} and do_lower_case {lower}; only a "
            "vocab.txt with both or neither can be run: save the tokenizer as tokenizer.json"
        )
    for name in ("tokenize_chinese_chars", "do_basic_tokenize"):
        if settings.get(name, True) is not True:
            raise UserError(
                f"{folder / CONFIG}: {name} is not true, and only that can be run with a "
                "vocab.txt: save the tokenizer as tokenizer.json"
            )
    options = {} if lower else {"do_lower_case": False}
    if not huggingface:
        return options
    added = _added_tokens(folder, settings, vocabulary.token_id)
    _refuse_unlike([one for one in added if one.single_word], folder)
    for kind, normalized in (("exact_tokens", False), ("added_tokens", True)):
        tokens = {one.text: one.number for one in added if one.normalized == normalized}
        options.update({kind: tokens} if tokens else {})
    return {**options, "special_tokens": True}


def _settings(path):
    """tokenizer_config.json of a Hugging Face folder; {} where there is none."""
    settings = _object(path)
    for name, only in _FIXED.items():
        if settings.get(name) not in (None, only):
            raise UserError(
                f"{path}: {name} is {settings[name]!r}, but only {only!r} can be run; tokenize as "
                "the checkpoint was trained, and correct the file if it was trained so"
            )
    for name in SWITCHES["spm"]:
        if not isinstance(settings.get(name, True), bool):
            raise UserError(f"{path}: {name} is {settings[name]!r}, not true or false; correct it")
    return settings


def _object(path):
    """The JSON object in a file; {} where there is no file."""
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; copy it again from where it was trained")
    return content


class _Added(NamedTuple):
    text: str
    number: int
    special: bool
    normalized: bool  # looked for in the text once lower-cased, and not as it stands
    single_word: bool


def _spm_added_tokens(folder, settings, pieces):
    """{token: id} of what was added to a sentencepiece model of transformers."""
    added = [one for one in _added_tokens(folder, settings) if one.number >= pieces]
    _refuse_unlike(
        [one for one in added if one.single_word or not (one.special or one.normalized)], folder
    )
    return {one.text: one.number for one in added}


def _added_tokens(folder, settings, token_id=None):
    """List of what transformers added to a vocabulary, by the files beside it; `token_id` is the
    vocabulary's own. Of tokens that added_tokens.json alone has, those that special_tokens_map.json
    or `settings` name are special."""
    message = (
        f"{folder / CONFIG}: added_tokens_decoder or {ADDED} is not as transformers writes it; "
        "copy both again from where it was trained"
    )
    with refusing(message, AttributeError, KeyError, TypeError, ValueError):
        special = {*_names(_object(folder / SPECIAL)), *_names(settings)}
        added = {
            token: _Added(token, int(number), token in special, token not in special, False)
            for token, number in _object(folder / ADDED).items()
        }
        for number, token in settings.get("added_tokens_decoder", {}).items():
            kinds = (bool(token.get(kind)) for kind in ("special", "normalized", "single_word"))
            added[token["content"]] = _Added(str(token["content"]), int(number), *kinds)
        for token in special - set(added) if token_id else ():
            if token_id(token) is None:
                raise UserError(
                    f"{folder / CONFIG}: the special token {token!r} has no id in the vocabulary, "
                    f"{CONFIG} or {ADDED}; save the tokenizer again"
                )
            added[token] = _Added(token, token_id(token), True, False, False)
        return sorted(added.values(), key=lambda one: one.number)


def _names(settings):
    """The special tokens that a file of transformers names, one of a kind or a list of further
    ones, each a text or an object that holds it."""
    lists = ("additional_special_tokens", "extra_special_tokens")
    further = [settings.get(key) or () for key in lists]
    named = [one for each in further for one in (each.values() if isinstance(each, dict) else each)]
    named += [one for key, one in settings.items() if key.endswith("_token") and one is not None]
    return [one["content"] if isinstance(one, dict) else one for one in named]


def _refuse_unlike(tokens, folder):
    if tokens:
        raise UserError(
            f"{folder / CONFIG}: the added token {tokens[0].text!r} is a single_word or not "
            "normalized, which this vocabulary cannot have here; save the tokenizer as "
            "tokenizer.json"
        )


def _check_agreement(file, settings, folder):
    """Raises UserError where a tokenizer.json and tokenizer_config.json contradict each other:
    transformers 5 normalises as the latter says, transformers 4 as the former does, and nobody can
    tell which of them trained the checkpoint."""
    normalized = file.load().normalized
    does = {
        "do_lower_case": normalized("A") == normalized("a"),
        "keep_accents": normalized("\u00e9") != normalized("e"),
    }
    for name, done in does.items():
        if settings.get(name, done) != done:
            raise UserError(
                f"{folder / CONFIG}: {name} is {str(not done).lower()}, but {file.path.name} does "
                "the opposite; correct the one that the checkpoint was not trained with"
            )
