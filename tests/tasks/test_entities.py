from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hftk.tasks.entities import are_entities, best_entities, entity_loss

NAMES = ["B-LC", "B-PS", "I-LC", "I-PS", "O"]
ROWS = st.lists(st.lists(st.floats(0.01, 1), min_size=5, max_size=5), min_size=1, max_size=4)


def well_formed(ids):
    """Whether no entity goes on that was not there before; the first label may be any."""
    names = [NAMES[i] for i in ids]
    return all(not b.startswith("I-") or a[1:] == b[1:] or a == f"B{b[1:]}" for a, b in pairwise(names))


@given(ROWS)
def test_entities_are_the_best_of_all_sequences_that_are_well_formed(rows):
    scores = np.log(np.array(rows))
    outside = NAMES.index("O")
    best = max(
        (sum(scores[unit, i] for unit, i in enumerate(ids)), ids)
        for ids in product(range(5), repeat=len(rows))
        if well_formed((outside, *ids))
    )
    found = best_entities(scores, NAMES)
    assert well_formed((outside, *found))
    assert sum(scores[unit, i] for unit, i in enumerate(found)) == pytest.approx(best[0])


@given(ROWS, st.data())
def test_the_loss_is_that_of_a_sequence_among_all_that_are_well_formed(rows, data):
    scores = torch.tensor(rows, dtype=torch.float64)
    every = [ids for ids in product(range(5), repeat=len(rows)) if well_formed(ids)]
    wanted = data.draw(st.sampled_from(every))

    def weight(ids):
        return sum(scores[unit, i] for unit, i in enumerate(ids))

    expected = torch.stack([weight(ids) for ids in every]).logsumexp(0) - weight(wanted)
    logits, labels = torch.randn(3, 8, 5), torch.full((3, 8), -100)  # the last sequence has no label at all
    places = sorted(data.draw(st.permutations(range(8)))[: len(rows)])
    for sequence in (0, 1):
        logits[sequence, places], labels[sequence, places] = scores.float(), torch.tensor(wanted)
    assert entity_loss(logits, labels, NAMES).item() == pytest.approx(2 * expected.item(), abs=1e-4)


def test_the_loss_of_labels_that_break_the_rule_is_finite_and_at_least_zero():
    logits = torch.randn(1, 4, 5, requires_grad=True)
    labels = torch.tensor([[NAMES.index(name) for name in ("O", "I-PS", "I-LC", "I-LC")]])
    loss = entity_loss(logits, labels, NAMES)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert 0 <= loss < 20 and gradient.isfinite().all()


def test_labels_are_entities_only_if_all_of_them_are():
    assert are_entities(NAMES) and not are_entities([*NAMES, "NOUN"]) and not are_entities(["O"])
