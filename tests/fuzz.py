#!/usr/bin/env python
"""The properties of test_hostile.py and test_corpus_hostile.py with new examples for some minutes:
counts of what happened are printed, and what failed is kept.

    python tests/fuzz.py --minutes 30 --out outputs/fuzz
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPECTED = ("right", "refused", "not finite", "accepted")  # how good outcomes begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=HERE.parent / "outputs" / "fuzz")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    until, seed = time.time() + 60 * args.minutes, args.seed
    red = 0  # rounds in which pytest failed, also where no outcome was counted
    counts = args.out / "counts.jsonl"
    counts.unlink(missing_ok=True)
    while time.time() < until:
        folder = args.out / str(seed)
        folder.mkdir(exist_ok=True)
        environment = {**os.environ, "FUZZ_OUT": str(folder.resolve()), "FUZZ_UNTIL": str(until)}
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"]
        with open(folder / "pytest.log", "w") as log:
            done = subprocess.run(
                [
                    sys.executable,
                    *command,
                    HERE / "test_hostile.py",
                    HERE / "test_corpus_hostile.py",
                ],
                cwd=HERE.parent,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        red += done.returncode != 0
        with contextlib.suppress(FileNotFoundError), open(counts, "a") as file:
            file.write((folder / "counts.jsonl").read_text())
        seed += 1
    return summary(counts, args.out, red)


def summary(counts, out, red):
    """Print how often what happened; the exit code."""
    total = {}
    for line in counts.read_text().splitlines():
        for name, found in json.loads(line).items():
            total.setdefault(name, Counter()).update(found)
    failed = 0
    for name, found in sorted(total.items()):
        failed += sum(n for outcome, n in found.items() if not outcome.startswith(EXPECTED))
        print(f"{name:48}" + ", ".join(f"{n} {outcome}" for outcome, n in found.most_common()))
    examples = sum(sum(found.values()) for found in total.values())
    print(f"{examples} examples, {failed} failed, {red} rounds red; logs and files in {out}")
    return 1 if failed or red else 0


if __name__ == "__main__":
    sys.exit(main())
