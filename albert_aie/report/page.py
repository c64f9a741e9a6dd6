"""report.html: an evaluation as one page that needs nothing else.

Sentences are untrusted: jinja2 escapes every text, and the page's policy lets no script run but its
own."""

import base64
import hashlib
import math
from pathlib import Path

import numpy

from ..base.encoding import texts
from ..base.errors import UserError, need
from ..run.classifier import softmax
from ..run.evaluate import finite, is_correct
from . import plots
from .figures import lines

TEMPLATE = Path(__file__).with_name("page.html.jinja")
SCRIPT = Path(__file__).with_name("page.js")
BINS = 15  # of confidence, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"
WORST = 10  # errors that are shown
ROWS = "means of all rows that were computed"


def check(path):
    """Raises UserError for a name that is no page's, and where a package of pages is missing."""
    if path and not str(path).lower().endswith((".html", ".htm")):
        raise UserError(f"--report {path}: is written as HTML; give it a name that ends in .html")
    for package in ("jinja2", "matplotlib") if path else ():
        need("--report:", package)


def of_evaluation(result, logits, examples, compared=()):
    """HTML text of what eval.json holds, with its logits float32 [sentences, class] and Examples;
    `compared`: (name, text) of each line of the comparison, where there was one."""
    summary = [*lines(result, detail=True), *compared]
    pictures = [plots.picture("Tokens in a row", ROWS, plots.padding, [("this run", result)])]
    if "om" not in result:
        timed = "from text to label" if "sentences_per_second" in result else "of a batch's forward"
        latency = plots.picture("Latency", f"{timed}, warmed up", plots.histogram, result)
        pictures.insert(0, latency)
    page = {"title": f"ALBERT on {result['task']}", "summary": summary, "plots": pictures}
    if result["random_weights"] or examples.labels is None or examples.task.regression:
        return render(**page)
    chances = softmax(logits)
    scored, correct = finite(logits), is_correct(logits, examples.labels)
    bins, error = calibration(chances[scored].max(1), correct[scored])
    said = f"expected calibration error {error:.4f} in {BINS} bins, which is 0 on the line"
    pictures.append(plots.picture("Reliability", said, plots.reliability, bins))
    errors = confident_errors(chances, correct, examples)
    return render(**page, confusion=confusion(logits, examples), errors=errors)


def render(**page):
    """HTML text. `plots` and (name, text) of a `summary` are needed, the other parts are not."""
    import jinja2

    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(script=script, script_digest=digest, **page)
    return text.encode("utf-8", "backslashreplace").decode()


def calibration(confidence, correct):
    """([(mean confidence, share right, sentences) of each bin that holds any], the expected
    calibration error): mean of |share right - mean confidence| over sentences, by bins of equal
    width (Guo et al. 2017)."""
    number = numpy.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for each in numpy.unique(number):
        chosen = number == each
        mean, share = confidence[chosen].mean(), correct[chosen].mean()
        bins.append((float(mean), float(share), int(chosen.sum())))
    gaps = sum(count * abs(share - mean) for mean, share, count in bins)
    return bins, gaps / len(confidence) if len(confidence) else math.nan


def confusion(logits, examples):
    """{"classes", "rows"}: of each class of labels how many sentences were predicted as each class,
    and last how many have no prediction."""
    labels, predicted = numpy.asarray(examples.labels), logits.argmax(1)
    predicted[~finite(logits)] = len(examples.classes)
    counts = numpy.zeros((len(examples.classes), len(examples.classes) + 1), int)
    numpy.add.at(counts, (labels, predicted), 1)
    rows = [
        (name, [(int(n), n / max(1, row.sum())) for n in row])
        for name, row in zip(examples.classes, counts)
        if row.sum()
    ]
    return {"classes": [*examples.classes, "none"], "rows": rows}


def confident_errors(chances, correct, examples):
    """The wrong predictions with the greatest probability."""
    wrong = numpy.flatnonzero(~correct & numpy.isfinite(chances).all(1))
    wrong = sorted(wrong, key=lambda i: -chances[i].max())[:WORST]
    return [
        {
            "index": examples.indices[i],
            "prediction": examples.classes[chances[i].argmax()],
            "probability": f"{chances[i].max():.4f}",
            "label": examples.classes[examples.labels[i]],
            "text": " / ".join(texts(examples.sentences[i])),
        }
        for i in wrong
    ]
