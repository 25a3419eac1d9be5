"""The presets compute what implementations that nobody here wrote compute (fp32, 2e-5 of the largest value)."""

import math
import re

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from hftk import HftkForConditionalGeneration


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    largest = max(1.0, theirs.abs().max().item())  # T5 normalises no sum of its layers: they grow
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * largest)


def rename(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def load(model, reference_state: dict[str, torch.Tensor]) -> None:
    """Every parameter of `model` comes from the reference."""
    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if "embed_tokens" not in name and "lm_head" not in name
    }
    assert own.keys() == reference_state.keys()
    model.load_state_dict(reference_state, strict=False)
    model.tie_weights()


def random_state(reference: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return reference.state_dict()


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    inputs = {
        "input_ids": torch.randint(5, 97, (3, 11)),
        "attention_mask": torch.ones(3, 11, dtype=torch.long),
        "decoder_input_ids": torch.randint(5, 97, (3, 7)),
    }
    inputs["attention_mask"][0, 8:] = 0
    return inputs


def assert_equal_outputs(ours, theirs) -> None:
    assert_close(ours.logits, theirs.logits)
    for kind in ("encoder_hidden_states", "decoder_hidden_states"):
        assert len(getattr(ours, kind)) == len(getattr(theirs, kind))
        for mine, other in zip(getattr(ours, kind), getattr(theirs, kind), strict=True):
            assert_close(mine, other)


BART_RULES = [(r"^model\.", ""), (r"\.(fc[12])\.", r".feed_forward.\1.")]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bart_preset_equals_bart(build, attention):
    bart = BartForConditionalGeneration(
        BartConfig(
            vocab_size=97, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
            decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=40,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
        )
    ).eval()  # fmt: skip
    state = {}
    for name, tensor in random_state(bart).items():
        if "embed_tokens" in name or "lm_head" in name or name == "final_logits_bias":
            continue
        # BART's table of positions begins with two rows that no token reaches
        state[rename(name, BART_RULES)] = tensor[2:] if "embed_positions" in name else tensor
    ours = build(HftkForConditionalGeneration, "bart", attention)
    load(ours, state)
    inputs = batch()
    with torch.no_grad():
        assert_equal_outputs(ours(**inputs, output_hidden_states=True), bart(**inputs, output_hidden_states=True))
    for options in ({}, {"num_beams": 3}):
        source = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "max_new_tokens": 12}
        assert torch.equal(ours.generate(**source, **options), bart.generate(**source, **options))


T5_RULES = [
    (r"block\.0\.layer\.0\.SelfAttention\.relative_attention_bias", "relative_attention_bias"),
    (r"\.final_layer_norm\.", ".layer_norm."),
    (r"block\.(\d+)\.layer\.0\.SelfAttention\.([qkv])\.", r"layers.\1.self_attn.\2_proj."),
    (r"block\.(\d+)\.layer\.0\.SelfAttention\.o\.", r"layers.\1.self_attn.out_proj."),
    (r"block\.(\d+)\.layer\.0\.layer_norm", r"layers.\1.self_attn_layer_norm"),
    (r"block\.(\d+)\.layer\.1\.EncDecAttention\.([qkv])\.", r"layers.\1.encoder_attn.\2_proj."),
    (r"block\.(\d+)\.layer\.1\.EncDecAttention\.o\.", r"layers.\1.encoder_attn.out_proj."),
    (r"decoder\.block\.(\d+)\.layer\.1\.layer_norm", r"decoder.layers.\1.encoder_attn_layer_norm"),
    (r"block\.(\d+)\.layer\.\d\.DenseReluDense\.wi\.", r"layers.\1.feed_forward.fc1."),
    (r"block\.(\d+)\.layer\.\d\.DenseReluDense\.wo\.", r"layers.\1.feed_forward.fc2."),
    (r"block\.(\d+)\.layer\.\d\.layer_norm", r"layers.\1.final_layer_norm"),
]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_t5_preset_equals_t5(build, attention):
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=97, d_model=32, d_kv=12, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4,
            relative_attention_num_buckets=8, relative_attention_max_distance=10, pad_token_id=0, eos_token_id=2,
            decoder_start_token_id=1,
        )
    ).eval()  # fmt: skip
    reference = random_state(t5)
    state = {rename(n, T5_RULES): w for n, w in reference.items() if "embed_tokens" not in n and "lm_head" not in n}
    ours = build(
        HftkForConditionalGeneration, "t5", attention, head_dim=12, decoder_attention_heads=4, decoder_ffn_dim=48,
        relative_attention_num_buckets=8, relative_attention_max_distance=10,
    )  # fmt: skip
    load(ours, state)
    inputs = batch()
    with torch.no_grad():
        theirs = t5(**inputs, output_hidden_states=True, use_cache=False)  # T5's cache counts the encoder's layers
        assert_equal_outputs(ours(**inputs, output_hidden_states=True), theirs)
    for options in ({}, {"num_beams": 3}):
        source = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "max_new_tokens": 12}
        assert torch.equal(ours.generate(**source, **options), t5.generate(**source, **options, use_cache=False))


