"""BART: the names of transformers' TensorFlow classes, those of keras-hub, and hftk."""

from hftk.convert.families import keras_hub
from hftk.convert.families.keras_hub import POSITIONS
from hftk.convert.family import SAME_FIELDS, ConfigTable, Family, always
from hftk.convert.rules import ROW, TF_AROUND, Naming, Rule, dense, norm, table


def layers_tf() -> tuple[Rule, ...]:
    """The layers of both stacks in the TensorFlow classes of BART and of those that are built like it."""
    layer, to = "model/{stack}/layers.{layer}", "model.{stack}.layers.{layer}"
    return (
        *dense(f"{layer}/self_attn/{{qkvo}}_proj", f"{to}.self_attn.{{qkvo}}_proj"),
        *norm(f"{layer}/self_attn_layer_norm", f"{to}.self_attn_layer_norm"),
        *dense(f"{layer}/encoder_attn/{{qkvo}}_proj", f"{to}.encoder_attn.{{qkvo}}_proj"),
        *norm(f"{layer}/encoder_attn_layer_norm", f"{to}.encoder_attn_layer_norm"),
        *dense(f"{layer}/fc1", f"{to}.fc1"),
        *dense(f"{layer}/fc2", f"{to}.fc2"),
        *norm(f"{layer}/final_layer_norm", f"{to}.final_layer_norm"),
    )


TF = Naming(
    rules=(
        *table("model.shared", "model.shared"),
        *table("model/{stack}/embed_positions", "model.{stack}.embed_positions"),
        *norm("model/{stack}/layernorm_embedding", "model.{stack}.layernorm_embedding"),
        *layers_tf(),
        Rule("final_logits_bias", "final_logits_bias"),
    ),
    around=TF_AROUND,
)


def layers_hftk() -> tuple[Rule, ...]:
    """The same in hftk, whose names of attention and norms are BART's."""
    layer, to = "{stack}.layers.{layer}", "model.{stack}.layers.{layer}"
    return (
        Rule(f"{layer}.self_attn.{{qkvo}}_proj.{{leaf}}", f"{to}.self_attn.{{qkvo}}_proj.{{leaf}}"),
        Rule(f"{layer}.self_attn_layer_norm.{{leaf}}", f"{to}.self_attn_layer_norm.{{leaf}}"),
        Rule(f"{layer}.encoder_attn.{{qkvo}}_proj.{{leaf}}", f"{to}.encoder_attn.{{qkvo}}_proj.{{leaf}}"),
        Rule(f"{layer}.encoder_attn_layer_norm.{{leaf}}", f"{to}.encoder_attn_layer_norm.{{leaf}}"),
        Rule(f"{layer}.feed_forward.fc1.{{leaf}}", f"{to}.fc1.{{leaf}}"),
        Rule(f"{layer}.feed_forward.fc2.{{leaf}}", f"{to}.fc2.{{leaf}}"),
        Rule(f"{layer}.final_layer_norm.{{leaf}}", f"{to}.final_layer_norm.{{leaf}}"),
    )


HFTK = Naming(
    rules=(
        Rule("shared.weight", "model.shared.weight"),
        Rule("{stack}.embed_positions.weight", "model.{stack}.embed_positions.weight", POSITIONS),
        Rule("{stack}.layernorm_embedding.{leaf}", "model.{stack}.layernorm_embedding.{leaf}"),
        *layers_hftk(),
        Rule("lm_head.bias", "final_logits_bias", ROW),
    )
)


BART = Family(
    model_type="bart",
    prefix="model.",
    hftk_classes={"BartForConditionalGeneration": "HftkForConditionalGeneration", "BartModel": "HftkModel"},
    namings={"tf": TF, "keras-hub": keras_hub.BY_OBJECTS, "keras-hub-names": keras_hub.BY_NAMES, "hftk": HFTK},
    config=ConfigTable(
        fields=(
            *SAME_FIELDS,
            ("max_position_embeddings", "max_position_embeddings"),
            ("scale_embedding", "scale_embedding"),
            ("activation_function", "activation_function"),
            ("init_std", "init_std"),
        ),
        choices=(
            always(
                norm_type="layer_norm",
                norm_position="post",
                norm_eps=1e-5,
                embedding_norm=True,
                position_embedding_type="learned",
                gated_feed_forward=False,
                use_bias=True,
                trained_objectives=["infilling"],
            ),
        ),
    ),
    shown={"final_logits_bias": "lm_head_bias"},
    facts=("activation_function", "scale_embedding", "max_position_embeddings"),
    stated={"norm_eps": "1e-5", "position offset": "2"},
)
