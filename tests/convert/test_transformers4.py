"""The TensorFlow classes of transformers 4 load the `tf_model.h5` that hftk writes, and compute what they once did."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hftk.convert.conversion import convert

TRANSFORMERS = Path(sys.prefix) / "transformers4"  # `make tf` puts it there
CLASSES = {
    "bert": "TFBertForMaskedLM",
    "bart": "TFBartForConditionalGeneration",
    "t5": "TFT5ForConditionalGeneration",
    "t5_1_1_shards": "TFT5ForConditionalGeneration",
    "marian": "TFMarianMTModel",
}
RUN = """
import sys
import numpy as np
import transformers

assert transformers.__version__.startswith("4.")
folder, reference, *names = sys.argv[1:]
for pair in names:
    name, class_name = pair.split("=")
    model, info = getattr(transformers, class_name).from_pretrained(f"{folder}/{name}", output_loading_info=True)
    # Tables that it finds under their older name `embeddings` it calls missing all the same: the logits tell.
    assert not info["unexpected_keys"] and not info["mismatched_keys"], (name, info)
    arrays = dict(np.load(f"{reference}/{name}/io.npz"))
    inputs = {key[3:]: array for key, array in arrays.items() if key.startswith("in_")}
    logits = model(**inputs, training=False).logits.numpy()
    print(name, np.abs(logits - arrays["out_logits"]).max())
"""


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.skipif(not TRANSFORMERS.is_dir(), reason="transformers 4 is not beside TensorFlow; `make tf` installs it")
def test_transformers_4_computes_the_same(artifacts, tmp_path):
    for name in CLASSES:
        convert(artifacts / name, tmp_path / "torch" / name, to="torch")
        convert(tmp_path / "torch" / name, tmp_path / "tf" / name, to="tf")
    found = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path / "tf", artifacts, *(f"{name}={CLASSES[name]}" for name in CLASSES)],
        env={**os.environ, "PYTHONPATH": str(TRANSFORMERS), "TF_USE_LEGACY_KERAS": "1"},
        cwd=tmp_path,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    differences = {name: float(number) for name, number in (line.split() for line in found.stdout.splitlines())}
    assert differences.keys() == CLASSES.keys()
    assert max(differences.values()) <= 2e-5, differences
