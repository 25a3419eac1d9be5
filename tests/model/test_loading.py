"""Nothing of a model is filled at random without a word; TensorFlow's weights are refused, and hftk convert named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForMaskedLM

from hftk import HftkConfig, HftkForConditionalGeneration, HftkForMaskedLM, HftkModel

ARTIFACTS = Path(__file__).parents[1] / "convert/artifacts"
SIZES = {"vocab_size": 97, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
SIZES |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}


@pytest.fixture
def folder(tmp_path) -> Path:
    HftkConfig(**SIZES).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("weights", ["bart/tf_model.h5", "keras_bart/model_full.keras", "keras_bart/bart.ckpt.index"])
@pytest.mark.parametrize("model_class", [HftkForMaskedLM, AutoModelForMaskedLM])
def test_tensorflow_weights_are_refused(folder, weights, model_class):
    shutil.copy(ARTIFACTS / weights, folder)
    with pytest.raises(ValueError, match="hftk convert .* NEW --to hftk"):
        model_class.from_pretrained(folder)


def test_tensorflow_weights_that_look_like_torch(folder):
    """transformers 5 loads `format=tf` with every weight missing."""
    shutil.copy(ARTIFACTS / "bert_tf_safetensors/model.safetensors", folder)
    with pytest.raises(ValueError, match="lacks .* tensors of HftkForMaskedLM.*hftk convert"):
        HftkForMaskedLM.from_pretrained(folder)


def test_from_tf_is_refused(folder):
    HftkModel(HftkConfig(**SIZES)).save_pretrained(folder)
    with pytest.raises(ValueError, match="hftk convert"):
        HftkModel.from_pretrained(folder, from_tf=True)


def test_one_tensor_may_not_be_missing(folder):
    HftkForConditionalGeneration(HftkConfig(**SIZES)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["decoder.layers.0.encoder_attn.k_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 tensors.*like decoder.layers.0.encoder_attn.k_proj.weight"):
        HftkForConditionalGeneration.from_pretrained(folder)
    assert HftkForMaskedLM.from_pretrained(folder)  # which has no decoder


def test_loading_info_comes_when_asked_for(folder):
    HftkModel(HftkConfig(**SIZES)).save_pretrained(folder)
    model, info = HftkModel.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, HftkModel) and not info["missing_keys"]


@pytest.mark.parametrize("model_class", [HftkForConditionalGeneration, HftkForMaskedLM])
def test_a_head_of_its_own_is_saved_and_loaded(tmp_path, model_class):
    config = HftkConfig(**SIZES, tie_lm_head=False, lm_head_bias=True, lm_head_transform=True, type_vocab_size=2)
    model = model_class(config)
    model.save_pretrained(tmp_path)
    assert model.lm_head.weight is not model.shared.weight
    assert model.encoder.embed_tokens.weight is model.shared.weight
    again = model_class.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.numpy(), again.state_dict()[name].numpy()), name
    assert again.lm_head.weight is not again.shared.weight
