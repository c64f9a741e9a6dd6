#!/usr/bin/env python
"""The tables of benchmarks/peers.py from its readings; with --readme, the READMEs' rows of them.

python -m benchmarks.tables outputs/bench.json
python -m benchmarks.tables outputs/bench.json --readme README.md README.zh-CN.md

Of several files, such as those of two runs, a row of the READMEs is that of the slower one.
"""

import statistics
import sys
from operator import itemgetter
from pathlib import Path

from albert_aie.base.errors import UserError
from albert_aie.cli import console, parsing
from benchmarks import readings
from benchmarks.readings import PRECISIONS, timed

EXECUTED = "GFLOP/s executed (of ceiling)"
TEXT = ["engine", "sentences/s (range)", "x eager padded", "accuracy", "flips", EXECUTED]
TEXT += ["load s", "peak MB"]
END = "<!-- end of results -->"
# Of each table of the READMEs the line before it, and its heads by language.
README = {
    "<!-- as typed: make readme -->": {
        "en": "as typed|sentences/s|ours is|one text, ms|ours is|accuracy|flips".split("|"),
        "zh": "照文档输入|句/秒|我们的倍数|单句毫秒|我们的倍数|准确率|翻转".split("|"),
    },
    "<!-- results: make readme -->": {
        "en": ["engine", "sentences/s", "x eager padded", "x best peer", "accuracy", "flips"],
        "zh": ["端到端", "句/秒", "× 基线", "× 最好的同类", "准确率", "翻转"],
    },
}


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument
    add("readings", nargs="+", help="the files that peers.py wrote (--output)")
    add("--readme", nargs="+", metavar="FILE", help=f"write below {' and '.join(README)}")
    return parser.parse_args(argv)


def run(args):
    texts, blocks = [], [{} for _ in README]
    for path in args.readings:
        with readings.opened(path) as report:
            texts.append(tables(report))
            for block, rows in zip(blocks, (typed_rows(report), readme_rows(report))):
                for name, row in rows.items():  # of two the slower one
                    block[name] = min(block.get(name, row), row, key=itemgetter(0))
    if not args.readme:
        print("\n".join(texts))
    elif any(blocks):
        rows = [[line for _, line in block.values()] for block in blocks]
        write_readmes(args.readme, dict(zip(README, rows)))
    else:
        why = "nothing was measured end to end or as typed; run all settings"
        raise UserError(f"{' '.join(args.readings)}: {why}")
    return 0


def tables(report):
    """Markdown: every engine's lines, then the best of each."""
    parts = as_typed, end_to_end, one_at_a_time, dense, summary
    return "\n".join(line for part in parts for line in part(report))


def as_typed(report):
    """Each engine by its own defaults, all sentences in the file's order and texts that come
    alone; how many times as fast ours is."""
    rows = typed_rows(report)
    if rows:
        yield "\nAs typed: SST-2 dev, text to label, each by its own defaults\n"
        yield from head([*README[next(iter(README))]["en"], "load s", "peak MB"])
        for (engine, _), (_, line) in zip(timed(report, "as_typed")[::-1], rows.values()):
            yield f"{line} {' | '.join(cost(engine))} |"


def typed_rows(report):
    """{label: (sentences/s, line)} of the engines that were run by their own defaults, the slowest
    first."""
    rows, engines = {}, [engine for engine, _ in timed(report, "as_typed")[::-1]]
    ours = next((engine["as_typed"] for engine in engines if engine["kind"] == "ours"), {})
    for engine in engines:
        entry, label = engine["as_typed"], engine["label"]
        rate = statistics.median(entry["sentences"] / seconds for seconds in entry["seconds"])
        milliseconds = f"{1000 * statistics.median(entry['single']):.1f}"
        whole, single = (ratio(ours.get(key), entry[key], 2) for key in ("seconds", "single"))
        if engine["kind"] == "ours":
            label, whole, single = f"**{label}**", "-", "-"
        cells = label, f"{rate:.1f}", whole, milliseconds, single, *correct(entry)
        rows[engine["label"]] = rate, row(*cells)
    return rows


def end_to_end(report):
    pairs = timed(report)
    if pairs:
        yield "\nEnd to end: SST-2 dev, text to logits\n"
        yield from text_table(report, pairs[::-1])
    for precision, peak in readings.ceilings(report).items():
        yield f"\nceiling {precision}: {peak / 1e9:.0f} GFLOP/s (product of 2,048 cubed)"
    yield from verdicts("end to end", pairs)


def text_table(report, pairs):
    peaks, (_, base) = readings.ceilings(report), readings.baseline(timed(report))
    yield from head(TEXT)
    for engine, seconds in pairs:
        entry = engine["end_to_end"]
        speed = entry["flops"] / entry["sentences"] / statistics.median(seconds)
        cells = [rates([1 / s for s in seconds], 1), ratio(seconds, base, 2), *correct(entry)]
        cells += [share(speed, peaks.get(engine["precision"]))]
        yield row(title(engine), *cells, *cost(engine))


