"""Real sentences from which int8 takes the ranges of activations."""

import random
from pathlib import Path

from . import batching, datasets, encoding

SENTENCES = 256
WORDS = 10  # at least: long ones, as dev has


def read(data_dir, task):
    """(sentences, note): training sentences of WORDS words and more, drawn with a fixed seed. Where
    train.tsv is missing those of dev, and a note that says so. Raises UserError where there is
    neither."""
    split, note = "train", ""
    train = task.files.get("train")
    if train and not (Path(data_dir) / train).is_file():
        split = "dev"
        note = (
            f"int8 ranges are taken from dev itself: {data_dir} has no {train}; accuracy on dev "
            "flatters it"
        )
    sentences = datasets.read(data_dir, split, task).sentences
    long = [sentence for sentence in sentences if words(sentence) >= WORDS] or sentences
    return random.Random(0).sample(long, min(SENTENCES, len(long))), note


def words(sentence):
    """How many words a text has, or both of a pair."""
    return sum(len(one.split()) for one in encoding.texts(sentence))


def batches(tokenizer, sentences, shapes):
    """List of Batch of the sentences, in `shapes`."""
    longest = shapes[-1].max_seq_length
    encoded = [tokenizer.encode(sentence, longest) for sentence in sentences]
    return list(batching.batches(encoded, *shapes))
