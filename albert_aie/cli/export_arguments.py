"""The flags that export_albert_aie.py alone has: the shape and what is compiled for."""

from .. import backends
from ..base.errors import UserError
from ..base.shapes import Shape, packed
from ..run import compare
from . import parsing
from .arguments import ON


def add_shape(parser):
    """--batch_size, --max_seq_length and --pack, which `shapes` reads."""
    add = parser.add_argument_group(
        "shape",
        "openvino and torchscript choose their rows when the sentences are there, within this "
        "shape; aie and --graph upstream compile it: a file for each of several values",
    ).add_argument
    several = {"nargs": "+", "metavar": "N"}
    text = "times --max_seq_length the most tokens that one call computes (default: 32)"
    add("--batch_size", **several, type=parsing.at_least(1), default=[32], help=text)
    text = "tokens at which a sentence is cut, [CLS] and [SEP] included (default: 128)"
    add("--max_seq_length", **several, type=parsing.length, default=[128], help=text)
    text = (
        "where the shape is compiled: rows that carry several sentences each, in "
        "albert_seq{S}_bs{B}_packed.pt"
    )
    add("--pack", **ON, help=text)


def add_target(parser):
    """What export_albert_aie.py compiles for, and how."""
    add = parser.add_argument_group("backend").add_argument
    text = "default: the first that runs here"
    add("--backend", choices=("auto", *backends.NAMES), default="auto", help=text)
    add("--device", choices=backends.DEVICES, help="default: the backend's")
    text = (
        "default: bf16 or fp16 where this machine computes it at least 1.1 times as fast as fp32, "
        "which is timed"
    )
    add("--precision", choices=tuple(compare.GATES), help=text)
    text = (
        "with int8: text for its ranges, in lines (.txt) or the task's columns (.tsv, .csv, "
        ".jsonl), instead of train.tsv"
    )
    add("--calibration", metavar="FILE", help=text)
    text = (
        "with int8: the fastest recipe whose labels differ from fp32's in at most P percent of "
        "held-out sentences"
    )
    add("--max_flips", type=parsing.percent, metavar="P", help=text)
    text = "which module is traced: albert_pytorch's or ours (default: the backend's)"
    add("--graph", choices=("upstream", "fused"), help=text)
    text = (
        "with --backend onnx: write a folder with which the owner of an Ascend card makes an OM "
        "and runs it on --data_dir's dev set; run_aie_eval.py --om_results scores it"
    )
    add("--om_kit", metavar="DIR", help=text)


def shapes(args, free_sizes):
    """Tuple of Shape from the flags of add_shape, the largest last: a file each. Raises UserError
    for flags that contradict each other, or that mean nothing where the program has `free_sizes`
    and chooses its rows."""
    lengths, sizes = sorted(set(args.max_seq_length)), sorted(set(args.batch_size))
    several = {"--max_seq_length": lengths, "--batch_size": sizes}
    if free_sizes:
        flags = [flag for flag, values in several.items() if len(values) > 1]
        for flag in ["--pack"] * args.pack + flags:
            raise UserError(
                f"{flag}: on this backend the file chooses its rows by itself, packed ones and all "
                "lengths; leave --pack out, and name one --batch_size and --max_seq_length"
            )
    elif args.pack and len(lengths) > 1:
        raise UserError(
            "--pack: a packed row has one length, for short sentences share it; name one "
            "--max_seq_length, and export a second file for single sentences"
        )
    return tuple(packed(b, s) if args.pack else Shape(b, s) for s in lengths for b in sizes)


def check_length(shapes, config):
    """Raises UserError for a length that the checkpoint has no positions for."""
    longest, limit = shapes[-1].max_seq_length, config.max_position_embeddings
    if longest > limit:
        raise UserError(
            f"--max_seq_length {longest}: the checkpoint has {limit} positions; use {limit} or less"
        )
