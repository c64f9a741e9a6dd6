"""A user's own text: the flags for it, where it is read and where its answers go."""

import contextlib
import sys
from collections import Counter
from dataclasses import replace

from ..base import terminal
from ..base.choose_shapes import CHOSEN
from ..base.errors import UserError
from ..base.files import check_readable, replacing
from ..data import datasets, formats, records
from ..run.classifier import chunks
from . import arguments


def add_flags(parser):
    add = parser.add_argument_group("your own text, instead of a task's files").add_argument
    text = "one text, or the two of a pair: prints its label"
    add("--text", nargs="+", metavar="TEXT", help=text)
    add("--input", metavar="FILE", help="file of texts, - for standard input")
    text = "default: by the suffix; lines on standard input"
    add("--input_format", choices=tuple(formats.FORMATS), help=text)
    add("--text_column", **arguments.TEXT_COLUMN)
    text = "column of the labels: accuracy is measured instead of answers being printed"
    add("--label_column", metavar="NAME", help=text)
    text = (
        "write the texts with their labels and probabilities here, in the format of --input "
        "(default: standard output)"
    )
    add("--output", metavar="FILE", help=text)


def wants_figures(args):
    """Whether figures of own text are asked for, and not only its answers."""
    asked = args.label_column, args.compare_cpu, args.output_dir, args.json, args.report
    return any(asked) or args.rows != CHOSEN


def check(args):
    """Whether the user gives own text. Raises UserError for flags that contradict each other."""
    own = args.text or args.input
    for name in ("input_format", "text_column", "label_column"):
        if getattr(args, name) and not args.input:
            raise UserError(f"--{name}: means something with --input only; add --input FILE")
    if args.output == formats.STDIN and wants_figures(args):
        raise UserError("--output -: the figures stand on standard output; name a file")
    if args.output and not own:
        raise UserError(
            "--output: means something with --text or --input only; --output_dir writes the "
            "predictions of a task's files"
        )
    given = [name for name in ("text", "input", "data_dir", "split") if getattr(args, name)]
    if own and len(given) > 1:
        raise UserError(
            f"--{given[0]}, --{given[1]}: both say what is to be read; leave one of them out"
        )
    if own and args.label_names and not args.label_column:
        raise UserError("--label_names: means something with --label_column only; add it")
    if args.input:
        formats.format_of(args.input, args.input_format)
        if args.input != formats.STDIN:
            check_readable(args.input)
    return bool(own)


@contextlib.contextmanager
def reading(args, task):
    """(Table, format, columns of the sentences) of --text or --input. Raises UserError where the
    Task wants other columns."""
    if args.text:
        if len(args.text) != len(task.text):
            wants = "two texts, the pair" if task.is_pair else "one text; put it in quotes"
            raise UserError(f"--text: {task.name} wants {wants}")
        if any("\ud800" <= letter <= "\udfff" for text in args.text for letter in text):
            raise UserError("--text: not UTF-8; set the terminal to UTF-8, or give --input FILE")
        names = list(task.text)
        # a line an answer: to tokenizers of ALBERT an end of a line is a blank
        texts = (text.replace("\r", " ").replace("\n", " ") for text in args.text)
        record = formats.Record(1, dict(zip(names, texts)))
        yield records.Table("--text", names, [record]), "lines", names
        return
    form = formats.format_of(args.input, args.input_format)
    layout = datasets.layout(task, *args.text_column or (), args.label_column)
    with records.reading(args.input, form, layout) as table:
        yield table, form, datasets.columns(table, task, args.text_column)


@contextlib.contextmanager
def writing(path):
    """`with writing(FILE) as write:` a function of text, None to flush, that gives False once
    nobody reads. A file appears whole at the end, standard output (None or "-") as it is
    written."""
    if path not in (None, formats.STDIN):
        how = {"mode": "w", "encoding": "utf-8", "newline": ""}
        with replacing(path) as temporary, open(temporary, **how) as file:
            yield lambda text: text is None or bool(file.write(text))
        return
    terminal_here, read = sys.stdout.isatty(), True

    def write(text):
        nonlocal read
        if read:
            as_bytes = text and text.encode("utf-8", "backslashreplace")
            stream, content = (sys.stdout, text) if terminal_here else (sys.stdout.buffer, as_bytes)
            read = terminal.put(stream, content)
        return read

    yield write


def answer(classify, args):
    """Counter of "texts", of those that were "cut" and of those that are "unanswered". Writes what
    a Classifier says of each once it is computed, until nobody reads it."""
    counts = Counter()
    with reading(args, classify.task) as (table, form, columns), writing(args.output) as write:
        writer = records.Writer(write, form, table, classify.names)
        for chunk in chunks(table.records):
            sentences = [datasets.sentence(record, columns, table.path) for record in chunk]
            answers, cut = classify.answers(sentences)
            for record, one in zip(chunk, answers):
                writer.add(record, one)
            unanswered = sum(one.label is None and one.score is None for one in answers)
            counts.update(texts=len(answers), cut=cut, unanswered=unanswered)
            if not write(None):
                break
    return counts


def read(args, task):
    """(Examples, function that writes their answers to --output) of --input, all of it at once."""
    with reading(args, task) as (table, form, columns):
        rows = list(table.records)
        label = args.label_column and records.column(table, [args.label_column], "--label_column")
        indices = {name.strip().lower(): name for name in table.columns}
        table = table._replace(records=rows)
        task, note = datasets.labelled(task, table, label, args.label_names)
        examples = datasets.collect(table, task, columns, label, indices)
        examples = replace(examples, note=note)  # quotes in one's own file are meant

    def write_answers(names, answers):
        with writing(args.output) as write:
            writer = records.Writer(write, form, table, names)
            for record, one in zip(rows, answers):
                writer.add(record, one)

    return examples, write_answers
