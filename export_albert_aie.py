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
from typing import NamedTuple

from albert_aie import backends
from albert_aie.albert.layouts import UPSTREAM_COMMIT
from albert_aie.backends import speed
from albert_aie.base import choose_shapes, machine
from albert_aie.base.errors import UserError
from albert_aie.base.shapes import Shape, full_batch
from albert_aie.cli import arguments, console, export_arguments, parsing
from albert_aie.data import datasets, tasks
from albert_aie.run.compare import check_reference


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument_group("checkpoint and data").add_argument
    arguments.add_task_name(add, "SST-2")
    text = "checkpoint: albert_pytorch output folder, Hugging Face folder or hub id (default: "
    add("--pth_dir", help=f"{text}./albert_pytorch/outputs/TASK)")
    text = "the task's folder, read by --compare_cpu and --precision int8 (default: "
    add("--data_dir", help=f"{text}./albert_pytorch/dataset/TASK)")
    arguments.add_tokenizer(add)
    add("--label_map", **arguments.LABEL_MAP)
    text = "the checkpoint is of albert_pytorch before 2020-01-01, whose classifier did not add 0.1"
    add("--no_shift", **arguments.ON, help=text)
    text = "where albert_seq{S}_bs{B}.pt is written (default: %(default)s)"
    add("--save_dir", default="./", help=text)
    export_arguments.add_shape(parser)
    export_arguments.add_target(parser)
    add = arguments.add_comparison(parser)
    text = "compare the first N sentences instead of all"
    add("--compare_rows", type=parsing.at_least(1), metavar="N", help=text)
    arguments.add_options(parser, "export")
    args = parser.parse_args(argv)
    args.task_name = args.task_name or tasks.SST2
    args.pth_dir = args.pth_dir or f"./albert_pytorch/outputs/{args.task_name.name}"
    args.data_dir = args.data_dir or f"./albert_pytorch/dataset/{args.task_name.name}"
    return args


def run(args):
    from albert_aie.albert import graph
    from albert_aie.artifact import pt_file
    from albert_aie.data import metrics
    from albert_aie.run import compare, evaluate, om_kit
    from albert_aie.text.tokenizer_file import disagreement

    arguments.check_comparison(args)
    task = args.task_name
    target = choose_target(args)
    om_kit.check(args.om_kit, target, args.soc_version)
    engine = backends.get(target.backend)
    graph_name = graph.choose(args.graph, engine.GRAPH, args.pack, args.prefix_dir)
    free_sizes = graph_name == "fused" and engine.form(target.precision).free_sizes
    shapes = export_arguments.shapes(args, free_sizes)
    checkpoint = read_checkpoint(args).named(task, args.label_map)
    export_arguments.check_length(shapes, checkpoint.config)
    for shape in shapes:
        machine.check_memory(shape, target.device, checkpoint.config.intermediate_size)
    sentences, held_out = read_calibration(args, target, checkpoint)
    if args.compare_cpu:
        metrics.check(task)
    if args.compare_cpu or args.om_kit:
        whole = datasets.read(args.data_dir, task=task).for_model(checkpoint.config.label_names)
        examples = whole.first(args.compare_rows)
        console.note(examples.note)
        console.note(disagreement(checkpoint.tokenizer, examples.sentences))
    paths = [Path(args.save_dir) / pt_file.file_name(shape) for shape in shapes]
    arguments.check_outputs(*paths, args.compare_output)
    console.note(replaced(paths, target))

    model = Model(checkpoint, graph_name, free_sizes, sentences, held_out, args.prefix_dir)
    chosen = args.precision
    for path, shape in zip(paths, shapes):
        try:
            target = export(path, model, target, shape, args, chosen)
        except backends.Unfit as error:
            console.note(f"{path} is not written: {error}")
            return 1
        chosen = True  # files that belong together have one precision
    if not (args.compare_cpu or args.om_kit):
        return 0
    saved = pt_file.open_all(paths)
    if args.om_kit:
        kit = saved, checkpoint, whole, args.soc_version, args.prefix_dir
        console.say("om kit", om_kit.write(args.om_kit, *kit))
    if not args.compare_cpu:
        return 0
    with evaluate.logits_in_fresh_process(paths, target, examples.sentences) as answer:
        given = saved, checkpoint, examples, args.prefix_dir, console.bar
        reference = compare.reference_of(*given)  # meanwhile
        names, logits = zip(*answer())
    compared = compare.against_reference(logits, reference, saved, examples)
    return console.conclude(compared, args, names)


