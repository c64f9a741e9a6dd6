#!/usr/bin/env python
"""Fine-tuned ALBERT checkpoint -> traced TorchScript -> compiled for the device ->
albert_seq{S}_bs{B}.pt.

    python export_albert_aie.py --batch_size=32 --max_seq_length=128 --compare_cpu
"""

import random
import sys
import time
from functools import partial
from pathlib import Path

from albert_aie import UserError, backends, command, files
from albert_aie.batching import Shape
from albert_aie.compare import GATES


def parse_args(argv):
    parser = command.Parser(__doc__)
    add = parser.add_argument_group("checkpoint and data").add_argument
    add(
        "--pth_dir",
        help="checkpoint: albert_pytorch output folder, Hugging Face folder or hub id "
        "(default: ./albert_pytorch/outputs/SST-2)",
    )
    add(
        "--data_dir",
        help="GLUE's SST-2, read by --compare_cpu and --precision int8 "
        "(default: ./albert_pytorch/dataset/SST-2)",
    )
    add("--demo", action="store_true", help="take both from this repository's demo/ unless given")
    add(
        "--spm_model_file",
        help="sentencepiece model (default: in --pth_dir, else in "
        "--prefix_dir/prev_trained_model/*/)",
    )
    add(
        "--random_weights",
        action="store_true",
        help="weights from a fixed seed for the architecture in --pth_dir/config.json: to measure "
        "speed only",
    )
    add(
        "--save_dir",
        default="./",
        help="where albert_seq{S}_bs{B}.pt is written (default: %(default)s)",
    )
    add("--verbose", action="store_true", help="print more; eval.json has it all")
    add = parser.add_argument_group("shape").add_argument
    add("--batch_size", type=int, default=32, help="rows of the shape (default: %(default)s)")
    add(
        "--max_seq_length",
        type=int,
        default=128,
        help="tokens of a row, [CLS] and [SEP] included (default: %(default)s)",
    )
    add(
        "--pack",
        action="store_true",
        help="rows that carry several sentences each, so that almost no padding is computed: "
        "albert_seq{S}_bs{B}_packed.pt",
    )
    add(
        "--slots",
        type=int,
        metavar="N",
        help="with --pack: sentences that a row can carry (default: one for every 8 tokens)",
    )
    add = parser.add_argument_group("backend").add_argument
    add(
        "--backend",
        choices=("auto", *backends.NAMES),
        default="auto",
        help="default: the first that runs here",
    )
    add("--device", choices=backends.DEVICES, help="default: the backend's")
    add(
        "--precision",
        choices=tuple(GATES),
        help="default: the backend's (docs/backends.md); fp32 with --random_weights",
    )
    add(
        "--graph",
        choices=("upstream", "fused"),
        help="which module is traced: albert_pytorch's or ours (default: the backend's)",
    )
    command.add_comparison(parser)
    command.add_options(parser, "export")
    args = parser.parse_args(argv)
    args.pth_dir = args.pth_dir or (
        command.DEMO / "checkpoint" if args.demo else "./albert_pytorch/outputs/SST-2"
    )
    args.data_dir = args.data_dir or (
        command.DEMO / "SST-2" if args.demo else "./albert_pytorch/dataset/SST-2"
    )
    return args


def run(args):
    from albert_aie import artifact, text

    shape = read_shape(args)
    target = choose_target(args)
    checkpoint = read_checkpoint(args, shape)
    examples = None
    if args.compare_cpu:
        examples = text.read_sst2(args.data_dir, "dev", checkpoint.config.num_labels)
    path = Path(args.save_dir) / artifact.file_name(shape)
    files.check_writable(path)

    export(path, checkpoint, target, shape, args)
    if checkpoint.random:
        command.note("random weights: this file measures speed; no accuracy is printed for it")
    if not args.compare_cpu:
        return 0
    return command.conclude(compare_cpu(path, checkpoint, target, examples, args), args)


