"""
Writes io.npz, what a TensorFlow model of transformers 4 computes on a few random ids, for `hftk convert --reference`.

    pip install 'transformers<5' tensorflow tf-keras
    python tf_reference.py TFBartForConditionalGeneration my-bart     # the class, and the folder with tf_model.h5
"""

import sys
from pathlib import Path

import numpy as np
import transformers

NEW_TOKENS = 8


def reference(model) -> dict[str, np.ndarray]:
    """`in_…`: ids and masks [3, length]; `out_…`: every hidden state, the logits, and a greedy generation."""
    random = np.random.default_rng(0)
    ids = random.integers(5, model.config.vocab_size, (3, 11), dtype=np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    inputs["attention_mask"][0, 8:] = 0
    found = {}
    if model.config.is_encoder_decoder:
        source = dict(inputs)
        inputs["decoder_input_ids"] = random.integers(5, model.config.vocab_size, (3, 7), dtype=np.int32)
        ids = model.generate(**source, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
        found["out_generate_greedy"] = np.asarray(ids)
    elif "token_type_ids" in model.call.__code__.co_varnames:
        inputs["token_type_ids"] = random.integers(0, model.config.type_vocab_size, (3, 11), dtype=np.int32)
    outputs = model(**inputs, output_hidden_states=True, training=False)
    found |= {f"in_{name}": array for name, array in inputs.items()}
    for name, value in outputs.items():
        if name.endswith("hidden_states"):
            found |= {f"out_{name}_{i}": np.asarray(state) for i, state in enumerate(value)}
        elif name.endswith(("logits", "last_hidden_state", "pooler_output")):
            found[f"out_{name}"] = np.asarray(value)
    return found


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    np.savez(Path(folder, "io.npz"), **reference(getattr(transformers, name).from_pretrained(folder)))
