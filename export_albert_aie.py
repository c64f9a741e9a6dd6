#!/usr/bin/env python
"""Fine-tuned ALBERT checkpoint -> traced TorchScript -> compiled for the device -> albert_seq{S}_bs{B}.pt.

python export_albert_aie.py --batch_size=32 --max_seq_length=128 --compare_cpu
"""

import argparse
import random
import sys
import time
from functools import partial
from pathlib import Path

import albert_aie
from albert_aie import UserError


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--batch_size", type=int, default=32, help="rows of the compiled shape (default: %(default)s)")
    add("--max_seq_length", type=int, default=128, help="tokens of a row, [CLS] and [SEP] included (default: %(default)s)")
    add(
        "--prefix_dir",
        default="./albert_pytorch",
        help="albert_pytorch checkout with albert.patch applied; needed by --graph upstream (default: %(default)s)",
    )
    add(
        "--pth_dir",
        help="checkpoint: albert_pytorch output folder, Hugging Face folder or hub id (default: ./albert_pytorch/outputs/SST-2)",
    )
    add("--data_dir", help="GLUE's SST-2, read by --compare_cpu and --precision int8 (default: ./albert_pytorch/dataset/SST-2)")
    add("--demo", action="store_true", help="take --pth_dir and --data_dir from this repository's demo/ unless given")
    add("--save_dir", default="./", help="where albert_seq{S}_bs{B}.pt is written (default: %(default)s)")
    add(
        "--compare_cpu",
        action="store_true",
        help="load the file back, run dev.tsv, compare with the CPU reference; exit 1 if the gate fails",
    )
    add("--compare_rows", type=int, metavar="N", help="compare the first N rows of dev.tsv instead of all")
    add("--backend", choices=("auto", "aie", "openvino", "torchscript"), default="auto", help="default: the first that runs here")
    add("--device", choices=("npu", "cuda", "cpu"), help="default: the backend's")
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16", "int8"),
        help="default: the backend's (see README); fp32 with --random_weights; int8 on openvino",
    )
    add(
        "--graph",
        choices=("upstream", "fused"),
        help="which module is traced: albert_pytorch's or ours (default: upstream for aie, else fused)",
    )
    add(
        "--pack",
        action="store_true",
        help="rows that carry several sentences each, so that almost no padding is computed: albert_seq{S}_bs{B}_packed.pt",
    )
    add("--slots", type=int, metavar="N", help="with --pack: sentences that a row can carry (default: one for every 8 tokens)")
    add("--spm_model_file", help="sentencepiece model (default: in --pth_dir, else in --prefix_dir/prev_trained_model/*/)")
    add(
        "--random_weights",
        action="store_true",
        help="weights from a fixed seed for the architecture in --pth_dir/config.json: to measure speed only",
    )
    aie = parser.add_argument_group("Ascend (--backend aie)").add_argument
    aie("--device_id", type=int, default=0, help="number of the card (default: %(default)s)")
    aie("--soc_version", default="Ascend310P3", help="chip to compile for (default: %(default)s)")
    aie("--optimization_level", type=int, choices=(0, 1, 2), default=0, help="of the compiler (default: %(default)s)")
    aie(
        "--aie_input_dtype",
        choices=("int32", "int64"),
        default="int32",
        help="what the compiled program takes; the file's own inputs stay int64 (default: %(default)s)",
    )
    aie("--require_full_compilation", action="store_true", help="fail rather than leave an operator to the host")
    args = parser.parse_args(argv)
    demo = Path(albert_aie.__file__).resolve().parent.parent / "demo"
    args.pth_dir = args.pth_dir or (demo / "checkpoint" if args.demo else "./albert_pytorch/outputs/SST-2")
    args.data_dir = args.data_dir or (demo / "SST-2" if args.demo else "./albert_pytorch/dataset/SST-2")
    return args


