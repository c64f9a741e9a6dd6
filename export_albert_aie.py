#!/usr/bin/env python
"""Fine-tuned ALBERT checkpoint -> traced TorchScript -> compiled for the device ->
albert_seq{S}_bs{B}.pt.

    python export_albert_aie.py --batch_size=32 --max_seq_length=128 --compare_cpu
"""

import contextlib
import sys
import time
from functools import partial
from pathlib import Path

from albert_aie import (
    UserError,
    arguments,
    backends,
    batching,
    command,
    datasets,
    fitting,
    machine,
    references,
    tasks,
)
from albert_aie.compare import GATES


def parse_args(argv):
    parser = arguments.Parser(__doc__)
    add = parser.add_argument_group("checkpoint and data").add_argument
    arguments.add_task_name(add, "SST-2")
    add(
        "--pth_dir",
        help="checkpoint: albert_pytorch output folder, Hugging Face folder or hub id "
        "(default: ./albert_pytorch/outputs/TASK)",
    )
    add(
        "--data_dir",
        help="the task's folder, read by --compare_cpu and --precision int8 "
        "(default: ./albert_pytorch/dataset/TASK)",
    )
    add("--demo", action="store_true", help="take both from this repository's demo/ unless given")
    arguments.add_tokenizer(add)
    arguments.add_label_map(add)
    add(
        "--no_shift",
        action="store_true",
        help="the checkpoint is of albert_pytorch before 2020-01-01, whose classifier did not add "
        "0.1",
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
    arguments.add_quiet(add)
    add = parser.add_argument_group("shape").add_argument
    add(
        "--batch_size",
        nargs="+",
        type=arguments.at_least(1),
        default=[32],
        metavar="N",
        help="rows of a batch; several make a shape each (default: 32)",
    )
    add(
        "--max_seq_length",
        nargs="+",
        type=arguments.length,
        default=[arguments.LONGEST],
        metavar="N",
        help="tokens of a row, [CLS] and [SEP] included; several make a shape each, and a sentence "
        f"takes the shortest that holds it; {arguments.AUTO}: a ladder up to {arguments.LONGEST}, "
        "chosen from the lengths of the training sentences in --data_dir (default: "
        f"{arguments.LONGEST})",
    )
    add(
        "--pack",
        action="store_true",
        help="rows that carry several sentences each, so that almost no padding is computed: "
        "albert_seq{S}_bs{B}_packed.pt",
    )
    add(
        "--slots",
        type=arguments.at_least(1),
        metavar="N",
        help="with --pack: sentences that a row can carry (default: what computes least for the "
        "training sentences in --data_dir; one for every 8 tokens where there are none)",
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
        "--calibration",
        metavar="FILE",
        help="with int8: text for its ranges, in lines (.txt) or the task's columns (.tsv, .csv, "
        ".jsonl), instead of train.tsv",
    )
    add(
        "--max_flips",
        type=arguments.percent,
        metavar="P",
        help="with int8: the fastest recipe whose labels differ from fp32's in at most P percent "
        "of held-out sentences",
    )
    add(
        "--graph",
        choices=("upstream", "fused"),
        help="which module is traced: albert_pytorch's or ours (default: the backend's)",
    )
    arguments.add_comparison(parser)
    arguments.add_options(parser, "export")
    args = parser.parse_args(argv)
    args.task_name = args.task_name or tasks.SST2
    arguments.folders(args, args.task_name, f"{arguments.UPSTREAM}/outputs/{{}}")
    return args


def run(args):
    from albert_aie import artifact, calibration, compare, evaluate, graph, metrics, text

    arguments.check_comparison(args)
    task = args.task_name
    lengths = arguments.lengths(args)
    # what contradicts itself is refused before any work
    batching.shapes(args.batch_size, lengths or [arguments.LONGEST], args.pack, args.slots)
    target = choose_target(args)
    engine = backends.get(target.backend)
    graph_name = graph.choose(args.graph, engine.GRAPH, args.pack, args.prefix_dir)
    checkpoint = read_checkpoint(args).named(task, args.label_map)
    form = engine.form(target.precision)
    asked = args.batch_size, lengths, args.pack, args.slots, graph.ladder(graph_name, form)
    shapes, told = fitting.choose(checkpoint, args.data_dir, task, *asked)
    if told:
        command.say("ladder", told)
    for shape in shapes:
        machine.check_memory(shape, target.device, checkpoint.config.intermediate_size)
    sentences, held_out = [], []
    if target.precision == "int8":
        sentences, held_out, note = calibration.read(
            args.data_dir, task, args.calibration, args.max_flips is not None
        )
        command.note(note)
    if args.compare_cpu:
        metrics.check(task)
        examples = datasets.read(args.data_dir, task=task).for_model(checkpoint.config.label_names)
        examples = examples.first(args.compare_rows)
        command.note(examples.note)
        command.note(text.disagreement(checkpoint.tokenizer, examples.sentences))
    plan = [shapes] if graph.serves(graph_name, form) else [(shape,) for shape in shapes]
    paths = [Path(args.save_dir) / artifact.file_name(each) for each in plan]
    arguments.check_outputs(*paths, args.compare_output)
    command.note(replaced(paths, target))

    for path, each in zip(paths, plan):
        if not export(path, checkpoint, target, each, graph_name, args, sentences, held_out):
            return 1
    if not args.compare_cpu:
        return 0
    saved = artifact.open_all(paths)
    told, logits = zip(*evaluate.logits_in_fresh_process(paths, target, examples.sentences))
    made = compare.against_reference(
        logits, saved, checkpoint, examples, args.prefix_dir, command.bar
    )
    return command.conclude(made, args, told)


def choose_target(args):
    backend, device, why = backends.pick(args.backend, args.device)
    default = "fp32" if args.random_weights else backends.get(backend).default_precision(device)
    options = arguments.options(args, "export")
    target = backends.Target(backend, device, args.precision or default, options)
    backends.settings(target, "export")
    backends.get(backend).check(target)
    for flag in ("calibration", "max_flips"):
        if getattr(args, flag) is not None and target.precision != "int8":
            raise UserError(f"--{flag}: means something with --precision int8 only; leave it out")
    if args.max_flips is not None:
        if args.task_name.regression:
            raise UserError("--max_flips: a regression has no labels to flip; leave it out")
        references.check(args.prefix_dir)
    command.say("backend", f"{backend} on {device} ({why})")
    return target


def replaced(paths, target):
    """What the user should know of files that are there for another backend, device or precision;
    empty where there are none."""
    from albert_aie import artifact

    wanted = target._replace(options={})
    for path in filter(Path.is_file, paths):
        with contextlib.suppress(UserError):  # what is no file of ours has nothing to tell
            held = artifact.open_pt(path).target._replace(options={})
            if held != wanted:
                old, new = (f"{t.precision} ({t.backend} on {t.device})" for t in (held, wanted))
                return f"{path}: is {old} and is replaced by {new}; --save_dir keeps both"
    return ""


def read_checkpoint(args):
    from albert_aie import checkpoint

    tokenizer_file, kind = arguments.tokenizer_file(args)
    load = partial(checkpoint.load, shift=not args.no_shift)
    read = checkpoint.draw if args.random_weights else load
    found = read(args.pth_dir, tokenizer_file, args.prefix_dir, kind=kind)
    command.say("checkpoint", f"{found.origin}\n{found.layout} layout, sha256 {found.sha256[:12]}")
    command.say("tokenizer", str(found.tokenizer))
    return found


def export(path, checkpoint, target, shapes, graph_name, args, sentences, held_out):
    """Build, trace, compile and save; int8 takes its ranges from `sentences`. Whether a file was
    written: not where --max_flips finds no recipe."""
    from albert_aie import artifact, calibration, equalise, graph, manifest, recipes

    engine = backends.get(target.backend)
    ranges = partial(calibration.batches, checkpoint.tokenizer.load(), sentences, shapes)
    started = time.perf_counter()
    steps = command.bar(total=2, desc="trace and compile", unit="step")
    form = engine.form(target.precision)
    source = equalise.equalise(checkpoint) if target.precision == "int8" else checkpoint
    module = graph.build(source, graph_name, shapes[-1], args.prefix_dir, form)
    inputs = graph.example_inputs(checkpoint.config, shapes[-1])

    def make(target):
        """A function of a path that saves the file."""
        compiled = engine.compile(module, inputs, target, ranges)
        told = manifest.describe(checkpoint, compiled, target, graph_name, shapes, args.task_name)

        def save(path):
            artifact.save(path, compiled, told, checkpoint.tokenizer)

        return save

    steps.update()
    if args.max_flips is None:
        save = make(target)
    else:
        given = checkpoint, target, shapes[-1].max_seq_length, held_out, args.prefix_dir
        save, tried = recipes.fastest(make, path.name, args.max_flips, *given, command.bar)
        command.say("tried", "\n".join(recipes.table(tried)))
        if save is None:
            steps.close()
            command.note(
                f"no recipe keeps flips at {args.max_flips:g} % or less: {path} is not written; "
                "allow more by --max_flips, or take --precision bf16 or fp32"
            )
            return False
    save(path)
    steps.close()
    seconds = time.perf_counter() - started
    shape = batching.told(shapes)
    command.say("compiled", f"{graph_name} graph, {target.precision}, {shape}, {seconds:.1f} s")
    command.say("wrote", f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if checkpoint.random:
        command.note("random weights: this file measures speed; no accuracy is printed for it")
    return True


def main(argv=None):
    """Exit code; command.main says what each means."""
    return command.main(parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
