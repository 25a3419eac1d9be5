import pytest
import torch

from hftk import HftkConfig

SIZES = {
    "vocab_size": 97,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 40,
}


def randomise(model: torch.nn.Module) -> None:
    """Distinct values everywhere, biases and norms included, so that no part can be left out unnoticed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, 0.2)


@pytest.fixture
def build():
    """build(model class, preset, attention kernel, **fields): a tiny model with random weights, in eval mode."""

    def make(model_class, preset="modern", attention="eager", **fields):
        config = HftkConfig.from_preset(preset, **{**SIZES, **fields})
        config._attn_implementation = attention
        model = model_class(config).eval()
        randomise(model)
        return model

    return make
