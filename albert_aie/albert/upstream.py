"""albert_pytorch's own code (lonePatient/albert_pytorch at 46de9ec), imported from a checkout: its
model, as a module of fixed shape too, and its tokens."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

import torch
from torch import nn

from ..base.encoding import Encoded, texts
from ..base.errors import WHY, UserError, refusing
from .config import architecture
from .layouts import UPSTREAM_COMMIT, to_upstream


class UpstreamAlbert(nn.Module):
    """albert_pytorch's model with fixed (1, seq) position ids, so that no arange or expand is
    traced. (1, seq) and not (batch, seq): the latter would silently broadcast a smaller batch."""

    free_sizes = False

    def __init__(self, model, max_seq_length):
        super().__init__()
        self.model = model
        positions = torch.arange(max_seq_length).unsqueeze(0)
        self.register_buffer("position_ids", positions, persistent=False)

    def forward(self, input_ids, attention_mask, token_type_ids):
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=self.position_ids,
        )
        return outputs[0].to(torch.float32)


def has_upstream(upstream_dir):
    """Whether upstream_dir is an albert_pytorch checkout."""
    return (
        upstream_dir is not None and (Path(upstream_dir) / "model" / "modeling_albert.py").is_file()
    )


def require(upstream_dir):
    """Raises UserError where upstream_dir is no albert_pytorch checkout."""
    if not has_upstream(upstream_dir):
        raise UserError(
            f"{upstream_dir}: not an albert_pytorch checkout (no model/modeling_albert.py); "
            "--prefix_dir wants a tree of lonePatient/albert_pytorch at "
            f"{UPSTREAM_COMMIT} with albert.patch applied, or use --graph fused, which needs none"
        )


def upstream_model(checkpoint, upstream_dir):
    """albert_pytorch's own AlbertForSequenceClassification holding the checkpoint, fp32, eval mode;
    shapes are free. `upstream_dir` is a checkout of 46de9ec with albert.patch applied (unpatched it
    needs six, boto3 and requests besides). Raises UserError for any other folder."""
    require(upstream_dir)
    names = "configuration_albert", "modeling_albert"
    configuration, modeling = _import(Path(upstream_dir).resolve(), "model", *names)
    sizes = architecture(checkpoint.config)
    if sizes["hidden_act"] == "gelu_pytorch_tanh":
        sizes["hidden_act"] = "gelu_new"
    config = configuration.AlbertConfig(sizes.pop("vocab_size"), **sizes)
    model = modeling.AlbertForSequenceClassification(config)
    model.load_state_dict(to_upstream(checkpoint.tensors), strict=True)
    return model.eval()


def upstream_tokenizer(file, upstream_dir):
    """Function of a sentence and its greatest length -> Encoded, for a TokenizerFile of
    sentencepiece or WordPiece: what albert_pytorch's processors/glue.py does before it pads."""
    upstream_dir = Path(upstream_dir).resolve()
    (tokenization,) = _import(upstream_dir, "model", "tokenization_albert")
    files = {"spm_model_file": str(file.path)} if file.kind == "spm" else {}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it loads a vocabulary
        tokenizer = tokenization.FullTokenizer(
            vocab_file=None if files else str(file.path), do_lower_case=True, **files
        )

    def encode(sentence, max_seq_length):
        first, *rest = map(tokenizer.tokenize, texts(sentence))
        if rest and rest[0]:
            (glue,) = _import(upstream_dir, "processors", "glue")
            glue._truncate_seq_pair(first, rest[0], max_seq_length - 3)
        else:
            first = first[: max_seq_length - 2]
        ids = tokenizer.convert_tokens_to_ids(["[CLS]", *first, "[SEP]"])
        if not (rest and rest[0]):
            return Encoded(ids)
        second = tokenizer.convert_tokens_to_ids([*rest[0], "[SEP]"])
        return Encoded([*ids, *second], second=len(ids))

    return encode


def _import(upstream_dir, package, *names):
    """albert_pytorch calls its packages `model` and `processors`: import these modules of one from
    this folder and from nowhere else."""
    loaded = sys.modules.get(package)
    if loaded is not None and str(upstream_dir) not in str(getattr(loaded, "__path__", "")):
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]
    sys.path.insert(0, str(upstream_dir))
    cure = "apply albert.patch there: git apply ../albert.patch"
    message = f"{upstream_dir}: cannot be imported ({WHY}); {cure}"
    try:
        with refusing(message, ImportError, reason=str):
            importlib.invalidate_caches()
            return [importlib.import_module(f"{package}.{name}") for name in names]
    finally:
        sys.path.remove(str(upstream_dir))
