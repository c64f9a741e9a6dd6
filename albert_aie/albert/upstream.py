"""albert_pytorch's own code (lonePatient/albert_pytorch at 46de9ec), imported from a checkout: its
model and its tokens."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

from ..base.encoding import Encoded, texts
from ..base.errors import WHY, UserError, refusing
from .config import architecture
from .layouts import UPSTREAM_COMMIT, to_upstream


def has_upstream(upstream_dir):
    """Whether upstream_dir is an albert_pytorch checkout."""
    file = "model/modeling_albert.py"
    return upstream_dir is not None and Path(upstream_dir, file).is_file()


def require(upstream_dir):
    """Raises UserError where upstream_dir is no albert_pytorch checkout."""
    if not has_upstream(upstream_dir):
        raise UserError(
            f"{upstream_dir}: not an albert_pytorch checkout; --prefix_dir wants a tree of "
            f"lonePatient/albert_pytorch at {UPSTREAM_COMMIT} with albert.patch applied, or use "
            "--graph fused, which needs none"
        )


def upstream_model(checkpoint, upstream_dir):
    """albert_pytorch's own AlbertForSequenceClassification holding the checkpoint, fp32, eval mode.
    An unpatched checkout needs six, boto3 and requests. Raises UserError for another folder."""
    require(upstream_dir)
    names = "configuration_albert", "modeling_albert"
    configuration, modeling = _import(Path(upstream_dir).resolve(), "model", *names)
    sizes = architecture(checkpoint.config)
    sizes["hidden_act"] = sizes["hidden_act"].replace("gelu_pytorch_tanh", "gelu_new")
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

    ids_of = tokenizer.convert_tokens_to_ids

    def encode(sentence, max_seq_length):
        first, second = (*map(tokenizer.tokenize, texts(sentence)), [])[:2]
        if second:
            (glue,) = _import(upstream_dir, "processors", "glue")
            glue._truncate_seq_pair(first, second, max_seq_length - 3)
        ids = ids_of(["[CLS]", *first[: max_seq_length - 2], "[SEP]"])
        if not second:
            return Encoded(ids)
        return Encoded([*ids, *ids_of([*second, "[SEP]"])], second=len(ids))

    return encode


def _import(upstream_dir, package, *names):
    """albert_pytorch calls its packages `model` and `processors`: import these modules of one from
    this folder and from nowhere else."""
    loaded = sys.modules.get(package)
    if loaded is not None and str(upstream_dir) not in str(getattr(loaded, "__path__", "")):
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]
    sys.path.insert(0, str(upstream_dir))
    message = f"{upstream_dir}: cannot be imported ({WHY}); git apply ../albert.patch there"
    try:
        with refusing(message, ImportError, reason=str):
            importlib.invalidate_caches()
            return [importlib.import_module(f"{package}.{name}") for name in names]
    finally:
        sys.path.remove(str(upstream_dir))
