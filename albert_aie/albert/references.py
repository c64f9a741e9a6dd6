"""The CPU reference of a comparison, never our own graph: albert_pytorch's model, eager in fp32,
where a checkout is there, else transformers' ALBERT. It tokenizes for itself where there is other
code for that."""

import shutil
import tempfile
from pathlib import Path

import numpy

from ..base.encoding import Encoded, framed, texts
from ..base.errors import refusing
from ..text.find_tokenizer import ADDED, CONFIG, SPECIAL
from ..text.sentencepiece_model import SPM_OPTIONS
from . import upstream
from .config import architecture


def tokenizer(file, upstream_dir=None):
    """(function of a sentence and its greatest length -> Encoded, its name) for a checkpoint's
    TokenizerFile: not our code where there is another."""
    if file.kind == "json":
        return transformers_tokenizer(file), "transformers' PreTrainedTokenizerFast"
    if as_upstream(file) and upstream.has_upstream(upstream_dir):
        return upstream.upstream_tokenizer(file, upstream_dir), f"albert_pytorch in {upstream_dir}"
    if file.kind == "wordpiece":
        return bert_tokenizer(file), "transformers' BertTokenizer"
    return file.load().encode, "albert_aie/text, not compared with other code"


def as_upstream(file):
    """Whether a TokenizerFile's options are what albert_pytorch's code does."""
    options = {**SPM_OPTIONS, "special_tokens": False, "do_lower_case": True}
    return all(options.get(name) == on for name, on in file.options.items())


def transformers_tokenizer(file):
    """A tokenizer.json as transformers runs it, but not by AutoTokenizer: that of transformers 5
    builds ALBERT's normalizer and pre-tokenizer anew. Segments are ours: there all are 0."""
    tokenizer = _transformers(file).PreTrainedTokenizerFast(tokenizer_file=str(file.path))
    own = file.load()

    def encode(sentence, max_seq_length):
        encoding = tokenizer(*texts(sentence), truncation=True, max_length=max_seq_length)
        return Encoded(encoding["input_ids"], second=own.encode(sentence, max_seq_length).second)

    return encode


def bert_tokenizer(file):
    """A vocab.txt as transformers runs it, with what stands beside it in a Hugging Face folder. Cut
    as albert_pytorch cuts, for transformers' slow and fast tokenizers cut pairs differently."""
    kind, special = _transformers(file).BertTokenizerFast, file.options.get("special_tokens", False)
    with tempfile.TemporaryDirectory() as folder:  # without a tokenizer.json, which 5 would read
        Path(folder, "vocab.txt").write_bytes(file.data)
        for name in (CONFIG, ADDED, SPECIAL) if file.folder else ():
            if Path(file.folder, name).is_file():
                shutil.copy(Path(file.folder, name), folder)
        settings = {"do_lower_case": file.options.get("do_lower_case", True)}
        tokenizer = kind.from_pretrained(folder, model_max_length=1 << 40, **settings)
    asked = {"add_special_tokens": False, "split_special_tokens": not special}

    def encode(sentence, max_seq_length):
        pieces = [tokenizer(text, **asked)["input_ids"] for text in texts(sentence)]
        ends = tokenizer.cls_token_id, tokenizer.sep_token_id
        return framed(pieces, *ends, max_seq_length, empty_second=special)

    return encode


def _transformers(file):
    what = f"--compare_cpu: tokenizing by {file.path} needs a reference too"
    with refusing(f"{what}; pip install transformers", ImportError):
        import transformers
    return transformers


def logits(
    checkpoint, encoded, upstream_dir=None, batch_size=16, progress=lambda steps, **_: steps
):
    """(float32 [sentences, class], name of the reference) for a list of Encoded. Each batch is of
    like lengths and padded to its longest: several times as fast as max_seq_length, and a check
    that padding does not matter."""
    import torch

    if upstream.has_upstream(upstream_dir):
        model = upstream.upstream_model(checkpoint, upstream_dir)
        name = f"albert_pytorch in {upstream_dir}"
    else:
        model, name = transformers_model(checkpoint), "transformers' ALBERT"
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    logits = numpy.zeros((len(encoded), checkpoint.config.num_labels), numpy.float32)
    starts = range(0, len(order), batch_size)
    with torch.inference_mode():
        for start in progress(starts, desc="CPU reference", total=len(starts), unit="batch"):
            chosen = order[start : start + batch_size]
            longest = len(encoded[chosen[-1]].ids)
            ids, mask, types = torch.zeros(3, len(chosen), longest, dtype=torch.int64)
            for row, i in enumerate(chosen):
                length, second = len(encoded[i].ids), encoded[i].second
                ids[row, :length], mask[row, :length] = torch.tensor(encoded[i].ids), 1
                if second is not None:
                    types[row, second:length] = 1
            logits[chosen] = model(ids, attention_mask=mask, token_type_ids=types)[0].numpy()
    return logits, f"{name}, eager fp32"


def transformers_model(checkpoint):
    """transformers' own model holding the checkpoint: eager attention, fp32, eval mode."""
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(**architecture(checkpoint.config), attn_implementation="eager")
    model = AlbertForSequenceClassification(config)
    model.load_state_dict(checkpoint.tensors, strict=True)
    return model.eval()
