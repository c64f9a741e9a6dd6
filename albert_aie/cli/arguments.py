"""The flags that scripts share. What contradicts itself or the file is refused here, before the
work."""

import os
from pathlib import Path

from .. import backends
from ..base.choose_shapes import CHOSEN, PADDED, SINGLE
from ..base.errors import UserError, some
from ..base.files import check_writable, sha256
from ..data import tasks
from ..run import compare
from ..text.tokenizer_file import KINDS
from . import parsing

# What argparse is told of the flags that several scripts have.
ON = {"action": "store_true"}
NAMES = {"type": parsing.label_map, "metavar": "0=NAME,1=NAME"}
FILES = {  # of --aie_model_dir, which pt_file.open_all opens
    "nargs": "+",
    "default": ["./albert_seq128_bs32.pt"],
    "metavar": "FILE.pt",
    "help": "what export_albert_aie.py wrote: a .pt file; of compiled shapes also several of one "
    "model, or a folder of them (default: ./albert_seq128_bs32.pt)",
}
TEXT_COLUMN = {
    "nargs": "+",
    "metavar": "NAME",
    "help": "column of the texts, two for pairs (default: the task's, else sentence or text)",
}
LABEL_MAP = {
    **NAMES,
    "help": "what the model's classes are called, where its own names are not those of the data",
}
LABEL_NAMES = {
    **NAMES,
    "help": "which classes the numbers in the data's label column are (default: the task's; "
    "Hugging Face's where the columns are label and idx)",
}


def add_task_name(add, default):
    text = f"{', '.join(tasks.TASKS)}, in any spelling (default: {default})"
    add("--task_name", type=tasks.find, metavar="NAME", help=text)


def add_tokenizer(add):
    """--tokenizer, which `tokenizer_file` reads; published as --spm_model_file."""
    text = (
        f"which of the folder's ({', '.join(KINDS)}), or a file elsewhere: a sentencepiece model, "
        "tokenizer.json or vocab.txt (default: a Hugging Face folder's tokenizer.json, else the "
        "one in --pth_dir, else in --prefix_dir/prev_trained_model/*/)"
    )
    add("--tokenizer", "--spm_model_file", metavar="KIND|FILE", help=text)


def tokenizer_file(asked):
    """(path, kind) of what --tokenizer asks for, None where it does not say."""
    if asked is None or asked in KINDS:
        return None, asked
    path = Path(asked)
    named = [kind for kind, tokenizer in KINDS.items() if path.name in tokenizer.NAMES]
    return asked, (named or [{".json": "json", ".txt": "wordpiece"}.get(path.suffix, "spm")])[0]


def add_rows(parser):
    """How run_aie_eval.py makes rows: args.rows, CHOSEN, PADDED or SINGLE."""
    add = parser.add_argument_group("how rows are made").add_mutually_exclusive_group().add_argument
    rows = {"dest": "rows", "action": "store_const", "default": CHOSEN}
    text = "send sentences singly, and time each from text to label"
    add("--one_at_a_time", const=SINGLE, **rows, help=text)
    text = (
        "one sentence in each row of the exported shape, as a card with a compiled shape computes "
        "it (default: as docs/packing.md says, what computes least)"
    )
    add("--padded", const=PADDED, **rows, help=text)


def add_published(parser):
    """What the published evaluation names and the file knows by itself."""
    add = parser.add_argument_group(
        "names of the published command, which may be left out; what contradicts the file is an "
        "error, and the last three are without effect"
    ).add_argument
    add("--batch_size", type=int)
    add("--max_seq_length", type=int)
    add_tokenizer(add)
    add_task_name(add, "the file's")
    add("--model_type", help="a name only")
    add("--model_name_or_path", help="upstream's feature cache has its name; nothing is cached")
    add("--do_lower_case", **ON, help="the file's tokenizer knows what it does")


