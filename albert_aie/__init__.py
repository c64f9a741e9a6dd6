"""ALBERT sentence classification on an accelerator: what export_albert_aie.py, run_aie_eval.py and
run_aie_corpus.py share. CONTRIBUTING.md has the plan of its rooms."""

from .base.version import __version__

__all__ = ["Classifier", "__version__"]


def __getattr__(name):
    if name == "Classifier":
        from .run.classifier import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
