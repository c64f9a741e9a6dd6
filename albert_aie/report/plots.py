"""The plots of report.html: matplotlib's SVG, with the text colour of the page, so that they can be
read in the dark and in print. Each has units on both axes."""

import io
import re

import numpy

# Okabe and Ito's colours, told apart by the colour-blind; blue is lighter, for dark pages.
COLOURS = ("#2A8FD0", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#010203"  # what stands in a plot for the page's own text colour
SIZE = (5.4, 3.6)  # inches


def picture(title, note, draw, *given):
    """{"title", "note", "svg"}: what `draw` puts on axes."""
    return {"title": title, "note": note, "svg": svg(title, SIZE, draw, *given)}


def svg(title, size, draw, *given):
    """The SVG of what `draw` puts on axes, as wide as its place; `size` in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    inked = ("text.color", "xtick.color", "ytick.color", "axes.edgecolor", "axes.labelcolor")
    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": title,  # names in one picture are not those of another
        "font.family": "sans-serif",
        **dict.fromkeys(inked, INK),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
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
    latency, values = result["latency_ms"], result["latencies_ms"]
    what = "sentence" if "sentences_per_second" in result else "batch"
    axes.hist(values, bins=min(30, 1 + len(values)), color=COLOURS[0])
    for name, line in (("p50", "-"), ("p99", ":")):
        axes.axvline(latency[name], color=INK, linestyle=line, label=f"{name} {latency[name]:.1f}")
    axes.set(xlabel=f"milliseconds a {what}", ylabel="number of them", xlim=(0, None))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def padding(axes, named):
    """Stacked, of the mean row of each (name, eval.json): tokens, and positions that hold none."""
    names, results = zip(*named)
    rows = [sum(x["batches"] * x["batch_size"] for x in r["shapes"]) for r in results]
    lengths = numpy.array([r["positions"] for r in results]) / rows
    filled = lengths * [1 - r["padding"] for r in results]
    axes.barh(names, filled, color=COLOURS[0], label="tokens")
    empty = {"color": "none", "edgecolor": INK, "hatch": "///", "label": "padding"}
    axes.barh(names, lengths - filled, left=filled, **empty)
    axes.invert_yaxis()
    axes.set(xlabel="token positions a row", xlim=(0, lengths.max() * 1.02))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)


def reliability(axes, bins):
    axes.plot((0, 1), (0, 1), color=INK, linestyle=":")
    most = max((count for *_, count in bins), default=1)
    for mean, share, count in bins:
        size = 20 + 180 * count / most
        axes.scatter(mean, share, s=size, color=COLOURS[0], alpha=0.8)
    said = "mean probability of the prediction (area: sentences)"
    axes.set(xlabel=said, ylabel="share that is right", xlim=(0, 1.03), ylim=(-0.03, 1.03))
