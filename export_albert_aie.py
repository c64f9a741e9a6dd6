#!/usr/bin/env python
"""Fine-tuned ALBERT checkpoint -> traced TorchScript -> compiled for the device ->
albert_seq{S}_bs{B}.pt.

    python export_albert_aie.py --batch_size=32 --max_seq_length=128 --compare_cpu
"""

import sys
import tempfile
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

LONGEST = 128  # the default of --max_seq_length


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
        default=[LONGEST],
        metavar="N",
        help="tokens of a row, [CLS] and [SEP] included; several make a shape each, and a sentence "
        f"takes the shortest that holds it; {arguments.AUTO}: a ladder up to {LONGEST}, chosen "
        f"from the lengths of the training sentences in --data_dir (default: {LONGEST})",
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
    batching.shapes(args.batch_size, lengths(args), args.pack, args.slots)  # refuse, before work
    target = choose_target(args)
    engine = backends.get(target.backend)
    graph_name = graph.choose(args.graph, engine.GRAPH, args.pack, args.prefix_dir)
    checkpoint = read_checkpoint(args).named(task, args.label_map)
    shapes = choose_shapes(args, checkpoint)
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
    together = graph.serves(graph_name, engine.form(target.precision))
    plan = [shapes] if together else [(shape,) for shape in shapes]
    paths = [Path(args.save_dir) / artifact.file_name(each) for each in plan]
    arguments.check_outputs(*paths, args.compare_output)

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


def lengths(args):
    """What --max_seq_length names; the longest of them where it is to be chosen."""
    if arguments.AUTO not in args.max_seq_length:
        return args.max_seq_length
    if len(args.max_seq_length) > 1 or args.pack:
        raise UserError(
            f"--max_seq_length {arguments.AUTO}: chooses all lengths of rows of one sentence; give "
            "it alone, without --pack"
        )
    return [LONGEST]


def choose_shapes(args, checkpoint):
    """Tuple of Shape from the flags, and from the lengths of training sentences where they leave
    it open. Raises UserError where they leave it open and there are none."""
    chosen, slots, auto = lengths(args), args.slots, arguments.AUTO in args.max_seq_length
    limit = checkpoint.config.max_position_embeddings
    longest = max(chosen)
    if longest > limit and not auto:
        raise UserError(
            f"--max_seq_length {longest}: the checkpoint has {limit} positions; use {limit} or less"
        )
    if auto or (args.pack and not slots):
        found = fitting.lengths(checkpoint.tokenizer.load(), args.data_dir, args.task_name)
        if found and args.pack:
            slots = fitting.slots(found, longest, checkpoint.config.to_json())
        elif found:
            chosen = fitting.ladder(found, min(longest, limit))
            empty = 100 * fitting.padding(found, chosen)
            text = f"{' '.join(map(str, chosen))} tokens, {empty:.1f} % padding on training data"
            command.say("ladder", text)
        elif auto:
            raise UserError(
                f"--max_seq_length {arguments.AUTO}: {args.data_dir} has no training sentences to "
                "choose from; name the lengths, such as 16 32 64 128"
            )
    return batching.shapes(args.batch_size, chosen, args.pack, slots)


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
    from albert_aie import artifact, calibration, equalise, graph, manifest

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
        save = fastest_that_holds(make, path.name, checkpoint, target, shapes, args, held_out)
        if save is None:
            steps.close()
            command.note(
                f"no recipe keeps flips at {args.max_flips:g} % or less: no file is written; allow "
                "more by --max_flips, or take --precision bf16 or fp32"
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


def fastest_that_holds(make, name, checkpoint, target, shapes, args, sentences):
    """Function that saves the file of the first recipe whose flips on the sentences are few
    enough; None where there is none. Prints what was tried."""
    from albert_aie import recipes, references
    from albert_aie.classifier import Classifier

    tokenizer = checkpoint.tokenizer.load()
    length = shapes[-1].max_seq_length
    encoded = [tokenizer.encode(sentence, length) for sentence in sentences]
    reference, _ = references.logits(checkpoint, encoded, args.prefix_dir, progress=command.bar)
    saves = {}

    def attempt(recipe):
        chosen = target._replace(options={**target.options, "recipe": recipe})
        with tempfile.TemporaryDirectory() as folder:
            tried = Path(folder) / name
            saves[recipe] = make(chosen)
            saves[recipe](tried)
            with Classifier(tried) as classify:
                found = classify.evaluate(sentences)
        return recipes.tried(recipe, found.logits, reference, len(sentences) / found.end_to_end)

    found, recipe = recipes.search(attempt, args.max_flips)
    command.say("tried", "\n".join(recipes.table(found)))
    return saves.get(recipe)


def main(argv=None):
    """Exit code; command.main says what each means."""
    return command.main(parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
