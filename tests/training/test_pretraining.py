import numpy as np
import pytest
import torch

from hftk import HftkConfig, HftkForConditionalGeneration
from hftk.data.vocabulary import Vocabulary
from hftk.training.pretraining import HeldOut, layer_gradient_norms, unigram_bits_per_byte


def test_the_unigram_guess_is_the_cross_entropy_of_frequencies_over_the_bytes():
    token_bytes = np.array([0, 1, 3])  # the first is special
    vocabulary = Vocabulary(
        token_bytes=token_bytes,
        starts_word=np.ones(3, dtype=bool),
        ends_sentence=np.zeros(3, dtype=bool),
        pad=0, bos=0, eos=0, mask=None, sentinels=np.array([], dtype=np.int64), modes={},
        random_tokens=np.array([1, 2]),
    )  # fmt: skip
    counts = np.array([7, 2, 1])
    held_out = HeldOut(rows=None, weight=1.0, label_counts=counts, label_bytes=int((counts * token_bytes).sum()))  # type: ignore[arg-type]
    # after smoothing the text held 6 of the second and 2 of the third token
    bits = 2 * -np.log2(6 / 8) + 1 * -np.log2(2 / 8)
    assert unigram_bits_per_byte(held_out, np.array([0, 5, 1]), vocabulary) == pytest.approx(bits / 5)


def test_each_layers_gradient_norm_is_that_of_its_own_parameters():
    sizes = {f"{stack}_{name}": 2 for stack in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = HftkConfig(vocab_size=50, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, **sizes)
    model = HftkForConditionalGeneration(config)
    ids = torch.randint(3, 50, (2, 7))
    model(input_ids=ids, labels=ids).loss.backward()
    model.decoder.layers[1].requires_grad_(False)
    for parameter in model.decoder.layers[1].parameters():
        parameter.grad = None  # frozen
    norms = layer_gradient_norms(model)
    assert list(norms) == ["encoder.layers.0", "encoder.layers.1", "decoder.layers.0"]
    for name, norm in norms.items():
        parameters = model.get_submodule(name).parameters()
        torch.testing.assert_close(norm, torch.cat([p.grad.flatten() for p in parameters]).norm())
