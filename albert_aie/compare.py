"""The CPU reference, and the gate that a compiled file must pass.

The reference is never our own graph: it is the albert_pytorch model run eagerly in fp32 where a
checkout is there, else transformers' ALBERT. It runs sentences sorted and padded to the longest of
their own batch, which is several times faster than padding to max_seq_length and checks that
padding does not matter."""

import importlib.util
import math
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, Optional

import numpy

from . import UserError
from .encoding import Encoded, texts
from .evaluate import finite
from .metrics import METRICS, measure
from .spm import SPM_OPTIONS


class Gate(NamedTuple):
    relative: float  # largest relative error of the centred logits
    flips: float  # largest share of labels that differ
    loss: float  # largest loss of the task's first metric, whose best value is 1


# A precision that has no gate here cannot be asked for (--precision takes its choices from this
# table).
# int8 moves logits by several percent on every network: there the labels decide.
GATES = {
    "fp32": Gate(1e-4, 0.0, 1e-4),  # no flips: the loss is that of a correlation
    "bf16": Gate(2e-2, 0.005, 0.005),
    "fp16": Gate(2e-2, 0.005, 0.005),
    "int8": Gate(math.inf, 0.01, 0.005),
}


@dataclass(frozen=True)
class Comparison:
    """Both sides' difference over all sentences. `relative` is ||got - ref|| / ||ref|| with each
    sentence's logits centred on their mean, because a constant added to all of them changes no
    prediction; the one output of a regression is not centred, and has no label that could flip.
    `not_finite` sentences have NaN or infinity on either side: each counts as a flip and is scored
    wrong. `metric` is the task's first, with its value on both sides; all three are None where
    there are no labels."""

    sentences: int
    not_finite: int
    relative: float
    flips: int
    max_abs: float
    mean_abs: float
    worst_cosine: float
    metric: Optional[str]
    value: Optional[float]
    reference_value: Optional[float]
    regression: bool
    precision: str
    reference: str
    tokenizer: str
    other_ids: int  # sentences to which the reference's tokenizer gave other ids

    @property
    def lost(self):
        """The reference's metric less that of the compiled file; 0 where there are no labels."""
        return 0.0 if self.metric is None else self.reference_value - self.value

    @property
    def allowed_flips(self):
        return int(GATES[self.precision].flips * self.sentences)

    @property
    def passed(self):
        gate = GATES[self.precision]
        close = self.relative <= gate.relative  # False for NaN too
        same = self.other_ids == 0
        return same and close and self.flips <= self.allowed_flips and self.lost <= gate.loss

    def verdict(self):
        """What --compare_output holds."""
        verdict = {"passed": self.passed, **asdict(self), "allowed_flips": self.allowed_flips}
        return {**verdict, "gate": GATES[self.precision]._asdict()}

    def lines(self, verbose=False):
        """(name, text) of each line to print."""
        gate = GATES[self.precision]
        relative = "none" if math.isinf(gate.relative) else f"{gate.relative:.0e}"
        yield "reference", f"{self.reference}, {self.sentences} sentences"
        yield (
            "tokens",
            f"by {self.tokenizer}\nother ids in {self.other_ids} sentences (gate 0)",
        )
        yield (
            "difference",
            f"relative {self.relative:.2e} (gate {relative})"
            + f", label flips {self.flips} (gate {self.allowed_flips})" * (not self.regression),
        )
        if verbose:
            yield (
                "",
                f"max abs {self.max_abs:.2e}, mean abs {self.mean_abs:.2e}, "
                f"worst cosine {self.worst_cosine:.6f}",
            )
        if self.not_finite:
            yield "not finite", f"{self.not_finite} of the sentences; each counts as a label flip"
        if self.metric is not None:
            yield (
                METRICS[self.metric].title,
                f"{self.value:.4f} compiled, {self.reference_value:.4f} reference "
                f"(gate {100 * gate.loss:g} points lost)",
            )
        yield "compare_cpu", "PASS" if self.passed else "FAIL"


