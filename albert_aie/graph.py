"""The torch module that gets traced: the patched albert_pytorch model, or our fused one.

Both take input_ids, attention_mask, token_type_ids [batch, seq] and return the bare float32 logits [batch, class], or
[batch, slots, class] when our module is built for packed rows; both are static in shape and free of dropout. The mask
adds -10000 as ALBERT's own code does: finite in fp16, where Hugging Face's finfo.min becomes -inf.
"""

import importlib
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from . import UserError
from .checkpoint import HF_LAYER, UPSTREAM_COMMIT, to_upstream

MASKED = -10000.0


class Form(NamedTuple):
    """How the fused graph is written down for an engine; each backend names its own. The function computed is the same, to the
    rounding of the precision that it is meant for."""

    # [batch, 1, seq, seq] made once by an addition, instead of a broadcast in every layer: the form that the vendor's ONNX
    # route gives its compiler (facts/torch_aie.md §7.3). Packed rows have it anyway.
    expand_mask: bool = False
    split_qkv: bool = False  # three products instead of one and its split, which OpenVINO copies (1 % of the time)
    # GELU by erf where the config says tanh: within 2.4e-4 of it, which bf16 does not see, and cheaper in OpenVINO (1 to 2 %)
    erf_gelu: bool = False


PLAIN = Form()


def build(checkpoint, graph, batch_size, max_seq_length, tree=None, slots=0, form=PLAIN):
    """The module to trace, in fp32 and eval mode; `graph` is "upstream" (needs `tree`, an albert_pytorch checkout) or
    "fused"; for the latter see FusedAlbert on `slots`, and Form. The checkpoint's tensors are copied, never changed."""
    if graph == "upstream":
        module = UpstreamAlbert(upstream_model(checkpoint, tree), max_seq_length)
    else:
        module = FusedAlbert(checkpoint, batch_size, max_seq_length, slots, form)
    return module.eval().requires_grad_(False)


