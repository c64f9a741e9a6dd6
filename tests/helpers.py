"""What the tests share and is no fixture: places, small checkpoints, scripts as processes."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import sentencepiece
import torch

import export_albert_aie
from albert_aie.albert import graph, weights
from albert_aie.albert.config import read_config
from albert_aie.albert.layouts import to_upstream
from albert_aie.artifact import pt_file
from albert_aie.base.errors import UserError
from albert_aie.data import datasets
from albert_aie.report import results
from albert_aie.run import evaluate as evaluating
from albert_aie.run.batching import batches, scatter
from benchmarks.random_weights import draw

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALBERT_SHARED", ROOT.parent / "shared")) / "data"
SPM = ROOT / "demo" / "checkpoint" / "spiece.model"
DOUBLES = ROOT / "tests" / "doubles"
# The lane with the Ascend stack's torch runs the double of torch_aie 6.3, the current one that of
# its successor.
PACKAGE = "torch_aie" if torch.__version__.startswith("2.0.") else "mindietorch"
TINY = {
    "vocab_size": sentencepiece.SentencePieceProcessor(model_file=str(SPM)).get_piece_size(),
    "embedding_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-12,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
    "num_labels": 2,
}
BASE = {
    **TINY,
    **{"embedding_size": 128, "hidden_size": 768, "intermediate_size": 3072},
    **{"num_hidden_layers": 12, "num_attention_heads": 12},
}


# Unpatched upstream imports these although a local checkpoint needs none of them: empty stand-ins.
STAND_INS = """
import sys, types
def stand_in(name, **attributes):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes)
stand_in("six", PY2=False, string_types=(str,))
stand_in("boto3"), stand_in("requests"), stand_in("tqdm", tqdm=None), stand_in("botocore")
stand_in("botocore.config", Config=None)
stand_in("botocore.exceptions", ClientError=type("Error", (Exception,), {}))
"""


EVAL_SCHEMA = json.loads(results.SCHEMA.read_text(encoding="utf-8"))


class Run:
    """What a script did: its exit code and what it printed."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def said(self):
        """stdout with every run of blanks and line ends as one blank: a long line is wrapped."""
        return " ".join(self.out.split())


def flags(**options):
    """Keywords as a command line: batch_size=4 -> --batch_size=4, pack=True -> --pack, a list ->
    its values after the flag; None and False are left out."""
    line = []
    for name, value in options.items():
        if value is True:
            line.append(f"--{name}")
        elif isinstance(value, (list, tuple)):
            line += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            line.append(f"--{name}={value}")
    return line


def logits_in_this_process(paths, target, sentences):
    """In place of evaluate.logits_in_fresh_process, where a process of its own is not the point."""
    given = [*map(str, paths)], target, sentences
    return contextlib.nullcontext(lambda: evaluating._logits(*given))


def python(*arguments, env=None, cwd=ROOT, **given):
    """Run of a fresh interpreter; `env`: what its environment has beside, or instead of, ours."""
    command = [sys.executable, *map(str, arguments)]
    given = {"cwd": cwd, "env": {**os.environ, **(env or {})}, **given}
    done = subprocess.run(command, capture_output=True, text=True, **given)
    return Run(done.returncode, done.stdout, done.stderr)


def export_file(folder, **options):
    """The .pt that export_albert_aie.py, in this process, writes into a folder that has none."""
    assert export_albert_aie.main(flags(save_dir=folder, **options)) == 0
    return next(folder.glob("*.pt"))


