"""The comparison with the CPU reference, and the gate that a compiled file must pass."""

import importlib.util
import math
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, Optional

import numpy

from ..albert import references, upstream
from ..albert.layouts import UNSHIFTED
from ..base.errors import UserError
from ..data.metrics import METRICS, measure
from .evaluate import finite


class Gate(NamedTuple):
    relative: float  # largest relative error of the centred logits
    flips: float  # largest share of labels that differ
    loss: float  # largest loss of the task's first metric, whose best value is 1
    ties: float = 0.0  # largest share of labels that differ at a tie; one sentence always may


# --precision takes its choices from this table. int8 moves logits by several percent on every
# network: there the labels decide.
GATES = {
    "fp32": Gate(1e-4, 0.0, 1e-4),  # no flips: the loss is that of a correlation
    "bf16": Gate(2e-2, 0.005, 0.005, ties=0.01),
    "fp16": Gate(2e-2, 0.005, 0.005, ties=0.01),
    "int8": Gate(math.inf, 0.01, 0.005),
}


@dataclass(frozen=True)
class Comparison:
    """Both sides' difference over all sentences. `relative` is that of relative_error: a constant
    added to all of a sentence's logits changes no prediction. A regression has no flips.
    `not_finite` sentences have NaN or infinity on either side: each counts as a flip and is scored
    wrong. `metric` is the task's first, with its value on both sides; all three are None where
    there are no labels.

    `ties` are labels that differ where the reference's own two largest logits are closer than the
    gate's relative error of a usual logit: rounding decides there, and they are no `flips`.
    `settled` is the file's value with the reference's labels at these."""

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
    ties: int = 0
    settled: Optional[float] = None  # where there are ties and labels

    @property
    def lost(self):
        """The reference's metric less that of the compiled file, ties aside; 0 where there are no
        labels, or where the reference has no value, such as a correlation with labels that are all
        alike. Without the rounding of floats: 199 of 400 less 197 of 400 is 0.005 and no more."""
        value = self.value if self.settled is None else self.settled
        if self.metric is None or math.isnan(self.reference_value):
            return 0.0
        return round(self.reference_value - value, 12)

    @property
    def gate(self):
        return GATES[self.precision]

    @property
    def allowed_flips(self):
        return int(self.gate.flips * self.sentences)

    @property
    def allowed_ties(self):
        share = self.gate.ties
        return max(1, int(share * self.sentences)) if share else 0

    @property
    def passed(self):
        close = self.relative <= self.gate.relative  # False for NaN too
        same = self.other_ids == 0 and self.ties <= self.allowed_ties
        return same and close and self.flips <= self.allowed_flips and self.lost <= self.gate.loss

    def verdict(self):
        """What --compare_output holds."""
        verdict = {"passed": self.passed, **asdict(self), "gate": self.gate._asdict()}
        allowed = {"allowed_flips": self.allowed_flips, "allowed_ties": self.allowed_ties}
        return {**verdict, **allowed}

    def lines(self):
        """(name, text) of each line to print."""
        gate, flips = self.gate, f", label flips {self.flips} (gate {self.allowed_flips})"
        relative = "none" if math.isinf(gate.relative) else f"{gate.relative:.0e}"
        flips = "" if self.regression else flips
        yield "reference", f"{self.reference}, {self.sentences} sentences"
        yield "tokens", f"by {self.tokenizer}\nother ids in {self.other_ids} sentences (gate 0)"
        yield "difference", f"relative {self.relative:.2e} (gate {relative}){flips}"
        if self.ties:
            text = "more labels differ where the reference's own two largest logits are as good as"
            yield "ties", f"{self.ties} {text} equal (gate {self.allowed_ties})"
        if self.not_finite:
            yield "not finite", f"{self.not_finite} of the sentences; each counts as a label flip"
        if self.metric is not None:
            text = f"{self.value:.4f} compiled, {self.reference_value:.4f} reference"
            lost = f"(gate {100 * gate.loss:g} points lost)"
            yield METRICS[self.metric].title, f"{text} {lost}"
        yield "compare_cpu", "PASS" if self.passed else "FAIL"