def run(args):
    from tqdm import tqdm

    from albert_aie import artifact, backends, checkpoint, graph, text

    check_args(args)
    bar = partial(tqdm, disable=None, leave=False)  # None: silent where stderr is no terminal

    backend, device, why = backends.pick(args.backend, args.device)
    print(f"backend     {backend} on {device} ({why})")

    read = checkpoint.draw if args.random_weights else checkpoint.load
    source = read(args.pth_dir, args.spm_model_file, args.prefix_dir)
    limit = source.config.max_position_embeddings
    if args.max_seq_length > limit:
        raise UserError(f"--max_seq_length {args.max_seq_length}: the checkpoint has {limit} positions; use {limit} or less")
    print(f"checkpoint  {source.source} ({source.layout} layout, sha256 {source.sha256[:12]}), tokenizer {source.tokenizer}")

    examples = text.read_sst2(args.data_dir, "dev", source.config.num_labels) if args.compare_cpu else None
    engine = backends.get(backend)
    precision = args.precision or ("fp32" if source.random else engine.default_precision(device))
    which = args.graph or ("upstream" if backend == "aie" and not args.pack else "fused")
    slots = (args.slots or max(1, args.max_seq_length // 8)) if args.pack else 0
    target = backends.Target(
        backend,
        device,
        precision,
        args.device_id,
        args.soc_version,
        args.optimization_level,
        args.aie_input_dtype,
        args.require_full_compilation,
    )
    started = time.perf_counter()
    form = engine.form(precision)
    module = graph.build(source, which, args.batch_size, args.max_seq_length, args.prefix_dir, slots, form)
    inputs = graph.example_inputs(source.config, args.batch_size, args.max_seq_length)
    steps = bar(total=2, desc="trace and compile", unit="step")
    compiled = engine.compile(module, inputs, target, partial(calibration, source, args, slots))
    steps.update()
    path = Path(args.save_dir) / artifact.file_name(args.batch_size, args.max_seq_length, slots)
    manifest = artifact.manifest(source, compiled, target, which, args.batch_size, args.max_seq_length, slots)
    artifact.save(path, compiled, manifest, source.tokenizer.read_bytes())
    steps.close()
    print(
        f"compiled    {which} graph, {precision}, batch {args.batch_size} x {args.max_seq_length} tokens, "
        f"{f'up to {slots} sentences a row, ' if slots else ''}"
        f"{time.perf_counter() - started:.1f} s"
    )
    print(f"wrote       {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if source.random:
        print("note        random weights: this file measures speed; evaluation prints no accuracy for it")
    if not args.compare_cpu:
        return 0
    return compare_cpu(path, source, target, examples, args, bar)


def check_args(args):
    if args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: must be 1 or more")
    if args.max_seq_length < 3:
        raise UserError(f"--max_seq_length {args.max_seq_length}: must be 3 or more, [CLS] and [SEP] take two")
    if args.slots is not None and not args.pack:
        raise UserError("--slots: means something with --pack only; add --pack or leave it out")
    if args.slots is not None and not 1 <= args.slots <= args.max_seq_length // 3:
        raise UserError(
            f"--slots {args.slots}: must be 1 to {args.max_seq_length // 3}, for a sentence has 3 tokens at least and a row "
            f"{args.max_seq_length}"
        )
    if args.pack and args.graph == "upstream":
        raise UserError("--pack --graph upstream: albert_pytorch's model takes one sentence a row; leave --graph out")
    if args.compare_rows is not None and args.compare_rows < 1:
        raise UserError(f"--compare_rows {args.compare_rows}: must be 1 or more")
    if args.compare_rows is not None and not args.compare_cpu:
        raise UserError("--compare_rows: means something with --compare_cpu only; add --compare_cpu or leave it out")


CALIBRATION_ROWS = 256  # real rows that int8 takes its ranges from: activations of long sentences, as dev has


def calibration(source, args, slots):
    """Batches of training sentences of 10 words and more, drawn with a fixed seed; of dev, said aloud, where train.tsv is
    missing."""
    from albert_aie import batching, evaluate, text

    split = "train" if (Path(args.data_dir) / "train.tsv").is_file() else "dev"
    if split == "dev":
        print(f"note        int8 ranges are taken from dev itself: {args.data_dir} has no train.tsv; accuracy on dev flatters it")
    sentences = text.read_sst2(args.data_dir, split, source.config.num_labels).sentences
    long = [sentence for sentence in sentences if len(sentence.split()) >= 10] or sentences
    chosen = random.Random(0).sample(long, min(CALIBRATION_ROWS, len(long)))
    encoded, _ = evaluate.encode(text.Tokenizer(source.tokenizer.read_bytes()), chosen, args.max_seq_length)
    return list(batching.batches(encoded, args.batch_size, args.max_seq_length, slots))


def compare_cpu(path, source, target, examples, args, bar):
    """Hold the saved file, run by a fresh process, against the CPU reference on real rows; returns the exit code."""
    from albert_aie import compare, evaluate, text

    sentences, labels = examples.sentences[: args.compare_rows], examples.labels[: args.compare_rows]
    steps = bar(total=1, desc="run the compiled file", unit="file")
    got = evaluate.logits_in_fresh_process(path, target, sentences)
    steps.close()
    encoded, _ = evaluate.encode(text.Tokenizer(source.tokenizer.read_bytes()), sentences, args.max_seq_length)
    result, lines = compare.against_reference(got, source, encoded, labels, target.precision, args.prefix_dir, bar)
    print(lines)
    return 0 if result.passed else 1


def main(argv=None):
    """Exit code: 0 success, 1 the comparison failed, 2 wrong input, 130 interrupted."""
    args = parse_args(argv)
    try:
        return run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a file that is there and cannot be read
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; mend its name or permissions", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