@numpy.errstate(all="ignore")  # NaN and infinity are counted and fail
def compare(got, reference, examples, precision, name="", tokenizer="", other_ids=0):
    """Comparison of two float32 [sentences, class] arrays of logits of Examples (None: of sentences
    without labels); `name` and `tokenizer` are the reference's. NaN anywhere fails."""
    regression = examples is not None and examples.task.regression
    lost = ~(finite(got) & finite(reference))
    got64, reference64 = got.astype(numpy.float64), reference.astype(numpy.float64)
    centred, wanted = (
        x if regression else x - x.mean(1, keepdims=True) for x in (got64, reference64)
    )
    difference = numpy.abs(got64 - reference64)
    norms = numpy.linalg.norm(got64, axis=1) * numpy.linalg.norm(reference64, axis=1)
    cosines = (got64 * reference64).sum(1) / numpy.maximum(norms, 1e-12)
    metric, values = None, [None, None]
    if examples is not None and examples.labels is not None:
        metric = examples.task.metrics[0]
        values = [measure(metric, examples, x) for x in (got, reference)]
    return Comparison(
        sentences=len(got),
        not_finite=int(lost.sum()),
        relative=float(numpy.linalg.norm(centred - wanted) / numpy.linalg.norm(wanted)),
        flips=int((lost | (got.argmax(1) != reference.argmax(1))).sum()),  # of one output none
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        worst_cosine=float(cosines.min()),
        metric=metric,
        value=values[0],
        reference_value=values[1],
        regression=regression,
        precision=precision,
        reference=name,
        tokenizer=tokenizer,
        other_ids=other_ids,
    )


def checkpoint_of(saved, pth_dir, tokenizer_file=None, upstream_dir=None):
    """(Checkpoint in pth_dir, note) for the Artifact `saved`: the note says so where its weights
    are others than the file was made from. Raises UserError for another architecture or
    vocabulary."""
    from . import checkpoint

    where = pth_dir, tokenizer_file, upstream_dir
    if saved.manifest["random_weights"]:
        found = checkpoint.draw(*where, kind=saved.tokenizer.kind)
    else:
        shift = saved.manifest["source"].get("layout") != checkpoint.UNSHIFTED
        found = checkpoint.load(*where, shift=shift, kind=saved.tokenizer.kind)
    config = found.config.to_json()
    for name, known in saved.manifest["config"].items():
        if name != "label_names" and config.get(name) != known:
            raise UserError(
                f"{pth_dir}: {name} is {config.get(name)}, but {saved.path} has {known}; name the "
                "checkpoint that the file was made from"
            )
    if found.sha256 == saved.manifest["source"].get("sha256"):
        return found, ""
    return found, (
        f"the weights in {pth_dir} are not, byte by byte, those that the file was made from "
        "(sha256)"
    )


def against_reference(got, saved, checkpoint, examples, upstream_dir, progress):
    """Comparison of the logits `got` of the Artifact `saved` on `examples` with the reference's,
    which tokenizes for itself."""
    length, saved_tokenizer = saved.shape.max_seq_length, saved.tokenizer.load()
    encode, tokenizer = reference_tokenizer(checkpoint.tokenizer, upstream_dir)
    encoded = [encode(sentence, length) for sentence in examples.sentences]
    ours = [saved_tokenizer.encode(sentence, length) for sentence in examples.sentences]
    reference, name = reference_logits(checkpoint, encoded, upstream_dir, progress=progress)
    return compare(
        got,
        reference,
        replace(examples, labels=None) if checkpoint.random else examples,
        saved.manifest["precision"],
        name,
        tokenizer=tokenizer,
        other_ids=sum(
            (own.ids, own.second) != (wanted.ids, wanted.second)
            for own, wanted in zip(ours, encoded)
        ),
    )