def choose_target(args):
    """The Target; its precision is the first that may be the default where --precision leaves it
    open (see `build`)."""
    backend, device, why = backends.pick(args.backend, args.device)
    engine = backends.get(backend)
    default = engine.candidates(device)[0]
    options = arguments.options(args, "export")
    target = backends.Target(backend, device, args.precision or default, options)
    backends.check(target)
    if args.calibration and target.precision not in engine.CALIBRATED:
        raise UserError(
            "--calibration: means something with --precision int8 or --backend onnx only; leave it "
            "out"
        )
    if args.max_flips is not None:
        if target.precision != "int8":
            raise UserError("--max_flips: means something with --precision int8 only; leave it out")
        if args.task_name.regression:
            raise UserError("--max_flips: a regression has no labels to flip; leave it out")
        check_reference(args.prefix_dir)
    console.say("backend", f"{backend} on {device} ({why})")
    return target


def replaced(paths, target):
    """What the user should know of files that are there for another backend, device or precision;
    empty where there are none."""
    from albert_aie.artifact import pt_file

    new = f"{target.precision} ({target.backend} on {target.device})"
    for path in filter(Path.is_file, paths):
        with contextlib.suppress(UserError):  # what is no file of ours has nothing to tell
            held = pt_file.open_pt(path).target
            old = f"{held.precision} ({held.backend} on {held.device})"
            if old != new:
                return f"{path}: is {old} and is replaced by {new}; --save_dir keeps both"
    return ""


def read_calibration(args, target, checkpoint):
    """(sentences, held-out sentences) where the engine takes real ones for the target's precision.
    It can do without for fp32, and for random weights."""
    from albert_aie.run import calibration

    if target.precision not in backends.get(target.backend).CALIBRATED:
        return [], []
    given = args.data_dir, args.task_name, args.calibration, args.max_flips is not None
    try:
        sentences, held_out, note = calibration.read(*given)
    except UserError:
        needed = target.precision != "fp32" and not checkpoint.config.random_weights
        if args.calibration or needed:
            raise
        return [], []
    console.note(note if target.precision == "int8" else "")
    return sentences, held_out


def read_checkpoint(args):
    from albert_aie.albert import checkpoint

    tokenizer_file, kind = arguments.tokenizer_file(args.tokenizer)
    given = args.pth_dir, tokenizer_file, args.prefix_dir
    found = checkpoint.load(*given, shift=not args.no_shift, kind=kind)
    console.say("checkpoint", f"{found.origin}\n{found.layout} layout, sha256 {found.sha256[:12]}")
    console.say("tokenizer", str(found.tokenizer))
    return found


class Model(NamedTuple):
    """What is compiled: a Checkpoint as the graph of that name. int8 takes its ranges from
    `sentences`, and --max_flips counts on those `held_out`."""

    checkpoint: object
    graph_name: str
    free_sizes: bool
    sentences: list
    held_out: list
    prefix_dir: str

    @property
    def upstream_commit(self):
        return UPSTREAM_COMMIT if self.graph_name == "upstream" else None


class Build(NamedTuple):
    """What was compiled of a Model for a Target, and is not yet written; `faster` is what
    speed.faster has measured, if it was asked."""

    model: Model
    target: backends.Target
    shape: Shape
    task: object
    compiled: backends.Compiled
    faster: dict

    def save(self, path):
        from albert_aie.artifact import manifest, pt_file

        model, target, shape, task, compiled, faster = self
        described = manifest.describe(model, compiled, target, shape, faster, task)
        pt_file.save(path, compiled, described, model.checkpoint.tokenizer)


