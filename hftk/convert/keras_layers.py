"""The layers of hftk's Keras model. Their parts have hftk's names."""

from functools import partial
from typing import Any

import keras
from keras import ops

Config = dict[str, Any]
Cache = tuple[Any, Any]  # keys and values, each (batch, heads, length, head_dim)
ACTIVATIONS = {
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
    "swish": keras.activations.silu,
    "gelu": partial(keras.activations.gelu, approximate=False),
    "gelu_new": partial(keras.activations.gelu, approximate=True),
}
HIDDEN = -1e9  # a score whose weight is 0


def linear(inputs: int, outputs: int, bias: bool) -> keras.layers.Dense:
    """A dense layer with its variables, so that a loaded model has them before it first runs."""
    layer = keras.layers.Dense(outputs, use_bias=bias)
    layer.build((None, inputs))
    return layer


def embedding(rows: int, config: Config) -> keras.layers.Embedding:
    """A table of embeddings with its variable."""
    layer = keras.layers.Embedding(rows, config["d_model"])
    layer.build(())
    return layer


def build_norm(config: Config) -> keras.layers.Layer:
    """The normalisation that `norm_type` names, over `d_model` features."""
    if config["norm_type"] == "rms_norm":
        norm = keras.layers.RMSNormalization(epsilon=config["norm_eps"])
    else:
        norm = keras.layers.LayerNormalization(epsilon=config["norm_eps"], center=config["use_bias"])
    norm.build((None, None, config["d_model"]))
    return norm


def wavelengths(features: int, base: float) -> Any:
    """Of each pair of features, (features / 2)."""
    return base ** (ops.arange(0, features, 2, dtype="float32") / features)


def sinusoids(position_ids: Any, d_model: int) -> Any:
    """Sine at even features, cosine at odd ones: (batch, length) → (batch, length, d_model)."""
    angles = ops.cast(position_ids, "float32")[..., None] / wavelengths(d_model, 10000.0)
    pairs = ops.stack((ops.sin(angles), ops.cos(angles)), axis=-1)  # (batch, length, d_model / 2, 2)
    return ops.reshape(pairs, (*ops.shape(position_ids), d_model))


def rotate(states: Any, cosines: Any, sines: Any) -> Any:
    """Turns feature i and i + head_dim / 2 of `states` (batch, heads, length, head_dim) by their angle."""
    first, second = ops.split(states, 2, axis=-1)
    return states * cosines + ops.concatenate((-second, first), axis=-1) * sines


class Attention(keras.layers.Layer):
    """Multi-head attention. Keys and values come from outside, since a decoder keeps those that it has."""

    def __init__(self, config: Config, heads: int):
        super().__init__()
        d_model, bias = config["d_model"], config["use_bias"]
        self.head_dim = config["head_dim"] or d_model // heads
        self.width = heads * self.head_dim
        self.q_proj = linear(d_model, self.width, bias)
        self.k_proj = linear(d_model, self.width, bias)
        self.v_proj = linear(d_model, self.width, bias)
        self.out_proj = linear(self.width, d_model, bias)
        self.built = True

    def split_heads(self, states: Any) -> Any:
        """(batch, length, heads * head_dim) → (batch, heads, length, head_dim)"""
        batch, length, _ = ops.shape(states)
        apart = ops.reshape(states, (batch, length, self.width // self.head_dim, self.head_dim))
        return ops.transpose(apart, (0, 2, 1, 3))

    def keys_and_values(self, states: Any, rotation: Any = None) -> Cache:
        keys, values = self.split_heads(self.k_proj(states)), self.split_heads(self.v_proj(states))
        return (keys if rotation is None else rotate(keys, *rotation)), values

    def call(self, hidden_states: Any, keys: Any, values: Any, visible: Any, rotation: Any = None) -> Any:
        """`visible` (batch or 1, 1, query_length or 1, key_length) says which keys a query sees."""
        queries = self.split_heads(self.q_proj(hidden_states))
        if rotation is not None:
            queries = rotate(queries, *rotation)
        scores = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))) * self.head_dim**-0.5
        weights = ops.softmax(ops.where(visible, scores, HIDDEN), axis=-1)
        output = ops.transpose(ops.matmul(weights, values), (0, 2, 1, 3))  # (batch, query_length, heads, head_dim)
        return self.out_proj(ops.reshape(output, (*ops.shape(hidden_states)[:2], self.width)))


class FeedForward(keras.layers.Layer):
    """W2 act(W1 x), or W2 (act(W1 x) ⊙ W3 x) when gated."""

    def __init__(self, config: Config, ffn_dim: int):
        super().__init__()
        d_model, bias = config["d_model"], config["use_bias"]
        self.activation = ACTIVATIONS[config["activation_function"]]
        self.fc1 = linear(d_model, ffn_dim, bias)
        self.fc2 = linear(ffn_dim, d_model, bias)
        self.fc3 = linear(d_model, ffn_dim, bias) if config["gated_feed_forward"] else None
        self.built = True

    def call(self, hidden_states: Any) -> Any:
        inner = self.activation(self.fc1(hidden_states))
        return self.fc2(inner if self.fc3 is None else inner * self.fc3(hidden_states))


class StackLayer(keras.layers.Layer):
    """What both stacks' layers share."""

    def __init__(self, config: Config, stack: str):
        super().__init__()
        self.pre_norm = config["norm_position"] == "pre"
        self.self_attn = Attention(config, config[f"{stack}_attention_heads"])
        self.self_attn_layer_norm = build_norm(config)
        self.feed_forward = FeedForward(config, config[f"{stack}_ffn_dim"])
        self.final_layer_norm = build_norm(config)
        self.built = True

    def join(self, x: Any, norm: Any, block: Any) -> Any:
        """pre: x + block(norm(x)); post: norm(x + block(x))."""
        return x + block(norm(x)) if self.pre_norm else norm(x + block(x))


class EncoderLayer(StackLayer):
    def __init__(self, config: Config):
        super().__init__(config, "encoder")

    def call(self, x: Any, visible: Any, rotation: Any) -> Any:
        def attend(x: Any) -> Any:
            return self.self_attn(x, *self.self_attn.keys_and_values(x, rotation), visible, rotation)

        x = self.join(x, self.self_attn_layer_norm, attend)
        return self.join(x, self.final_layer_norm, self.feed_forward)


class DecoderLayer(StackLayer):
    def __init__(self, config: Config):
        super().__init__(config, "decoder")
        self.encoder_attn = Attention(config, config["decoder_attention_heads"])
        self.encoder_attn_layer_norm = build_norm(config)

    def call(
        self, x: Any, visible: Any, rotation: Any, past: Cache, source: Cache, source_visible: Any
    ) -> tuple[Any, Cache]:
        """Also returns the keys and values of all tokens up to now."""
        present = past

        def attend(x: Any) -> Any:
            nonlocal present
            keys, values = self.self_attn.keys_and_values(x, rotation)
            present = ops.concatenate((past[0], keys), axis=2), ops.concatenate((past[1], values), axis=2)
            return self.self_attn(x, *present, visible, rotation)

        x = self.join(x, self.self_attn_layer_norm, attend)
        x = self.join(x, self.encoder_attn_layer_norm, lambda x: self.encoder_attn(x, *source, source_visible))
        return self.join(x, self.final_layer_norm, self.feed_forward), present
