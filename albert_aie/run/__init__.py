"""Sentences through a file: batches, logits, classes, and the comparison with the reference."""

__all__ = [
    "batching",
    "calibration",
    "classifier",
    "compare",
    "dynamic_batching",
    "evaluate",
    "om_kit",
    "recipes",
]