def export(path, model, target, shape, args, chosen):
    """Build, trace, compile and save. The Target that was compiled for; `chosen`: in the target's
    precision, else in that which is fastest. Raises backends.Unfit where no file is to be
    written."""
    started = time.perf_counter()
    make = partial(build, model, shape=shape, task=args.task_name, chosen=chosen)
    with console.bar(total=2, desc="trace and compile", unit="step") as steps:
        made = make(target) if args.max_flips is None else find_recipe(make, path, target, args)
        steps.update()
        made.save(path)
    seconds = time.perf_counter() - started
    target, compiled, faster = made.target, made.compiled, made.faster
    if faster:
        times = ", ".join(f"{name} {ratio:.2f}" for name, ratio in faster.items())
        rest = speed.fastest(faster, target.precision)
        floating = f", the rest in {rest}" * (target.precision == "int8")
        console.say("precision", f"{target.precision}{floating} (speed on this machine: {times})")
    graph = f"{model.graph_name} graph, {target.precision}, {shape}"
    console.say("compiled", f"{graph}, {seconds:.1f} s")
    for name, text in compiled.lines:
        console.say(name, text)
    for each in (path, *map(path.with_suffix, compiled.files)):
        console.say("wrote", f"{each} ({each.stat().st_size / 1e6:.1f} MB)")
    if model.checkpoint.config.random_weights:
        console.note("random weights: this file measures speed; no accuracy is printed for it")
    return target


def find_recipe(make, path, target, args):
    """The Build of the fastest int8 recipe that keeps to --max_flips."""
    from albert_aie.run import recipes

    model, length = make.args[0], make.keywords["shape"].max_seq_length
    held = length, model.held_out, args.prefix_dir, console.bar
    found, tried = recipes.fastest(make, path.name, args.max_flips, model.checkpoint, target, *held)
    console.say("tried", "\n".join(recipes.table(tried)))
    if found is None:
        raise backends.Unfit(
            f"no recipe keeps flips at {args.max_flips:g} % or less; allow more by --max_flips, or "
            "take --precision bf16 or fp32"
        )
    return found


def build(model, target, shape, task, chosen):
    """Build. Not `chosen`, its precision is that which this machine computes fast enough of those
    that may be the default; what int8 leaves in floating point is always chosen so."""
    names = backends.get(target.backend).candidates(target.device)
    if target.precision == "int8":
        compiled = dict.fromkeys(names, compile_model(model, target, shape))
    else:
        names = (target.precision,) if chosen else names
        targets = [target._replace(precision=name) for name in names]
        compiled = {one.precision: compile_model(model, one, shape) for one in targets}
    batch = full_batch(choose_shapes.timed(shape, model.free_sizes))
    faster = speed.faster(target.backend, compiled, target.device, batch)
    best = speed.fastest(faster, target.precision) if faster else names[0]
    if target.precision == "int8":
        compiled[best].options["floating"] = best
    else:
        target = target._replace(precision=best)
    return Build(model, target, shape, task, compiled[best], faster)


def compile_model(model, target, shape):
    """Compiled in the target's precision."""
    from albert_aie.albert import equalise, graph
    from albert_aie.run import calibration

    engine, checkpoint = backends.get(target.backend), model.checkpoint
    source = equalise.equalise(checkpoint) if target.precision == "int8" else checkpoint
    form = engine.form(target.precision)
    module = graph.build(source, model.graph_name, shape, model.prefix_dir, form)
    # a program of free sizes is traced on little, which is quicker
    traced = Shape(2, min(16, shape.max_seq_length)) if model.free_sizes else shape
    inputs = graph.example_inputs(checkpoint.config, traced)
    rows = choose_shapes.choose([shape], model.free_sizes and engine.grid(target.precision))
    ranges = partial(calibration.batches, checkpoint.tokenizer.load(), model.sentences, rows)
    return engine.compile(module, inputs, target, ranges)


main = partial(console.main, parse_args, run)  # gives the exit code


if __name__ == "__main__":
    sys.exit(main())