def read_shape(args):
    if args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: must be 1 or more")
    if args.max_seq_length < 3:
        raise UserError(
            f"--max_seq_length {args.max_seq_length}: must be 3 or more, [CLS] and [SEP] take two"
        )
    most = args.max_seq_length // 3  # a sentence has 3 tokens at least
    if args.slots is not None and not args.pack:
        raise UserError("--slots: means something with --pack only; add --pack or leave it out")
    if args.slots is not None and not 1 <= args.slots <= most:
        raise UserError(
            f"--slots {args.slots}: must be 1 to {most}, for a sentence has 3 tokens at least and "
            "a "
            f"row {args.max_seq_length}"
        )
    if args.pack and args.graph == "upstream":
        raise UserError(
            "--pack --graph upstream: albert_pytorch's model takes one sentence a row; leave "
            "--graph "
            "out"
        )
    command.check_comparison(args)
    slots = (args.slots or max(1, args.max_seq_length // 8)) if args.pack else 0
    return Shape(args.batch_size, args.max_seq_length, slots)


def choose_target(args):
    backend, device, why = backends.pick(args.backend, args.device)
    default = "fp32" if args.random_weights else backends.get(backend).default_precision(device)
    options = command.options(args, "export")
    target = backends.Target(backend, device, args.precision or default, options)
    backends.settings(target, "export")
    backends.get(backend).check(target)
    command.say("backend", f"{backend} on {device} ({why})")
    return target


def read_checkpoint(args, shape):
    from albert_aie import checkpoint

    read = checkpoint.draw if args.random_weights else checkpoint.load
    found = read(args.pth_dir, args.spm_model_file, args.prefix_dir)
    limit = found.config.max_position_embeddings
    if shape.max_seq_length > limit:
        raise UserError(
            f"--max_seq_length {shape.max_seq_length}: the checkpoint has {limit} positions; use "
            f"{limit} or less"
        )
    command.say("checkpoint", f"{found.origin}\n{found.layout} layout, sha256 {found.sha256[:12]}")
    if args.verbose:
        command.say("tokenizer", str(found.tokenizer))
    return found


def export(path, checkpoint, target, shape, args):
    """Build, trace, compile and save."""
    from albert_aie import artifact, graph

    engine = backends.get(target.backend)
    graph_name = args.graph or ("fused" if shape.slots else engine.GRAPH)
    started = time.perf_counter()
    steps = command.bar(total=2, desc="trace and compile", unit="step")
    form = engine.form(target.precision)
    module = graph.build(checkpoint, graph_name, shape, args.prefix_dir, form)
    inputs = graph.example_inputs(checkpoint.config, shape)
    ranges = partial(calibration, checkpoint, args.data_dir, shape)
    compiled = engine.compile(module, inputs, target, ranges)
    steps.update()
    manifest = artifact.manifest(checkpoint, compiled, target, graph_name, shape)
    artifact.save(path, compiled, manifest, checkpoint.tokenizer.read_bytes())
    steps.close()
    packed = f"\nup to {shape.slots} sentences a row" if shape.slots else ""
    command.say(
        "compiled",
        f"{graph_name} graph, {target.precision}, batch {shape.batch_size} x "
        f"{shape.max_seq_length} tokens, {time.perf_counter() - started:.1f} s{packed}",
    )
    command.say("wrote", f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


CALIBRATION = 256  # sentences that int8 takes its ranges from; long ones, as dev has


def calibration(checkpoint, data_dir, shape):
    """Batches of training sentences of 10 words and more, drawn with a fixed seed; of dev, with a
    note, where train.tsv is missing."""
    from albert_aie import batching, text

    split = "train" if (Path(data_dir) / "train.tsv").is_file() else "dev"
    if split == "dev":
        command.note(
            f"int8 ranges are taken from dev itself: {data_dir} has no train.tsv; accuracy on dev "
            "flatters it"
        )
    sentences = text.read_sst2(data_dir, split, checkpoint.config.num_labels).sentences
    long = [sentence for sentence in sentences if len(sentence.split()) >= 10] or sentences
    chosen = random.Random(0).sample(long, min(CALIBRATION, len(long)))
    tokenizer = text.Tokenizer(checkpoint.tokenizer.read_bytes())
    encoded, _ = text.encode_all(tokenizer, chosen, shape.max_seq_length)
    return list(batching.batches(encoded, shape))


def compare_cpu(path, checkpoint, target, examples, args):
    """Comparison of the saved file, run by a fresh process, with the CPU reference on real
    sentences."""
    from albert_aie import compare, evaluate, text

    sentences, labels = examples.sentences[: args.compare_rows], examples.labels
    steps = command.bar(total=1, desc="run the compiled file", unit="file")
    got = evaluate.logits_in_fresh_process(path, target, sentences)
    steps.close()
    tokenizer = text.Tokenizer(checkpoint.tokenizer.read_bytes())
    encoded, _ = text.encode_all(tokenizer, sentences, args.max_seq_length)
    return compare.against_reference(
        got,
        checkpoint,
        encoded,
        labels[: args.compare_rows],
        target.precision,
        args.prefix_dir,
        command.bar,
    )


def main(argv=None):
    """Exit code: 0 success, 1 the comparison failed, 2 invalid input, 130 interrupted."""
    return command.main(parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
