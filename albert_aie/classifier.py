"""Where Classifier was until 0.2; `from albert_aie import Classifier` is its place."""

from .run.classifier import Answer, Classifier  # noqa: F401
