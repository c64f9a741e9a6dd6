"""The page of a sweep: throughput and latency against the batch size, accuracy against speed with
the gates, tokens in a row. Colours and frame are those of albert_aie/report."""

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
    range_ = "end to end, the median of repetitions; band: their range"
    drawn = (
        ("Throughput", range_, throughput, done),
        ("Latency", "p50 of a batch's forward", latency, done),
        ("Accuracy and speed", GATE, tradeoff, done),
        ("Tokens in a row", page.ROWS, plots.padding, series_of_padding(done)),
    )
    drawn = [plots.picture(*each) for each in drawn if done]
    return page.render(title="Sweep", summary=summary, table=table, failed=failed, plots=drawn)


def kinds(done):
    """{(precision, rows, length): its cells by batch size}."""
    found = {}
    for result in sorted(done, key=lambda result: result["cell"][3]):
        _, rows, length, _ = result["cell"]
        precision = result["evaluations"][0]["precision"]
        found.setdefault((precision, rows, length), []).append(result)
    return found


def by_batch(axes, done, value, label):
    """A line of each kind: its colour tells the precision, its mark the length, dashes rows
    of several sentences."""
    several = kinds(done)
    precisions, _, lengths = (list(dict.fromkeys(column)) for column in zip(*several))
    for (precision, rows, length), cells in several.items():
        sizes = [result["cell"][3] for result in cells]
        drawn = [[value(e) for e in result["evaluations"]] for result in cells]
        middle = [float(numpy.median(of)) for of in drawn]
        colour = plots.COLOURS[precisions.index(precision) % len(plots.COLOURS)]
        mark = MARKS[lengths.index(length) % len(MARKS)]
        line = "-" if rows == "padded" else "--"
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
        for rows, mark in (("padded", "o"), ("chosen", "s"), ("packed", "s")):
            points = [
                (e["samples_per_second"]["end_to_end"], e["metrics"][name])
                for r in chosen
                if r["cell"][1] == rows
                for e in r["evaluations"]
                if e["metrics"].get(name) is not None
            ]
            if points:
                colour = plots.COLOURS[number % len(plots.COLOURS)]
                axes.scatter(*zip(*points), color=colour, marker=mark, label=f"{precision} {rows}")
        for least in {_least(result, own) for result in chosen} - {None}:
            colour = plots.COLOURS[number % len(plots.COLOURS)]
            axes.axhline(least, color=colour, linestyle="--", linewidth=1)
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
