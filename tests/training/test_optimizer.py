"""Each parameter learns by the rule that is for it; rows of a table by themselves, which nobody else notices."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForPreTraining
from hftk.training.optimizer import (
    HftkOptimizer,
    PlainGradients,
    RowRMSprop,
    StackedMuon,
    let_gradients_be_sparse,
    ngram_tables,
)

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
    [table] = ngram_tables(theirs)
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    in_layers = [
        parameter
        for stack in (theirs.encoder, theirs.decoder)
        for parameter in stack.layers.parameters()
        if parameter.ndim == 2
    ]
    assert len(in_layers) < len(matrices)  # the others are embeddings
    placed = [*in_layers, table.weight]
    others = [parameter for parameter in theirs.parameters() if not any(parameter is one for one in placed)]
    muon = StackedMuon(in_layers, lr=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    decayed = [name for name, _ in ours.named_parameters()]
    rows = RowRMSprop([table.weight], lr=0.01, alpha=0.98, weight_decay=0.1)
    optimizer = HftkOptimizer(ours, 0.01, (0.9, 0.98), weight_decay=0.1, decayed=decayed, muon=True)
    learn(ours, optimizer, steps=range(STEPS))
    learn(theirs, muon, adamw, rows, steps=range(STEPS))
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter, other), name


def test_only_what_is_named_decays():
    model, bare = build(), build()
    for one, decayed in ((model, ["encoder.layers.0.self_attn.q_proj.weight"]), (bare, [])):
        learn(one, HftkOptimizer(one, 0.01, weight_decay=0.5, decayed=decayed, muon=True), steps=range(1))
    differing = [
        name
        for (name, parameter), other in zip(model.named_parameters(), bare.parameters(), strict=True)
        if not torch.equal(parameter, other)
    ]
    assert differing == ["encoder.layers.0.self_attn.q_proj.weight"]


def test_it_goes_on_from_its_state():
    model, again = build(), build()
    optimizer = HftkOptimizer(model, 0.01, muon=True)
    learn(model, optimizer, steps=range(STEPS))
    again.load_state_dict(model.state_dict())
    resumed = HftkOptimizer(again, 0.5, muon=True)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its_optimizer in ((model, optimizer), (again, resumed)):
        learn(one, its_optimizer, steps=range(STEPS, 2 * STEPS))
    for parameter, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_stacked_matrices_learn_by_torchs_muon():
    torch.manual_seed(0)
    begun = [torch.randn(shape) for shape in ((16, 24), (24, 16), (16, 24), (16, 16))]
    ours, theirs = ([torch.nn.Parameter(matrix.clone()) for matrix in begun] for _ in range(2))
    muon = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for optimizer, matrices in ((StackedMuon(ours, lr=0.01, weight_decay=0.1), ours), (muon, theirs)):
        for step in range(STEPS):
            for place, matrix in enumerate(matrices):
                matrix.grad = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(10 * step + place))
            optimizer.step()
    for mine, other, before in zip(ours, theirs, begun, strict=True):
        torch.testing.assert_close(mine - before, other - before, rtol=0.02, atol=5e-4)  # products are in bfloat16
        assert (mine - before).abs().mean() > 5e-3


def test_rows_of_one_number_that_are_all_read_learn_by_torchs_rmsprop():
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 7)[:, None]) for _ in range(2))
    optimizers = RowRMSprop([ours], lr=0.1, alpha=0.9), torch.optim.RMSprop([theirs], lr=0.1, alpha=0.9)
    for step in range(STEPS):
        for table, optimizer in zip((ours, theirs), optimizers, strict=True):
            table.grad = torch.linspace(1, 2, 7)[:, None].roll(step, 0)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1, max_size=5))
def test_sparse_gradients_move_the_rows_that_were_read_as_dense_ones_do(steps):
    tables = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = torch.nn.Embedding(10, 3, sparse=sparse)
        begun, width = table.weight.detach().clone(), torch.tensor([1.0, -2.0, 3.0])
        optimizer = RowRMSprop(table.parameters(), lr=0.1, alpha=0.9, weight_decay=0.1)
        for rows in steps:
            for half in (rows[::2], rows[1::2]):  # accumulated
                (table(torch.tensor(half, dtype=torch.long)) * width).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        tables.append(table.weight)
    torch.testing.assert_close(*tables)
    read = sorted({row for rows in steps for row in rows})
    assert (tables[0] != begun).any(-1).nonzero().flatten().tolist() == read


def test_sparse_gradients_are_clipped_as_dense_ones_are():
    gradients = []
    for sparse in (True, False):
        model = build()
        [table] = ngram_tables(model)
        table.sparse = sparse
        ids = torch.randint(5, 50, (4, 12), generator=torch.Generator().manual_seed(0))
        for rows in ids.split(2):
            (1000 * model(input_ids=rows, labels=rows, decoder_input_ids=rows.roll(1, 1)).loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(PlainGradients(model).parameters(), 1.0)
        assert table.weight.grad is not None and table.weight.grad.is_sparse == sparse
        gradients.append([norm, *(parameter.grad.to_dense() for parameter in model.parameters())])
    assert gradients[0][0] > 10
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("keys", "sparse"), [({}, True), ({"optim": "adafactor"}, False), ({"torch_compile": True}, False)], ids=str
)
def test_gradients_are_sparse_where_all_that_see_them_know_of_it(keys, sparse, tmp_path):
    model = build()
    let_gradients_be_sparse(model, TrainingArguments(tmp_path, use_cpu=True, **keys))
    assert [table.sparse for table in ngram_tables(model)] == [sparse]
