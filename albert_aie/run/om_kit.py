"""The kit for the owner of an Ascend card, who has CANN and not this program: ONNX files, token ids
of a data set without labels, and a script for atc and ais_bench. What ais_bench writes is read back
and scored as any file's answers. Nothing of it has run on a card yet."""

import hashlib
import itertools
import re
from pathlib import Path

import numpy

from ..albert import references
from ..backends import Output
from ..backends.runner import Runner
from ..base.errors import UserError, refusing
from ..base.files import json_text, read_json, write_text
from ..base.shapes import INPUTS, Shape
from . import batching

KIT = "kit.json"
ORDER = 4  # sentences of a batch whose logits are known: they tell one batch from another
FAR = 5e-3  # a relative distance from these that says something
NEARER = 4  # times, to those of another batch
SOC = "Ascend310P3"
README = """# An ALBERT classifier for {soc}

Of {sentences} sentences in {batches} batches; nothing here has run on a card yet.

1. On a machine with CANN 8.5 or later, its operator package for the chip and ais_bench
   (gitee.com/ascend/tools): source set_env.sh, then `sh run.sh`.
2. It makes model.om by atc, checks nothing, and runs it: outputs stand in */results.
3. Bring the folder back to where it was made, and score it by
   `python run_aie_eval.py --aie_model_dir {files} --om_results THIS_FOLDER --data_dir DATA`;
   --compare_cpu --pth_dir CHECKPOINT says whether the OM computes what the checkpoint does.
"""
RUN = """#!/bin/sh
# On the machine with the card. atc itself needs none.
set -e
cd "$(dirname "$0")"
"""
OM = """
cd {om}
{atc}
cd ..
"""
PART = """
cd {part}
rm -rf results
python3 -m ais_bench --model ../{om}/model.om --input {inputs}{gear} \\
    --output . --output_dirname results --outfmt NPY --batchsize {rows} > ais_bench.log 2>&1 \\
    || {{ cat ais_bench.log; exit 1; }}
grep -i throughput ais_bench.log
cd ..
"""


def check(folder, target, soc_version):
    """Raises UserError where no kit can be written there, or nothing wants a --soc_version."""
    if folder is None:
        if target.backend == "onnx" and soc_version:
            raise UserError("--soc_version: on --backend onnx only --om_kit names a chip; add it")
        return
    if target.backend != "onnx":
        what = f"--om_kit: an OM is made of an ONNX file, not of one for {target.backend}"
        raise UserError(f"{what}; add --backend onnx")
    if Path(folder).exists() and (not Path(folder).is_dir() or any(Path(folder).iterdir())):
        raise UserError(f"--om_kit {folder}: is there already; name a new folder")


def atc(shapes, soc_version):
    """The command that makes model.om of model.onnx, with the types of the file kept; of several
    shapes, which differ in their length alone, each is a gear."""
    sizes, gears = ",".join(map(str, shapes[0].inputs)), ""
    if len(shapes) > 1:
        sizes = f"{shapes[0].batch_size},-1"
        lengths = (",".join(len(INPUTS) * [str(shape.max_seq_length)]) for shape in shapes)
        gears = f' --dynamic_dims="{";".join(lengths)}"'
    inputs = ";".join(f"{name}:{sizes}" for name in INPUTS)
    return (
        "atc --framework=5 --input_format=ND --model=model.onnx --output=model "
        f'--soc_version={soc_version} --precision_mode_v2=origin --input_shape="{inputs}"{gears} '
        "--log=error"
    )


def _models(saved):
    """(name, files in order of their length, ONNX file) of each OM: plain files that differ in
    their length alone are gears of one."""
    from ..backends import onnx_gears

    groups = {}
    for file in sorted(saved.files, key=lambda file: file.own_shape):
        shape = file.own_shape
        groups.setdefault((shape.batch_size, shape.slots and shape), []).append(file)
    for (batch_size, _), files in groups.items():
        if len(files) > 1:
            given = {file.own_shape.max_seq_length: file.blob("model.onnx") for file in files}
            opset = files[0].manifest["options"]["opset"]
            try:
                yield f"gears_bs{batch_size}", files, onnx_gears.merge(given, INPUTS, opset)
                continue
            except UserError:  # another graph than ours: each length is an OM of its own
                pass
        for file in files:
            yield file.path.stem, [file], file.blob("model.onnx")


def _script(saved, soc_version, parts):
    """({folder: ONNX file}, text of run.sh), which leaves out what no batch was made for."""
    models, run, inputs = {}, RUN, ",".join(f"inputs/{name}" for name in INPUTS)
    for om, files, data in _models(saved):
        models[om] = data
        used = [file for file in files if parts[file.path.stem]["batches"]]
        if used:
            shapes = [file.own_shape for file in files]
            run += OM.format(om=om, atc=atc(shapes, soc_version))
        for file in used:
            sizes, gear = ",".join(map(str, file.own_shape.inputs)), ""
            if len(files) > 1:
                gear = f' --dymDims "{";".join(f"{name}:{sizes}" for name in INPUTS)}"'
            given = {"om": om, "inputs": inputs, "gear": gear, "rows": file.own_shape.batch_size}
            run += PART.format(part=file.path.stem, **given)
    return models, run