class FusedAlbert(nn.Module):
    """ALBERT with what a compiler should not have to find out already written down.

    The score scale is folded into Q; every product with a weight has a 2-D left side (the form that the vendor's ONNX route
    rewrites ALBERT into, facts/torch_aie.md §7.3), the last layer's K and V apart; shapes are constants. Two layers cost
    less than they look, exactly: the first takes Q, K and V from the 128 numbers of an embedding instead of from the 768
    that a product makes of them, and the last is computed for [CLS] alone. Together that is a tenth of the FLOPs at 128.
    The twelve layers are one set of tensors, used twelve times.

    With `slots` > 0 a row carries up to that many sentences (the idea: Krell et al. 2021, "Efficient Sequence Packing
    without Cross-contamination"), and attention_mask the number of each token's sentence in its row: 1 ... slots, 0 where
    the row is empty. Who may attend to whom, every token's position and the place of each sentence's [CLS] follow from
    that by comparing and summing alone, so the inputs are the ordinary three and the shape stays static. A 0/1 mask is a
    row with one sentence: its logits are those of slot 1. An empty slot's logits are finite and mean nothing.
    """

    def __init__(self, checkpoint, batch_size, max_seq_length, slots=0, form=PLAIN):
        super().__init__()
        config, tensors = checkpoint.config, checkpoint.tensors
        self.batch, self.seq, self.slots = batch_size, max_seq_length, slots
        self.hidden, self.heads, self.head = config.hidden_size, config.num_attention_heads, config.head_size
        self.embedding = config.embedding_size
        self.layers, self.eps = config.num_hidden_layers, config.layer_norm_eps
        self.activation = "gelu" if form.erf_gelu and config.hidden_act != "relu" else config.hidden_act
        self.split_qkv = form.split_qkv

        def parameter(tensor):
            return nn.Parameter(tensor.detach().clone().contiguous(), requires_grad=False)

        def pair(name):
            return parameter(tensors[name + ".weight"]), parameter(tensors[name + ".bias"])

        self.word = parameter(tensors["albert.embeddings.word_embeddings.weight"])
        self.position = parameter(tensors["albert.embeddings.position_embeddings.weight"][:max_seq_length])
        self.token_type = parameter(tensors["albert.embeddings.token_type_embeddings.weight"])
        self.norm_w, self.norm_b = pair("albert.embeddings.LayerNorm")
        scale = self.head**-0.5
        qkv = [HF_LAYER + "attention." + name for name in ("query", "key", "value")]
        for kind in ("weight", "bias"):
            q, k, v = (tensors[f"{name}.{kind}"] for name in qkv)
            setattr(self, f"qkv_{kind[0]}", parameter(torch.cat([q * scale, k, v])))
        # x = up(e) and Q, K, V = qkv(up(e)), all in one product of the embedding e; multiplied in float64
        up_w, up_b = (tensors["albert.encoder.embedding_hidden_mapping_in." + kind].double() for kind in ("weight", "bias"))
        qkv_w, qkv_b = self.qkv_w.double(), self.qkv_b.double()
        self.first_w = parameter(torch.cat([up_w, qkv_w @ up_w]).float())
        self.first_b = parameter(torch.cat([up_b, qkv_w @ up_b + qkv_b]).float())
        self.dense_w, self.dense_b = pair(HF_LAYER + "attention.dense")
        self.norm1_w, self.norm1_b = pair(HF_LAYER + "attention.LayerNorm")
        self.ffn_w, self.ffn_b = pair(HF_LAYER + "ffn")
        self.out_w, self.out_b = pair(HF_LAYER + "ffn_output")
        self.norm2_w, self.norm2_b = pair(HF_LAYER + "full_layer_layer_norm")
        self.pooler_w, self.pooler_b = pair("albert.pooler")
        self.classifier_w, self.classifier_b = pair("classifier")
        self.rows = parameter(torch.zeros(1, 1, max_seq_length, 1)) if form.expand_mask else None
        if slots:
            self.register_buffer("earlier", torch.ones(max_seq_length, max_seq_length, dtype=torch.bool).tril(-1))
            self.register_buffer("numbers", torch.arange(1, slots + 1).reshape(1, slots, 1))

    def forward(self, input_ids, attention_mask, token_type_ids):
        if self.slots:
            position, select, mask, last_mask = self._unpack(attention_mask.to(torch.float32), input_ids.dtype)
        else:
            mask = (1.0 - attention_mask.to(self.word.dtype)) * MASKED
            mask = last_mask = mask.reshape(self.batch, 1, 1, self.seq)
            if self.rows is not None:
                mask = mask + self.rows
            position, select = self.position, None
        x = F.embedding(input_ids, self.word) + position + F.embedding(token_type_ids, self.token_type)
        x = F.layer_norm(x, (self.embedding,), self.norm_w, self.norm_b, self.eps)
        x, *qkv = self._parts(x.reshape(self.batch * self.seq, self.embedding), self.first_w, self.first_b)
        for layer in range(self.layers - 1):
            x = self._layer(x, self._parts(x, self.qkv_w, self.qkv_b) if layer else qkv, mask)
        x = self._last_layer(x, select, last_mask)
        x = torch.tanh(F.linear(x, self.pooler_w, self.pooler_b))
        x = F.linear(x, self.classifier_w, self.classifier_b).to(torch.float32)
        return x.reshape(self.batch, self.slots, -1) if self.slots else x

    def _unpack(self, numbers, index):
        """From the sentence numbers float32 [batch, seq]: the position embeddings [batch, seq, embedding], the one-hot
        places of the [CLS] tokens [batch, slots, seq], and the additive masks of all tokens [batch, 1, seq, seq] and of
        the [CLS] tokens [batch, 1, slots, seq]. Counted in float32: bf16 is exact to 256 only. `index`: the ids' dtype."""
        dtype, column, row = self.word.dtype, (self.batch, self.seq, 1), (self.batch, 1, self.seq)
        other = _differ(numbers.reshape(column), numbers.reshape(row))
        before = (1.0 - other) * self.earlier.to(torch.float32)
        # how many tokens of the same sentence stand before this one; counted in parts, for an engine that computes in bf16
        # whatever it is told counts to 256 exactly, and not beyond
        position, *more = [part.sum(-1).to(index) for part in before.split(256, -1)]
        for part in more:
            position = position + part
        other_slot = _differ(self.numbers.to(torch.float32), numbers.reshape(row))
        select = (1.0 - other_slot) * (1.0 - position.to(torch.float32).clamp(max=1.0)).reshape(row)
        masks = [(mine * MASKED).to(dtype).unsqueeze(1) for mine in (other, other_slot)]
        return F.embedding(position, self.position), select.to(dtype), masks[0], masks[1]

    def _split(self, x):
        return x.reshape(self.batch, self.seq, self.heads, self.head).transpose(1, 2)  # [batch, heads, seq, head]

    def _parts(self, x, weight, bias):
        """The parts, each [rows, hidden], of a product whose weight stacks several."""
        h = self.hidden
        if not self.split_qkv:
            return F.linear(x, weight, bias).split(h, -1)
        return [F.linear(x, weight[i : i + h], bias[i : i + h]) for i in range(0, len(bias), h)]

    def _layer(self, x, qkv, mask):
        q, k, v = (self._split(part) for part in qkv)
        weights = torch.softmax(torch.matmul(q, k.transpose(2, 3)) + mask, -1)
        return self._after(x, torch.matmul(weights, v).transpose(1, 2).reshape(self.batch * self.seq, self.hidden))

    def _last_layer(self, x, select, mask):
        """For the [CLS] tokens alone, and without K and V of the other tokens: q (Wk x + bk) is (q Wk) x and a constant,
        which softmax does not see, and the weighted sum of Wv x + bv is Wv (weighted sum of x) + bv. Both products then
        have as many rows as there are [CLS] tokens, not as many as there are tokens. (OpenVINO 2024.6 also answers wrongly
        where queries are fewer than keys and both come transposed out of one product.)"""
        h, heads, count = self.hidden, self.heads, self.slots or 1
        tokens = x.reshape(self.batch, self.seq, h)
        # a product with one-hot rows copies exactly, in every precision: the rest of each sum is zero
        cls = torch.matmul(select, tokens).reshape(self.batch * count, h) if self.slots else tokens[:, 0]
        key, value = (self.qkv_w[i * h : (i + 1) * h].reshape(heads, self.head, h) for i in (1, 2))
        q = F.linear(cls, self.qkv_w[:h], self.qkv_b[:h]).reshape(self.batch * count, heads, self.head).transpose(0, 1)
        q = torch.matmul(q, key).reshape(heads, self.batch, count, h).transpose(0, 1).reshape(self.batch, heads * count, h)
        scores = torch.matmul(q, tokens.transpose(1, 2)).reshape(self.batch, heads, count, self.seq)
        weights = torch.softmax(scores + mask, -1).reshape(self.batch, heads * count, self.seq)
        mean = torch.matmul(weights, tokens).reshape(self.batch, heads, count, h).transpose(0, 1)
        context = torch.matmul(mean.reshape(heads, self.batch * count, h), value.transpose(1, 2))
        context = context.transpose(0, 1).reshape(self.batch * count, h) + self.qkv_b[2 * h :]
        return self._after(cls, context)

    def _after(self, x, context):
        x = x + F.linear(context, self.dense_w, self.dense_b)
        x = F.layer_norm(x, (self.hidden,), self.norm1_w, self.norm1_b, self.eps)
        x = x + F.linear(self._act(F.linear(x, self.ffn_w, self.ffn_b)), self.out_w, self.out_b)
        return F.layer_norm(x, (self.hidden,), self.norm2_w, self.norm2_b, self.eps)

    def _act(self, x):
        if self.activation == "relu":
            return F.relu(x)
        return F.gelu(x, approximate="none" if self.activation == "gelu" else "tanh")


