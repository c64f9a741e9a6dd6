"""The search for the fastest of an engine's int8 recipes whose labels hold. It needs no labels: a
prediction that does not change cannot become wrong, so flips are the most that accuracy can lose.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

from .. import backends
from ..albert import references
from .classifier import Classifier
from .compare import Comparison, compare


class Tried(NamedTuple):
    """What a recipe did on held-out text; `rate` in sentences/s, end to end."""

    recipe: str
    comparison: Comparison  # with fp32, without labels
    rate: float

    def holds(self, percent):
        """Whether at most `percent` of the sentences have another label than in fp32."""
        return 100 * self.comparison.flips <= percent * self.comparison.sentences


def table(attempts):
    """Lines of the table of what was tried."""
    lines = [f"{'in bf16':<24}{'flips':>12}{'relative':>10}{'/s':>8}"]
    for one in attempts:
        left = "-" if one.recipe == "all" else one.recipe
        flips = f"{one.comparison.flips}/{one.comparison.sentences}"
        lines.append(f"{left:<24}{flips:>12}{one.comparison.relative:>10.2%}{one.rate:>8.1f}")
    return lines


def fastest(make, name, percent, checkpoint, target, length, sentences, upstream_dir, progress):
    """(what `make` gave for the first recipe that keeps its labels in all but `percent` % of the
    sentences, None where none does; the Tried of those that were tried). `make` takes a Target and
    gives what has `save(path)`; the file is called `name`, sentences are cut to `length` tokens."""
    tokenizer = checkpoint.tokenizer.load()
    encoded = [tokenizer.encode(sentence, length) for sentence in sentences]
    reference, _ = references.logits(checkpoint, encoded, upstream_dir, progress=progress)
    attempts = []
    for recipe in backends.get(target.backend).RECIPES:
        model = make(target._replace(options={**target.options, "recipe": recipe}))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            model.save(path)
            with Classifier(path) as classify:
                ran = classify.evaluate(sentences)
        comparison = compare(ran.logits, reference, None, "int8")
        attempts.append(Tried(recipe, comparison, len(sentences) / ran.end_to_end))
        if attempts[-1].holds(percent):
            return model, attempts
    return None, attempts
