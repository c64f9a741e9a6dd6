"""Which of the shared layer's products int8 leaves in floating point, and the search for the
fastest recipe whose labels hold.

Labels are not needed for that: a prediction that does not change cannot become wrong, so the share
of flips against fp32 is the most that accuracy can lose."""

from typing import NamedTuple

import numpy

ALL = "all"
# name: [(which product, every n-th layer)] that stay in bf16 (fp32 where the CPU has none), in
# order of speed. The products are told by their weights' shape.
RECIPES = {
    ALL: (),
    "half ffn_output": (("ffn_output", 2),),
    "ffn_output": (("ffn_output", 1),),
    "ffn_output, half ffn": (("ffn_output", 1), ("ffn", 2)),
    "ffn, ffn_output": (("ffn_output", 1), ("ffn", 1)),
}


class Tried(NamedTuple):
    """What a recipe did on held-out text; `rate` in sentences/s, end to end."""

    recipe: str
    flips: int
    sentences: int
    relative: float
    rate: float

    def holds(self, percent):
        """Whether at most `percent` of the sentences have another label than in fp32."""
        return 100 * self.flips <= percent * self.sentences


def floating(recipe, groups):
    """Names of the nodes that the recipe leaves as they are, of smoothing.products()."""
    names = []
    for wanted, every in RECIPES[recipe]:
        for group in groups:
            if _kind(group) == wanted:
                chosen = group[::every]
                names += [node.get_friendly_name() for one in chosen for node in one.nodes]
    return names


def _kind(group):
    rows, channels = group[0].nodes[0].input_value(1).get_shape()
    return "ffn_output" if rows < channels else "ffn" if rows > channels else "attention"


def tried(recipe, got, reference, rate):
    """Tried, from two float32 [sentences, class] arrays of logits. What is not finite flips."""
    lost = ~numpy.isfinite(got).all(1)
    a, b = (x.astype(numpy.float64) for x in (got, reference))
    if a.shape[1] > 1:
        a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    flips = int((lost | (got.argmax(1) != reference.argmax(1))).sum())
    relative = float(numpy.linalg.norm(a - b) / numpy.linalg.norm(b))
    return Tried(recipe, flips, len(got), relative, rate)


def search(attempt, percent):
    """([Tried], the first recipe that holds or None): `attempt(recipe)` gives a Tried."""
    found = []
    for recipe in RECIPES:
        found.append(attempt(recipe))
        if found[-1].holds(percent):
            return found, recipe
    return found, None


def table(found):
    """Lines of the table of what was tried."""
    lines = [f"{'in bf16':<24}{'flips':>12}{'relative':>10}{'/s':>8}"]
    for one in found:
        left = "-" if one.recipe == ALL else one.recipe
        flips = f"{one.flips}/{one.sentences}"
        lines.append(f"{left:<24}{flips:>12}{one.relative:>10.2%}{one.rate:>8.1f}")
    return lines