def add_options(parser, when):
    """A flag for every setting of a backend that is read at "export" or "evaluate"."""
    groups = {}
    for name, declared in backends.options(when).items():
        option = declared[0][1]
        who = ", ".join(backend for backend, _ in declared)
        title = backends.get(who).TITLE if len(declared) == 1 else "engine"
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        default = "the engine's choice" if option.default is None else option.default
        text = f"{who}: {option.help} (default: {default})"
        group.add_argument(f"--{name}", type=option.type, help=text)


def options(args, when):
    """{name: value} of those flags, None where they were left out."""
    return {name: getattr(args, name) for name in backends.options(when)}


def add_comparison(parser):
    """The flags of --compare_cpu; a function that adds another to their group."""
    add = parser.add_argument_group("comparison").add_argument
    add("--compare_cpu", **ON, help="compare with the CPU reference; exit 1 if the gate fails")
    add("--compare_output", metavar="FILE", help="write the comparison to this JSON file")
    text = (
        "albert_pytorch checkout with albert.patch applied: the reference where there is one, and "
        "needed by --graph upstream (default: %(default)s)"
    )
    add("--prefix_dir", default="./albert_pytorch", help=text)
    return add


def check_comparison(args):
    """Raises UserError for flags of the comparison that contradict each other or lead nowhere, and
    where there is no reference."""
    if args.compare_cpu:
        compare.check_reference(args.prefix_dir)
    for name in ("compare_rows", "compare_output"):
        if getattr(args, name, None) is not None and not args.compare_cpu:
            raise UserError(
                f"--{name}: means something with --compare_cpu only; add --compare_cpu or leave "
                "it out"
            )


def check_known(args, saved):
    """The Task to measure. Raises UserError for a flag that says something else than the file
    `saved` (an Artifact) and names both."""
    sizes = sorted({shape.batch_size for shape in saved.shapes})
    # the longest is that to which sentences are cut
    facts = {"batch_size": sizes, "max_seq_length": [saved.shape.max_seq_length]}
    for flag, values in facts.items():
        given = getattr(args, flag)
        if given is not None and given not in values:
            raise UserError(
                f"--{flag} {given}: {saved.path} was compiled for {some(map(str, values))}; leave "
                f"the flag out, or export a file for {given}"
            )
    (path, kind), own = tokenizer_file(args.tokenizer), saved.tokenizer
    if path and not Path(path).is_file():
        raise UserError(f"{path}: no such file; leave --tokenizer out, the .pt holds its tokenizer")
    if path and sha256(path) != own.sha256 or kind not in (None, own.kind):
        digest = f" (sha256 {sha256(path)[:12]})" if path else ""
        raise UserError(
            f"--tokenizer {args.tokenizer}{digest}: {saved.path} holds the {own.kind} tokenizer "
            f"{own.sha256[:12]}; leave the flag out, or export with this one"
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
    rows = getattr(args, "rows", CHOSEN)
    if rows == PADDED and any(shape.slots for shape in saved.shapes):
        raise UserError(f"--padded: {saved.path} was compiled for packed rows; leave the flag out")
    if rows == SINGLE and args.streams not in (None, 1):
        raise UserError("--one_at_a_time: keeps one stream busy; leave --streams out")
    target = saved.target._replace(options=options(args, "evaluate"))
    try:
        backends.settings(target, "evaluate")
    except UserError as error:
        where = f"{saved.path} is for {target.backend} on {target.device}"
        raise UserError(f"{where}: {error}") from None
    return target


def check_outputs(*paths, inputs=(), saved=None):
    """Raises UserError if one of these files could not be written, two are one, or one is an input
    or of the Artifact `saved`; None is none."""
    needed = *inputs, *(file.path for file in (saved.files if saved else ()))
    taken = {os.path.realpath(path) for path in filter(None, needed)}
    for path in filter(None, paths):
        check_writable(path)
        real = os.path.realpath(path)
        if real in taken and (os.path.isfile(real) or not os.path.exists(real)):
            raise UserError(f"{path}: is read or written for something else too; take another name")
        taken.add(real)
