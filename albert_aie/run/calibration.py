"""Real sentences from which int8 takes the ranges of activations, and others that it is held to."""

import random
from pathlib import Path

from ..base import encoding
from ..base.errors import UserError
from ..data import datasets, formats, records
from . import batching

SENTENCES = 256
HELD_OUT = 1000  # at most
LEAST_HELD_OUT = 100  # fewer say nothing about a percent
WORDS = 10  # at least: long ones, as dev has


def read(data_dir, task, path=None, held_out=False):
    """(sentences, held-out sentences, note), drawn with a fixed seed from training sentences, or
    from the texts in the file `path`. Those for the ranges have WORDS words and more where there
    are such. `held_out` asks for sentences that the ranges have not seen, never dev's. Where
    train.tsv is missing ranges come from dev, and a note says so. Raises UserError where there is
    no text, or too little to hold some out."""
    note = ""
    if path:
        sentences = _own(path, task)
    elif not task.files:
        raise UserError(
            f"--task_name {task.name}: has no files of its own to calibrate on; give text by "
            "--calibration FILE"
        )
    else:
        split, train = "train", task.files.get("train")
        if train and not (Path(data_dir) / train).is_file():
            if held_out:
                raise UserError(
                    f"--max_flips: {data_dir} has no {train}, and dev is not for choosing; give "
                    "text of your own by --calibration FILE"
                )
            split = "dev"
            note = (
                f"int8 ranges are taken from dev itself: {data_dir} has no {train}; accuracy on "
                "dev flatters it; give text of your own by --calibration FILE"
            )
        sentences = datasets.read(data_dir, split, task).sentences
    long = [i for i, one in enumerate(sentences) if words(one) >= WORDS] or range(len(sentences))
    most = len(sentences) // 2 if held_out else len(sentences)
    chosen = random.Random(0).sample(long, min(SENTENCES, len(long), max(1, most)))
    ranges, seen = [sentences[i] for i in chosen], {sentences[i] for i in chosen}
    if not held_out:
        return ranges, [], note
    rest = [one for one in dict.fromkeys(sentences) if one not in seen]
    if len(rest) < LEAST_HELD_OUT:
        raise UserError(
            f"--max_flips: {path or data_dir} leaves {len(rest)} different sentences to count "
            f"flips on, fewer than {LEAST_HELD_OUT}; give more text"
        )
    return ranges, random.Random(1).sample(rest, min(HELD_OUT, len(rest))), note


def _own(path, task):
    """The texts, or pairs, of a file of lines or of the task's columns: not the empty ones."""
    suffixes = (suffix for each in formats.FORMATS.values() for suffix in each.suffixes)
    form = formats.by_suffix(path, formats.FORMATS, f"--calibration takes {', '.join(suffixes)}")
    with records.reading(path, form, datasets.layout(task)) as table:
        columns = datasets.columns(table, task)
        sentences = [datasets.sentence(record, columns, table.path) for record in table.records]
    sentences = [one for one in sentences if words(one)]
    if not sentences:
        raise UserError(f"{path}: holds no text; --calibration wants sentences, one a line")
    return sentences


def words(sentence):
    """How many words a text has, or both of a pair."""
    return sum(len(one.split()) for one in encoding.texts(sentence))


def batches(tokenizer, sentences, shapes):
    """List of Batch of the sentences, in `shapes`."""
    longest = shapes[-1].max_seq_length
    encoded = [tokenizer.encode(sentence, longest) for sentence in sentences]
    return list(batching.batches(encoded, *shapes))