def write(folder, saved, checkpoint, examples, soc_version, upstream_dir):
    """Write the kit of the Artifact `saved` and of `examples`; a line that says what is in it. A
    few logits of the reference go with it, by which batches are told apart."""
    folder, tokenizer = Path(folder), saved.tokenizer.load()
    length = saved.shape.max_seq_length
    encoded = [tokenizer.encode(sentence, length) for sentence in examples.sentences]
    batches = list(batching.batches(encoded, *saved.shapes))
    named = [number for batch in batches for number in batch.sentences[:ORDER]]
    known, _ = references.logits(checkpoint, [encoded[i] for i in named], upstream_dir)
    logits = dict(zip(named, known.tolist()))
    parts = {}
    for file in saved.files:
        inputs = folder / file.path.stem / "inputs"
        own = [batch for batch in batches if batch.shape == file.own_shape]
        for name in INPUTS:
            (inputs / name).mkdir(parents=True)
        dtype = file.manifest["options"]["input_dtype"]
        for number, batch in enumerate(own):
            for name, array in zip(INPUTS, batch.inputs):
                numpy.save(inputs / name / f"{number:05d}.npy", array.astype(dtype))
        parts[file.path.stem] = {
            "shape": list(file.own_shape),
            "batches": [_sha256(batch) for batch in own],
            "logits": [[logits[i] for i in batch.sentences[:ORDER]] for batch in own],
        }
    models, run = _script(saved, soc_version or SOC, parts)
    for om, data in models.items():
        (folder / om).mkdir(exist_ok=True)
        (folder / om / "model.onnx").write_bytes(data)
    sizes = {"sentences": len(encoded), "batches": len(batches)}
    files = " ".join(file.path.name for file in saved.files)
    readme = README.format(soc=soc_version or SOC, files=files, **sizes)
    write_text(folder / "run.sh", run)
    write_text(folder / "README.md", readme)
    kit = {"file": saved.digest, "data": examples.sha256, **sizes, "parts": parts}
    write_text(folder / KIT, json_text(kit))
    return f"{folder} ({len(encoded)} sentences in {len(batches)} batches; sh {folder}/run.sh)"


def _sha256(batch):
    return hashlib.sha256(b"".join(array.tobytes() for array in batch.inputs)).hexdigest()


class Outputs(Runner):
    """A runner that reads what ais_bench has written in a kit, batch by batch. Raises UserError
    for a kit of another file or data, and for outputs that are missing, cut or of another order."""

    precision_is = "as compiled"

    def __init__(self, folder, saved, examples):
        super().__init__(saved, "an OM elsewhere")
        self._folder = Path(folder)
        if not (self._folder / KIT).is_file():
            raise UserError(f"--om_results {folder}: no {KIT} in it; name the folder of --om_kit")
        kit = read_json(self._folder / KIT)
        for key, own, what in (
            ("file", saved.digest, f"made from another file than {saved.path}"),
            ("data", examples.sha256, f"made from other data than {examples.path}"),
        ):
            if kit.get(key) != own:
                raise UserError(f"--om_results {folder}: was {what}; name the one it was made from")
        self.precision = saved.manifest["precision"]
        self.rates, self._parts = {}, {}
        for name, part in kit["parts"].items():
            self._parts[Shape(*part["shape"])] = name, part, itertools.count()
            self._check_names(name, len(part["batches"]))
            log = self._folder / name / "ais_bench.log"
            text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            if rates := re.findall(r"(?i)throughput[^\n]*:\s*([\d.]+)\s*$", text, re.MULTILINE):
                self.rates[name] = float(rates[-1])

    def _check_names(self, part, batches):
        """Raises UserError unless each batch has its output, and nothing else is there."""
        results = self._folder / part / "results"
        found = {path.name for path in results.glob("*.npy")}
        wanted = {f"{number:05d}_0.npy" for number in range(batches)}
        for names, what in (wanted - found, "is missing"), (found - wanted, "is of no batch"):
            if names:
                raise UserError(f"{results / min(names)}: {what}; run run.sh of the kit again")

    def run(self, batch):  # of any of the files' shapes
        name, part, numbers = self._parts[batch.shape]
        number = next(numbers)
        path = self._folder / name / "results" / f"{number:05d}_0.npy"
        if part["batches"][number : number + 1] != [_sha256(batch)]:
            raise UserError(f"{self._folder}: its inputs are not those of this data; write it anew")
        message = f"{path}: is cut short, or no .npy file; run run.sh again"
        with refusing(message, ValueError, EOFError, OSError):
            logits = numpy.load(path, allow_pickle=False)
        wanted = self._artifact.logits_shape(batch.shape)
        if logits.shape != wanted or logits.dtype not in (numpy.float16, numpy.float32):
            what = f"{path}: holds {logits.shape} {logits.dtype}, not logits of {wanted}"
            raise UserError(f"{what}; run run.sh again")
        logits = logits.astype(numpy.float32)
        self._check_order(path, batch, logits, part["logits"], number)
        return Output(logits, 0.0, 0.0, 0.0, 0.0)

    def _check_order(self, path, batch, logits, known, number):
        """Raises UserError where the answers are far from this batch's and near to another's."""
        places = (batch.rows,) if batch.slots is None else (batch.rows, batch.slots)
        got, own = logits[places][:ORDER], numpy.array(known[number])
        for other in map(numpy.array, known[:number] + known[number + 1 :]):
            count = min(len(own), len(other))
            far, near = (numpy.linalg.norm(got[:count] - one[:count]) for one in (own, other))
            if NEARER * near < far and not far < FAR * numpy.linalg.norm(own[:count]):
                raise UserError(
                    f"{path}: holds the answers of another batch; keep the names of the outputs, "
                    "or run run.sh again"
                )