def read_results(folder):
    """(eval.json, strictly read; the rows of predictions.tsv as lists of texts, the header first)
    of an --output_dir."""
    report = Path(folder, "eval.json").read_text(encoding="utf-8")
    report = json.loads(report, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    lines = Path(folder, "predictions.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    return report, [line.split("\t") for line in lines]


def refused(run, *words):
    """Whether a script did what it must on bad input: exit code 2 and one sentence with these words
    in it, the last line of stderr; only notes may stand before it."""
    *notes, error = run.err.splitlines() or [""]
    assert run.code == 2, (run.code, run.err)
    assert error.startswith("error: ") and run.err.endswith("\n"), run.err
    assert all(line.startswith("note") for line in notes), run.err
    for word in words:
        assert word in error, (word, run.err)
    return True


def said(function, *given):
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as error:
        function(*given)
    return str(error.value)


def double_environment(package=PACKAGE):
    """Where the strict double can be imported as `package`, and as nothing else: for `env`."""
    own = DOUBLES / {"torch_aie": "torch_aie_63", "mindietorch": "mindietorch_100"}[package]
    return {"PYTHONPATH": os.pathsep.join(map(str, (DOUBLES, own))), "PYTHONWARNINGS": "ignore"}


def write_checkpoint(folder, config=TINY, layout="upstream", spm=SPM, dtype=None, **random):
    """A folder of random weights; `layout`: upstream (zip), hf (safetensors), or legacy pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    own = "30k-clean.model" if layout == "upstream" else "spiece.model"
    if spm.parent != folder:  # else the caller has put its tokenizer there
        shutil.copy(spm, folder / own)
    raw = {**config} if layout == "upstream" else {**config, "model_type": "albert"}
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = draw(read_config(folder / "config.json"), **random)
    if dtype:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    if layout == "hf":
        safetensors.torch.save_file(tensors, str(folder / "model.safetensors"))
    else:
        torch.save(
            to_upstream(tensors),
            folder / "pytorch_model.bin",
            _use_new_zipfile_serialization=layout == "upstream",
        )
    return folder


def change_weights(folder, change):
    """The folder of a checkpoint, whose raw {name: tensor} change() has changed in place."""
    (path,) = weights.find(folder)
    state = weights.read(path)
    change(state)
    path.unlink()  # old safetensors' tensors lie in the file
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    save(state, path)
    return folder


def rewrite(source, path, manifest=None, drop=(), change=None):
    """A copy of a .pt with other keys in its manifest (or other bytes for all of it), entries left
    out or changed: {name: bytes}. Its CRCs and its digests are right again, as those of a file that
    was never damaged."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            name = entry.filename.partition("/")[2]
            content = (change or {}).get(name, old.read(entry))
            if name == pt_file.MANIFEST:
                known = json.loads(content)
                if isinstance(manifest, bytes):
                    new.writestr(entry.filename, manifest)
            elif name not in drop:
                new.writestr(entry.filename, content, compress_type=entry.compress_type)
    if not isinstance(manifest, bytes):
        del known["entries"], known["sha256"]
        pt_file.seal(path, {**known, **(manifest or {})})
    return path


def static(source, path, shape):
    """A copy of a torchscript .pt of free sizes as a file that was compiled for one Shape."""
    return rewrite(source, path, {"free_sizes": False, **shape._asdict()})


def needs_nncf():
    pytest.importorskip("nncf", reason="--precision int8 needs nncf")


def tokens(tokenizer, folder, count=None, length=128):
    """encoding.Encoded of the first `count` sentences of dev.tsv."""
    loaded = tokenizer.load()
    return [loaded.encode(sentence, length) for sentence in datasets.read(folder).sentences[:count]]


def traced(checkpoint, shape, graph_name="fused", upstream_dir=None, form=graph.PLAIN):
    module = graph.build(checkpoint, graph_name, shape, upstream_dir, form)
    return graph.trace(module, graph.example_inputs(checkpoint.config, shape))


def logits(program, encoded, shape, classes=2):
    """float32 [sentences, class] of a program of that shape; NaN where nothing was written."""
    result = numpy.full((len(encoded), classes), numpy.nan, numpy.float32)
    with torch.no_grad():
        for batch in batches(encoded, shape):
            scatter(program(*map(torch.from_numpy, batch.inputs)).numpy(), batch, result)
    return result


def fused_logits(checkpoint, encoded, shape, graph_name="fused", upstream_dir=None):
    """float32 [sentences, class] of the traced graph."""
    program = traced(checkpoint, shape, graph_name, upstream_dir)
    return logits(program, encoded, shape, checkpoint.config.num_labels)


def small_vocabulary(texts=("the quick brown fox jumps over the lazy dog",) * 10, size=40):
    """A sentencepiece model with ALBERT's special pieces and a few dozen in all."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )
    return model.getvalue()
