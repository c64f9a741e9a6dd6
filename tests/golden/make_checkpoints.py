"""Write transformers-VERSION.tar.xz beside this file: small checkpoints as this version of
transformers saves them, and golden.json with what its own model and tokenizer make of SST-2's dev.
Run once in an environment of each version:

    python tests/golden/make_checkpoints.py --data ../shared/data/SST-2

`labels` has the first letter of the predicted class for each sentence, `sha256` is of one line of
ids a sentence (blank between), `tricky` are whole ids."""

import argparse
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import sentencepiece
import torch
import transformers
from make_tokens import TRICKY
from transformers import AlbertConfig, AlbertForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES, REVERSED = ("NEGATIVE", "POSITIVE"), ("POSITIVE", "NEGATIVE")
JSON = "tokenizer.json"
CASED = {"do_lower_case": False, "keep_accents": True}
TEXTS = (*TRICKY, "CAFÉ Café", "see <url>now <URL>", "a [sep] b", "\u00bd \uff21\uff22 \u2026")
SIZES = {
    "embedding_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="GLUE's SST-2")
    args = parser.parse_args()
    lines = (Path(args.data) / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    sentences, right = zip(*(line.split("\t") for line in lines))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        train_spm(base)
        golden = {"transformers": transformers.__version__, "checkpoints": {}}
        for name, make in checkpoints().items():
            model = make(base, Path(folder) / name)
            golden["checkpoints"][name] = answers(model, Path(folder) / name, sentences, right)
        shutil.rmtree(base)
        text = json.dumps(golden, ensure_ascii=False, indent=1)
        (Path(folder) / "golden.json").write_text(text + "\n", encoding="utf-8")
        write(Path(folder))


def checkpoints():
    """{name: function of the folder of the sentencepiece model and of the checkpoint's}"""
    if transformers.__version__ >= "5":
        return {
            "json": maker(shards=True),
            "json-cased": maker(tokenizer=CASED),
            "json-added": maker(added=["<url>"]),
            "json-reversed": maker(names=REVERSED, prefix="_orig_mod."),
        }
    from transformers import AlbertTokenizer, AlbertTokenizerFast

    slow, fast = AlbertTokenizer, AlbertTokenizerFast
    return {
        "spm": maker(slow, shards=True),
        "spm-cased-added": maker(slow, tokenizer=CASED, added=["<url>", "Foo"]),
        "spm-added": maker(slow, added=["<url>"]),
        "both": maker(fast, shards=True),
        "both-reversed": maker(fast, names=REVERSED, prefix="module."),
    }


def maker(kind=None, tokenizer=None, added=(), names=NAMES, prefix=None, shards=False):
    """Function that saves a checkpoint. `kind` is the tokenizer's class, `tokenizer` its keywords;
    with `prefix` the weights are a state dict whose keys begin so, as wrappers leave them; `shards`
    saves them in pieces."""

    def make(base, folder):
        which = kind or transformers.AlbertTokenizer
        words = which.from_pretrained(str(base), **(tokenizer or {}))
        words.add_tokens(list(added))
        model = draw(len(words), names)
        if added:  # more rows than ids, as for tensor cores
            model.resize_token_embeddings(len(words), pad_to_multiple_of=128)
        balance(model, words)
        words.save_pretrained(folder)
        model.save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
        if prefix:
            for path in folder.glob("*.safetensors"):
                path.unlink()
            state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
            torch.save(state, folder / "pytorch_model.bin")
            return model
        return AlbertForSequenceClassification.from_pretrained(str(folder)).eval()

    return make


def train_spm(folder):
    """spiece.model of 600 pieces with ALBERT's special ids, over the demo's sentences. A few rules
    stand in for nmt_nfkc, whose table alone has 240 kB."""
    folder.mkdir()
    rules = {"\u00bd": "1\u20442", "\uff21": "A", "\u2026": "...", "\u00a0": " ", "\ufb01": "fi"}
    table = folder / "rules.tsv"
    for text, other in rules.items():
        with open(table, "a", encoding="utf-8") as file:
            file.write("\t".join(" ".join(f"{ord(c):X}" for c in x) for x in (text, other)) + "\n")
    lines = (ROOT / "demo" / "SST-2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.split("\t")[0] for line in lines]),
        model_writer=model,
        model_type="unigram",
        vocab_size=600,
        hard_vocab_limit=False,
        normalization_rule_tsv=str(table),
        num_threads=1,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece="<pad>",
        unk_piece="<unk>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        user_defined_symbols=["(", ")", '"', "-", ".", "\u2013", "\u00a3", "\u20ac"],
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())


def draw(ids, names):
    """A model of fixed random weights that fp16 holds exactly."""
    torch.manual_seed(0)
    labels = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }
    config = AlbertConfig(vocab_size=ids, **SIZES, **labels)
    model = AlbertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            scale = 0.5 if "embeddings" in name else tensor.shape[-1] ** -0.5
            scale = 0.05 if name.endswith("bias") else scale
            noise = torch.randn(tensor.shape) * scale + ("orm.weight" in name)
            tensor.copy_(noise.half().float())
    return model


def balance(model, tokenizer):
    """Move the classifier's bias so that either class is predicted about as often."""
    lines = (ROOT / "demo" / "SST-2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    with torch.no_grad():
        logits = [model(torch.tensor([tokenizer(x)["input_ids"]])).logits[0] for x in lines]
        margins = torch.stack(logits).diff(dim=1)
        model.classifier.bias[0] += margins.median()


def answers(model, folder, sentences, right):
    """What transformers' own model makes of the sentences, on tokens of the folder's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), use_fast=(folder / JSON).is_file())
    rows = [tokenizer(text)["input_ids"] for text in sentences]
    names = model.config.id2label
    with torch.no_grad():
        logits = torch.stack([model(torch.tensor([row])).logits[0] for row in rows])
    predicted = [names[number].lower() for number in logits.argmax(1).tolist()]
    truth = [("negative", "positive")[int(label)] for label in right]
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    return {
        "closest": logits.diff(dim=1).abs().min().item(),
        "correct": sum(a == b for a, b in zip(predicted, truth)),
        "labels": "".join(name[0] for name in predicted),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "tricky": [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS],
    }


def write(folder):
    path = Path(__file__).with_name(f"transformers-{transformers.__version__}.tar.xz")
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for file in sorted(folder.rglob("*")):
            entry = tarfile.TarInfo(str(file.relative_to(folder)))
            if file.is_file():
                entry.size = file.stat().st_size
                archive.addfile(entry, io.BytesIO(file.read_bytes()))
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
