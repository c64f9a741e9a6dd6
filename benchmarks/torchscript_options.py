#!/usr/bin/env python
"""What the torchscript backend gains on a CPU from weights prepacked at load, and what scaled_dot_product_attention would
give in place of bmm, softmax, bmm: one plain forward, in interleaved rounds.

    python benchmarks/torchscript_options.py --demo --batch_size 8 --max_seq_length 128
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from tables import spread  # noqa: E402

from albert_aie import UserError, checkpoint, graph  # noqa: E402
from albert_aie.backends import torchscript  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pth_dir", help="checkpoint (see export_albert_aie.py)")
    source.add_argument("--demo", action="store_true", help="take --pth_dir from this repository's demo/")
    for name, default in (("batch_size", 8), ("max_seq_length", 128), ("rounds", 8)):
        parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    args = parser.parse_args()
    try:
        measure(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(args):
    source = checkpoint.load(args.pth_dir or ROOT / "demo" / "checkpoint")
    longest = source.config.max_position_embeddings
    if min(args.batch_size, args.rounds) < 1 or not 3 <= args.max_seq_length <= longest:
        raise UserError(f"--batch_size and --rounds must be 1 or more, --max_seq_length 3 to {longest}")
    inputs = list(graph.example_inputs(source.config, args.batch_size, args.max_seq_length))
    inputs[1] = torch.ones_like(inputs[1])
    print("| precision | form | rows/s | to no prepacking (95 % interval) | largest difference of a logit |")
    print("| --- " * 5 + "|")
    for precision in args.precisions:
        programs = {
            "no prepacking, bmm": program(source, args, precision, inputs, prepack=False),
            "prepacked, bmm (what the backend does)": program(source, args, precision, inputs),
            "prepacked, scaled_dot_product_attention": program(source, args, precision, inputs, layer=sdpa_layer),
        }
        times, logits = {name: [] for name in programs}, {}
        with torch.inference_mode():
            for name, run in programs.items():
                for _ in range(3):  # the profiling executor specialises in its first runs
                    logits[name] = run(*inputs)
            for _ in range(args.rounds):
                for name in random.sample(list(programs), len(programs)):
                    start = time.perf_counter()
                    programs[name](*inputs)
                    times[name].append(time.perf_counter() - start)
        first = next(iter(programs))
        for name in programs:
            rate = args.batch_size / statistics.median(times[name])
            difference = (logits[name] - logits[first]).abs().max()
            print(f"| {precision} | {name} | {rate:.2f} | {spread(times[name], times[first])} | {difference:.1e} |")
    print(f"\n{args.batch_size} rows of {args.max_seq_length}, {torch.get_num_threads()} threads, torch {torch.__version__}")


def program(source, args, precision, inputs, layer=graph.FusedAlbert._layer, prepack=True):
    """Traced and frozen as the backend does it."""
    module = graph.build(source, "fused", args.batch_size, args.max_seq_length).to(torchscript.DTYPES[precision])
    with mock.patch.object(graph.FusedAlbert, "_layer", layer):
        traced = graph.trace(module, tuple(inputs))
    if prepack:
        torchscript._prepack(traced.graph, args.batch_size * args.max_seq_length)
    return traced


def sdpa_layer(self, x, qkv, mask):
    q, k, v = (self._split(part) for part in qkv)
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return self._after(x, context.transpose(1, 2).reshape(self.batch * self.seq, self.hidden))


if __name__ == "__main__":
    sys.exit(main())