def _differ(a, b):
    """1.0 where whole numbers a and b differ, else 0.0. Not a comparison: cast from boolean and then scaled, OpenVINO's
    int8 passes take it for a dequantisation and move the mask's -10000 past the attention scores, which bf16 does not survive."""
    return (a - b).abs().clamp(max=1.0)


class UpstreamAlbert(nn.Module):
    """albert_pytorch's model with fixed (1, seq) position ids, so that no arange or expand is traced. (1, seq) and not
    (batch, seq): the latter would broadcast a smaller batch to the traced one without a word."""

    def __init__(self, model, max_seq_length):
        super().__init__()
        self.model = model
        self.register_buffer("position_ids", torch.arange(max_seq_length).unsqueeze(0), persistent=False)

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(
            input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, position_ids=self.position_ids
        )[0].to(torch.float32)


def has_upstream(tree):
    return tree is not None and (Path(tree) / "model" / "modeling_albert.py").is_file()


def upstream_model(checkpoint, tree):
    """albert_pytorch's own AlbertForSequenceClassification holding the checkpoint, fp32, eval mode; shapes are free.

    `tree` is a checkout of 46de9ec, with albert.patch applied (unpatched it needs six, boto3 and requests besides).
    """
    if not has_upstream(tree):
        raise UserError(
            f"{tree}: not an albert_pytorch checkout (no model/modeling_albert.py); --prefix_dir wants a tree "
            f"of lonePatient/albert_pytorch at {UPSTREAM_COMMIT} with albert.patch applied, "
            "or use --graph fused, which needs none"
        )
    configuration, modeling = _import_upstream(Path(tree).resolve())
    config = checkpoint.config
    model = modeling.AlbertForSequenceClassification(
        configuration.AlbertConfig(
            vocab_size_or_config_json_file=config.vocab_size,
            embedding_size=config.embedding_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            hidden_act="gelu_new" if config.hidden_act == "gelu_pytorch_tanh" else config.hidden_act,
            max_position_embeddings=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            layer_norm_eps=config.layer_norm_eps,
            num_labels=config.num_labels,
        )
    )
    model.load_state_dict(to_upstream(checkpoint.tensors), strict=True)
    return model.eval()


