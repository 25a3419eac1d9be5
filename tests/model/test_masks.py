"""Nothing leaks: not from padding, not from the future, not between packed documents, not through the cache."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hftk import HftkEncoderModel, HftkForConditionalGeneration, HftkForMaskedLM
from hftk.model.modeling_hftk import HftkBatchNorm

KERNELS = ["eager", "sdpa"]
NGRAMS = {"ngram_vocab_size": 50, "ngram_dim": 8}
POSITIONS = ["sinusoidal", "sinusoidal_halves", "learned", "relative", "rotary", "alibi", "none"]


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(5, 97, shape)


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("ngram_order", [1, 3])
def test_padding_and_future_change_nothing(build, attention, positions, ngram_order):
    model = build(
        HftkForConditionalGeneration,
        attention=attention,
        position_embedding_type=positions,
        ngram_order=ngram_order,
        **NGRAMS,
    )
    torch.manual_seed(3)
    source, target = ids(2, 10), ids(2, 8)
    mask = torch.ones_like(source)
    mask[:, 7:] = 0
    other_source, other_target = source.clone(), target.clone()
    other_source[:, 7:], other_target[:, 5:] = ids(2, 3), ids(2, 3)
    assert not torch.equal(source, other_source) and not torch.equal(target, other_target)
    with torch.no_grad():
        first = model(input_ids=source, attention_mask=mask, decoder_input_ids=target)
        second = model(input_ids=other_source, attention_mask=mask, decoder_input_ids=other_target)
    assert torch.equal(first.encoder_last_hidden_state[:, :7], second.encoder_last_hidden_state[:, :7])
    assert torch.equal(first.logits[:, :5], second.logits[:, :5])
    assert not torch.equal(first.logits[:, 5:], second.logits[:, 5:])


def packed_row(sources: list[torch.Tensor], targets: list[torch.Tensor], padding: int = 3) -> dict[str, torch.Tensor]:
    """
    Several documents in one row, as training packs them: positions restart, and padding goes on from the last one.
    """

    def pack(documents):
        lengths = [len(document) for document in documents]
        lengths_with_padding = lengths[:-1] + [lengths[-1] + padding]
        positions = torch.cat([torch.arange(length) for length in lengths_with_padding])
        tokens = torch.cat([*documents, torch.zeros(padding, dtype=torch.long)])
        mask = torch.cat([torch.ones(sum(lengths)), torch.zeros(padding)]).long()
        return tokens[None], mask[None], positions[None]

    row = dict(zip(("input_ids", "attention_mask", "position_ids"), pack(sources), strict=True))
    labels, mask, positions = pack(targets)
    labels[mask == 0] = -100
    return row | {"labels": labels, "decoder_attention_mask": mask, "decoder_position_ids": positions}


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("window", "ngram_order"), [(None, 1), (2, 1), (None, 3)])
def test_packed_documents_get_what_they_get_alone(build, attention, positions, window, ngram_order):
    model = build(
        HftkForConditionalGeneration,
        attention=attention,
        position_embedding_type=positions,
        attention_window=window,
        ngram_order=ngram_order,
        **NGRAMS,
    )
    torch.manual_seed(4)
    sources, targets = [ids(5), ids(9), ids(1)], [ids(4), ids(2), ids(6)]
    with torch.no_grad():
        packed = model(**packed_row(sources, targets))
        start_source = start_target = 0
        for source, target in zip(sources, targets, strict=True):
            alone = model(input_ids=source[None], labels=target[None])
            end_source, end_target = start_source + len(source), start_target + len(target)
            torch.testing.assert_close(
                packed.encoder_last_hidden_state[:, start_source:end_source],
                alone.encoder_last_hidden_state,
                rtol=0,
                atol=1e-5,
            )
            torch.testing.assert_close(packed.logits[:, start_target:end_target], alone.logits, rtol=0, atol=1e-5)
            start_source, start_target = end_source, end_target


@pytest.mark.parametrize("attention", KERNELS)
def test_gradients_of_a_packed_row_are_finite(build, attention):
    model = build(HftkForConditionalGeneration, attention=attention, attention_window=1).train()
    torch.manual_seed(5)
    model(**packed_row([ids(5), ids(2)], [ids(3), ids(3)], padding=9)).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("ngram_order", [1, 3])
def test_cached_generation_equals_uncached_and_padding_changes_nothing(build, attention, positions, side, ngram_order):
    model = build(
        HftkForConditionalGeneration,
        attention=attention,
        position_embedding_type=positions,
        decoder_layers=2,
        ngram_order=ngram_order,
        **NGRAMS,
    )
    torch.manual_seed(6)
    texts = [ids(9), ids(4), ids(6)]
    source, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(9 - len(text), 9) if side == "left" else slice(0, len(text))
        source[row, place], mask[row, place] = text, 1
    for options in ({}, {"num_beams": 3, "length_penalty": 0.5}):
        options |= {"max_new_tokens": 8, "do_sample": False}
        cached = model.generate(source, attention_mask=mask, **options)
        assert torch.equal(cached, model.generate(source, attention_mask=mask, use_cache=False, **options))
        for row, text in enumerate(texts):
            alone = model.generate(text[None], **options)[0]
            assert torch.equal(cached[row, : len(alone)], alone)


def test_static_cache_equals_dynamic(build):
    model = build(HftkForConditionalGeneration, attention="sdpa", position_embedding_type="relative")
    torch.manual_seed(7)
    source = ids(2, 7)
    static = model.generate(source, max_new_tokens=8, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, model.generate(source, max_new_tokens=8))


@pytest.mark.slow
def test_flex_attention_equals_eager_in_inference(build):
    torch.manual_seed(8)
    row = packed_row([ids(5), ids(9)], [ids(9), ids(5)])  # equal lengths: one kernel to compile
    outputs = []
    for attention in ("eager", "flex_attention"):
        model = build(
            HftkForConditionalGeneration, attention=attention, d_model=64, attention_window=3, encoder_layers=1
        )
        with torch.no_grad():
            outputs.append(model(**row).logits)
    torch.testing.assert_close(outputs[0][:, :14], outputs[1][:, :14], rtol=0, atol=1e-5)


def test_flex_attention_refuses_the_biases_that_it_cannot_add_on_a_cpu(build):
    model = build(HftkForConditionalGeneration, attention="flex_attention", position_embedding_type="alibi")
    with pytest.raises(ValueError, match="use attn_implementation='sdpa' or 'eager'"):
        model.encoder.position_bias(torch.zeros(1, 4, 32), 0, 4)


def test_without_positions_a_shuffled_sentence_is_encoded_alike(build):
    torch.manual_seed(9)
    source, order = ids(1, 12), torch.randperm(12)
    for positions in POSITIONS:
        encoder = build(HftkForMaskedLM, position_embedding_type=positions).encoder
        with torch.no_grad():
            straight = encoder(input_ids=source).last_hidden_state
            shuffled = encoder(input_ids=source[:, order]).last_hidden_state
        same = torch.allclose(straight[:, order], shuffled, rtol=0, atol=1e-5)
        assert same == (positions == "none")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(2, 5))
def test_batch_norm_equals_torch_on_the_real_tokens(lengths, features):
    ours, theirs = HftkBatchNorm(features), torch.nn.BatchNorm1d(features)
    assume(sum(lengths) >= 4)  # of fewer tokens the variance may be so small that rounding shows
    torch.manual_seed(0)
    states = torch.randn(len(lengths), max(lengths) + 1, features)
    mask = (torch.arange(states.shape[1])[None] < torch.tensor(lengths)[:, None]).long()
    expected = theirs(states[mask.bool()])
    torch.testing.assert_close(ours(states, mask)[mask.bool()], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(states, mask)[mask.bool()], theirs(states[mask.bool()]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("positions", ["rotary", "relative", "alibi"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])  # build() keeps nothing
@given(window=st.integers(1, 5), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), padding=st.integers(0, 7))
def test_a_window_block_by_block_is_the_window_of_the_whole_row(build, attention, positions, window, lengths, padding):
    torch.manual_seed(8)
    row = packed_row([ids(length) for length in lengths], [ids(1)], padding)
    row = {name: row[name] for name in ("input_ids", "attention_mask", "position_ids")}
    fields = {"attention": attention, "position_embedding_type": positions, "attention_window": window}
    blocks, whole = build(HftkEncoderModel, **fields), build(HftkEncoderModel, **fields)
    whole.encoder.in_blocks = lambda *args: False  # and so a mask of transformers for the whole row
    real = row["attention_mask"].bool()
    with torch.no_grad():
        hidden, expected = blocks(**row).last_hidden_state[real], whole(**row).last_hidden_state[real]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)
