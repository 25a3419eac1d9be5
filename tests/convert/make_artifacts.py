"""
Makes the TensorFlow weights of `artifacts/` that transformers 4 saves, with what it computes, beside those that are
there. Not run by the tests. In an environment of its own:

    pip install tensorflow==2.21.* tf_keras==2.21.* transformers==4.57.6 h5py
    TF_USE_LEGACY_KERAS=1 python tests/convert/make_artifacts.py

Every tensor has random values, also biases, norms and tables of positions, whose defaults would hide mistakes.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from transformers import (
    BertConfig,
    MarianConfig,
    T5Config,
    TFBertForPreTraining,
    TFBertModel,
    TFMarianMTModel,
    TFT5ForConditionalGeneration,
)

HERE = Path(__file__).parent
ARTIFACTS = HERE / "artifacts"
sys.path.insert(0, str(HERE.parents[1] / "docs"))
from tf_reference import reference  # noqa: E402

SIZES = {"vocab_size": 120, "d_model": 32, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2}
T5 = {**SIZES, "d_kv": 12, "d_ff": 48, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10}
BERT = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MARIAN = {"vocab_size": 120, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def build(model_class, config):
    """A model whose every weight is random; tables that are computed stay as they are."""
    model = model_class(config)
    model.build_in_name_scope() if hasattr(model, "build_in_name_scope") else model(model.dummy_inputs)
    random = np.random.default_rng(7)
    for weight in model.weights:
        if config.model_type == "marian" and "embed_positions" in weight.name:
            continue
        middle = 1.0 if "gamma" in weight.name or "norm/weight" in weight.name else 0.0
        weight.assign(random.normal(middle, 0.2, weight.shape).astype(np.float32))
    return model


def save(name: str, model, **options) -> None:
    folder = ARTIFACTS / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, **options)
    np.savez(folder / "io.npz", **reference(model))


save("t5", build(TFT5ForConditionalGeneration, T5Config(**T5, **TOKENS, feed_forward_proj="relu")))
# 1.1: gated, and its head is not tied
t5_1_1 = build(
    TFT5ForConditionalGeneration,
    T5Config(**T5, **TOKENS, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
)
save("t5_1_1_shards", t5_1_1, max_shard_size="120KB")
marian = MarianConfig(
    **MARIAN, decoder_ffn_dim=40, encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=40,
    pad_token_id=119, eos_token_id=0, forced_eos_token_id=0, decoder_start_token_id=119, scale_embedding=True,
    activation_function="swish", decoder_vocab_size=120,
)  # fmt: skip
save("marian", build(TFMarianMTModel, marian))
bert = BertConfig(**BERT, intermediate_size=48, max_position_embeddings=40, layer_norm_eps=1e-5, hidden_act="gelu_new")
save("bert_pretraining", build(TFBertForPreTraining, bert))
model = build(TFBertModel, bert)
save("bert_saved_model", model)
(ARTIFACTS / "bert_saved_model/tf_model.h5").unlink()
tf.saved_model.save(model, str(ARTIFACTS / "bert_saved_model"))
# A megabyte of graph that nothing here reads.
(ARTIFACTS / "bert_saved_model/saved_model.pb").write_bytes(b"")
(ARTIFACTS / "bert_saved_model/fingerprint.pb").unlink()


def save_partitioned() -> None:
    """The variables of `tf1_bert` as a cluster saves them: some in parts, and two data files."""
    v1 = tf.compat.v1
    parts = {
        "bert/embeddings/word_embeddings": v1.fixed_size_partitioner(3, axis=0),
        "bert/embeddings/position_embeddings": v1.fixed_size_partitioner(40, axis=0),
        "bert/encoder/layer_1/intermediate/dense/kernel": v1.fixed_size_partitioner(2, axis=1),
    }
    reader = tf.train.load_checkpoint(str(ARTIFACTS / "tf1_bert/bert_model.ckpt"))
    names = sorted(name for name in reader.get_variable_to_shape_map() if not name.endswith(("adam_m", "adam_v")))
    folder = ARTIFACTS / "tf1_bert_partitioned"
    folder.mkdir(exist_ok=True)
    assigned = []
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
        for place, name in enumerate(names):
            with tf.device(f"/cpu:{place % 2}"), v1.variable_scope("", use_resource=False):
                value = reader.get_tensor(name)
                variable = v1.get_variable(name, value.shape, tf.as_dtype(value.dtype), partitioner=parts.get(name))
                assigned.append(variable.assign(value))
        session.run(assigned)
        v1.train.Saver(sharded=True).save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False)
    (folder / "checkpoint").unlink()


save_partitioned()
