"""Our own ALBERT, written so that a compiler has little left to find out."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..base.shapes import slots_of
from .layouts import HF_LAYER

MASKED = -10000.0


class Form(NamedTuple):
    """How the fused graph is written down for an engine; each backend names its own. The function
    computed is the same, to the rounding of the precision that it is meant for."""

    # [batch, 1, seq, seq] made once by an addition, instead of a broadcast in every layer: the form
    # that the vendor's ONNX route gives its compiler (docs/torch_aie.md). Packed rows have it
    # anyway.
    expand_mask: bool = False
    # Three products instead of one and its split, which OpenVINO copies (1 % of the time).
    split_qkv: bool = False
    # GELU by erf where the config says tanh: within 2.4e-4 of it, which bf16 does not see, and
    # cheaper in OpenVINO (1 to 2 %).
    erf_gelu: bool = False
    # GELU by tanh as a formula with x^3 as a power, which ONNX Runtime and ATC know again.
    spelled_gelu: bool = False
    # Sizes are read from input_ids instead of being baked in, and there is a second method, `rows`:
    # one set of weights serves every shape, plain and packed.
    free_sizes: bool = False


PLAIN = Form()


class FusedAlbert(nn.Module):
    """ALBERT with what a compiler should not have to find out already written down.

    The score scale is folded into Q; every product with a weight has a 2-D left side (the form that
    the vendor's ONNX route rewrites ALBERT into), the last layer's K and V apart; sizes are
    constants, unless the Form frees them. Two layers cost less than they look, exactly: the first
    takes Q, K and V from the 128 numbers of an embedding instead of from the 768 that a product
    makes of them, and the last is computed for [CLS] alone. Together that is a tenth of the FLOPs
    at 128. The twelve layers are one set of tensors, used twelve times.

    In a packed shape a row carries several sentences (the idea: Krell et al. 2021, "Efficient
    Sequence Packing without Cross-contamination"), and attention_mask the number of each token's
    sentence in its row: 1 ... slots, 0 where the row is empty. Who may attend to whom, every
    token's position and the place of each sentence's [CLS] follow from that by comparing and
    summing alone, so the inputs are the ordinary three and the shape stays static. A 0/1 mask is a
    row with one sentence: its logits are those of slot 1. An empty slot's logits are finite and
    mean nothing.

    `forward` is the program of the shape that the module was made for. With free sizes that is
    always the plain one, and `rows` is the packed one; K follows from S (shapes.slots_of).

    Shapes at line ends: B rows, S tokens of a row, K sentences of a row (1 unless packed), E
    embedding size, H hidden size, N heads of D numbers each."""

    def __init__(self, checkpoint, shape, form=PLAIN):
        super().__init__()
        config, tensors = checkpoint.config, checkpoint.tensors
        self.shape, self.free_sizes = shape, form.free_sizes
        self.embedding, self.hidden = config.embedding_size, config.hidden_size
        self.heads = config.num_attention_heads
        self.head = self.hidden // self.heads
        self.layers, self.eps = config.num_hidden_layers, config.layer_norm_eps
        by_erf = form.erf_gelu and config.hidden_act != "relu"
        self.activation = "gelu" if by_erf else config.hidden_act
        self.split_qkv, self.spelled_gelu = form.split_qkv, form.spelled_gelu

        def pair(name):
            return _parameter(tensors[name + ".weight"]), _parameter(tensors[name + ".bias"])

        position = tensors["albert.embeddings.position_embeddings.weight"][: shape.max_seq_length]
        self.word = _parameter(tensors["albert.embeddings.word_embeddings.weight"])
        self.position = _parameter(position)
        self.token_type = _parameter(tensors["albert.embeddings.token_type_embeddings.weight"])
        self.norm_w, self.norm_b = pair("albert.embeddings.LayerNorm")
        self.qkv_w, self.qkv_b = self._qkv(tensors)
        self.first_w, self.first_b = self._first(tensors)
        self.dense_w, self.dense_b = pair(HF_LAYER + "attention.dense")
        self.norm1_w, self.norm1_b = pair(HF_LAYER + "attention.LayerNorm")
        self.ffn_w, self.ffn_b = pair(HF_LAYER + "ffn")
        self.out_w, self.out_b = pair(HF_LAYER + "ffn_output")
        self.norm2_w, self.norm2_b = pair(HF_LAYER + "full_layer_layer_norm")
        self.pooler_w, self.pooler_b = pair("albert.pooler")
        self.classifier_w, self.classifier_b = pair("classifier")
        seq = shape.max_seq_length
        self.expand = _parameter(torch.zeros(1, 1, seq, 1)) if form.expand_mask else None
        if shape.slots or form.free_sizes:
            slots = torch.arange(1, (shape.slots or slots_of(seq)) + 1)
            self.register_buffer("earlier", torch.ones(seq, seq, dtype=torch.bool).tril(-1))
            self.register_buffer("numbers", slots.reshape(1, -1, 1))

    def _qkv(self, tensors):
        """Weight [3H, H] and bias [3H] of Q, K and V in one product, the score scale in Q."""
        q, k, v = (f"{HF_LAYER}attention.{name}." for name in ("query", "key", "value"))
        stacked = (
            torch.cat([tensors[q + kind] * self.head**-0.5, tensors[k + kind], tensors[v + kind]])
            for kind in ("weight", "bias")
        )
        return map(_parameter, stacked)

    def _first(self, tensors):
        """x = up(e) and Q, K, V = qkv(up(e)) as one product of the embedding e: weight [4H, E] and
        bias [4H], multiplied in float64."""
        name = "albert.encoder.embedding_hidden_mapping_in."
        up_w, up_b = tensors[name + "weight"].double(), tensors[name + "bias"].double()
        qkv_w, qkv_b = self.qkv_w.double(), self.qkv_b.double()
        weight = torch.cat([up_w, qkv_w @ up_w]).float()
        bias = torch.cat([up_b, qkv_w @ up_b + qkv_b]).float()
        return _parameter(weight), _parameter(bias)

    def forward(self, input_ids, attention_mask, token_type_ids):
        if self.shape.slots and not self.free_sizes:
            return self.rows(input_ids, attention_mask, token_type_ids)
        b, s = sizes = self._sizes(input_ids)
        mask = (1.0 - attention_mask.to(self.word.dtype)) * MASKED
        mask = last_mask = mask.reshape(b, 1, 1, s)
        if self.expand is not None:
            whole = s == self.shape.max_seq_length  # a trace holds no slice of it
            mask = mask + (self.expand if whole else self.expand[:, :, :s])  # (B, 1, S, S)
        x = self._embed(input_ids, self.position[:s], token_type_ids)
        return self._classify(x, None, mask, last_mask, sizes)  # (B, class)

    def rows(self, input_ids, attention_mask, token_type_ids):
        """Logits (B, K, class) of packed rows."""
        return self.rows_and_places(input_ids, attention_mask, token_type_ids)[0]

    def rows_and_places(self, input_ids, attention_mask, token_type_ids):
        """(logits (B, K, class), and what they are computed by) of packed rows: positions (B, S),
        each token's place in its sentence; select (B, K, S), the one-hot places of the [CLS]
        tokens; the additive masks (B, 1, S, S) of all tokens and (B, 1, K, S) of the [CLS] tokens.

        With free sizes whoever knows that each row carries one sentence may put others in their
        place (as ir.specialised does): constants for positions and select, of which K follows, and
        the last mask for the first. What they were computed from falls away."""
        b, s = sizes = self._sizes(input_ids)
        numbers = attention_mask.to(torch.float32)
        other = _differ(numbers.reshape(b, s, 1), numbers.reshape(b, 1, s))  # (B, S, S)
        positions = self._positions(other, input_ids.dtype, s)
        slots = slots_of(s) if self.free_sizes else self.shape.slots
        other_slot = last = self._other_slot(numbers, slots, sizes)
        first = (1.0 - positions.to(torch.float32).clamp(max=1.0)).reshape(b, 1, s)
        select = ((1.0 - other_slot) * first).to(self.word.dtype)
        if self.free_sizes:
            slots = select.shape[1]
            last = self._other_slot(numbers, slots, sizes)
        masks = [(one * MASKED).to(self.word.dtype).unsqueeze(1) for one in (other, last)]
        x = self._embed(input_ids, F.embedding(positions, self.position), token_type_ids)
        x = self._classify(x, select, *masks, sizes)
        return (x.reshape(b, slots, -1), positions, select, *masks)

    def _positions(self, other, index, s):
        """How many tokens of the same sentence stand before each, (B, S) of dtype `index`; `other`
        (B, S, S) is 1 where two tokens are of different sentences. Counted in float32, for bf16 is
        exact to 256 only, and in parts, for an engine may compute in bf16 whatever it is told."""
        before = (1.0 - other) * self.earlier[:s, :s].to(torch.float32)
        if self.free_sizes:  # a row that ends before a part begins has nothing in it
            starts = range(0, self.shape.max_seq_length, 256)
            parts = [before[..., start : start + 256] for start in starts]
        else:
            parts = before.split(256, -1)
        position, *more = [part.sum(-1).to(index) for part in parts]
        for part in more:
            position = position + part
        return position

    def _other_slot(self, numbers, slots, sizes):
        """Where a token is not of the sentence of a slot, (B, K, S)."""
        b, s = sizes
        return _differ(self.numbers[:, :slots].to(torch.float32), numbers.reshape(b, 1, s))

    def _embed(self, input_ids, positions, token_type_ids):
        x = F.embedding(input_ids, self.word) + positions  # (B, S, E)
        x = x + F.embedding(token_type_ids, self.token_type)
        return F.layer_norm(x, (self.embedding,), self.norm_w, self.norm_b, self.eps)

    def _classify(self, x, select, mask, last_mask, sizes):
        """Logits (B*K, class) of the embeddings (B, S, E)."""
        x = x.reshape(sizes[0] * sizes[1], self.embedding)
        x, *qkv = self._parts(x, self.first_w, self.first_b)  # (B*S, H) each
        for layer in range(self.layers - 1):
            qkv = self._parts(x, self.qkv_w, self.qkv_b) if layer else qkv
            x = self._layer(x, qkv, mask, sizes)
        x = self._last_layer(x, select, last_mask, sizes)  # (B*K, H)
        x = torch.tanh(F.linear(x, self.pooler_w, self.pooler_b))
        return F.linear(x, self.classifier_w, self.classifier_b).to(torch.float32)

    def _sizes(self, input_ids):
        """B and S: constants of a traced program, unless the Form frees them."""
        baked = torch.jit.is_tracing() and not self.free_sizes
        return self.shape.inputs if baked else input_ids.shape

    def _parts(self, x, weight, bias):
        """The parts, each (B*S, H), of a product whose weight stacks several."""
        h = self.hidden
        if not self.split_qkv:
            return F.linear(x, weight, bias).split(h, -1)
        return [F.linear(x, weight[i : i + h], bias[i : i + h]) for i in range(0, len(bias), h)]

    def _layer(self, x, qkv, mask, sizes):
        b, s = sizes
        # (B, N, S, D)
        q, k, v = (p.reshape(b, s, self.heads, self.head).transpose(1, 2) for p in qkv)
        weights = torch.softmax(torch.matmul(q, k.transpose(2, 3)) + mask, -1)  # (B, N, S, S)
        context = torch.matmul(weights, v).transpose(1, 2)  # (B, S, N, D)
        return self._feed_forward(x, context.reshape(b * s, self.hidden))

    def _last_layer(self, x, select, mask, sizes):
        """For the [CLS] tokens alone, and without K and V of the other tokens: q (Wk x + bk) is (q
        Wk) x and a constant, which softmax does not see, and the weighted sum of Wv x + bv is Wv
        (weighted sum of x) + bv. Both products then have as many rows as there are [CLS] tokens,
        not as many as there are tokens. (OpenVINO 2024.6 also answers wrongly where queries are
        fewer than keys and both come transposed out of one product.)"""
        (b, s), k = sizes, 1
        n, d, h = self.heads, self.head, self.hidden
        tokens = x.reshape(b, s, h)
        if select is None:
            cls = tokens[:, 0]  # (B, H)
        else:
            # a product with one-hot rows copies exactly, in every precision: the rest of a sum is
            # zero
            k = select.shape[1] if self.free_sizes else self.shape.slots
            cls = torch.matmul(select, tokens).reshape(b * k, h)
        key, value = (self.qkv_w[i * h : (i + 1) * h].reshape(n, d, h) for i in (1, 2))
        q = F.linear(cls, self.qkv_w[:h], self.qkv_b[:h])  # (B*K, H)
        q = q.reshape(b * k, n, d).transpose(0, 1)  # (N, B*K, D)
        q = torch.matmul(q, key).reshape(n, b, k, h).transpose(0, 1)  # (B, N, K, H)
        q = q.reshape(b, n * k, h)
        scores = torch.matmul(q, tokens.transpose(1, 2)).reshape(b, n, k, s)
        weights = torch.softmax(scores + mask, -1).reshape(b, n * k, s)
        mean = torch.matmul(weights, tokens).reshape(b, n, k, h).transpose(0, 1)  # (N, B, K, H)
        context = torch.matmul(mean.reshape(n, b * k, h), value.transpose(1, 2))  # (N, B*K, D)
        context = context.transpose(0, 1).reshape(b * k, h) + self.qkv_b[2 * h :]
        return self._feed_forward(cls, context)

    def _feed_forward(self, x, context):
        """The rest of a layer, from its attention's context on."""
        x = x + F.linear(context, self.dense_w, self.dense_b)
        x = F.layer_norm(x, (self.hidden,), self.norm1_w, self.norm1_b, self.eps)
        inner = self._activate(F.linear(x, self.ffn_w, self.ffn_b))  # (rows, intermediate)
        x = x + F.linear(inner, self.out_w, self.out_b)
        return F.layer_norm(x, (self.hidden,), self.norm2_w, self.norm2_b, self.eps)

    def _activate(self, x):
        if self.activation == "relu":
            return F.relu(x)
        if self.spelled_gelu and self.activation != "gelu":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
            return 0.5 * x * (1.0 + torch.tanh(inner))
        return F.gelu(x, approximate="none" if self.activation == "gelu" else "tanh")


def _parameter(tensor):
    return nn.Parameter(tensor.detach().clone().contiguous(), requires_grad=False)


def _differ(a, b):
    """1.0 where whole numbers a and b differ, else 0.0. Not a comparison: cast from boolean and
    then scaled, OpenVINO's int8 passes take it for a dequantisation and move the mask's -10000 past
    the attention scores, which bf16 does not survive."""
    return (a - b).abs().clamp(max=1.0)
