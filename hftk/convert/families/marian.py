"""Marian's translation models: BART's layers, and positions that are computed."""

import numpy as np

from hftk.convert.families.bart import layers_hftk, layers_tf
from hftk.convert.family import SAME_FIELDS, ConfigTable, Family, always
from hftk.convert.rules import ROW, TF_AROUND, Config, Naming, Rule, table


def sinusoids(config: Config) -> np.ndarray:
    """
    Its table of positions [max_position_embeddings, d_model], equal to `MarianSinusoidalPositionalEmbedding`: the sines
    come first, then the cosines.
    """
    d_model = config["d_model"]
    exponents = np.arange(0, d_model, 2) / d_model
    angles = np.arange(config["max_position_embeddings"])[:, None] / np.power(10000, exponents)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


TF = Naming(
    rules=(
        *table("model.shared", "model.shared"),
        *table("model/{stack}/embed_positions", "model.{stack}.embed_positions"),
        *layers_tf(),
        Rule("final_logits_bias", "final_logits_bias"),
    ),
    around=TF_AROUND,
)

HFTK = Naming(
    rules=(
        Rule("shared.weight", "model.shared.weight"),
        *layers_hftk(),
        Rule("lm_head.bias", "final_logits_bias", ROW),
    )
)

MARIAN = Family(
    model_type="marian",
    prefix="model.",
    hftk_classes={"MarianMTModel": "HftkForConditionalGeneration"},
    namings={"tf": TF, "hftk": HFTK},
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
                embedding_norm=False,
                position_embedding_type="sinusoidal_halves",
                gated_feed_forward=False,
                use_bias=True,
            ),
        ),
        required={"share_encoder_decoder_embeddings": True},
    ),
    shown={"final_logits_bias": "lm_head_bias"},
    facts=("activation_function", "scale_embedding", "max_position_embeddings"),
    stated={"norm_eps": "1e-5"},
    computed={
        "model.encoder.embed_positions.weight": sinusoids,
        "model.decoder.embed_positions.weight": sinusoids,
    },
)
