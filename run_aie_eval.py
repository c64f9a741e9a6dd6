#!/usr/bin/env python
"""albert_seq{S}_bs{B}.pt + labelled or own text -> predictions, accuracy and throughput.

python run_aie_eval.py --aie_model_dir=albert_seq128_bs32.pt --data_dir=./dataset/SST-2
python run_aie_eval.py --aie_model_dir=albert_seq128_bs32.pt --text "a fine film"
"""

import sys
import time
from functools import partial

from albert_aie.artifact import pt_file
from albert_aie.backends import speed
from albert_aie.base import files, machine
from albert_aie.base.choose_shapes import CHOSEN
from albert_aie.base.errors import UserError
from albert_aie.cli import arguments, console, own_text, parsing
from albert_aie.data import datasets
from albert_aie.run.classifier import Classifier, answers


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add = parser.add_argument_group("file and data").add_argument
    add("--aie_model_dir", **arguments.FILES)
    add("--data_dir", help="the task's folder (default: ./albert_pytorch/dataset/TASK)")
    text = "which file of it; test has no labels: predictions only (default: dev)"
    add("--split", choices=("dev", "train", "test"), help=text)
    add("--label_map", **arguments.LABEL_MAP)
    add("--label_names", **arguments.LABEL_NAMES)
    own_text.add_flags(parser)
    arguments.add_rows(parser)
    text = "score what ais_bench has written in a kit of --om_kit, instead of running the file"
    add("--om_results", metavar="DIR", help=text)
    add = parser.add_argument_group("results").add_argument
    text = "write eval.json and predictions.tsv here; nothing else in the folder is touched"
    add("--output_dir", help=text)
    add("--report", metavar="FILE.html", help="write a page of plots and errors, all in one file")
    add("--json", **arguments.ON, help="print eval.json on standard output, nothing else")
    add = arguments.add_comparison(parser)
    add("--pth_dir", help="checkpoint that the file was made from")
    arguments.add_options(parser, "evaluate")
    arguments.add_published(parser)
    return parser.parse_args(argv)


def run(args):
    arguments.check_comparison(args)
    own = own_text.check(args)
    if args.om_results and (own or args.rows != CHOSEN):
        raise UserError("--om_results: holds the answers of a task's file; leave other rows out")
    saved = pt_file.open_all(args.aie_model_dir)
    target = arguments.target(args, saved)
    task = arguments.check_known(args, saved)
    for shape in saved.shapes:
        machine.check_memory(shape, target.device, saved.manifest["config"]["intermediate_size"])
    timed = not own or own_text.wants_figures(args)
    if not args.om_results:
        console.note(speed.note_speed(saved, timed))
    return measure(args, own, saved, target, task) if timed else answer(args, saved, target)


def measure(args, own, saved, target, task):
    """Predictions and figures of a task's files, or of the user's `own` text."""
    from albert_aie.report import figures, page, results
    from albert_aie.run import compare, evaluate, om_kit

    examples, write_answers = read_examples(args, own, saved, task)
    checkpoint = read_checkpoint(args, saved, examples) if args.compare_cpu else None
    outputs = results.paths(args.output_dir)
    page.check(args.report)
    asked = *outputs, args.compare_output, args.report
    arguments.check_outputs(*asked, inputs=[examples.path], saved=saved)
    arguments.check_outputs(args.output, inputs=asked, saved=saved)  # it may replace --input

    started = time.perf_counter()
    runner = args.om_results and om_kit.Outputs(args.om_results, saved, examples)
    with Classifier(saved, args.label_map, runner, **target.options) as classify:
        load = time.perf_counter() - started
        how = {"rows": args.rows, "warmup": 0 if runner else evaluate.WARMUP}
        evaluation = classify.evaluate(examples.sentences, progress=console.bar, **how)
        host = figures.hosted(target.device, args.command)
        scored = figures.Scored(evaluation, saved, classify.runner, examples, load, host)
        result = figures.collect(scored)
    if args.output_dir:  # before anything is printed: a terminal may fail
        results.write(args.output_dir, result, evaluation.logits, examples)
    if args.output:
        write_answers(classify.names, answers(evaluation.logits, classify.names))
        outputs.append(args.output)
    for name, line in figures.lines(result):
        console.say(name, line)
    if outputs:
        console.say("wrote", "\n".join(map(str, outputs)))
    code, compared = 0 if result["sentences_scored"] == result["sentences_total"] else 1, []
    if checkpoint:
        given = saved, checkpoint, examples, args.prefix_dir, console.bar
        reference = compare.reference_of(*given)
        logits = [evaluation.logits]
        (comparison,) = compare.against_reference(logits, reference, saved, examples)
        code = max(code, console.conclude([comparison], args))
        compared = comparison.lines()
        result = {**result, "comparison": comparison.verdict()}
        if args.output_dir:
            results.write(args.output_dir, result, evaluation.logits, examples)
    if args.report:
        text = page.of_evaluation(result, evaluation.logits, examples, compared)
        files.write_text(args.report, text)
        console.say("wrote", args.report)
    if args.json:
        console.print_json(result)
    return code


def read_examples(args, own, saved, task):
    """(Examples of the task's files or of the user's `own` text, function that writes their
    answers to --output)."""
    from albert_aie.data import metrics

    metrics.check(task)
    names, write_answers = saved.classes(args.label_map), None
    if own:
        examples, write_answers = own_text.read(args, task.of(names))
    else:
        folder = args.data_dir or f"./albert_pytorch/dataset/{task.name}"
        examples = datasets.read(folder, args.split or "dev", task, args.label_names)
    examples = examples.for_model(names)
    console.note(examples.note)
    return examples, write_answers


def read_checkpoint(args, saved, examples):
    """The Checkpoint that the file was made from, to compare with."""
    from albert_aie.run import compare
    from albert_aie.text.tokenizer_file import disagreement

    if not args.pth_dir:
        raise UserError("--compare_cpu: name the file's checkpoint with --pth_dir")
    tokenizer_file, _ = arguments.tokenizer_file(args.tokenizer)
    checkpoint, note = compare.checkpoint_of(saved, args.pth_dir, tokenizer_file, args.prefix_dir)
    console.note(note)
    console.note(disagreement(checkpoint.tokenizer, examples.sentences))
    return checkpoint


def answer(args, saved, target):
    """Labels of a user's own text, each as soon as it is known."""
    to_file = args.output not in (None, "-")
    arguments.check_outputs(args.output if to_file else None, saved=saved)
    started = time.perf_counter()
    with Classifier(saved, args.label_map, **target.options) as classify:
        counts = own_text.answer(classify, args)
    seconds = time.perf_counter() - started
    if to_file:
        text = f"{args.output} (texts: {counts['texts']}, {seconds:.1f} s, load included)"
        console.say("wrote", text)
    if saved.manifest["random_weights"]:
        console.note("random weights: the labels mean nothing")
    if counts["cut"]:
        console.note(f"texts cut to {saved.shape.max_seq_length} tokens: {counts['cut']}")
    if lost := counts["unanswered"]:
        console.note(f"texts without an answer, for their logits are not finite: {lost}")
    return 1 if lost else 0


main = partial(console.main, parse_args, run)  # gives the exit code


if __name__ == "__main__":
    sys.exit(main())
