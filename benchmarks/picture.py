#!/usr/bin/env python
"""README's picture: sentences a second of us and the peers in each precision, from what
benchmarks/peers.py measured end to end. The accuracy stands beside each speed.

    python benchmarks/picture.py outputs/bench.json docs/speed.svg
"""

import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import readings  # noqa: E402

from albert_aie import UserError, arguments, command, files, need, plots  # noqa: E402

TITLE = "Speed of us and other engines"
# GitHub shows a picture on the reader's own background
INK = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#f0f6fc}}</style>"
BAR = 0.29  # inches


def parse_args(argv):
    parser = arguments.Parser(__doc__)
    parser.add_argument("readings", help="the file that peers.py wrote (--output)")
    parser.add_argument("picture", help="the SVG to write")
    return parser.parse_args(argv)


def run(args):
    need("the picture", "matplotlib")
    report = readings.read(args.readings)
    try:
        bars, machine = made(report), report["machine"]
        where = f"{machine['cores']} cores of {machine['cpu']}"
    except (LookupError, TypeError, AttributeError) as error:
        raise readings.refused(args.readings, error) from None
    if not bars:
        raise UserError(f"{args.readings}: nothing in it was measured end to end; run all settings")
    arguments.check_outputs(args.picture)
    size = 8.6, 1 + BAR * len(bars)
    svg = plots.svg(TITLE, size, draw, bars, where)
    start = svg.index(">") + 1
    with files.replacing(args.picture) as temporary:
        temporary.write_text(svg[:start] + INK + svg[start:], encoding="utf-8")
    print(f"wrote {args.picture}")
    return 0


def made(report):
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


def draw(axes, bars, where):
    """Medians as bars, with the range of the rounds as a line; a None leaves a gap."""
    shown = [(place, bar) for place, bar in enumerate(bars) if bar]
    for place, (_, ours, rates, said) in shown:
        middle = statistics.median(rates)
        style = {"color": plots.COLOURS[0]} if ours else {"color": "none", "edgecolor": plots.INK}
        axes.barh(place, middle, height=0.72, **style)
        axes.plot((min(rates), max(rates)), (place, place), color=plots.INK, linewidth=1)
        weight = "bold" if ours else "normal"
        axes.annotate(
            said,
            (max(middle, *rates), place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            fontweight=weight,
        )
    most = max(max(rates) for _, (_, _, rates, _) in shown)
    axes.set_yticks([place for place, _ in shown], [name for _, (name, *_) in shown])
    axes.invert_yaxis()
    axes.set(xlabel=f"sentences a second, text to logits; {where}", xlim=(0, 1.35 * most))


if __name__ == "__main__":
    sys.exit(command.main(parse_args, run))
