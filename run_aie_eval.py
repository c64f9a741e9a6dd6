#!/usr/bin/env python
"""albert_seq{S}_bs{B}.pt + SST-2 -> predictions, accuracy and throughput.

python run_aie_eval.py --aie_model_dir=albert_seq128_bs32.pt --data_dir=./dataset/SST-2
"""

import sys
import time
from pathlib import Path

from albert_aie import UserError, artifact, backends, command, files, machine


def parse_args(argv):
    parser = command.Parser(__doc__)
    add = parser.add_argument_group("file and data").add_argument
    add(
        "--aie_model_dir",
        default="./albert_seq128_bs32.pt",
        help="the .pt file that export_albert_aie.py wrote (default: %(default)s)",
    )
    add("--data_dir", help="folder of GLUE's SST-2 (default: ./albert_pytorch/dataset/SST-2)")
    add(
        "--demo",
        action="store_true",
        help="take --data_dir and --pth_dir from this repository's demo/ unless given",
    )
    add(
        "--split",
        choices=("dev", "train", "test"),
        default="dev",
        help="which file of it; test has no labels: predictions only (default: %(default)s)",
    )
    add(
        "--output_dir",
        help="write eval.json and predictions.tsv here; nothing else in the folder is touched",
    )
    command.add_label_map(add)
    add("--verbose", action="store_true", help="print more; eval.json has it all")
    command.add_comparison(parser)
    add("--pth_dir", help="checkpoint that the file was made from, for --compare_cpu")
    command.add_options(parser, "evaluate")
    known = parser.add_argument_group(
        "known from the file", "may be left out; a value that contradicts the file is an error"
    )
    known.add_argument("--batch_size", type=int)
    known.add_argument("--max_seq_length", type=int)
    known.add_argument("--spm_model_file")
    known.add_argument("--tokenizer", choices=("spm", "json"))
    known.add_argument(
        "--task_name", default="SST-2", help="SST-2 is the only task (default: %(default)s)"
    )
    inert = parser.add_argument_group("accepted for the published command line, without effect")
    inert.add_argument("--model_type", help="a name only")
    inert.add_argument(
        "--model_name_or_path", help="upstream names its feature cache after it; nothing is cached"
    )
    inert.add_argument(
        "--do_lower_case", action="store_true", help="the file's tokenizer knows what it does"
    )
    args = parser.parse_args(argv)
    return command.folders(args, None, "./albert_pytorch/dataset/SST-2")


def run(args):
    from albert_aie import compare, report, tasks, text
    from albert_aie.evaluate import evaluate

    command.check_comparison(args)
    if args.compare_cpu and not args.pth_dir:
        raise UserError(
            "--compare_cpu: name the checkpoint that the file was made from with --pth_dir"
        )
    saved = artifact.open_pt(args.aie_model_dir)
    target = read_target(args, saved)
    check_known(args, saved)
    machine.check_memory(saved.shape, target.device, saved.manifest["config"]["intermediate_size"])
    examples = tasks.read(args.data_dir, args.split).for_model(saved.classes(args.label_map))
    command.note(examples.note)
    if args.compare_cpu:
        where = args.pth_dir, args.spm_model_file, args.prefix_dir
        checkpoint, note = compare.checkpoint_of(saved, *where)
        command.note(note)
        command.note(text.disagreement(checkpoint.tokenizer, examples.sentences))
    results = [Path(args.output_dir) / name for name in report.RESULTS] if args.output_dir else []
    command.check_outputs(*results, args.compare_output)

    started = time.perf_counter()
    tokenizer = saved.tokenizer.load()
    runner = backends.get(target.backend).load(saved, target)
    load = time.perf_counter() - started
    try:
        evaluation = evaluate(runner, saved, tokenizer, examples.sentences, command.bar)
    finally:
        runner.close()
    result = report.report(report.Scored(evaluation, saved, runner, examples, load))
    paths = []
    if args.output_dir:  # before anything is printed: a terminal may fail
        paths = report.write_results(args.output_dir, result, evaluation.logits, examples)
    for name, line in report.lines(result, args.verbose):
        command.say(name, line)
    if paths:
        command.say("wrote", "\n".join(map(str, paths)))
    code = 0 if result["sentences_scored"] == result["sentences_total"] else 1
    if not args.compare_cpu:
        return code
    examples = examples.first(args.compare_rows)
    got = evaluation.logits[: args.compare_rows]
    comparison = compare.against_reference(
        got, saved, checkpoint, examples, args.prefix_dir, command.bar
    )
    return max(code, command.conclude(comparison, args))


def read_target(args, saved):
    """The file's target with the options of the flags; one that does not fit names the file."""
    target = saved.target._replace(options=command.options(args, "evaluate"))
    try:
        backends.settings(target, "evaluate")
    except UserError as error:
        raise UserError(
            f"{saved.path} is for {target.backend} on {target.device}: {error}"
        ) from None
    return target


def check_known(args, saved):
    """A flag that says something else than the file is an error that names both."""
    if args.task_name.upper() != "SST-2":
        raise UserError(f"--task_name {args.task_name}: only SST-2 can be evaluated")
    facts = {**saved.shape._asdict(), "tokenizer": saved.tokenizer.kind}
    for flag in ("batch_size", "max_seq_length", "tokenizer"):
        given, known = getattr(args, flag), facts[flag]
        if given is not None and given != known:
            raise UserError(
                f"--{flag} {given}: {saved.path} was compiled for {known}; leave the flag out, or "
                f"export a file for {given}"
            )
    if args.spm_model_file:
        path, known = Path(args.spm_model_file), saved.tokenizer
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; leave --spm_model_file out, the .pt holds its tokenizer"
            )
        given = files.sha256(path)
        if given != known.sha256:
            raise UserError(
                f"--spm_model_file {path}: sha256 {given[:12]}, but {saved.path} holds the "
                f"{known.kind} tokenizer {known.sha256[:12]}; leave the flag out, or export with "
                "this file"
            )


def main(argv=None):
    """Exit code; command.main says what each means."""
    return command.main(parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