@numpy.errstate(all="ignore")  # NaN and infinity are counted and fail
def compare(got, reference, examples, precision, name="", tokenizer="", other_ids=0):
    """Comparison of two float32 [sentences, class] arrays of logits of Examples (None: of sentences
    without labels); `name` and `tokenizer` are the reference's. NaN anywhere fails."""
    regression = examples is not None and examples.task.regression
    lost = ~(finite(got) & finite(reference))
    got64, reference64 = (logits.astype(numpy.float64) for logits in (got, reference))
    difference = numpy.abs(got64 - reference64)
    norms = numpy.linalg.norm(got64, axis=1) * numpy.linalg.norm(reference64, axis=1)
    cosines = (got64 * reference64).sum(1) / numpy.maximum(norms, 1e-12)
    differ = lost | (got.argmax(1) != reference.argmax(1))  # of one output none
    ties = differ & ~lost & _is_tie(reference64, GATES[precision])
    metric, values = None, [None, None, None]
    if examples is not None and examples.labels is not None:
        metric = examples.task.metrics[0]
        settled = numpy.where(ties[:, None], reference, got)
        values = [measure(metric, examples, x) for x in (got, reference, settled)]
    return Comparison(
        sentences=len(got),
        not_finite=int(lost.sum()),
        relative=relative_error(got64, reference64),
        flips=int((differ & ~ties).sum()),
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
        ties=int(ties.sum()),
        settled=values[2] if ties.any() else None,
    )


def _is_tie(reference, gate):
    """Whether the two largest of each sentence's logits, float64 [sentences, class], are closer
    than the gate's relative error of the root mean square of the centred ones."""
    if not gate.ties or reference.shape[1] < 2:
        return numpy.zeros(len(reference), bool)
    finite_ones = reference[finite(reference)]
    usual = numpy.sqrt(numpy.mean((finite_ones - finite_ones.mean(1, keepdims=True)) ** 2))
    second, first = numpy.sort(reference, 1)[:, -2:].T
    return first - second <= gate.relative * usual


@numpy.errstate(all="ignore")  # NaN where a logit is not finite
def relative_error(got, reference):
    """||got - reference|| / ||reference|| of two float [sentences, output] arrays of logits, each
    sentence's less their mean, unless there is one output."""
    a, b = (x.astype(numpy.float64) for x in (got, reference))
    if a.shape[1] > 1:
        a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return float(numpy.linalg.norm(a - b) / numpy.linalg.norm(b))


def checkpoint_of(saved, pth_dir, tokenizer_file=None, upstream_dir=None):
    """(Checkpoint in pth_dir, note) for the Artifact `saved`: the note says where its weights are
    others than the file was made from. Raises UserError for another architecture or vocabulary."""
    from ..albert import checkpoint

    where = pth_dir, tokenizer_file, upstream_dir
    shift = saved.manifest["source"].get("layout") != UNSHIFTED
    loaded = checkpoint.load(*where, shift=shift, kind=saved.tokenizer.kind)
    config = vars(loaded.config)
    for name, value in saved.manifest["config"].items():
        if name != "label_names" and config.get(name) != value:
            what = f"{pth_dir}: {name} is {config.get(name)}, but {saved.path} has {value}"
            raise UserError(f"{what}; name the checkpoint that the file was made from")
    if loaded.sha256 == saved.manifest["source"].get("sha256"):
        return loaded, ""
    what = f"the weights in {pth_dir} are not, byte by byte, those that the file was made from"
    return loaded, f"{what} (sha256)"


class Reference(NamedTuple):
    """What the reference answers on examples, by a tokenizer which is other code."""

    logits: numpy.ndarray
    name: str
    tokenizer: str
    other_ids: int  # sentences to which this gave other ids than the file's


def reference_of(saved, checkpoint, examples, upstream_dir, progress):
    """Reference for the Artifact `saved`, of the Checkpoint, which tokenizes for itself."""
    length, saved_tokenizer = saved.shape.max_seq_length, saved.tokenizer.load()
    encode, tokenizer = references.tokenizer(checkpoint.tokenizer, upstream_dir)
    encoded = [encode(sentence, length) for sentence in examples.sentences]
    ours = [saved_tokenizer.encode(sentence, length) for sentence in examples.sentences]
    logits, name = references.logits(checkpoint, encoded, upstream_dir, progress=progress)
    pairs = zip(ours, encoded)
    others = sum((own.ids, own.second) != (their.ids, their.second) for own, their in pairs)
    return Reference(logits, name, tokenizer, others)


def against_reference(got, reference, saved, examples):
    """List of Comparison, one for each of `got`, logits of the Artifact `saved` on the examples or
    on the first of them."""
    if saved.manifest["random_weights"]:
        examples = replace(examples, labels=None)
    given = saved.manifest["precision"], *reference[1:]
    return [compare(x, reference.logits[: len(x)], examples.first(len(x)), *given) for x in got]


def check_reference(upstream_dir):
    """Raises UserError where there is neither an albert_pytorch checkout nor transformers."""
    if not upstream.has_upstream(upstream_dir) and importlib.util.find_spec("transformers") is None:
        cure = "give an albert_pytorch checkout by --prefix_dir, or pip install transformers"
        raise UserError(f"--compare_cpu needs a reference: {cure}")
