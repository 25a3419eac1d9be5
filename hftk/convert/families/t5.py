"""T5, 1.0 and 1.1: the names of transformers' TensorFlow classes, and hftk."""

from hftk.convert.family import ConfigTable, Family, always
from hftk.convert.rules import TF_AROUND, Naming, Rule, dense, table

BLOCK_TF, BLOCK = "{stack}/block_._{layer}/layer_._", "{stack}.block.{layer}.layer."
# Only the first block has this table, for all.
BIAS = "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"

TF = Naming(
    rules=(
        *table("shared", "shared"),
        *dense(BLOCK_TF + "0/SelfAttention/{letter}", BLOCK + "0.SelfAttention.{letter}"),
        *dense(BLOCK_TF + "1/EncDecAttention/{letter}", BLOCK + "1.EncDecAttention.{letter}"),
        *table("{stack}/block_._0/layer_._0/SelfAttention/relative_attention_bias", BIAS),
        *dense(BLOCK_TF + "{place}/DenseReluDense/{feed}", BLOCK + "{place}.DenseReluDense.{feed}"),
        Rule(BLOCK_TF + "{place}/layer_norm/weight", BLOCK + "{place}.layer_norm.weight"),
        Rule("{stack}/final_layer_norm/weight", "{stack}.final_layer_norm.weight"),
        *dense("lm_head", "lm_head"),
    ),
    around=TF_AROUND,
)


def _layer(stack: str, feed_forward: int) -> list[Rule]:
    """A block of one stack; `feed_forward` is the place of that part, after one attention or two."""
    theirs, torch = f"{stack}.layers.{{layer}}", f"{stack}.block.{{layer}}.layer"
    rules = [Rule(f"{theirs}.self_attn_layer_norm.weight", f"{torch}.0.layer_norm.weight")]
    for ours, letter in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("out_proj", "o")):
        rules.append(Rule(f"{theirs}.self_attn.{ours}.weight", f"{torch}.0.SelfAttention.{letter}.weight"))
        if feed_forward == 2:
            rules.append(Rule(f"{theirs}.encoder_attn.{ours}.weight", f"{torch}.1.EncDecAttention.{letter}.weight"))
    if feed_forward == 2:
        rules.append(Rule(f"{theirs}.encoder_attn_layer_norm.weight", f"{torch}.1.layer_norm.weight"))
    rules.append(Rule(f"{theirs}.final_layer_norm.weight", f"{torch}.{feed_forward}.layer_norm.weight"))
    return rules


def _feed_forward(first: str) -> tuple[Rule, ...]:
    """hftk's fc1 is `wi` in 1.0, and in 1.1 `wi_0`, the half that is activated."""
    theirs = "layers.{layer}.feed_forward"
    return tuple(
        Rule(f"{stack}.{theirs}.{ours}.weight", f"{stack}.block.{{layer}}.layer.{place}.DenseReluDense.{feed}.weight")
        for stack, place in (("encoder", 1), ("decoder", 2))
        for ours, feed in (("fc1", first), ("fc3", "wi_1"), ("fc2", "wo"))
    )


_SHARED = (
    Rule("shared.weight", "shared.weight"),
    Rule("{stack}.relative_attention_bias.weight", BIAS + ".weight"),
    *_layer("encoder", 1),
    *_layer("decoder", 2),
    Rule("{stack}.layer_norm.weight", "{stack}.final_layer_norm.weight"),
    Rule("lm_head.weight", "lm_head.weight"),
)
HFTK = Naming(rules=(*_SHARED, *_feed_forward("wi")))
HFTK_GATED = Naming(rules=(*_SHARED, *_feed_forward("wi_0")))

T5 = Family(
    model_type="t5",
    prefix="",
    hftk_classes={
        "T5ForConditionalGeneration": "HftkForConditionalGeneration",
        "T5Model": "HftkModel",
        "T5EncoderModel": "HftkEncoderModel",
    },
    namings={"tf": TF, "hftk": HFTK, "hftk-gated": HFTK_GATED},
    config=ConfigTable(
        fields=(
            ("vocab_size", "vocab_size"),
            ("d_model", "d_model"),
            ("d_kv", "head_dim"),
            ("d_ff", "encoder_ffn_dim"),
            ("d_ff", "decoder_ffn_dim"),
            ("num_layers", "encoder_layers"),
            ("num_decoder_layers", "decoder_layers"),
            ("num_heads", "encoder_attention_heads"),
            ("num_heads", "decoder_attention_heads"),
            ("relative_attention_num_buckets", "relative_attention_num_buckets"),
            ("relative_attention_max_distance", "relative_attention_max_distance"),
            ("layer_norm_epsilon", "norm_eps"),
            ("dropout_rate", "dropout"),
            ("dropout_rate", "attention_dropout"),
            ("dropout_rate", "activation_dropout"),
            ("pad_token_id", "pad_token_id"),
            ("bos_token_id", "bos_token_id"),
            ("eos_token_id", "eos_token_id"),
            ("decoder_start_token_id", "decoder_start_token_id"),
        ),
        choices=(
            always(
                norm_type="rms_norm",
                norm_position="pre",
                position_embedding_type="relative",
                scale_attention=False,
                use_bias=False,
                trained_objectives=["span_corruption"],
            ),
            (
                ({"feed_forward_proj": "relu"}, {"activation_function": "relu", "gated_feed_forward": False}),
                ({"feed_forward_proj": "gated-gelu"}, {"activation_function": "gelu_new", "gated_feed_forward": True}),
                ({"feed_forward_proj": "gated-silu"}, {"activation_function": "silu", "gated_feed_forward": True}),
            ),
            # 1.1 unties its head, and so does not scale what goes into it
            (
                ({"tie_word_embeddings": True}, {"tie_lm_head": True, "scale_lm_head": True}),
                ({"tie_word_embeddings": False}, {"tie_lm_head": False, "scale_lm_head": False}),
            ),
        ),
    ),
    facts=(
        "layer_norm_epsilon",
        "feed_forward_proj",
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "tie_word_embeddings",
    ),
)
