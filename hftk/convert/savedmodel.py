"""
Writes what TensorFlow runs: `model.keras`, and a SavedModel with three signatures that needs TensorFlow alone.
TensorFlow and Keras are imported with this file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from hftk.convert.greedy import Greedy
from hftk.convert.keras_model import HftkSeq2Seq
from hftk.convert.plan import Step
from hftk.convert.rules import Config
from hftk.convert.writing import Read
from hftk.errors import UsageError

if keras.backend.backend() != "tensorflow":
    raise UsageError(f"KERAS_BACKEND is {keras.backend.backend()}: a SavedModel needs tensorflow; set it to that")


def build_model(config: Config, steps: Sequence[Step], read: Read) -> tuple[HftkSeq2Seq, dict[str, tf.Variable]]:
    """
    The Keras model.

    Args:
        config (`dict`):
            hftk's configuration.
        steps (`Sequence[Step]`):
            Its tensors, by Keras' names.
        read (`Callable[[Step], np.ndarray]`):
            Gives the numbers of a step.

    Returns:
        `tuple`: the model, and its variables by these names.
    """
    model = HftkSeq2Seq(config)
    variables = {step.target: _variable_at(model, step.target) for step in steps}
    for step in steps:
        variables[step.target].assign(read(step))
    return model, {name: variable.value for name, variable in variables.items()}


def _variable_at(model: HftkSeq2Seq, path: str) -> keras.Variable:
    """`encoder/layers/encoder_layer_1/…/vars/0` is variable 0 of a part of `model.encoder.layers[1]`."""
    *parts, _, place = path.split("/")
    found = model
    for part in parts:
        number = part.rpartition("_")[2]
        found = found[int(number) if number.isdigit() else 0] if isinstance(found, list) else getattr(found, part)
    return found.variables[int(place)]


def write_keras(file: Path, config: Config, steps: Sequence[Step], read: Read) -> None:
    """Writes `model.keras`. Arguments are those of [`build_model`], and where to."""
    build_model(config, steps, read)[0].save(file)


def write_savedmodel(folder: Path, config: Config, steps: Sequence[Step], read: Read, greedy: Greedy) -> None:
    """
    Writes a SavedModel. Arguments are those of [`build_model`], where to, and:

    Args:
        greedy ([`Greedy`]):
            The settings of its signature `generate`.
    """
    model, variables = build_model(config, steps, read)
    served = tf.Module()  # it holds variables and no layer, whose classes would be asked for when it is loaded
    served.tensors = variables
    tf.saved_model.save(served, str(folder), signatures=signatures(model, greedy))


def signatures(model: HftkSeq2Seq, greedy: Greedy) -> dict[str, Callable]:
    """`serving_default`, `encode` and `generate`, whose ids and masks are int32 of any batch size and length."""

    def ids(name: str) -> tf.TensorSpec:
        return tf.TensorSpec((None, None), tf.int32, name)

    source = [ids("input_ids"), ids("attention_mask")]

    @tf.function(input_signature=[*source, ids("decoder_input_ids")])
    def serving_default(input_ids, attention_mask, decoder_input_ids):
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": decoder_input_ids}
        return {"logits": model(inputs)}

    @tf.function(input_signature=source)
    def encode(input_ids, attention_mask):
        return {"last_hidden_state": model.encode(input_ids, attention_mask)}

    @tf.function(input_signature=source)
    def generate(input_ids, attention_mask):
        return {"ids": greedy_search(model, greedy, input_ids, attention_mask)}

    return {"serving_default": serving_default, "encode": encode, "generate": generate}


def greedy_search(model: HftkSeq2Seq, greedy: Greedy, input_ids: tf.Tensor, attention_mask: tf.Tensor) -> tf.Tensor:
    """The ids (batch, length) of the likeliest next token again and again, until every row has ended."""
    batch_size = tf.shape(input_ids)[0]
    sources = model.sources(model.encode(input_ids, attention_mask))
    source_visible = model.visible(attention_mask)

    def unfinished(ids, ended, caches):
        return (tf.shape(ids)[1] < greedy.max_length) & ~tf.reduce_all(ended)

    def extend(ids, ended, caches):
        logits, caches = model.decode(ids[:, -1:], sources, source_visible, caches)
        token = tf.argmax(logits[:, -1], axis=-1, output_type=tf.int32)  # (batch,)
        for place, forced in greedy.forced.items():
            token = tf.where(tf.shape(ids)[1] == place, forced, token)
        token = tf.where(ended, greedy.pad, token)
        for end in greedy.ends:
            ended |= token == end
        return tf.concat((ids, token[:, None]), axis=1), ended, caches

    # in each step ids and caches grow by one
    cache_shape = model.empty_caches(1)[0][0].shape
    growing = tf.TensorShape((None, cache_shape[1], None, cache_shape[3]))
    start = (tf.fill((batch_size, 1), greedy.start), tf.zeros((batch_size,), tf.bool), model.empty_caches(batch_size))
    shapes = (tf.TensorShape((None, None)), tf.TensorShape((None,)), [(growing, growing) for _ in sources])
    return tf.while_loop(unfinished, extend, start, shapes)[0]
