"""report.html: an evaluation, or a sweep of them, as one page that needs nothing else.

Plots are matplotlib's SVG, with the text colour of the page, so that they can be read in the dark
and in print. Sentences are untrusted: jinja2 escapes every text, and the page's policy lets no
script run but its own."""

import base64
import hashlib
import io
import math
import re
from pathlib import Path

import numpy

from . import UserError, compare, need
from .encoding import texts
from .evaluate import finite, right
from .files import replacing
from .metrics import METRICS
from .report import lines

TEMPLATE = Path(__file__).with_name("page.html.jinja")
SCRIPT = Path(__file__).with_name("page.js")
BINS = 15  # of confidence, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"
WORST = 10  # errors that are shown
# Okabe and Ito's colours, told apart by the colour-blind; blue is lighter, for dark pages.
COLOURS = ("#2A8FD0", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = "osD^vP"
_INK = "#010203"  # what stands in a plot for the page's own text colour


def check(path):
    """Raises UserError for a name that is no page's, and where the packages of pages are
    missing."""
    if path and not str(path).lower().endswith((".html", ".htm")):
        raise UserError(f"--report {path}: is written as HTML; give it a name that ends in .html")
    for package in ("jinja2", "matplotlib") if path else ():
        need("--report:", package)


def of_evaluation(result, logits, examples):
    """HTML text of what eval.json holds, with its logits float32 [sentences, class] and
    Examples."""
    plots = [
        plot("Latency", "of a batch's forward, after the warm-up", histogram, result),
        plot("Tokens in a row", "means of all rows computed", padding, [("this run", result)]),
    ]
    page = {"title": f"ALBERT on {result['task']}", "summary": lines(result, verbose=True)}
    if result["random_weights"] or examples.labels is None or examples.task.regression:
        return render(**page, plots=plots)
    chances = probabilities(logits)
    scored, correct = finite(logits), right(logits, examples.labels)
    bins, error = calibration(chances[scored].max(1), correct[scored])
    said = f"expected calibration error {error:.4f} in {BINS} bins; on the diagonal is right"
    plots.append(plot("Reliability", said, reliability, bins))
    return render(
        **page,
        plots=plots,
        confusion=confusion(logits, examples),
        errors=confident_errors(chances, correct, examples),
    )


def of_sweep(everything, table):
    """HTML text of what sweep.py --output holds; `table`: its heads and its rows of texts."""
    done = [result for result in everything["results"] if "error" not in result]
    failed = [
        (" ".join(map(str, filter(None, result["cell"]))), result["error"])
        for result in everything["results"]
        if "error" in result
    ]
    machine = everything["machine"]
    summary = [("machine", f"{machine['cpu']}, {machine['cores']} core(s)\n{machine['platform']}")]
    versions = machine["packages"].items()
    summary.append(("versions", ", ".join(f"{name} {v}" for name, v in versions if v)))
    summary.append(("command", " ".join(everything["command"])))
    drawn = (
        (
            "Throughput",
            "end to end, the median of repetitions; band: their range",
            throughput,
            done,
        ),
        ("Latency", "p50 of a batch's forward", latency, done),
        ("Accuracy and speed", GATE, tradeoff, done),
        ("Tokens in a row", "means of all rows computed", padding, series_of_padding(done)),
    )
    plots = [plot(*each) for each in drawn if done]
    return render(title="Sweep", summary=summary, table=table, failed=failed, plots=plots)


def write(path, text):
    """A page into its file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


GATE = "dashed: the least that the gate lets pass, in the colour of its precision"


def render(**page):
    import jinja2

    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    known = {"table": None, "failed": (), "confusion": None, "errors": None, "plots": ()}
    text = template.render(script=script, script_digest=digest, **{**known, **page})
    return text.encode("utf-8", "backslashreplace").decode()


# The figures


def probabilities(logits):
    """Softmax of float32 [sentences, class] as float64; NaN where logits are not finite."""
    with numpy.errstate(all="ignore"):
        raised = numpy.exp(logits - logits.max(1, keepdims=True), dtype=numpy.float64)
        return raised / raised.sum(1, keepdims=True)


def calibration(confidence, correct):
    """([(mean confidence, share right, sentences) of each bin that holds any], the expected
    calibration error): mean of |share right - mean confidence| over sentences, by bins of equal
    width (Guo et al. 2017)."""
    number = numpy.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for bin_ in range(BINS):
        chosen = number == bin_
        if chosen.any():
            values = confidence[chosen].mean(), correct[chosen].mean()
            bins.append((*map(float, values), int(chosen.sum())))
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


# The plots


def plot(title, note, draw, *given):
    """{"title", "note", "svg"}: what `draw` puts on axes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": title,  # names in one picture are not those of another
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **{f"{part}.color": _INK for part in ("text", "xtick", "ytick")},
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "legend.frameon": False,
    }
    with rc_context(style):
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        draw(figure.subplots(), *given)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" ?', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*" ?', r'<svg role="img" \1', svg, count=1)
    return {
        "title": title,
        "note": note,
        "svg": re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S),
    }


