"""One process that runs the two scripts, and a reference that shares no code with them, as often as
it is asked: what hangs or ends it is seen from outside, where it can be killed."""

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "num_hidden_groups",
    "inner_group_num",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
)
MEMORY = 16 << 30  # bytes of address space: a wrong size must not take the machine


class Worker:
    """The process, seen from the tests; it is started when it is first asked, and again after its
    end."""

    def __init__(self):
        self._process = None

    def ask(self, what, *arguments, limit=120):
        """What the function of that name below returns. Raises AssertionError for a process that
        ended, or that did not answer in so many seconds."""
        if self._process is None:
            env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen(command, cwd=ROOT, env=env, **pipes)
        line = json.dumps([what, *arguments]).encode() + b"\n"
        self._process.stdin.write(line)
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        answer = self._process.stdout.readline() if ready else b""
        if not answer:
            ended = self._process.poll() if ready else "after the time limit"
            self.close()
            raise AssertionError(f"{'DIED' if ready else 'HANG'}: {ended}; asked for {line}")
        return json.loads(answer)

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def script(name, arguments):
    """{"code", "out", "err"} of a script; code None and a traceback where it raised."""
    module = __import__(name)
    for descriptor in (1, 2):
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.ftruncate(descriptor, 0)
    try:
        code = module.main(arguments)
    except BaseException:
        code = None
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = (
        os.pread(descriptor, 1 << 20, 0).decode("utf-8", "replace") for descriptor in (1, 2)
    )
    return {"code": code, "out": out, "err": err}


def reference(folder, sentences, length, kind):
    """Logits of transformers' own model for a Hugging Face folder, with ids of the sentencepiece or
    tokenizers library."""
    import torch
    from transformers import AlbertConfig, AlbertForSequenceClassification

    folder = Path(folder)
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    labels = raw.get("id2label") or dict.fromkeys(range(raw.get("num_labels", 2)), "")
    sizes = {name: value for name, value in raw.items() if name in ARCHITECTURE}
    labels = {int(number): str(label) for number, label in labels.items()}
    config = AlbertConfig(**sizes, id2label=labels, attn_implementation="eager")
    model = AlbertForSequenceClassification(config).eval()
    model.load_state_dict(_tensors(folder), strict=True)
    encode = {"spm": _sentencepiece, "json": _tokenizers}[kind](folder)
    rows = [encode(sentence, length) for sentence in sentences]
    with torch.inference_mode():
        return [model(torch.tensor([row])).logits[0].tolist() for row in rows]


def _tensors(folder):
    import safetensors.torch
    import torch

    path = folder / "model.safetensors"
    if path.is_file():
        found = safetensors.torch.load_file(str(path))
    else:
        found = torch.load(folder / "pytorch_model.bin", weights_only=True)
    prefixes = ("module.", "_orig_mod.", "model.")
    tensors = {}
    for name, tensor in found.items():
        for prefix in prefixes * 3:
            name = name.removeprefix(prefix) if hasattr(name, "removeprefix") else name
        if not name.endswith("position_ids"):
            tensors[name] = tensor.to_dense().float() if tensor.is_sparse else tensor.float()
    return tensors


def _sentencepiece(folder):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    return lambda sentence, length: [2, *model.encode(sentence)[: length - 2], 3]


def _tokenizers(folder):
    import tokenizers

    found = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8-sig"))
    found.no_padding()
    found.no_truncation()

    def encode(sentence, length):
        found.enable_truncation(length)
        return found.encode(sentence).ids

    return encode


def serve():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    for descriptor in (1, 2):  # what libraries write there is seen too
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), descriptor)
    for line in questions:
        what, *arguments = json.loads(line)
        try:
            answer = {"script": script, "reference": reference}[what](*arguments)
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve()
