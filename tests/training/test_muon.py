"""Muon and AdamW as one optimizer are those of torch, each for its own parameters."""

import copy

import torch

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForPreTraining
from hftk.training.muon import MuonAdamW

STEPS = 5


def build() -> HftkForPreTraining:
    torch.manual_seed(0)
    config = HftkConfig(
        vocab_size=50, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, dropout=0.0, ngram_order=2,
        ngram_vocab_size=32, ngram_dim=8,
    )  # fmt: skip
    return HftkForPreTraining(config).train()


def learn(model: HftkForPreTraining, *optimizers: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(5, 50, (4, 12), generator=generator)
        model(input_ids=ids, labels=ids, decoder_input_ids=ids.roll(1, 1)).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_each_parameter_learns_by_the_optimizer_that_is_for_it():
    ours, theirs = build(), build()
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    in_layers = [
        parameter
        for stack in (theirs.encoder, theirs.decoder)
        for parameter in stack.layers.parameters()
        if parameter.ndim == 2
    ]
    assert len(in_layers) < len(matrices)  # the others are embeddings
    others = [parameter for parameter in theirs.parameters() if not any(parameter is one for one in in_layers)]
    muon = torch.optim.Muon(in_layers, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    decayed = [name for name, _ in ours.named_parameters()]
    learn(ours, MuonAdamW(ours, 0.01, (0.9, 0.98), weight_decay=0.1, decayed=decayed), steps=range(STEPS))
    learn(theirs, muon, adamw, steps=range(STEPS))
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter, other), name


def test_only_what_is_named_decays():
    model, bare = build(), build()
    for one, decayed in ((model, ["encoder.layers.0.self_attn.q_proj.weight"]), (bare, [])):
        learn(one, MuonAdamW(one, 0.01, weight_decay=0.5, decayed=decayed), steps=range(1))
    differing = [
        name
        for (name, parameter), other in zip(model.named_parameters(), bare.parameters(), strict=True)
        if not torch.equal(parameter, other)
    ]
    assert differing == ["encoder.layers.0.self_attn.q_proj.weight"]


def test_it_goes_on_from_its_state():
    model, again = build(), build()
    optimizer = MuonAdamW(model, 0.01)
    learn(model, optimizer, steps=range(STEPS))
    again.load_state_dict(model.state_dict())
    resumed = MuonAdamW(again, 0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its_optimizer in ((model, optimizer), (again, resumed)):
        learn(one, its_optimizer, steps=range(STEPS, 2 * STEPS))
    for parameter, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, other)
