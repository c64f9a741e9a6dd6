#!/usr/bin/env python
"""A checkpoint of random weights, to measure the speed of an architecture.

    python -m benchmarks.random_weights --architecture demo/checkpoint --output_dir outputs/random

The folder is an ordinary one in Hugging Face's layout, and its config.json says "random_weights":
true, so that no accuracy is printed of what is exported from it."""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from albert_aie.albert.config import read_config
from albert_aie.cli import console, parsing

TOKENIZERS = ("*.model", "tokenizer.json", "vocab.txt")
# Sharp attention and a quiet FFN let a sentence's words reach [CLS].
_SCALES = (("query", 2), ("key", 2), ("ffn_output", 0.5), ("classifier", 2))


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument
    add("--architecture", required=True, metavar="DIR", help="folder of config.json and tokenizer")
    add("--output_dir", required=True, metavar="DIR", help="the folder to write")
    add("--seed", type=parsing.at_least(0), default=0, help="(default: %(default)s)")
    return parser.parse_args(argv)


def draw(config, seed=0):
    """{name: fp32 tensor} of a Config, in Hugging Face's layout.

    The scales keep twelve passes through one layer alive (logits of different sentences differ),
    and every bias and LayerNorm is off its usual 0 and 1, so that a comparison on these weights
    notices a swapped or lost tensor."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in config.shapes().items():
        noise = torch.randn(shape, generator=generator)
        if "LayerNorm.weight" in name or "layer_norm.weight" in name:
            tensors[name] = 1 + 0.1 * noise
        elif name.endswith("bias"):
            tensors[name] = 0.05 * noise
        elif "embeddings" in name:
            tensors[name] = 0.5 * noise
        else:
            scale = next((scale for part, scale in _SCALES if part in name), 1.0)
            tensors[name] = scale * noise / shape[-1] ** 0.5
    return tensors


def write(architecture, folder, seed=0):
    """The folder of draw's tensors for the config.json in `architecture`."""
    architecture, folder = Path(architecture), Path(folder)
    tensors = draw(read_config(architecture / "config.json"), seed)
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in TOKENIZERS:
        for path in architecture.glob(pattern):
            name = "spiece.model" if path.suffix == ".model" else path.name
            shutil.copy(path, folder / name)
    config = json.loads((architecture / "config.json").read_text(encoding="utf-8"))
    config = {**config, "model_type": "albert", "random_weights": True}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(tensors, str(folder / "model.safetensors"))


def run(args):
    write(args.architecture, args.output_dir, args.seed)
    console.say("wrote", args.output_dir)
    return 0


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
