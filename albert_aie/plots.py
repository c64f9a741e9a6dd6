"""The plots of report.html: matplotlib's SVG, with the text colour of the page, so that they can be
read in the dark and in print. Each has units on both axes."""

import io
import re

import numpy

from .compare import GATES
from .metrics import METRICS

# Okabe and Ito's colours, told apart by the colour-blind; blue is lighter, for dark pages.
COLOURS = ("#2A8FD0", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = "osD^vP"
INK = "#010203"  # what stands in a plot for the page's own text colour
GATE = (
    "dashed: the least that the gate lets pass, in the colour of its precision; where the "
    "comparison was left out, below the sweep's own fp32"
)


SIZE = (5.4, 3.6)  # inches


def picture(title, note, draw, *given):
    """{"title", "note", "svg"}: what `draw` puts on axes."""
    return {"title": title, "note": note, "svg": svg(title, SIZE, draw, *given)}


def svg(title, size, draw, *given):
    """The SVG of what `draw` puts on axes, as wide as its place; `size` in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": title,  # names in one picture are not those of another
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "legend.frameon": False,
    }
    with rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(), *given)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" ?', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*" ?', r'<svg role="img" \1', text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)


def histogram(axes, result):
    single = result.get("one_at_a_time")
    latency = (single or result)["latency_ms"]
    values = single["sentence_latencies_ms"] if single else result["batch_latencies_ms"]
    what = "sentence" if single else "batch"
    axes.hist(values, bins=min(30, 1 + len(values)), color=COLOURS[0])
    for name, line in (("p50", "-"), ("p99", ":")):
        axes.axvline(latency[name], color=INK, linestyle=line, label=f"{name} {latency[name]:.1f}")
    axes.set(xlabel=f"milliseconds a {what}", ylabel="number of them", xlim=(0, None))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def padding(axes, named):
    """Stacked: tokens of sentences, and positions that hold none."""
    names = [name for name, _ in named]
    lengths = numpy.array([_row(result) for _, result in named], float)
    filled = lengths * (1 - numpy.array([result["padding"] for _, result in named]))
    axes.barh(names, filled, color=COLOURS[0], label="tokens")
    axes.barh(
        names,
        lengths - filled,
        left=filled,
        color="none",
        edgecolor=INK,
        hatch="///",
        label="padding",
    )
    axes.invert_yaxis()
    axes.set(xlabel="token positions a row", xlim=(0, lengths.max() * 1.02))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)


def _row(result):
    """Token positions of a row, the mean of all that were computed."""
    rows = [
        (each["batches"] * each["batch_size"], each["max_seq_length"]) for each in result["shapes"]
    ]
    return sum(count * length for count, length in rows) / sum(count for count, _ in rows)


def reliability(axes, bins):
    axes.plot((0, 1), (0, 1), color=INK, linestyle=":")
    most = max((count for *_, count in bins), default=1)
    for mean, share, count in bins:
        size = 20 + 180 * count / most
        axes.scatter(mean, share, s=size, color=COLOURS[0], alpha=0.8)
    said = "mean probability of the prediction (area: sentences)"
    axes.set(xlabel=said, ylabel="share that is right", xlim=(0, 1.03), ylim=(-0.03, 1.03))


def kinds(done):
    """{(precision, rows, length): its cells by batch size}."""
    found = {}
    for result in sorted(done, key=lambda result: result["cell"][3]):
        _, rows, length, _ = result["cell"]
        precision = result["evaluations"][0]["precision"]
        found.setdefault((precision, rows, length), []).append(result)
    return found


def by_batch(axes, done, value, label):
    """A line of each kind: its colour tells the precision, its mark the length, dashes packed
    rows."""
    several = kinds(done)
    precisions, _, lengths = (list(dict.fromkeys(column)) for column in zip(*several))
    for (precision, rows, length), cells in several.items():
        sizes = [result["cell"][3] for result in cells]
        drawn = [[value(e) for e in result["evaluations"]] for result in cells]
        middle = [float(numpy.median(of)) for of in drawn]
        colour = COLOURS[precisions.index(precision) % len(COLOURS)]
        mark = MARKS[lengths.index(length) % len(MARKS)]
        line = {"plain": "-", "packed": "--"}[rows]
        name = f"{precision} {rows} {length}"
        axes.plot(sizes, middle, color=colour, marker=mark, linestyle=line, label=name)
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
    axes.set(xlabel="batch size, rows", ylabel=label)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "handlelength": 3.2}
    axes.legend(fontsize="x-small", ncols=max(1, len(several) // 3), **below)


def throughput(axes, done):
    by_batch(axes, done, lambda e: e["samples_per_second"]["end_to_end"], "sentences a second")
    axes.set_ylim(0, None)


def latency(axes, done):
    by_batch(axes, done, lambda e: e["latency_ms"]["p50"], "milliseconds a batch")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")


def tradeoff(axes, done):
    """Each cell's first metric against its speed, and for each precision the least that its gate
    takes."""
    name = next(iter(done[0]["evaluations"][0]["metrics"]), None)
    precisions = list(dict.fromkeys(r["evaluations"][0]["precision"] for r in done))
    own = {
        r["cell"][2]: r["evaluations"][0]["metrics"].get(name)
        for r in done
        if r["evaluations"][0]["precision"] == "fp32"
    }
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
        for least in {_least(result, own) for result in chosen} - {None}:
            axes.axhline(least, color=COLOURS[number % len(COLOURS)], linestyle="--", linewidth=1)
    axes.set(xlabel="sentences a second, end to end", xlim=(0, None))
    axes.set_ylabel(METRICS[name].title if name else "no labels")
    if name and any(axes.get_legend_handles_labels()):
        axes.legend(fontsize="x-small")


def _least(result, own):
    """The least value of the first metric that the gate of a cell lets pass: below the comparison's
    reference, or where there was no comparison below `own`, {length: value of fp32}. None where
    neither is known, or the comparison was on other sentences than the evaluation."""
    compared, evaluated = result.get("comparison"), result["evaluations"][0]
    if compared and compared["sentences"] != evaluated["sentences_total"]:
        return None
    value = compared["reference_value"] if compared else own.get(result["cell"][2])
    return None if value is None else value - GATES[evaluated["precision"]].loss


def series_of_padding(done):
    """One evaluation of each kind of row: padding depends on neither engine nor precision."""
    found = {}
    for result in done:
        _, rows, length, _ = result["cell"]
        found.setdefault(f"{rows} {length}", result["evaluations"][0])
    return list(found.items())
