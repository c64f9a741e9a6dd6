#!/usr/bin/env python
"""The pictures of README and docs as SVG: us and the peers in each precision, from what peers.py
measured end to end, the plots of a sweep, and latency against load.

    python -m benchmarks.picture outputs/bench.json docs/speed.svg
    python -m benchmarks.picture outputs/sweep.json docs/sweep-throughput.svg --plot throughput
    python -m benchmarks.picture outputs/loadgen/server.json docs/serving.svg --plot server
"""

import itertools
import statistics
import sys

from albert_aie.base import files
from albert_aie.base.errors import UserError, need
from albert_aie.cli import arguments, console, parsing
from albert_aie.report import plots
from benchmarks import readings, sweep_page

# GitHub shows a picture on the reader's own background
INK = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#f0f6fc}}</style>"
BAR, SIZE = 0.29, (7.2, 4.8)  # inches


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument
    add("readings", help="the file that peers.py, sweep.py or loadgen.py wrote")
    add("picture", help="the SVG to write")
    add("--plot", choices=tuple(PLOTS), default="engines", help="(default: %(default)s)")
    return parser.parse_args(argv)


def run(args):
    need("the picture", "matplotlib")
    script, prepare = PLOTS[args.plot]
    with readings.opened(args.readings, script) as report:
        size, draw, *given = prepare(report)
        if not given[0]:
            raise UserError(f"{args.readings}: nothing in it was measured for --plot {args.plot}")
        svg = plots.svg(args.plot, size, draw, *given)
    arguments.check_outputs(args.picture)
    start = svg.index(">") + 1
    files.write_text(args.picture, svg[:start] + INK + svg[start:])
    print(f"wrote {args.picture}")
    return 0


def engines(report):
    """What is needed to draw the bars of bench.json: (size in inches, function, what it takes)."""
    bars, machine = bars_of(report), report["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}"
    return (8.6, 1 + BAR * len(bars)), draw_bars, bars, where


def swept(draw):
    """The same of a plot of a sweep's cells."""
    return lambda report: (SIZE, draw, [e for e in report["results"] if "error" not in e])


def bars_of(report):
    """[(name, ours or not, sentences/s of each round, what stands beside it)] of the best of each
    variant, the slowest of a precision first; None between two precisions."""
    bars, before = [], None
    for engine, seconds in readings.best_variants(readings.timed(report)):
        if before not in (None, engine["precision"]):
            bars.append(None)
        before, entry = engine["precision"], engine["end_to_end"]
        rates = [1 / each for each in seconds]
        said = f"{statistics.median(rates):.1f}  ({entry['correct']}/{entry['sentences']} right)"
        bars.append((engine["label"], engine["kind"] == "ours", rates, said))
    return bars


def draw_bars(axes, bars, where):
    """Medians as bars, with the range of the rounds as a line; a None leaves a gap."""
    shown = [(place, bar) for place, bar in enumerate(bars) if bar]
    for place, (_, ours, rates, said) in shown:
        middle = statistics.median(rates)
        style = {"color": plots.COLOURS[0]} if ours else {"color": "none", "edgecolor": plots.INK}
        axes.barh(place, middle, height=0.72, **style)
        axes.plot((min(rates), max(rates)), (place, place), color=plots.INK, linewidth=1)
        style = {"va": "center", "fontsize": "small", "fontweight": "bold" if ours else "normal"}
        axes.annotate(said, (max(rates), place), (4, 0), textcoords="offset points", **style)
    most = max(max(rates) for _, (_, _, rates, _) in shown)
    axes.set_yticks([place for place, _ in shown], [name for _, (name, *_) in shown])
    axes.invert_yaxis()
    axes.set(xlabel=f"sentences a second, text to logits; {where}", xlim=(0, 1.35 * most))


def served(report):
    """The same of what loadgen.py found of servers."""
    return SIZE, latency, [e for e in report["servers"] if not e["error"]], report["bound"]


def latency(axes, servers, bound):
    """The 99th percentile of a text's time against texts a second, of each server: the least of the
    runs at a rate, for one that meets the bound is enough."""
    styles = dict(zip(readings.PRECISIONS, ("-", "--", ":", "-.")))
    kinds = [entry["label"].replace(entry["precision"], "") for entry in servers]
    colours = dict(zip(dict.fromkeys(kinds), itertools.cycle(plots.COLOURS)))
    colours = {entry["label"]: colours[kind] for entry, kind in zip(servers, kinds)}
    for entry in sorted(servers, key=lambda e: -e["completed"]):
        runs = sorted(entry["probes"], key=lambda run: (run["rate"], -run["p99"]))
        least = {run["rate"]: run["p99"] for run in runs}
        how = {"color": colours[entry["label"]], "marker": ".", "label": entry["label"]}
        axes.plot(list(least), list(least.values()), styles[entry["precision"]], **how)
    axes.axhline(bound, color=plots.INK, linewidth=0.8)
    axes.set(xlabel="texts a second", ylabel="99th percentile of a text's ms", yscale="log")
    axes.set_ylim(top=20 * bound)
    axes.legend(fontsize="small")


PLOTS = {  # the script that wrote the file, and what is drawn of it
    "engines": ("peers.py", engines),
    "throughput": ("sweep.py", swept(sweep_page.throughput)),
    "latency": ("sweep.py", swept(sweep_page.latency)),
    "accuracy": ("sweep.py", swept(sweep_page.tradeoff)),
    "server": ("loadgen.py", served),
}


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
