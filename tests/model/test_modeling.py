"""The classes as users of transformers meet them: saved, loaded, resized, compiled, checkpointed, refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.loss.loss_utils import ForMaskedLMLoss

from hftk import (
    HftkConfig,
    HftkEncoderModel,
    HftkForConditionalGeneration,
    HftkForMaskedLM,
    HftkForPreTraining,
    HftkForSequenceClassification,
    HftkForTokenClassification,
    HftkModel,
)
from hftk.model import modeling_hftk
from hftk.model.configuration_hftk import PRESETS
from hftk.model.modeling_hftk import HftkFeedForward, HftkRMSNorm, RMSNormOnCPU, lm_loss


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(5, 97, shape)


def test_every_auto_class_loads_a_folder_that_trained_both(build, tmp_path):
    trained = build(HftkForPreTraining, attention="sdpa", trained_objectives=["masked_lm", "span_corruption"])
    trained.save_pretrained(tmp_path)
    source, target = ids(2, 7), ids(2, 5)
    with torch.no_grad():
        masked = trained(input_ids=source).logits
        denoised = trained(input_ids=source, decoder_input_ids=target)
        assert torch.equal(AutoModelForMaskedLM.from_pretrained(tmp_path)(input_ids=source).logits, masked)
        seq2seq = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        assert torch.equal(seq2seq(input_ids=source, decoder_input_ids=target).logits, denoised.logits)
        base = AutoModel.from_pretrained(tmp_path)(input_ids=source, decoder_input_ids=target)
        assert torch.equal(base.encoder_last_hidden_state, denoised.encoder_last_hidden_state)
    for auto_class in (AutoModelForSequenceClassification, AutoModelForTokenClassification):
        model = auto_class.from_pretrained(tmp_path, num_labels=3)
        assert torch.equal(model.encoder(input_ids=source).last_hidden_state, denoised.encoder_last_hidden_state)
        assert model(input_ids=source).logits.shape[-1] == 3


@pytest.mark.parametrize(
    ("trained_class", "objective", "refused"),
    [
        (HftkForMaskedLM, "masked_lm", [AutoModelForSeq2SeqLM, AutoModel]),
        (HftkForConditionalGeneration, "span_corruption", [AutoModelForMaskedLM]),
    ],
)
def test_what_was_never_trained_is_refused_in_one_line(build, tmp_path, trained_class, objective, refused):
    build(trained_class, trained_objectives=[objective]).save_pretrained(tmp_path)
    for auto_class in refused:
        with pytest.raises(ValueError, match=f"trained on {objective} alone") as error:
            auto_class.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)
    AutoModelForTokenClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_gradient_checkpointing_changes_no_gradient(build, preset):
    gradients = []
    for checkpointing in (False, True):
        model = build(
            HftkForConditionalGeneration, preset, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0
        ).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(1)
        model(input_ids=ids(2, 6), labels=ids(2, 5)).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for without, with_ in zip(*gradients, strict=True):
        torch.testing.assert_close(without, with_, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_compiles_without_graph_breaks(build, preset):
    model = build(HftkForConditionalGeneration, preset, "sdpa")
    batch = {"input_ids": ids(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long), "labels": ids(2, 5)}
    positions = {
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]] * 2),
        "decoder_position_ids": torch.tensor([[0, 1, 0, 1, 2]] * 2),
    }
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for inputs in (batch, batch | positions):
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_items_in_batch", [None, torch.tensor(7)])
def test_the_loss_equals_that_of_transformers(num_items_in_batch):
    logits, labels = torch.randn(2, 5, 9), torch.tensor([[1, -100, 3, 8, -100], [0, 2, -100, -100, 5]])
    expected = ForMaskedLMLoss(logits, labels, 9, num_items_in_batch=num_items_in_batch)
    torch.testing.assert_close(lm_loss(logits, labels, num_items_in_batch), expected)


def test_weights_begin_as_large_as_those_of_the_preset():
    sizes = {"vocab_size": 500, "d_model": 64, "encoder_layers": 1, "decoder_layers": 1}
    for preset, std, share, embedding in (
        ("t5", 64**-0.5, 32**-0.5, 1.0),
        ("vanilla", 64**-0.5, 1.0, 64**-0.5),
        ("bart", 0.02, 1.0, 0.02),
        ("modern", 0.02, 1.0, 0.02),
    ):
        config = HftkConfig.from_preset(preset, **sizes, encoder_attention_heads=2, decoder_attention_heads=2)
        model = HftkModel(config)
        spread = {name: weight.std().item() for name, weight in model.named_parameters()}
        assert spread["encoder.layers.0.self_attn.q_proj.weight"] == pytest.approx(std * share, rel=0.05)
        assert spread["encoder.layers.0.self_attn.k_proj.weight"] == pytest.approx(std, rel=0.05)
        assert spread["shared.weight"] == pytest.approx(embedding, rel=0.05)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("num_items_in_batch", [None, torch.tensor(7)])
@pytest.mark.parametrize("kind", [HftkForMaskedLM, HftkForConditionalGeneration])
def test_training_computes_the_same_loss_without_logits(build, kind, num_items_in_batch, frozen, monkeypatch):
    """Of the tokens that have a label, a few at once; its gradients are those of all logits."""
    monkeypatch.setattr(modeling_hftk, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(modeling_hftk, "EXACT_AT_ONCE", 1)
    model = build(kind, dropout=0.0, lm_head_bias=True, scale_lm_head=True)
    torch.nn.init.normal_(model.lm_head.bias)
    if frozen:
        model.lm_head.requires_grad_(False)
    inputs = torch.arange(4, 28).reshape(2, 12)
    labels = torch.where(torch.arange(12) % 5 == 0, inputs, -100)
    batch = {"input_ids": inputs, "labels": labels, "num_items_in_batch": num_items_in_batch}
    gradients = []
    whole, alone = model(**batch), model.train()(**batch)
    assert whole.logits.shape == (2, 12, 97) and alone.logits is None
    for output in (whole, alone):
        (output.loss * 3).backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
        model.zero_grad()
    torch.testing.assert_close(alone.loss, whole.loss)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert ("lm_head.bias" in gradients[1]) is not frozen


def test_an_adapter_on_the_head_is_not_passed_by(build):
    model = build(HftkForConditionalGeneration, tie_lm_head=False)
    adapted = get_peft_model(model, LoraConfig(target_modules=["lm_head"], init_lora_weights=False)).train()
    adapted(input_ids=ids(2, 6), labels=ids(2, 5)).loss.backward()
    assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)


def test_resized_embeddings_serve_both_stacks_and_the_head(build):
    model = build(HftkForConditionalGeneration)
    source, target = ids(2, 6), ids(2, 4)
    with torch.no_grad():
        before = model(input_ids=source, decoder_input_ids=target).logits
        model.resize_token_embeddings(120)
        after = model(input_ids=source, decoder_input_ids=target).logits
    assert after.shape[-1] == 120
    torch.testing.assert_close(after[..., :97], before)
    assert (
        model.lm_head.weight
        is model.shared.weight
        is model.encoder.embed_tokens.weight
        is model.decoder.embed_tokens.weight
    )


def test_a_window_hides_what_is_far(build):
    model = build(HftkForMaskedLM, attention_window=2, encoder_layers=1)
    source = ids(1, 12)
    other = source.clone()
    other[0, 0] = 5 if source[0, 0] != 5 else 6
    with torch.no_grad():
        difference = (model(input_ids=source).logits != model(input_ids=other).logits).any(-1)[0]
    assert difference[:3].all() and not difference[3:].any()


def test_no_residual_and_no_norm_are_what_they_say(build):
    model = build(HftkForMaskedLM, norm_type="none", residual=False, encoder_layers=1, position_embedding_type="none")
    source = ids(1, 5)
    layer = model.encoder.layers[0]
    with torch.no_grad():
        attended, _ = layer.self_attn(model.shared(source), None)
        torch.testing.assert_close(model.encoder(input_ids=source).last_hidden_state, layer.feed_forward(attended))


def test_rms_norm_on_a_cpu_is_that_of_torch(monkeypatch):
    monkeypatch.setattr(modeling_hftk, "NORMALISED_AT_ONCE", 24)  # 4 tokens at a time
    states = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def norm(states, weight):
        return RMSNormOnCPU.apply(states, weight, 1e-6, torch.float64)

    expected = torch.nn.functional.rms_norm(states, (6,), weight, 1e-6)
    torch.testing.assert_close(norm(states, weight), expected, rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(norm, (states, weight))
    module = HftkRMSNorm(6, eps=1e-6).double()
    module.weight = torch.nn.Parameter(weight)
    with torch.no_grad():
        torch.testing.assert_close(module(states), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_a_feed_forward_layer_in_chunks_is_that_of_torch(monkeypatch, gated, bias):
    monkeypatch.setattr(modeling_hftk, "INNER_AT_ONCE", 24)  # 2 tokens at a time
    sizes = {"d_model": 16, "encoder_ffn_dim": 12, "activation_function": "gelu"}
    layer = HftkFeedForward(HftkConfig(use_bias=bias, gated_feed_forward=gated, **sizes), 12).double()
    states = torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True)
    inner = torch.nn.functional.gelu(layer.fc1(states))
    if layer.fc3 is not None:
        inner = inner * layer.fc3(states)
    assert type(layer(states).grad_fn).__name__ == "FeedForwardInChunksBackward"
    torch.testing.assert_close(layer(states), layer.fc2(inner), rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(layer, (states,))
    weights = list(layer.parameters())
    direction = torch.randn(3, 5, 16, dtype=torch.float64)
    expected = torch.autograd.grad(layer.fc2(inner), weights, direction)
    torch.testing.assert_close(torch.autograd.grad(layer(states), weights, direction), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("preset", PRESETS)
def test_under_autocast_no_linear_layer_converts_what_it_reads(build, preset):
    encoder = build(HftkEncoderModel, preset).train().encoder
    read = {}
    for name, layer in encoder.layers.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: read.update({name: inputs[0].dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(input_ids=ids(2, 5))
    assert set(read.values()) == {torch.bfloat16}, read


@pytest.mark.parametrize("norm_type", ["layer_norm", "rms_norm", "batch_norm", "none"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_every_norm_trains(build, norm_type, norm_position):
    model = build(HftkForConditionalGeneration, norm_type=norm_type, norm_position=norm_position).train()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    loss = model(input_ids=ids(2, 4), attention_mask=mask, labels=ids(2, 3)).loss
    loss.backward()
    assert loss.isfinite() and all(parameter.grad is not None for parameter in model.parameters())


def test_classifiers_ignore_padding(build):
    for pooling in ("mean", "first"):
        model = build(HftkForSequenceClassification, classifier_pooling=pooling, num_labels=4)
        text = ids(1, 5)
        left = torch.cat([torch.zeros(1, 3, dtype=torch.long), text], dim=1)
        mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=text).logits, model(input_ids=left, attention_mask=mask).logits)
        assert model(input_ids=text, labels=torch.tensor([1])).loss.isfinite()
    tagger = build(HftkForTokenClassification, num_labels=4)
    assert tagger(input_ids=text, labels=torch.tensor([[1, -100, 2, 3, 0]])).loss.isfinite()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"norm_type": "batchnorm"}, "choose one of layer_norm"),
        ({"d_model": 30, "encoder_attention_heads": 4}, "does not divide"),
        ({"d_model": 36, "encoder_attention_heads": 4}, "head_dim must be even"),
        ({"position_embedding_type": "sinusoidal", "d_model": 33, "head_dim": 8}, "must be even"),
        ({"encoder_layers": 0}, "at least 1"),
        ({"d_model": "wide"}, "whole number"),
        ({"dropout": 1.5}, "below 1"),
        ({"attention_window": 0}, "nothing but itself"),
        ({"norm_type": "none", "embedding_norm": True}, "nothing to normalise with"),
        ({"tie_word_embeddings": False}, "tie_lm_head=False"),
    ],
)
def test_nonsense_is_refused_in_one_line(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        HftkConfig(**fields)
    assert "\n" not in str(error.value)


def test_batch_norm_refuses_packing_and_checkpointing(build):
    model = build(HftkForMaskedLM, norm_type="batch_norm")
    with pytest.raises(ValueError, match="statistics of packed documents"):
        model(input_ids=ids(1, 4), position_ids=torch.tensor([[0, 1, 0, 1]]))
    with pytest.raises(ValueError, match="count its statistics twice"):
        model.activation_checkpointing_enable()


def test_flash_attention_is_refused_where_it_would_be_wrong(build):
    with pytest.raises(ValueError, match="does not support Flash Attention"):
        HftkForMaskedLM._from_config(
            HftkConfig(position_embedding_type="alibi"), attn_implementation="flash_attention_2"
        )
    model = build(HftkForMaskedLM)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="packed documents see each other"):
        model(input_ids=ids(1, 4), position_ids=torch.tensor([[0, 1, 0, 1]]))
