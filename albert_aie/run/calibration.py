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
    """(sentences for the ranges, held-out sentences, note), drawn with a fixed seed from training
    sentences, or from the file `path`. Those for the ranges have WORDS words where there are such,
    and come from dev, as the note says, where train.tsv is missing. `held_out` asks for others, but
    never dev's. Raises UserError where there is no text, or too little to hold some out."""
    if not path and not task.files:
        raise UserError(
            f"--task_name {task.name}: has no files of its own to calibrate on; give text by "
            "--calibration FILE"
        )
    note, split, train = "", "train", task.files.get("train")
    if not path and train and not (Path(data_dir) / train).is_file():
        cure = "give text of your own by --calibration FILE"
        if held_out:
            what = f"--max_flips: {data_dir} has no {train}, and dev is not for choosing"
            raise UserError(f"{what}; {cure}")
        split, what = "dev", f"int8 ranges are taken from dev itself: {data_dir} has no {train}"
        note = f"{what}; accuracy on dev flatters it; {cure}"
    sentences = _own(path, task) if path else datasets.read(data_dir, split, task).sentences
    long = [one for one in sentences if words(one) >= WORDS] or sentences
    most = len(sentences) // 2 if held_out else len(sentences)
    ranges = random.Random(0).sample(long, min(SENTENCES, len(long), max(1, most)))
    if not held_out:
        return ranges, [], note
    seen = set(ranges)
    rest = [one for one in dict.fromkeys(sentences) if one not in seen]
    if len(rest) < LEAST_HELD_OUT:
        what = f"leaves {len(rest)} different sentences to count flips on"
        raise UserError(
            f"--max_flips: {path or data_dir} {what}, fewer than {LEAST_HELD_OUT}; give more text"
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
    length = shapes[-1].max_seq_length
    encoded = [tokenizer.encode(sentence, length) for sentence in sentences]
    return list(batching.batches(encoded, *shapes))
