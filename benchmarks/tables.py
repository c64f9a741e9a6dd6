#!/usr/bin/env python
"""The tables of benchmarks/peers.py from its readings: every engine, and the summary that the README quotes.

python benchmarks/tables.py outputs/bench.json
"""

import argparse
import json
import random
import re
import statistics
import sys

BASE = "transformers eager fp32, padded to 128"
PRECISIONS = ("fp32", "bf16", "int8", "fp16")
EXECUTED = "GFLOP/s executed (of ceiling)"
SIZE = 2048  # of the square product that is the ceiling (engines.py runs it)


def interval(ratios, draws=2000):
    """(median, low, high): the median of paired ratios and the 95 % bootstrap interval of that median (percentile method,
    fixed seed). With one round low and high equal the ratio: no spread is known."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def paired(ours, theirs):
    """Per round: how many times faster ours is, from seconds per sentence."""
    return [t / o for o, t in zip(ours, theirs)]


def tables(report):
    """Markdown of a report (see peers.py): every engine's lines, then what the README quotes."""
    return "\n".join([*end_to_end(report), *dense(report), *summary(report)])


def end_to_end(report):
    times, peaks = seconds_per_sentence(report), ceilings(report)
    if times:
        yield "\nEnd to end: SST-2 dev, text to logits\n"
        yield f"| engine | sentences/s (range) | x eager padded | accuracy | flips | {EXECUTED} | load s | peak MB |"
        yield "| --- " * 8 + "|"
    for label in sorted(times, key=lambda label: statistics.median(times[label]), reverse=True):
        entry, rate = report["end_to_end"][label], [1 / s for s in times[label]]
        yield (
            f"| {label}, batch {entry['batch_size']} | {statistics.median(rate):.1f} ({min(rate):.1f} to {max(rate):.1f}) "
            f"| {times_base(times, label)} | {entry['correct']}/{entry['rows']} | {entry['flips']} "
            f"| {share(entry['flops'] / entry['rows'] / statistics.median(times[label]), label, peaks)} "
            f"| {entry['load']:.1f} | {entry['memory']:.0f} |"
        )
    for precision, peak in peaks.items():
        yield f"\nceiling {precision}: {peak / 1e9:.0f} GFLOP/s (product of {SIZE:,} cubed)"
    for precision in PRECISIONS:
        yield from verdict("end to end", precision, times)


def dense(report):
    peaks, nominal = ceilings(report), report["nominal_flops_per_row"]
    for batch in batches(report):
        times = seconds_per_forward(report, batch)
        yield f"\nDense: batch {batch} of full rows of 128 tokens\n"
        yield f"| engine | rows/s (range) | {EXECUTED} | GFLOP/s nominal, {nominal / 1e9:.2f} a row (of ceiling) |"
        yield "| --- " * 4 + "|"
        for label in sorted(times, key=lambda label: statistics.median(times[label])):
            middle, rate = statistics.median(times[label]), [batch / s for s in times[label]]
            counts = report["dense_flops"][label][str(batch)], batch * nominal
            speeds = " | ".join(share(count / middle, label, peaks) for count in counts)
            yield f"| {label} | {statistics.median(rate):.2f} ({min(rate):.2f} to {max(rate):.2f}) | {speeds} |"
        for precision in PRECISIONS:
            yield from verdict(f"dense batch {batch}", precision, {k: v for k, v in times.items() if "packed" not in k})
            for label, plain, ratio in packed_against_plain(times, precision, batch):
                yield f"\nforward of {label}: {ratio} of the time of {plain}; {report['sentences_per_row']:.2f} sentences a row"


