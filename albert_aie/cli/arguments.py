"""The flags that scripts share, and what they come to: folders, options, the file to measure. What
contradicts itself or the file is refused here, before the work."""

import argparse
import re
from pathlib import Path

from .. import backends
from ..base.choose_shapes import PADDED, SINGLE
from ..base.errors import UserError, some
from ..base.files import check_writable, sha256
from ..base.shapes import TOKENS, Shape, packed
from ..data import tasks
from ..run import compare
from ..text.tokenizer_file import KINDS

DEMO = Path(__file__).resolve().parents[2] / "demo"


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage and exit."""

    def __init__(self, description):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=form)

    def error(self, message):
        message = re.sub(r"^argument (\S+): ", r"\1 ", message)
        for flag, reason in RETIRED.items():
            if message.startswith(f"unrecognized arguments: {flag}"):
                raise UserError(f"{flag}: {reason}")
        raise UserError(f"{message}; --help lists the flags")


def at_least(minimum):
    """The type of a flag that takes whole numbers from `minimum` on."""

    def whole_number(value):
        try:
            number = int(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{value}: not a whole number") from None
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{value}: must be {minimum} or more")
        return number

    return whole_number


def percent(value):
    """The type of --max_flips: a share in percent."""
    try:
        number = float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value}: not a number") from None
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{value}: must be 0 to 100 (percent)")
    return number


LONGEST = 128  # tokens, the default of --max_seq_length
# What flags were until file format 4, and what has become of it.
ITSELF = "on openvino and torchscript the file chooses its rows by itself, on aie"
RETIRED = {
    "--slots": f"{ITSELF} a row carries one sentence for every 4 tokens; leave the flag out",
    "auto": f"{ITSELF} name the lengths, such as 16 32 64 128",
}


def length(value):
    """The type of --max_seq_length: a whole number from batching.TOKENS on."""
    if value == "auto":
        raise argparse.ArgumentTypeError(f"{value}: {RETIRED[value]}")
    return at_least(TOKENS)(value)


def add_shape(parser):
    """--batch_size, --max_seq_length and --pack, which `shapes` reads."""
    add = parser.add_argument_group(
        "shape",
        "openvino and torchscript choose their rows when the sentences are there, within this "
        "shape; aie and --graph upstream compile it: a file for each of several values",
    ).add_argument
    add(
        "--batch_size",
        nargs="+",
        type=at_least(1),
        default=[32],
        metavar="N",
        help="times --max_seq_length the most tokens that one call computes (default: 32)",
    )
    add(
        "--max_seq_length",
        nargs="+",
        type=length,
        default=[LONGEST],
        metavar="N",
        help=f"tokens at which a sentence is cut, [CLS] and [SEP] included (default: {LONGEST})",
    )
    add(
        "--pack",
        action="store_true",
        help="where the shape is compiled: rows that carry several sentences each, in "
        "albert_seq{S}_bs{B}_packed.pt",
    )


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


def label_map(value):
    """The type of --label_map: "1=POSITIVE,0=NEGATIVE" -> {1: "POSITIVE", 0: "NEGATIVE"}."""
    names = {}
    for part in value.split(","):
        number, _, name = part.partition("=")
        number, name = number.strip(), name.strip()
        if not (number.isdecimal() and name):
            raise argparse.ArgumentTypeError(f"{part!r}: not NUMBER=NAME, such as 0=negative")
        if int(number) in names:
            raise argparse.ArgumentTypeError(f"{value}: names class {int(number)} twice")
        names[int(number)] = name
    return names


def add_files(add):
    """--aie_model_dir, which artifact.open_all opens."""
    add(
        "--aie_model_dir",
        nargs="+",
        default=["./albert_seq128_bs32.pt"],
        metavar="FILE.pt",
        help="what export_albert_aie.py wrote: a .pt file; of compiled shapes also several of one "
        "model, or a folder of them (default: ./albert_seq128_bs32.pt)",
    )


def add_text_column(add):
    add(
        "--text_column",
        nargs="+",
        metavar="NAME",
        help="column of the texts, two for pairs (default: the task's, else sentence or text)",
    )


def add_label_map(add):
    add(
        "--label_map",
        type=label_map,
        metavar="0=NAME,1=NAME",
        help="what the model's classes are called, where its own names are not those of the data",
    )


def add_label_names(add):
    add(
        "--label_names",
        type=label_map,
        metavar="0=NAME,1=NAME",
        help="which classes the numbers in the data's label column are (default: the task's; "
        "Hugging Face's where the columns are label and idx)",
    )


def add_task_name(add, default):
    add(
        "--task_name",
        type=tasks.find,
        metavar="NAME",
        help=f"{', '.join(tasks.TASKS)}, in any spelling (default: {default})",
    )


TOKENIZER_FILES = {"spm_model_file": "spm", "vocab_file": "wordpiece"}  # flag: its kind


def add_tokenizer(add):
    """The flags that tokenizer_file reads."""
    add(
        "--spm_model_file",
        help="sentencepiece model (default: in --pth_dir, else in "
        "--prefix_dir/prev_trained_model/*/)",
    )
    add("--vocab_file", help="the same for the vocab.txt of a WordPiece tokenizer")
    add(
        "--tokenizer",
        choices=tuple(KINDS),
        help="sentencepiece model, tokenizer.json or vocab.txt (default: json where a Hugging Face "
        "folder has it, else the one that is there)",
    )


def tokenizer_file(args):
    """(path, kind) of the tokenizer that the flags name, None where they do not say. Raises
    UserError for flags that contradict each other."""
    given = [(flag, kind) for flag, kind in TOKENIZER_FILES.items() if getattr(args, flag)]
    if len(given) > 1:
        raise UserError(
            "--spm_model_file, --vocab_file: a checkpoint has one; leave one of them out"
        )
    for flag, kind in given:
        if args.tokenizer not in (None, kind):
            raise UserError(
                f"--{flag}, --tokenizer {args.tokenizer}: contradict each other; leave one of "
                "them out"
            )
        return getattr(args, flag), kind
    return None, args.tokenizer


def add_quiet(add):
    add("--quiet", action="store_true", help="print errors only; files and exit code say the rest")


def add_options(parser, when):
    """A flag for every setting of a backend that is read at "export" or "evaluate"."""
    groups = {}
    for name, declared in backends.options(when).items():
        option = declared[0][1]
        who = ", ".join(backend for backend, _ in declared)
        title = backends.get(who).TITLE if len(declared) == 1 else "engine"
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        default = "the engine's choice" if option.default is None else option.default
        if option.type is bool:
            group.add_argument(f"--{name}", action="store_true", help=f"{who}: {option.help}")
        else:
            text = f"{who}: {option.help} (default: {default})"
            group.add_argument(f"--{name}", type=option.type, choices=option.choices, help=text)


def options(args, when):
    """{name: value} of those flags, None where they were left out."""
    return {name: getattr(args, name) for name in backends.options(when)}


UPSTREAM = "./albert_pytorch"


def folders(args, task, pth_dir=None):
    """Fills in --pth_dir and --data_dir where they were left out: the demo's, else albert_pytorch's
    for the Task (`pth_dir` None: no checkpoint)."""
    defaults = pth_dir and pth_dir.format(task.name), f"{UPSTREAM}/dataset/{task.name}"
    if args.demo and task == tasks.SST2:
        defaults = DEMO / "checkpoint", DEMO / "SST-2"
    elif args.demo:
        raise UserError(
            f"--demo: this repository's data is SST-2's, not {task.name}'s; leave it out"
        )
    args.pth_dir, args.data_dir = args.pth_dir or defaults[0], args.data_dir or defaults[1]


def add_comparison(parser):
    """The flags of --compare_cpu."""
    add = parser.add_argument_group("comparison").add_argument
    add(
        "--compare_cpu",
        action="store_true",
        help="compare with the CPU reference; exit 1 if the gate fails",
    )
    add(
        "--compare_rows",
        type=at_least(1),
        metavar="N",
        help="compare the first N sentences instead of all",
    )
    add("--compare_output", metavar="FILE", help="write the comparison to this JSON file")
    add(
        "--prefix_dir",
        default="./albert_pytorch",
        help="albert_pytorch checkout with albert.patch applied: the reference where there is one, "
        "and needed by --graph upstream (default: %(default)s)",
    )


def check_comparison(args):
    """Raises UserError for flags of the comparison that contradict each other or lead nowhere, and
    where there is no reference."""
    if args.compare_cpu:
        compare.check_reference(args.prefix_dir)
    for name in ("compare_rows", "compare_output"):
        if getattr(args, name) is not None and not args.compare_cpu:
            raise UserError(
                f"--{name}: means something with --compare_cpu only; add --compare_cpu or leave "
                "it out"
            )


def check_known(args, saved):
    """The Task to measure. Raises UserError for a flag that says something else than the file
    `saved` (an Artifact) and names both."""
    facts = {
        "batch_size": sorted({shape.batch_size for shape in saved.shapes}),
        "max_seq_length": [saved.shape.max_seq_length],  # the length that sentences are cut to
        "tokenizer": [saved.tokenizer.kind],
    }
    for flag, known in facts.items():
        given = getattr(args, flag)
        if given is not None and given not in known:
            raise UserError(
                f"--{flag} {given}: {saved.path} was compiled for {some(map(str, known))}; leave "
                f"the flag out, or export a file for {given}"
            )
    for flag in TOKENIZER_FILES:
        path, known = getattr(args, flag), saved.tokenizer
        if path and not Path(path).is_file():
            raise UserError(
                f"{path}: no such file; leave --{flag} out, the .pt holds its tokenizer"
            )
        if path and sha256(path) != known.sha256:
            raise UserError(
                f"--{flag} {path}: sha256 {sha256(path)[:12]}, but {saved.path} holds the "
                f"{known.kind} tokenizer {known.sha256[:12]}; leave the flag out, or export with "
                "this file"
            )
    task = args.task_name or saved.task
    if task.trained_as != saved.task.name:
        raise UserError(
            f"--task_name {task.name}: {saved.path} was exported for {saved.task.name}; leave the "
            f"flag out, or export a checkpoint that was fine-tuned for {task.name}"
        )
    return task


def target(args, saved):
    """The file's target with the options of the flags; one that does not fit names the file."""
    if getattr(args, "rows", None) == PADDED and any(shape.slots for shape in saved.shapes):
        raise UserError(f"--padded: {saved.path} was compiled for packed rows; leave the flag out")
    if getattr(args, "rows", None) == SINGLE and args.streams not in (None, 1):
        raise UserError(
            "--one_at_a_time: a sentence alone keeps one stream busy; leave --streams out"
        )
    target = saved.target._replace(options=options(args, "evaluate"))
    try:
        backends.settings(target, "evaluate")
    except UserError as error:
        raise UserError(
            f"{saved.path} is for {target.backend} on {target.device}: {error}"
        ) from None
    return target


def check_outputs(*paths):
    """Raises UserError if one of these files could not be written; None is no file."""
    for path in filter(None, paths):
        check_writable(path)
