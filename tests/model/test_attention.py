"""Attention in chunks is attention: the same outputs and gradients as step by step, in less memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hftk.model import modeling_hftk
from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import AttentionInChunks, HftkForPreTraining


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5),
    queries=st.integers(1, 7),
    keys=st.integers(1, 7),
    chunk=st.integers(1, 100),
    mask_rows=st.sampled_from([None, "one", "each"]),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_are_those_of_scaled_dot_product_attention(batch, queries, keys, chunk, mask_rows, seed):
    torch.manual_seed(seed)
    shapes = [(batch, 2, length, 4) for length in (queries, keys, keys)]
    ours = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    theirs = [states.detach().clone().requires_grad_() for states in ours]
    mask = None
    if mask_rows is not None:
        hidden = torch.rand(batch if mask_rows == "each" else 1, 1, queries, keys) < 0.4
        hidden[..., 0] = False
        mask = torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, -1e30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_hftk, "SCORES_AT_ONCE", chunk)
        output = AttentionInChunks.apply(*ours, mask)
        query, key, value = theirs
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        expected = expected.transpose(1, 2)
        torch.testing.assert_close(output, expected)
        towards = torch.randn_like(expected)
        (output * towards).sum().backward()
    (expected * towards).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_weights_are_there_for_who_asks_while_it_trains():
    config = HftkConfig(
        vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, attn_implementation="eager",
    )  # fmt: skip
    model = HftkForPreTraining(config).train()
    ids = torch.randint(5, 50, (2, 6))
    silent, loud = (model(input_ids=ids, decoder_input_ids=ids, output_attentions=asked) for asked in (False, True))
    assert not silent.encoder_attentions and loud.encoder_attentions[0].shape == (2, 2, 6, 6)
    assert [part[0].shape for part in (loud.decoder_attentions, loud.cross_attentions)] == [(2, 2, 6, 6)] * 2
    torch.testing.assert_close(silent.logits, loud.logits)
