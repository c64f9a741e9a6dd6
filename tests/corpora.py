"""What the tests of corpora share: small exported files, corpora in every format, and both scripts
on them."""

import contextlib
import csv
import json
from pathlib import Path

import pyarrow
import safetensors.torch
import sentencepiece
from glue_sets import write_model
from helpers import SPM, Run, export_file, flags
from pyarrow import parquet

import run_aie_corpus
from albert_aie.data.tasks import TASKS
from benchmarks import host

SMALL = {"batch_size": 4, "max_seq_length": 32, "backend": "torchscript"}
OVERFLOW = "terrible"  # a sentence with this word has no finite logits


def write_file(folder, name, **options):
    """A small exported file for a task, whose logits overflow at the word OVERFLOW."""
    model = write_model(folder / "model", name, "hf")
    weights = safetensors.torch.load_file(model / "model.safetensors")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(SPM)).encode(OVERFLOW)
    key = next(key for key in weights if key.endswith("word_embeddings.weight"))
    weights[key][pieces] = 3e38
    assert len(pieces) == 1
    if not TASKS[name].regression:  # so that both classes come
        weights["classifier.bias"][1] += 1.8
    safetensors.torch.save_file(weights, model / "model.safetensors")
    return export_file(folder, pth_dir=model, task_name=name, **{**SMALL, **options})


def write_rows(path, rows):
    """A list of dicts as a file, by its suffix: .parquet in row groups of 50, .csv, .tsv, .jsonl,
    and .txt of the first column."""
    names = list(rows[0])
    with contextlib.ExitStack() as stack:
        if path.suffix == ".parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=50)
            return path
        file = stack.enter_context(open(path, "w", encoding="utf-8", newline=""))
        if path.suffix == ".csv":
            csv.writer(file).writerows([names, *(row.values() for row in rows)])
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif path.suffix == ".tsv":
            file.writelines(
                "\t".join(map(str, row)) + "\n" for row in [names, *map(dict.values, rows)]
            )
        else:
            file.writelines(f"{row[names[0]]}\n" for row in rows)
    return path


def table_of(folder):
    """List of dicts: the rows of all parts of an output folder, in the order of the corpus."""
    paths = sorted(Path(folder).glob("part-*.parquet"))
    return [row for path in paths for row in parquet.read_table(path).to_pylist()]


def summary_of(folder):
    return json.loads(Path(folder, "_summary.json").read_text())


def skipped_of(folder):
    """[(file's name, row, why)] of _skipped.tsv."""
    lines = Path(folder, "_skipped.tsv").read_text().splitlines()[1:]
    cells = [line.split("\t") for line in lines]
    return [(Path(path).name, int(number), why) for path, number, why in cells]


def label_corpus(capfd, **options):
    """Run of run_aie_corpus.py in this process."""
    capfd.readouterr()
    return Run(run_aie_corpus.main(flags(**options)), *capfd.readouterr())


def text_columns(name):
    """What the columns of a task's sentences are called here."""
    return ["first", "second"] if TASKS[name].is_pair else ["first"]


def actors(pid):
    """Processes of Ray's actors below one."""
    found = []
    for one in host.family(pid):
        try:
            with open(f"/proc/{one}/cmdline") as text:
                found += [one] * ("ray::Actor" in text.read())
        except OSError:
            continue
    return found
