#!/usr/bin/env python
"""albert_seq{S}_bs{B}.pt + SST-2 -> predictions, accuracy and throughput.

python run_aie_eval.py --aie_model_dir=albert_seq128_bs32.pt --data_dir=./dataset/SST-2
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import albert_aie
from albert_aie import UserError


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--aie_model_dir",
        default="./albert_seq128_bs32.pt",
        help="the .pt file that export_albert_aie.py wrote (default: %(default)s)",
    )
    add("--data_dir", help="folder of GLUE's SST-2 (default: ./albert_pytorch/dataset/SST-2)")
    add("--demo", action="store_true", help="take --data_dir and --pth_dir from this repository's demo/ unless given")
    add(
        "--split",
        choices=("dev", "train", "test"),
        default="dev",
        help="which file of it; test has no labels and gives predictions only (default: %(default)s)",
    )
    add("--output_dir", help="write eval.json and predictions.tsv here; nothing else in the folder is touched")
    add("--device_id", type=int, help="number of the Ascend card (default: 0)")
    add("--threads", type=int, default=0, metavar="N", help="threads, for files on the CPU (default: the engine's, one a core)")
    add("--streams", type=int, metavar="N", help="batches computed at a time, openvino only (default: its choice, by the cores)")
    add("--compare_cpu", action="store_true", help="compare with the CPU reference of --pth_dir; exit 1 if the gate fails")
    add("--compare_rows", type=int, metavar="N", help="compare the first N rows instead of all")
    add("--pth_dir", help="checkpoint that the file was made from, for --compare_cpu")
    add(
        "--prefix_dir",
        default="./albert_pytorch",
        help="albert_pytorch checkout, the reference of --compare_cpu where there is one (default: %(default)s)",
    )
    known = parser.add_argument_group("known from the file", "may be left out; a value that contradicts the file is an error")
    known.add_argument("--batch_size", type=int)
    known.add_argument("--max_seq_length", type=int)
    known.add_argument("--spm_model_file")
    known.add_argument("--task_name", default="SST-2", help="SST-2 is the only task (default: %(default)s)")
    inert = parser.add_argument_group("accepted for the published command line, and without effect")
    inert.add_argument("--model_type", help="a name only")
    inert.add_argument("--model_name_or_path", help="upstream names its feature cache after it; nothing is cached here")
    inert.add_argument("--do_lower_case", action="store_true", help="ALBERT's tokenizer always lower-cases")
    args = parser.parse_args(argv)
    demo = Path(albert_aie.__file__).resolve().parent.parent / "demo"
    args.pth_dir = args.pth_dir or (demo / "checkpoint" if args.demo else None)
    args.data_dir = args.data_dir or (demo / "SST-2" if args.demo else "./albert_pytorch/dataset/SST-2")
    return args


def run(args):
    if args.compare_cpu and not args.pth_dir:
        raise UserError("--compare_cpu: name the checkpoint that the file was made from with --pth_dir")
    if args.compare_rows is not None and args.compare_rows < 1:
        raise UserError(f"--compare_rows {args.compare_rows}: must be 1 or more")
    if args.compare_rows is not None and not args.compare_cpu:
        raise UserError("--compare_rows: means something with --compare_cpu only; add --compare_cpu or leave it out")
    if args.threads < 0:
        raise UserError(f"--threads {args.threads}: must be 1 or more, or 0 for the engine's choice")
    if args.streams is not None and args.streams < 1:
        raise UserError(f"--streams {args.streams}: must be 1 or more")
    from tqdm import tqdm

    from albert_aie import artifact, backends, evaluate, text

    bar = partial(tqdm, disable=None, leave=False)  # None: silent where stderr is no terminal
    saved = artifact.open_pt(args.aie_model_dir)
    manifest = saved.manifest
    check_args(args, saved)
    examples = text.read_sst2(args.data_dir, args.split, manifest["config"]["num_labels"])
    source = load_source(args, saved) if args.compare_cpu else None
    if args.output_dir:
        for name in RESULTS:
            artifact.check_writable(Path(args.output_dir) / name)

    started = time.perf_counter()
    tokenizer = text.Tokenizer(saved.tokenizer, str(saved.path))
    target = backends.Target(manifest["backend"], manifest["device"], manifest["precision"], args.device_id or 0)
    target = target._replace(threads=args.threads, streams=args.streams or 0)
    runner = backends.get(target.backend).load(saved, target)
    load_seconds = time.perf_counter() - started
    try:
        evaluation = evaluate.evaluate(runner, manifest, tokenizer, examples.sentences, bar)
    finally:
        runner.close()
    report = evaluate.report(evaluation, manifest, runner, examples.labels, load_seconds)
    report = {"file": str(saved.path), "data": str(examples.path), **report, "manifest": manifest}
    print_report(report)
    if args.output_dir:
        write_results(Path(args.output_dir), report, evaluation.logits, examples)
    return compare_cpu(args, manifest, source, tokenizer, examples, evaluation.logits, bar) if source else 0


def check_args(args, saved):
    """A flag that says something else than the file is an error that names both."""
    from albert_aie import checkpoint

    if args.task_name.upper() != "SST-2":
        raise UserError(f"--task_name {args.task_name}: only SST-2 can be evaluated")
    for flag in ("batch_size", "max_seq_length"):
        given, known = getattr(args, flag), saved.manifest[flag]
        if given is not None and given != known:
            raise UserError(
                f"--{flag} {given}: {saved.path} was compiled for {known}; leave the flag out, or export a file for {given}"
            )
    backend, device = saved.manifest["backend"], saved.manifest["device"]
    for flag, given, fits, who in (
        ("--streams", (args.streams or 1) > 1, backend == "openvino", "only openvino takes more than one"),
        ("--threads", args.threads, device == "cpu", "threads are set for files on the CPU"),
        ("--device_id", args.device_id is not None, backend == "aie", "it numbers Ascend cards"),
    ):
        if given and not fits:
            raise UserError(f"{flag} {getattr(args, flag[2:])}: {saved.path} is for {backend} on {device}; {who}: leave it out")
    if args.spm_model_file:
        path, known = Path(args.spm_model_file), saved.manifest["source"].get("tokenizer_sha256")
        if not path.is_file():
            raise UserError(f"{path}: no such file; leave --spm_model_file out, the .pt holds its tokenizer")
        if checkpoint.sha256(path) != known:
            raise UserError(
                f"--spm_model_file {path}: sha256 {checkpoint.sha256(path)[:12]}, but {saved.path} holds the "
                f"tokenizer {str(known)[:12]}; leave the flag out, or export with this file"
            )


def print_report(r):
    rate, latency, seconds = r["samples_per_second"], r["latency_ms"], r["seconds"]
    print(
        f"file        {r['file']}: {r['backend']} on {r['device']}, {r['graph']} graph, "
        f"precision {r['precision']} ({r['precision_is']}), "
        f"batch {r['batch_size']} x {r['max_seq_length']}{' packed' if r['slots'] else ''}, "
        f"{r['threads']} thread(s), {r['streams']} stream(s)"
    )
    print(f"data        {r['data']}: {r['rows_scored']} of {r['rows_total']} rows scored, {r['truncated']} truncated")
    if "accuracy" in r:
        a = r["accuracy"]
        print(
            f"accuracy    {a['value']:.4f} ({a['correct']}/{a['total']}), "
            f"95 % Wilson interval {a['wilson95'][0]:.4f} to {a['wilson95'][1]:.4f}"
        )
    elif r["random_weights"]:
        print("accuracy    none: the file holds random weights, for speed only")
    else:
        print("accuracy    none: the split has no labels")
    print(
        f"throughput  forward {rate['forward']:.1f} samples/s, end to end {rate['end_to_end']:.1f} samples/s "
        f"(text to predictions, {seconds['end_to_end']:.2f} s)"
    )
    print(
        f"latency     p50 {latency['p50']:.1f}, p90 {latency['p90']:.1f}, p99 {latency['p99']:.1f} ms a batch "
        f"({r['batches']} batches, after {r['warmup']} warm-up runs)"
    )
    print(
        f"stages      load {seconds['load']:.2f}, tokenize {seconds['tokenize']:.3f}, copy in {seconds['copy_in']:.3f}, "
        f"forward {seconds['forward']:.2f}, copy out {seconds['copy_out']:.3f} s"
    )
    print(
        f"padding     {100 * r['padding']:.1f} % of {r['positions']:,} token positions "
        f"({r['sentences_per_row']:.2f} sentences a row)"
    )
    print(
        f"compute     {r['nominal_gflop_per_second']:.0f} GFLOP/s nominal "
        f"({r['nominal_gflop_per_row']:.2f} GFLOP a row of {r['max_seq_length']})"
    )


RESULTS = ("eval.json", "predictions.tsv")


def write_results(folder, report, logits, examples):
    """eval.json and predictions.tsv, each whole or not at all; renamed only when both are written."""
    from albert_aie.artifact import replacing

    names = report["manifest"]["label_names"]
    header = ["index", "prediction", "label", *(f"logit_{name}" for name in names), "sentence"]
    labels = examples.labels or [""] * len(examples.sentences)
    rows = [
        [i, int(row.argmax()), label, *(f"{x:.6f}" for x in row.tolist()), sentence]
        for i, row, label, sentence in zip(examples.indices, logits, labels, examples.sentences)
    ]
    lines = ["\t".join(map(str, row)) for row in [header] + rows]
    paths = [folder / name for name in RESULTS]
    with replacing(paths[0]) as one, replacing(paths[1]) as two:
        one.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        two.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote       {paths[0]} and {paths[1]}")


def load_source(args, saved):
    """The checkpoint of --pth_dir, which must have the file's architecture and vocabulary."""
    from dataclasses import asdict

    from albert_aie import checkpoint

    manifest = saved.manifest
    read = checkpoint.draw if manifest["random_weights"] else checkpoint.load
    source = read(args.pth_dir, args.spm_model_file, args.prefix_dir)
    config = json.loads(json.dumps(asdict(source.config)))
    differing = [name for name, value in config.items() if name != "label_names" and value != manifest["config"].get(name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"{args.pth_dir}: {name} is {config[name]}, but {saved.path} has {manifest['config'].get(name)}; "
            "name the checkpoint that the file was made from"
        )
    return source


def compare_cpu(args, manifest, source, tokenizer, examples, logits, bar):
    from albert_aie import compare, evaluate

    if source.sha256 != manifest["source"].get("sha256"):
        print(f"note        the weights in {args.pth_dir} are not, byte by byte, those that the file was made from (sha256)")
    rows = args.compare_rows
    encoded, _ = evaluate.encode(tokenizer, examples.sentences[:rows], manifest["max_seq_length"])
    result, lines = compare.against_reference(
        logits[:rows], source, encoded, examples.labels and examples.labels[:rows], manifest["precision"], args.prefix_dir, bar
    )
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
