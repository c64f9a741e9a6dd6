"""Real sentences from which int8 takes the ranges of activations."""

import random
from pathlib import Path

from . import batching, tasks, text

SENTENCES = 256
WORDS = 10  # at least: long ones, as dev has


def read(data_dir):
    """(sentences, note): training sentences of WORDS words and more, drawn with a fixed seed. Where
    train.tsv is missing those of dev, and a note that says so. Raises UserError where there is
    neither."""
    split, note = "train", ""
    if not (Path(data_dir) / "train.tsv").is_file():
        split = "dev"
        note = (
            f"int8 ranges are taken from dev itself: {data_dir} has no train.tsv; accuracy on dev "
            "flatters it"
        )
    sentences = tasks.read(data_dir, split).sentences
    long = [sentence for sentence in sentences if len(sentence.split()) >= WORDS] or sentences
    return random.Random(0).sample(long, min(SENTENCES, len(long))), note


def batches(tokenizer, sentences, shape):
    """List of Batch of the sentences."""
    encoded, _ = text.encode_all(tokenizer, sentences, shape.max_seq_length)
    return list(batching.batches(encoded, shape))
