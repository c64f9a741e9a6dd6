"""FLOPs of one row, a multiply-add counted as 2: nominal (all layers in full) and executed by the
fused graph. `config` is a mapping with the names of ALBERT's config.json."""


def flops_per_row(config, max_seq_length):
    """Matrix-product FLOPs of a row of max_seq_length tokens, all layers in full.

    Per token the embedding projection E*H and, a layer, Q, K, V and output 4*H*H and the FFN 2*H*I;
    attention scores and context 2*S*S*H a layer; pooler and classifier once. 22.37 GFLOP for
    ALBERT-base at 128, which is what torch's FlopCounterMode counts (tests/test_graph.py).
    """
    h, s, layers = config["hidden_size"], max_seq_length, config["num_hidden_layers"]
    per_token = config["embedding_size"] * h
    per_token += layers * (4 * h * h + 2 * h * config["intermediate_size"])
    attention = layers * 2 * s * s * h
    return 2 * (s * per_token + attention + h * h + h * config["num_labels"])


def executed_flops_per_row(config, shape):
    """Matrix-product FLOPs that the fused graph executes for a row of `shape`: all layers but the
    first and the last in full (see fused.FusedAlbert). 20.15 GFLOP for ALBERT-base at 128."""
    h, s, n = config["hidden_size"], shape.max_seq_length, shape.slots or 1
    layer = 4 * h * h + 2 * h * config["intermediate_size"]
    full = config["num_hidden_layers"] - 1
    per_token = full * layer + 4 * config["embedding_size"] * h - 3 * h * h * (full > 0)
    attention = full * 2 * s * s * h
    last = n * layer + 2 * n * config["num_attention_heads"] * s * h
    # the product with one-hot rows that copies the [CLS]
    choosing = n * s * h if shape.slots else 0
    head = n * (h * h + h * config["num_labels"])
    return 2 * (s * per_token + attention + last + choosing + head)