def summary(report):
    """The best of each kind of engine, end to end, and our ratio to the best peer in each dense setting."""
    times, peaks, best = seconds_per_sentence(report), ceilings(report), {}
    for label in sorted(times, key=lambda label: statistics.median(times[label])):
        best.setdefault(re.sub(r", (packed .*|\d+ streams?)$", "", label), label)
    yield "\nSummary"
    if times:
        yield f"\n| engine | sentences/s | x eager padded | accuracy | flips | {EXECUTED} | peak MB |"
        yield "| --- " * 7 + "|"
    order = [label for precision in PRECISIONS for label in reversed(best.values()) if f" {precision}" in label]
    for label in order:
        entry, middle = report["end_to_end"][label], statistics.median(times[label])
        name = f"**{label}**" if label.startswith("ours") else f"{label}, batch {entry['batch_size']}"
        yield (
            f"| {name} | {1 / middle:.1f} | {times_base(times, label)} | {entry['correct']}/{entry['rows']} | {entry['flips']} "
            f"| {share(entry['flops'] / entry['rows'] / middle, label, peaks)} | {entry['memory']:.0f} |"
        )
    present = [p for p in PRECISIONS if any(label.startswith(f"ours {p}, plain") for label in report["dense"])]
    if present:
        yield f"\n| full rows of 128: ours, and to the best peer | {' | '.join(present)} |"
        yield "| --- " * (1 + len(present)) + "|"
    for batch in batches(report):
        dense_times, cells = seconds_per_forward(report, batch), []
        for precision in present:
            ours, peer = rivals({k: v for k, v in dense_times.items() if "packed" not in k}, precision)
            rate = f"{batch / statistics.median(dense_times[ours]):.1f} rows/s" if ours else "-"
            cells.append(f"{rate}, {spread(dense_times[ours], dense_times[peer])}" if ours and peer else rate)
        yield f"| batch {batch} | {' | '.join(cells)} |"
        of_plain = [next((ratio for *_, ratio in packed_against_plain(dense_times, p, batch)), "-") for p in present]
        if of_plain != ["-"] * len(present):
            name = f"batch {batch}, packed, {report['sentences_per_row']:.2f} sentences a row: share of the plain one's time"
            yield f"| {name} | {' | '.join(of_plain)} |"


def seconds_per_sentence(report):
    """{label: one value per round}"""
    return {label: [s / e["rows"] for s in e["seconds"]] for label, e in report["end_to_end"].items() if "rows" in e}


def seconds_per_forward(report, batch):
    """{label: one value per round}"""
    every = {label: by_batch.get(str(batch)) for label, by_batch in report["dense"].items()}
    return {label: values for label, values in every.items() if values and not label.startswith("ceiling")}


def batches(report):
    return sorted({int(b) for by_batch in report["dense"].values() for b in by_batch})


def ceilings(report):
    """{precision: FLOP/s of a product of SIZE cubed in the same run}"""
    readings = {label: e["seconds"] for label, e in report["end_to_end"].items() if label.startswith("ceiling")}
    for label, by_batch in report["dense"].items():
        if label.startswith("ceiling"):
            readings.setdefault(label, next(iter(by_batch.values())))
    return {p: 2 * SIZE**3 / statistics.median(readings[f"ceiling {p}"]) for p in PRECISIONS if f"ceiling {p}" in readings}


def times_base(times, label):
    return spread(times[label], times[BASE], digits=2) if BASE in times else "-"


def spread(ours, theirs, digits=3):
    """The median paired ratio with its interval, as text."""
    middle, low, high = interval(paired(ours, theirs))
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def share(speed, label, peaks):
    """A speed in GFLOP/s, and its share of the ceiling of its precision measured in the same run."""
    peak = next((peaks[p] for p in peaks if f" {p}" in label), None)
    return f"{speed / 1e9:.0f}" + (f" ({100 * speed / peak:.0f} %)" if peak else "")


def rivals(times, precision):
    """(label of our best, label of the best peer) of a precision; None where there is none."""
    of_precision = sorted((label for label in times if f" {precision}" in label), key=lambda k: statistics.median(times[k]))
    return tuple(next((k for k in of_precision if k.startswith("ours") == ours), None) for ours in (True, False))


def verdict(setting, precision, times):
    ours, peer = rivals(times, precision)
    if ours and peer:
        yield f"\n{setting} {precision}: {ours} / {peer} = {spread(times[ours], times[peer])}"


def packed_against_plain(times, precision, batch):
    plain = f"ours {precision}, plain, batch {batch}"
    for label in times:
        if label.startswith(f"ours {precision}, packed") and plain in times:
            yield label, plain, spread(times[plain], times[label])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readings", help="the file that peers.py wrote (--output)")
    args = parser.parse_args()
    try:
        with open(args.readings, encoding="utf-8") as file:
            print(tables(json.load(file)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {args.readings}: no readings of benchmarks/peers.py ({error!r}); name its --output", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