def torch_names(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """`nn.Transformer` keeps q, k and v in one matrix, and numbers its norms."""
    name = name.replace(".multihead_attn.", ".encoder_attn.").replace("linear1", "feed_forward.fc1")
    name = name.replace("linear2", "feed_forward.fc2").replace(".norm1.", ".self_attn_layer_norm.")
    name = re.sub(r"^(\w+)\.norm\.", r"\1.layer_norm.", name)
    if name.startswith("encoder"):
        name = name.replace(".norm2.", ".final_layer_norm.")
    name = name.replace(".norm2.", ".encoder_attn_layer_norm.").replace(".norm3.", ".final_layer_norm.")
    if "in_proj_" in name:
        return {
            name.replace("in_proj_", f"{letter}_proj."): part
            for letter, part in zip("qkv", tensor.chunk(3), strict=True)
        }
    return {name: tensor}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_vanilla_preset_equals_torch_transformer(build, attention):
    torch.manual_seed(0)
    reference = torch.nn.Transformer(
        d_model=32,
        nhead=4,
        num_encoder_layers=2,
        num_decoder_layers=3,
        dim_feedforward=48,
        activation="relu",
        batch_first=True,
    ).eval()
    embedding = torch.randn(97, 32) * 0.2
    state = {"shared.weight": embedding}
    for name, tensor in random_state(reference).items():
        state |= torch_names(name, tensor)
    ours = build(HftkForConditionalGeneration, "vanilla", attention, decoder_attention_heads=4, decoder_ffn_dim=48)
    load(ours, state)

    def embed(ids: torch.Tensor) -> torch.Tensor:
        """Vaswani et al. 2017, §3.4 and §3.5, feature by feature."""
        positions = torch.zeros(ids.shape[1], 32)
        for position in range(ids.shape[1]):
            for i in range(16):
                angle = position / 10000 ** (2 * i / 32)
                positions[position, 2 * i], positions[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
        return embedding[ids] * math.sqrt(32) + positions

    inputs = batch()
    padding = inputs["attention_mask"] == 0
    causal = torch.nn.Transformer.generate_square_subsequent_mask(7)
    with torch.no_grad():
        outputs = ours(**inputs, output_hidden_states=True)
    encoder_states, decoder_states = [embed(inputs["input_ids"])], [embed(inputs["decoder_input_ids"])]
    # layer by layer and with gradients on: otherwise torch takes a fused path that zeroes padding and shows no hidden
    # states
    for layer in reference.encoder.layers:
        encoder_states.append(layer(encoder_states[-1], src_key_padding_mask=padding))
    encoder_states[-1] = reference.encoder.norm(encoder_states[-1])
    for layer in reference.decoder.layers:
        decoder_states.append(
            layer(decoder_states[-1], encoder_states[-1], tgt_mask=causal, memory_key_padding_mask=padding)
        )
    decoder_states[-1] = reference.decoder.norm(decoder_states[-1])
    whole = reference(
        encoder_states[0],
        decoder_states[0],
        tgt_mask=causal,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    assert_close(outputs.logits, whole @ embedding.T)
    for mine, other in zip(outputs.encoder_hidden_states, encoder_states, strict=True):
        assert_close(mine, other)
    for mine, other in zip(outputs.decoder_hidden_states, decoder_states, strict=True):
        assert_close(mine, other)