def histogram(axes, result):
    latency = result["latency_ms"]
    axes.hist(result["batch_latencies_ms"], bins=min(30, 1 + result["batches"]), color=COLOURS[0])
    for name, line in (("p50", "-"), ("p99", ":")):
        axes.axvline(latency[name], color=_INK, linestyle=line, label=f"{name} {latency[name]:.1f}")
    axes.set(xlabel="milliseconds a batch", ylabel="batches", xlim=(0, None))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def padding(axes, named):
    """Stacked: tokens of sentences, and positions that hold none."""
    names = [name for name, _ in named]
    lengths = numpy.array([result["max_seq_length"] for _, result in named], float)
    filled = lengths * (1 - numpy.array([result["padding"] for _, result in named]))
    axes.barh(names, filled, color=COLOURS[0], label="tokens")
    axes.barh(
        names,
        lengths - filled,
        left=filled,
        color="none",
        edgecolor=_INK,
        hatch="///",
        label="padding",
    )
    axes.invert_yaxis()
    axes.set(xlabel="token positions a row", xlim=(0, lengths.max() * 1.02))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)


def reliability(axes, bins):
    axes.plot((0, 1), (0, 1), color=_INK, linestyle=":")
    most = max((count for *_, count in bins), default=1)
    for mean, share, count in bins:
        size = 20 + 180 * count / most
        axes.scatter(mean, share, s=size, color=COLOURS[0], alpha=0.8)
    said = "mean probability of the prediction (area: sentences)"
    axes.set(xlabel=said, ylabel="share that is right", xlim=(0, 1.03), ylim=(-0.03, 1.03))


def kinds(done):
    """{precision, rows, length: its cells by batch size}."""
    found = {}
    for result in sorted(done, key=lambda result: result["cell"][3]):
        _, rows, length, _ = result["cell"]
        precision = result["evaluations"][0]["precision"]
        found.setdefault(f"{precision} {rows} {length}", []).append(result)
    return found


def by_batch(axes, done, value, label):
    several = kinds(done)
    for number, (name, cells) in enumerate(several.items()):
        sizes = [result["cell"][3] for result in cells]
        drawn = [[value(e) for e in result["evaluations"]] for result in cells]
        middle = [float(numpy.median(of)) for of in drawn]
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        axes.plot(sizes, middle, color=colour, marker=mark, label=name)
        axes.fill_between(
            sizes,
            *map(list, zip(*((min(of), max(of)) for of in drawn))),
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    axes.set_xscale("log", base=2)
    sizes = sorted({result["cell"][3] for result in done})
    axes.set_xticks(sizes, map(str, sizes))
    axes.minorticks_off()
    axes.set(xlabel="batch size, rows", ylabel=label, ylim=(0, None))
    axes.legend(fontsize="x-small", ncols=1 + len(several) // 7)


def throughput(axes, done):
    by_batch(axes, done, lambda e: e["samples_per_second"]["end_to_end"], "sentences a second")


def latency(axes, done):
    by_batch(axes, done, lambda e: e["latency_ms"]["p50"], "milliseconds a batch")


def tradeoff(axes, done):
    """Each cell's first metric against its speed, and for each precision the least that its gate
    takes."""
    name = next(iter(done[0]["evaluations"][0]["metrics"]), None)
    precisions = list(dict.fromkeys(r["evaluations"][0]["precision"] for r in done))
    for number, precision in enumerate(precisions):
        chosen = [r for r in done if r["evaluations"][0]["precision"] == precision]
        for rows, mark in (("plain", "o"), ("packed", "s")):
            points = [
                (e["samples_per_second"]["end_to_end"], e["metrics"][name])
                for r in chosen
                if r["cell"][1] == rows
                for e in r["evaluations"]
                if e["metrics"].get(name) is not None
            ]
            if points:
                colour = COLOURS[number % len(COLOURS)]
                axes.scatter(*zip(*points), color=colour, marker=mark, label=f"{precision} {rows}")
        references = [r["comparison"]["reference_value"] for r in chosen if "comparison" in r]
        if any(value is not None for value in references):
            least = max(filter(None, references)) - compare.GATES[precision].loss
            axes.axhline(least, color=COLOURS[number % len(COLOURS)], linestyle="--", linewidth=1)
    axes.set(xlabel="sentences a second, end to end", xlim=(0, None))
    axes.set_ylabel(METRICS[name].title if name else "no labels")
    if name and any(axes.get_legend_handles_labels()):
        axes.legend(fontsize="x-small")


def series_of_padding(done):
    """One evaluation of each kind of row: padding depends on neither engine nor precision."""
    found = {}
    for result in done:
        _, rows, length, _ = result["cell"]
        found.setdefault(f"{rows} {length}", result["evaluations"][0])
    return list(found.items())