def reference_tokenizer(file, upstream_dir=None):
    """(function of a sentence and its greatest length -> Encoded, its name) for a checkpoint's
    TokenizerFile: not our code where there is another."""
    from .upstream import has_upstream, upstream_tokenizer

    if file.kind == "json":
        return transformers_tokenizer(file), "transformers' PreTrainedTokenizerFast"
    if as_upstream(file) and has_upstream(upstream_dir):
        return upstream_tokenizer(file, upstream_dir), f"albert_pytorch in {upstream_dir}"
    return file.load().encode, "albert_aie/text.py, whose ids are tested against albert_pytorch's"


def as_upstream(file):
    """Whether a TokenizerFile's options are what albert_pytorch's code does."""
    known = {**SPM_OPTIONS, "special_tokens": False, "do_lower_case": True}
    return all(known.get(name) == on for name, on in file.options.items())


def transformers_tokenizer(file):
    """A tokenizer.json as transformers runs it. Not by AutoTokenizer: transformers 5 builds
    ALBERT's normalizer and pre-tokenizer anew instead of reading them. Segments are ours, for its
    own are all 0 there."""
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        raise UserError(
            f"--compare_cpu: tokenizing by {file.path} needs a reference too; pip install "
            "transformers"
        ) from None
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file.path))
    own = file.load()

    def encode(sentence, max_seq_length):
        found = tokenizer(*texts(sentence), truncation=True, max_length=max_seq_length)
        return Encoded(found["input_ids"], second=own.encode(sentence, max_seq_length).second)

    return encode


def reference_logits(
    checkpoint, encoded, upstream_dir=None, batch_size=16, progress=lambda steps, **_: steps
):
    """(float32 [sentences, class], name of the reference) for a list of Encoded."""
    import torch

    run, name = _reference(checkpoint, upstream_dir)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    logits = numpy.zeros((len(encoded), checkpoint.config.num_labels), numpy.float32)
    starts = range(0, len(order), batch_size)
    with torch.inference_mode():
        for start in progress(starts, desc="CPU reference", total=len(starts), unit="batch"):
            chosen = order[start : start + batch_size]
            lengths = [len(encoded[i].ids) for i in chosen]
            ids, types = torch.zeros(2, len(chosen), max(lengths), dtype=torch.int64)
            for row, i in enumerate(chosen):
                ids[row, : lengths[row]] = torch.tensor(encoded[i].ids)
                if encoded[i].second is not None:
                    types[row, encoded[i].second : lengths[row]] = 1
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
            logits[chosen] = run(ids, mask, types).numpy()
    return logits, name


def check_reference(upstream_dir):
    """Raises UserError where there is neither an albert_pytorch checkout nor transformers."""
    from .upstream import has_upstream

    if not has_upstream(upstream_dir) and importlib.util.find_spec("transformers") is None:
        raise UserError(
            "--compare_cpu needs a reference: give an albert_pytorch checkout by --prefix_dir, or "
            "pip install transformers"
        )


def _reference(checkpoint, upstream_dir):
    """(function of ids, mask, types -> logits, all torch; its name)."""
    from .upstream import has_upstream, upstream_model

    if has_upstream(upstream_dir):
        upstream = upstream_model(checkpoint, upstream_dir)

        def run(ids, mask, types):
            return upstream(ids, attention_mask=mask, token_type_ids=types)[0]

        return run, f"albert_pytorch in {upstream_dir}, eager fp32"
    model = transformers_model(checkpoint)

    def run(ids, mask, types):
        return model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits

    return run, "transformers' ALBERT, eager fp32"


def transformers_model(checkpoint):
    """transformers' AlbertForSequenceClassification with eager attention, holding the checkpoint,
    fp32, eval mode."""
    from transformers import AlbertConfig, AlbertForSequenceClassification

    sizes = asdict(checkpoint.config)
    del sizes["label_names"]
    config = AlbertConfig(**sizes, attn_implementation="eager")
    model = AlbertForSequenceClassification(config)
    model.load_state_dict(checkpoint.tensors, strict=True)
    return model.eval()
