"""The page of a sweep: throughput and latency against the batch size, accuracy against speed with
the gates, tokens in a row. Colours and frame are those of albert_aie/report."""

import itertools

import numpy

from albert_aie.data.metrics import METRICS
from albert_aie.report import page, plots
from albert_aie.run.compare import GATES

MARKS = "osD^vP"
GATE = (
    "dashed: the least that the gate lets pass, in the colour of its precision; where the "
    "comparison was left out, below the sweep's own fp32"
)


def of_sweep(everything, table):
    """HTML text of what sweep.py --output holds; `table`: its heads and its rows of texts."""
    done = [result for result in everything["results"] if "error" not in result]
    broken = [result for result in everything["results"] if "error" in result]
    failed = [(" ".join(map(str, filter(None, each["cell"]))), each["error"]) for each in broken]
    machine, versions = everything["machine"], everything["machine"]["packages"].items()
    summary = (
        ("machine", f"{machine['cpu']}, {machine['cores']} core(s)\n{machine['platform']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions if version)),
        ("command", " ".join(everything["command"])),
    )
    rows = {}  # an evaluation of each kind: padding depends on neither engine nor precision
    for result in done:
        _, kind, length, _ = result["cell"]
        rows.setdefault(f"{kind} {length}", result["evaluations"][0])
    range_ = "end to end, the median of repetitions; band: their range"
    pictures = (
        ("Throughput", range_, throughput, done),
        ("Latency", "p50 of a batch's forward", latency, done),
        ("Accuracy and speed", GATE, tradeoff, done),
        ("Tokens in a row", page.ROWS, plots.padding, list(rows.items())),
    )
    pictures = [plots.picture(*each) for each in pictures if done]
    return page.render(title="Sweep", summary=summary, table=table, failed=failed, plots=pictures)


def by_batch(axes, done, value, label):
    """A line of each kind: its colour tells the precision, its mark the length, dashes rows
    of several sentences."""
    several = {}
    for result in sorted(done, key=lambda result: result["cell"][3]):
        _, rows, length, _ = result["cell"]
        precision = result["evaluations"][0]["precision"]
        several.setdefault((precision, rows, length), []).append(result)
    precisions, _, lengths = zip(*several)
    colours = dict(zip(dict.fromkeys(precisions), itertools.cycle(plots.COLOURS)))
    marks = dict(zip(dict.fromkeys(lengths), itertools.cycle(MARKS)))
    for (precision, rows, length), cells in several.items():
        sizes = [result["cell"][3] for result in cells]
        values = [[value(e) for e in result["evaluations"]] for result in cells]
        middle = [float(numpy.median(each)) for each in values]
        how = {"marker": marks[length], "linestyle": "-" if rows == "padded" else "--"}
        colour, name = {"color": colours[precision]}, f"{precision} {rows} {length}"
        axes.plot(sizes, middle, label=name, **colour, **how)
        band = [min(each) for each in values], [max(each) for each in values]
        axes.fill_between(sizes, *band, alpha=0.2, linewidth=0, **colour)
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
    own, points, gates = {}, {}, {}
    for result in done:
        _, rows, length, _ = result["cell"]
        first = result["evaluations"][0]
        if first["precision"] == "fp32":
            own[length] = first["metrics"].get(name)
        for e in result["evaluations"]:
            if e["metrics"].get(name) is not None:
                point = e["samples_per_second"]["end_to_end"], e["metrics"][name]
                points.setdefault((e["precision"], rows), []).append(point)
    for result in done:
        precision = result["evaluations"][0]["precision"]
        gates.setdefault(precision, set()).add(_least(result, own))
    colours = dict(zip(gates, itertools.cycle(plots.COLOURS)))
    for (precision, rows), pairs in points.items():
        how = {"color": colours[precision], "marker": "o" if rows == "padded" else "s"}
        axes.scatter(*zip(*pairs), label=f"{precision} {rows}", **how)
    for precision, values in gates.items():
        for least in values - {None}:
            axes.axhline(least, color=colours[precision], linestyle="--", linewidth=1)
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