def one_at_a_time(report):
    """Milliseconds a sentence, and how many times faster ours is than the peer that is best in
    that very figure."""
    pairs = {name: timed(report, "one_at_a_time", name) for name in readings.FIGURES}
    if not pairs["mean"]:
        return
    yield "\nOne sentence at a time: SST-2 dev in the file's order, text to class, ms\n"
    yield from head(["engine", *readings.FIGURES, "accuracy", "flips", "load s", "peak MB"])
    for engine, _ in pairs["mean"][::-1]:
        entry = engine["one_at_a_time"]
        cells = [f"{1000 * statistics.median(entry[name]):.2f}" for name in readings.FIGURES]
        yield row(engine["label"], *cells, *correct(entry), *cost(engine))
    for name in readings.FIGURES:
        yield from verdicts(f"one at a time, {name},", pairs[name])


def dense(report):
    peaks, nominal = readings.ceilings(report), report["nominal_flops_per_row"]
    per_row = f"GFLOP/s nominal, {nominal / 1e9:.2f} a row (of ceiling)"
    for batch in batches(report):
        yield f"\nDense: batch {batch} of full rows of 128 tokens\n"
        yield from head(["engine", "rows/s (range)", EXECUTED, per_row])
        pairs = timed(report, "dense", batch=batch)
        for engine, seconds in pairs:
            middle, peak = statistics.median(seconds), peaks.get(engine["precision"])
            counts = engine["dense"][str(batch)]["flops"], batch * nominal
            speeds = [share(count / middle, peak) for count in counts]
            yield row(engine["label"], rates([batch / s for s in seconds], 2), *speeds)
        yield from verdicts(f"dense batch {batch}", [p for p in pairs if not p[0]["packed"]])


def summary(report):
    """The best of each variant end to end, and ours in dense work."""
    best = readings.best_variants(timed(report))
    if best or batches(report):
        yield "\nSummary\n"
    if best:
        yield from text_table(report, best)
    if batches(report):
        mates = f"packed ({report['sentences_per_row']:.2f} sentences a row): x a plain row's time"
        yield from ("", *head(["full rows of 128", "ours, rows/s", "x best peer", mates]))
    for batch in batches(report):
        pairs = timed(report, "dense", batch=batch)
        for precision in PRECISIONS:
            # peers are compared with on rows of one sentence
            plain = [p for p in pairs if not p[0]["packed"]]
            (_, ours), (_, peer) = readings.rivals(plain, precision)
            (_, packed), _ = readings.rivals([p for p in pairs if p[0]["packed"]], precision)
            if ours:
                rate = statistics.median(batch / s for s in ours)
                cells = [f"{rate:.1f}", ratio(ours, peer), ratio(ours, packed)]
                yield row(f"{precision}, batch {batch}", *cells)


def batches(report):
    return sorted({int(batch) for engine in report["engines"] for batch in engine["dense"]})


def verdicts(setting, pairs):
    for precision in PRECISIONS:
        (ours, mine), (peer, theirs) = readings.rivals(pairs, precision)
        if ours and peer:
            names = f"{ours['label']} / {peer['label']}"
            yield f"\n{setting} {precision}: {names} = {ratio(mine, theirs)}"


def title(engine):
    batch = f"{engine['label']}, batch {engine['batch_size']}"
    return f"**{engine['label']}**" if engine["kind"] == "ours" else batch


def ratio(ours, theirs, digits=3):
    """How many times faster ours is: the median of the paired ratios with its interval."""
    if not ours or not theirs:
        return "-"
    middle, low, high = readings.interval(readings.paired(ours, theirs))
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def share(speed, peak):
    """A speed in GFLOP/s, and its share of the ceiling of its precision in the same run."""
    return f"{speed / 1e9:.0f}" + (f" ({100 * speed / peak:.0f} %)" if peak else "")


def rates(values, digits):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def correct(entry):
    flips = "-" if entry["flips"] is None else entry["flips"]
    return f"{entry['correct']}/{entry['sentences']}", flips


def cost(engine):
    """Seconds to load, and MB."""
    return f"{engine['load']:.1f}", f"{engine['memory']:.0f}"


def head(cells):
    return row(*cells), "| --- " * len(cells) + "|"


def row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def readme_rows(report):
    """{label: (sentences/s, line)} of the baseline, and of our best of each precision that CPUs
    have, where they were measured."""
    pairs = timed(report)
    base, rows = readings.baseline(pairs), {}
    rivals = [readings.rivals(pairs, precision) for precision in ("fp32", "bf16", "int8")]
    for (engine, seconds), (_, peer) in [(base, (None, None)), *rivals]:
        if engine:
            rate = statistics.median(1 / s for s in seconds)
            cells = [f"{rate:.1f}", ratio(seconds, base[1], 2)]
            cells += [ratio(seconds, peer), *correct(engine["end_to_end"])]
            rows[engine["label"]] = rate, row(title(engine), *cells)
    return rows


def write_readmes(paths, blocks):
    """The rows of each table, {its line in README: rows}; a table without rows stays as it is.
    Every file is checked before the first is written."""
    texts = {}
    for path in map(Path, paths):
        lines = path.read_text(encoding="utf-8").split("\n")
        for begin, rows in blocks.items():
            if lines.count(begin) != 1 or END not in lines[lines.index(begin) :]:
                raise UserError(f"{path}: the rows need a line {begin} and a line {END} below it")
            if rows:
                start = lines.index(begin) + 1
                heads = README[begin]["zh" if "zh" in path.name else "en"]
                lines[start : lines.index(END, start)] = [*head(heads), *rows]
        texts[path] = "\n".join(lines)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
