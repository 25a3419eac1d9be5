"""
hftk's encoder-decoder in Keras 3, for inference: it has no dropout. Of hftk's axes it has those that `families/hftk.py`
lists. It is imported only where Keras is: to write `model.keras`, and to load it.

    import hftk.convert.keras_model  # registers the class
    model = keras.saving.load_model("model.keras")
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from hftk.convert.keras_layers import (
    Cache,
    Config,
    DecoderLayer,
    EncoderLayer,
    StackLayer,
    build_norm,
    embedding,
    linear,
    sinusoids,
    wavelengths,
)


class Stack(keras.layers.Layer):
    """What the encoder and the decoder share: positions and a norm before the layers, a norm after them."""

    def __init__(self, config: Config, layers: Sequence[StackLayer]):
        super().__init__()
        self.position_type = config["position_embedding_type"]
        self.d_model, self.theta = config["d_model"], config["rope_theta"]
        learned = self.position_type == "learned"
        self.embed_positions = embedding(config["max_position_embeddings"], config) if learned else None
        self.layernorm_embedding = build_norm(config) if config["embedding_norm"] else None
        self.layers = list(layers)
        self.layer_norm = build_norm(config) if config["final_norm"] else None
        self.built = True

    def enter(self, x: Any, position_ids: Any) -> Any:
        """Embeddings plus absolute positions, normalised."""
        if self.position_type == "sinusoidal":
            x = x + sinusoids(position_ids, self.d_model)
        elif self.embed_positions is not None:
            x = x + self.embed_positions(position_ids)
        return x if self.layernorm_embedding is None else self.layernorm_embedding(x)

    def rotation(self, position_ids: Any) -> Any:
        """Cosines and sines for `rotary` positions, each (batch, 1, length, head_dim)."""
        if self.position_type != "rotary":
            return None
        lengths = wavelengths(self.layers[0].self_attn.head_dim, self.theta)
        angles = ops.cast(position_ids, "float32")[:, None, :, None] / lengths
        angles = ops.concatenate((angles, angles), axis=-1)
        return ops.cos(angles), ops.sin(angles)

    def leave(self, x: Any) -> Any:
        return x if self.layer_norm is None else self.layer_norm(x)


class Bias(keras.layers.Layer):
    """What is added to the logits."""

    def __init__(self, size: int):
        super().__init__()
        self.bias = self.add_weight(shape=(size,), initializer="zeros", name="bias")
        self.built = True

    def call(self, logits: Any) -> Any:
        return logits + self.bias


@keras.saving.register_keras_serializable(package="hftk")
class HftkSeq2Seq(keras.Model):
    """
    Encoder and decoder with the language modelling head.

    Args:
        hftk_config (`dict`):
            The fields of an `HftkConfig`.
    """

    def __init__(self, hftk_config: Config, **kwargs: Any):
        super().__init__(**kwargs)
        self.hftk_config = config = hftk_config
        # Keras saves a part under the first attribute in the alphabet that leads to it, and every model has `layers`:
        # a name behind that one would be lost.
        self.embed_tokens = embedding(config["vocab_size"], config)
        self.encoder = Stack(config, [EncoderLayer(config) for _ in range(config["encoder_layers"])])
        self.decoder = Stack(config, [DecoderLayer(config) for _ in range(config["decoder_layers"])])
        own_head = not config["tie_lm_head"]
        self.head = linear(config["d_model"], config["vocab_size"], bias=False) if own_head else None
        self.head_bias = Bias(config["vocab_size"]) if config["lm_head_bias"] else None
        self.built = True

    def get_config(self) -> Config:
        return {**super().get_config(), "hftk_config": dict(self.hftk_config)}

    def embed(self, ids: Any) -> Any:
        scale = math.sqrt(self.hftk_config["d_model"]) if self.hftk_config["scale_embedding"] else 1.0
        return self.embed_tokens(ids) * scale

    def encode(self, input_ids: Any, attention_mask: Any) -> Any:
        """Ids and mask (batch, length) → hidden states (batch, length, d_model)."""
        first = ops.argmax(ops.cast(attention_mask, "int32"), axis=-1, keepdims=True)  # padding may stand on the left
        places = ops.arange(ops.shape(input_ids)[1], dtype="int32")[None]
        position_ids = ops.maximum(places - ops.cast(first, "int32"), 0)
        x = self.encoder.enter(self.embed(input_ids), position_ids)
        rotation = self.encoder.rotation(position_ids)
        for layer in self.encoder.layers:
            x = layer(x, self.visible(attention_mask), rotation)
        return self.encoder.leave(x)

    def visible(self, attention_mask: Any) -> Any:
        """The keys that are no padding, (batch, 1, 1, length)."""
        return ops.cast(attention_mask, "bool")[:, None, None, :]

    def sources(self, encoder_states: Any) -> list[Cache]:
        """Keys and values of the source for each layer of the decoder."""
        return [layer.encoder_attn.keys_and_values(encoder_states) for layer in self.decoder.layers]

    def empty_caches(self, batch_size: Any) -> list[Cache]:
        """Those of a decoder that has read nothing."""
        attention = self.decoder.layers[0].self_attn
        shape = (batch_size, attention.width // attention.head_dim, 0, attention.head_dim)
        return [(ops.zeros(shape), ops.zeros(shape)) for _ in self.decoder.layers]

    def decode(
        self, decoder_input_ids: Any, sources: list[Cache], source_visible: Any, past: list[Cache]
    ) -> tuple[Any, list[Cache]]:
        """
        The logits (batch, length, vocab_size) of tokens that follow those in `past`, and the caches with them.
        """
        past_length, length = ops.shape(past[0][0])[2], ops.shape(decoder_input_ids)[1]
        keys = ops.arange(past_length + length, dtype="int32")
        position_ids = keys[past_length:][None]
        visible = (keys[None, :] <= position_ids[0][:, None])[None, None]
        x = self.decoder.enter(self.embed(decoder_input_ids), position_ids)
        rotation = self.decoder.rotation(position_ids)
        present = []
        for layer, cache, source in zip(self.decoder.layers, past, sources, strict=True):
            x, cache = layer(x, visible, rotation, cache, source, source_visible)
            present.append(cache)
        x = self.decoder.leave(x)
        logits = ops.matmul(x, ops.transpose(self.embed_tokens.embeddings)) if self.head is None else self.head(x)
        return (logits if self.head_bias is None else self.head_bias(logits)), present

    def call(self, inputs: dict[str, Any]) -> Any:
        """`input_ids`, `attention_mask` and `decoder_input_ids`, each (batch, length) → logits."""
        states = self.encode(inputs["input_ids"], inputs["attention_mask"])
        past = self.empty_caches(ops.shape(inputs["input_ids"])[0])
        visible = self.visible(inputs["attention_mask"])
        return self.decode(inputs["decoder_input_ids"], self.sources(states), visible, past)[0]
