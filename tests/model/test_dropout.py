"""Dropout on a CPU, out of fewer random numbers than torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hftk.model.modeling_hftk import quick_dropout


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 2**31))
def test_what_is_kept_is_scaled_and_so_is_its_gradient(shape, p, seed):
    torch.manual_seed(seed)
    states = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    output = quick_dropout(states, p, training=True)
    assert output.shape == states.shape
    for value in output.unique().tolist():
        assert value == 0 or value == pytest.approx(1 / (1 - p), rel=1e-4 / (1 - p))
    output.backward(torch.full(shape, 3.0, dtype=torch.float64))
    torch.testing.assert_close(states.grad, output.detach() * 3)
    torch.testing.assert_close(quick_dropout(states, p, training=False), states, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_each_place_is_dropped_as_often_as_torch_drops_it(dtype, p):
    torch.manual_seed(0)
    states = torch.ones(4000, 3, 9, dtype=dtype)  # 27 features, so that each stands in all quarters of a number
    dropped = (quick_dropout(states, p, training=True) == 0).double()
    spread = (p * (1 - p) / len(states)) ** 0.5
    assert (dropped.mean(dim=0) - p).abs().max() < 4.5 * spread
    assert abs(dropped.mean() - p) < 4.5 * spread / 27**0.5
    neighbours = torch.corrcoef(dropped.flatten(1).T) - torch.eye(27, dtype=torch.float64)
    assert neighbours.abs().max() < 5 / len(states) ** 0.5


def test_the_same_seed_drops_the_same():
    states = torch.ones(7, 11)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(quick_dropout(states, 0.5, training=True))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
