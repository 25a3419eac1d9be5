"""
keras-hub's names of BART: those of its variables, which a checkpoint keeps, and the places in objects that `.keras` and
`.weights.h5` are made of. It keeps heads apart, and has no rows in its tables of positions that no token reaches.
"""

import numpy as np

from hftk.convert.rules import SAME, TRANSPOSE, Config, Naming, Rule, Transform

OFFSET = 2  # rows at the top of torch's tables of positions that no token reaches

POSITIONS = Transform(
    f"{OFFSET} rows of zeros on top",
    f"without the first {OFFSET} rows",
    lambda x, config: np.concatenate([np.zeros((OFFSET, x.shape[1]), x.dtype), x]),
    lambda x, config: x[OFFSET:],
    drops=f"the first {OFFSET} rows, which no token reaches",
)


def _heads(config: Config) -> int:
    return config["encoder_attention_heads"]  # of both stacks


# [in, heads, head_dim] <-> [out, in]
KERNEL_OF_HEADS = Transform(
    "heads joined, transposed",
    "transposed, heads apart",
    lambda x, config: x.reshape(len(x), -1).T,
    lambda x, config: x.T.reshape(x.shape[1], _heads(config), -1),
)
# [heads, head_dim] <-> [out]
BIAS_OF_HEADS = Transform(
    "heads joined", "heads apart", lambda x, config: x.reshape(-1), lambda x, config: x.reshape(_heads(config), -1)
)
# [heads, head_dim, out] <-> [out, in]
KERNEL_FROM_HEADS = Transform(
    "heads joined, transposed",
    "transposed, heads apart",
    lambda x, config: x.reshape(-1, x.shape[-1]).T,
    lambda x, config: x.T.reshape(_heads(config), -1, len(x)),
)


BY_NAME = ("kernel", "bias", "gamma", "beta")
BY_PLACE = ("vars/0", "vars/1", "vars/0", "vars/1")
Leaves = tuple[str, str, str, str]


def _attention(parts: dict[str, str], torch: str, leaves: Leaves) -> list[Rule]:
    """`parts` gives its layer for each of torch's projections."""
    kernel, bias, _, _ = leaves
    rules = []
    for part, theirs in parts.items():
        is_output = part == "out_proj"
        rules.append(
            Rule(f"{theirs}/{kernel}", f"{torch}.{part}.weight", KERNEL_FROM_HEADS if is_output else KERNEL_OF_HEADS)
        )
        rules.append(Rule(f"{theirs}/{bias}", f"{torch}.{part}.bias", SAME if is_output else BIAS_OF_HEADS))
    return rules


def _dense(theirs: str, torch: str, leaves: Leaves) -> list[Rule]:
    return [Rule(f"{theirs}/{leaves[0]}", f"{torch}.weight", TRANSPOSE), Rule(f"{theirs}/{leaves[1]}", f"{torch}.bias")]


def _norm(theirs: str, torch: str, leaves: Leaves) -> list[Rule]:
    return [Rule(f"{theirs}/{leaves[2]}", f"{torch}.weight"), Rule(f"{theirs}/{leaves[3]}", f"{torch}.bias")]


def _named(attention: str) -> dict[str, str]:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "attention_output"}
    return {torch: f"{attention}/{theirs}" for torch, theirs in parts.items()}


def _placed(attention: str) -> dict[str, str]:
    parts = {"q_proj": "query_dense", "k_proj": "key_dense", "v_proj": "value_dense", "out_proj": "output_dense"}
    return {torch: f"{attention}/{theirs}" for torch, theirs in parts.items()}


def _layer(theirs: str, torch: str, leaves: Leaves) -> list[Rule]:
    return [
        *_norm(f"{theirs}self_attention_layer_norm", f"{torch}.self_attn_layer_norm", leaves),
        *_norm(f"{theirs}cross_attention_layer_norm", f"{torch}.encoder_attn_layer_norm", leaves),
        *_dense(f"{theirs}feedforward_intermediate_dense", f"{torch}.fc1", leaves),
        *_dense(f"{theirs}feedforward_output_dense", f"{torch}.fc2", leaves),
        *_norm(f"{theirs}feedforward_layer_norm", f"{torch}.final_layer_norm", leaves),
    ]


def _config(config: Config) -> Config:
    """BartBackbone's, alone or in that of a task."""
    config = config.get("config", config)
    config = config.get("backbone", {}).get("config", config)
    return {
        "model_type": "bart",
        "vocab_size": config["vocabulary_size"],
        "d_model": config["hidden_dim"],
        "encoder_layers": config["num_layers"],
        "decoder_layers": config["num_layers"],
        "encoder_attention_heads": config["num_heads"],
        "decoder_attention_heads": config["num_heads"],
        "encoder_ffn_dim": config["intermediate_dim"],
        "decoder_ffn_dim": config["intermediate_dim"],
        "max_position_embeddings": config["max_sequence_length"],
        "dropout": config["dropout"],
        "activation_function": "gelu",
        "scale_embedding": False,
    }


BY_NAMES = Naming(
    rules=(
        Rule("token_embedding/embeddings", "model.shared.weight"),
        Rule("{stack}_position_embedding/embeddings", "model.{stack}.embed_positions.weight", POSITIONS),
        *_norm("{stack}_embeddings_layer_norm", "model.{stack}.layernorm_embedding", BY_NAME),
        *_attention(
            _named("transformer_encoder_layer_{layer}/self_attention_layer"),
            "model.encoder.layers.{layer}.self_attn",
            BY_NAME,
        ),
        *_attention(
            _named("transformer_decoder_layer_{layer}/self_attention"),
            "model.decoder.layers.{layer}.self_attn",
            BY_NAME,
        ),
        *_attention(
            _named("transformer_decoder_layer_{layer}/cross_attention"),
            "model.decoder.layers.{layer}.encoder_attn",
            BY_NAME,
        ),
        *_layer("transformer_{stack}_layer_{layer}/", "model.{stack}.layers.{layer}", BY_NAME),
    ),
    read_config=_config,
)

BY_OBJECTS = Naming(
    rules=(
        Rule("reversible_embedding/vars/0", "model.shared.weight"),
        Rule("position_embedding/vars/0", "model.encoder.embed_positions.weight", POSITIONS),
        Rule("position_embedding_1/vars/0", "model.decoder.embed_positions.weight", POSITIONS),
        *_norm("layer_normalization", "model.encoder.layernorm_embedding", BY_PLACE),
        *_norm("layer_normalization_1", "model.decoder.layernorm_embedding", BY_PLACE),
        *_attention(
            _placed("transformer_{stack}{_layer}/_self_attention_layer"),
            "model.{stack}.layers.{layer}.self_attn",
            BY_PLACE,
        ),
        *_attention(
            _placed("transformer_{stack}{_layer}/_cross_attention_layer"),
            "model.{stack}.layers.{layer}.encoder_attn",
            BY_PLACE,
        ),
        *_layer("transformer_{stack}{_layer}/_", "model.{stack}.layers.{layer}", BY_PLACE),
    ),
    around=((r"^layers/(?:bart_backbone/layers/)?", ""),),
    read_config=_config,
)