def _import_upstream(tree):
    """albert_pytorch calls its package `model`: import it from `tree` and from nowhere else."""
    loaded = sys.modules.get("model")
    if loaded is not None and str(tree) not in str(getattr(loaded, "__path__", "")):
        for name in [n for n in sys.modules if n == "model" or n.startswith("model.")]:
            del sys.modules[name]
    sys.path.insert(0, str(tree))
    try:
        importlib.invalidate_caches()
        return (importlib.import_module("model.configuration_albert"), importlib.import_module("model.modeling_albert"))
    except ImportError as error:
        raise UserError(f"{tree}: cannot be imported ({error}); apply albert.patch there: git apply ../albert.patch") from None
    finally:
        sys.path.remove(str(tree))


def example_inputs(config, batch_size, max_seq_length, dtype=torch.int64):
    """Three [batch, seq] tensors of legal values for tracing: rows of different lengths and ids, no two inputs alike."""
    ids = torch.randint(5, config.vocab_size, (batch_size, max_seq_length), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(batch_size).remainder(max_seq_length - 2) + 3
    mask = (torch.arange(max_seq_length) < lengths.unsqueeze(1)).long()
    types = torch.zeros_like(ids)
    return tuple(t.to(dtype) for t in (ids * mask, mask, types))


def trace(module, inputs):
    """Frozen TorchScript of `module`: constants folded, weights kept once however often they are used."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.13 deprecates torch.jit; the target needs it
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.freeze(torch.jit.trace(module, inputs, check_trace=False))


def operators(program):
    """How often each aten operator stands in a traced program: what a compiler has to support."""
    inlined = program.inlined_graph  # owns its nodes: must outlive the loop
    nodes = (node.kind() for node in inlined.nodes())
    return dict(sorted(Counter(kind for kind in nodes if kind.startswith("aten::")).items()))


def flops_per_row(config, max_seq_length):
    """Matrix-product FLOPs of one row of max_seq_length tokens, a multiply-add counted as 2; all layers in full.

    embedding projection E*H + layers * (Q, K, V, output 4*H*H + FFN 2*H*I) per token, attention scores and context
    2*S*S*H a layer, pooler and classifier once. 22.37 GFLOP for ALBERT-base at 128, as torch's FlopCounterMode says.
    """
    h, s = config["hidden_size"], max_seq_length
    per_token = config["embedding_size"] * h + config["num_hidden_layers"] * (4 * h * h + 2 * h * config["intermediate_size"])
    attention = config["num_hidden_layers"] * 2 * s * s * h
    return 2 * (s * per_token + attention + h * h + h * config["num_labels"])


def executed_flops_per_row(config, max_seq_length, slots=0):
    """Matrix-product FLOPs that the fused graph executes for one row, a multiply-add counted as 2: all layers but the
    first and the last in full (see FusedAlbert). 20.15 GFLOP for ALBERT-base at 128."""
    h, s, n, inner = config["hidden_size"], max_seq_length, slots or 1, config["intermediate_size"]
    full = config["num_hidden_layers"] - 1
    per_token = full * (4 * h * h + 2 * h * inner) + 4 * config["embedding_size"] * h - 3 * h * h * (full > 0)
    attention = full * 2 * s * s * h
    last = n * (4 * h * h + 2 * h * inner) + 2 * n * config["num_attention_heads"] * s * h + (n * s * h if slots else 0)
    return 2 * (s * per_token + attention + last + n * (h * h + h * config["num_labels"]))
