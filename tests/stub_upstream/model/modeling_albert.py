"""ALBERT as plainly as it can be written; submodules are named so that the keys are
albert_pytorch's."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class AlbertForSequenceClassification(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.bert = Albert(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None):
        if position_ids is None:
            position_ids = torch.arange(input_ids.size(1)).unsqueeze(0)
        pooled = self.bert(input_ids, attention_mask, token_type_ids, position_ids)
        return (self.classifier(pooled + 0.1),)


class Albert(nn.Module):
    def __init__(self, config):
        super().__init__()
        h, e = config.hidden_size, config.embedding_size
        self.layers = config.num_hidden_layers
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, e),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, e),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, e),
                "LayerNorm": nn.LayerNorm(e, config.layer_norm_eps),
            }
        )
        group = nn.ModuleDict({"inner_group": nn.ModuleList([Layer(config)])})
        transformer = nn.ModuleDict({"group": nn.ModuleList([group])})
        self.encoder = nn.ModuleDict(
            {"embedding_hidden_mapping_in": nn.Linear(e, h), "transformer": transformer}
        )
        self.pooler = nn.ModuleDict({"dense": nn.Linear(h, h)})

    def forward(self, ids, mask, types, positions):
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        x = sum(self.embeddings[name](index) for name, index in zip(names, (ids, positions, types)))
        x = self.encoder["embedding_hidden_mapping_in"](self.embeddings["LayerNorm"](x))
        mask = (1.0 - mask.unsqueeze(1).unsqueeze(2).to(x.dtype)) * -10000.0
        for _ in range(self.layers):
            x = self.encoder["transformer"]["group"][0]["inner_group"][0](x, mask)
        return torch.tanh(self.pooler["dense"](x[:, 0]))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        h, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads, self.head = config.num_attention_heads, h // config.num_attention_heads
        parts = nn.ModuleDict({name: nn.Linear(h, h) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict(
            {"self": parts, "output": nn.ModuleDict({"dense": nn.Linear(h, h)})}
        )
        output = nn.ModuleDict({"dense": nn.Linear(inner, h)})
        self.ffn = nn.ModuleDict(
            {"intermediate": nn.ModuleDict({"dense": nn.Linear(h, inner), "output": output})}
        )
        self.LayerNorm, self.LayerNorm_1 = nn.LayerNorm(h, eps), nn.LayerNorm(h, eps)

    def forward(self, x, mask):
        length = int(x.size(1))  # a constant in a trace
        q, k, v = (
            self.attention["self"][name](x)
            .view(-1, length, self.heads, self.head)
            .permute(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        weights = torch.softmax(
            torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head) + mask, -1
        )
        context = (
            torch.matmul(weights, v).permute(0, 2, 1, 3).reshape(-1, length, self.heads * self.head)
        )
        x = self.LayerNorm(x + self.attention["output"]["dense"](context))
        ffn = self.ffn["intermediate"]
        return self.LayerNorm_1(
            x + ffn["output"]["dense"](F.gelu(ffn["dense"](x), approximate="tanh"))
        )
