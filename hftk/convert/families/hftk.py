"""hftk's own models, and the names that their parts have in Keras (`keras_model.py`)."""

from typing import Any

from hftk.convert.family import ConfigTable, Family
from hftk.convert.rules import TRANSPOSE, Config, Naming, Rule
from hftk.errors import UsageError
from hftk.model.configuration_hftk import HftkConfig

# What other programs can be told to do.
IN_BOTH: dict[str, tuple[Any, ...]] = {
    "norm_type": ("layer_norm", "rms_norm"),
    "residual": (True,),
    "ngram_order": (1,),
    "attention_window": (None,),
    "activation_function": ("relu", "gelu", "gelu_new", "silu", "swish"),
    "lm_head_transform": (False,),
    "type_vocab_size": (0,),
}
COMPUTES: dict[str, dict[str, tuple[Any, ...]]] = {
    "hftk's Keras model": {
        **IN_BOTH,
        "position_embedding_type": ("sinusoidal", "learned", "rotary", "none"),
        "scale_attention": (True,),
        "scale_lm_head": (False,),
    },
    "CTranslate2": {
        **IN_BOTH,
        "position_embedding_type": ("sinusoidal", "sinusoidal_halves", "learned", "relative", "rotary", "none"),
    },
}
CLASS = "hftk>HftkSeq2Seq"


def check_computed_by(program: str, config: HftkConfig) -> None:
    """Raises `UsageError` for the first field that a key of `COMPUTES` lacks."""
    for name, values in COMPUTES[program].items():
        if getattr(config, name) not in values:
            raise UsageError(
                f"config: {program} has no {name}={getattr(config, name)!r}, only "
                f"{' or '.join(repr(value) for value in values)}"
            )


def _read_config(config: Config) -> Config:
    """Out of what Keras writes of a model; beside a SavedModel it lies as it is."""
    return config["config"]["hftk_config"] if "registered_name" in config else config


def _norm(theirs: str, torch: str) -> list[Rule]:
    return [Rule(f"{theirs}/vars/0", f"{torch}.weight"), Rule(f"{theirs}/vars/1", f"{torch}.bias")]


def _dense(theirs: str, torch: str) -> list[Rule]:
    return [Rule(f"{theirs}/vars/0", f"{torch}.weight", TRANSPOSE), Rule(f"{theirs}/vars/1", f"{torch}.bias")]


LAYER, TO = "{stack}/layers/{stack}_layer{_layer}", "{stack}.layers.{layer}"
KERAS = Naming(
    rules=(
        Rule("embed_tokens/vars/0", "shared.weight"),
        Rule("{stack}/embed_positions/vars/0", "{stack}.embed_positions.weight"),
        *_norm("{stack}/layernorm_embedding", "{stack}.layernorm_embedding"),
        *_dense(f"{LAYER}/self_attn/{{qkvo}}_proj", f"{TO}.self_attn.{{qkvo}}_proj"),
        *_norm(f"{LAYER}/self_attn_layer_norm", f"{TO}.self_attn_layer_norm"),
        *_dense(f"{LAYER}/encoder_attn/{{qkvo}}_proj", f"{TO}.encoder_attn.{{qkvo}}_proj"),
        *_norm(f"{LAYER}/encoder_attn_layer_norm", f"{TO}.encoder_attn_layer_norm"),
        *_dense(f"{LAYER}/feed_forward/fc1", f"{TO}.feed_forward.fc1"),
        *_dense(f"{LAYER}/feed_forward/fc2", f"{TO}.feed_forward.fc2"),
        *_dense(f"{LAYER}/feed_forward/fc3", f"{TO}.feed_forward.fc3"),
        *_norm(f"{LAYER}/final_layer_norm", f"{TO}.final_layer_norm"),
        *_norm("{stack}/layer_norm", "{stack}.layer_norm"),
        Rule("head/vars/0", "lm_head.weight", TRANSPOSE),
        Rule("head_bias/vars/0", "lm_head.bias"),
    ),
    # a SavedModel of ours has them in a dictionary, whose keys are escaped
    around=((r"^tensors/(.*)/\.ATTRIBUTES/VARIABLE_VALUE$", r"\1"), (r"\.S", "/")),
    read_config=_read_config,
)

HFTK = Family(
    model_type="hftk",
    prefix="",
    hftk_classes={"HftkForConditionalGeneration": "HftkForConditionalGeneration"},
    namings={"keras": KERAS},
    config=ConfigTable(fields=(), choices=()),
    facts=(
        *("encoder_attention_heads", "decoder_attention_heads", "norm_position", "norm_eps"),
        *("position_embedding_type", "rope_theta", "activation_function", "scale_embedding"),
    ),
)
