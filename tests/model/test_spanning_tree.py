"""The parser's trees, against networkx and against all trees that there are."""

import itertools

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hftk.model.spanning_tree import maximum_spanning_tree


def is_tree_with_one_root(heads: torch.Tensor) -> bool:
    arcs = networkx.DiGraph((head, word) for word, head in enumerate(heads.tolist(), start=1))
    return networkx.is_arborescence(arcs) and arcs.out_degree(0) == 1 and len(arcs) == len(heads) + 1


def weight(scores: torch.Tensor, heads) -> float:
    return sum(scores[word, head].item() for word, head in enumerate(heads))


def best_weight_of_networkx(scores: torch.Tensor) -> float:
    """Over each choice of the one word on the root."""
    words = len(scores)
    weights = []
    for only in range(1, words + 1):
        graph = networkx.DiGraph()
        graph.add_edge(0, only, weight=scores[only - 1, 0].item())
        for head, word in itertools.permutations(range(1, words + 1), 2):
            graph.add_edge(head, word, weight=scores[word - 1, head].item())
        tree = networkx.maximum_spanning_arborescence(graph)
        weights.append(sum(scores[word - 1, head].item() for head, word in tree.edges))
    return max(weights)


def score_matrices(elements: st.SearchStrategy, most_words: int) -> st.SearchStrategy[torch.Tensor]:
    def of_size(words: int) -> st.SearchStrategy[torch.Tensor]:
        size = words * (words + 1)
        cells = st.lists(elements, min_size=size, max_size=size)
        return cells.map(lambda values: torch.tensor(values, dtype=torch.float64).view(words, words + 1))

    return st.integers(1, most_words).flatmap(of_size)


integers = st.integers(-3, 3).map(float)  # many ties
floats = st.floats(-50, 50, width=32)


@settings(deadline=None, max_examples=60)
@given(score_matrices(integers, 8) | score_matrices(floats, 8))
def test_the_tree_weighs_what_networkx_finds(scores):
    heads = maximum_spanning_tree(scores)
    assert is_tree_with_one_root(heads)
    assert weight(scores, heads) == pytest.approx(best_weight_of_networkx(scores), abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(score_matrices(integers | st.just(-torch.inf), 4))
def test_the_tree_is_the_best_of_all_and_avoids_forbidden_arcs(scores):
    words = len(scores)

    def value(heads) -> tuple[int, float]:
        taken = [scores[word, head].item() for word, head in enumerate(heads)]
        allowed = [score for score in taken if score != -torch.inf]
        return len(allowed), sum(allowed)

    candidates = itertools.product(range(words + 1), repeat=words)
    best = max(value(heads) for heads in candidates if is_tree_with_one_root(torch.tensor(heads)))
    heads = maximum_spanning_tree(scores)
    assert is_tree_with_one_root(heads)
    assert value(heads.tolist()) == best


def test_long_sentences_and_scores_that_are_not_numbers_give_trees():
    torch.manual_seed(0)
    chain = torch.zeros(60, 61)
    chain[torch.arange(60), (torch.arange(60) ^ 1) + 1] = 9.0  # each two words would rather have each other
    assert is_tree_with_one_root(maximum_spanning_tree(chain + torch.rand(60, 61)))
    assert is_tree_with_one_root(maximum_spanning_tree(torch.full((5, 6), torch.nan)))
    assert maximum_spanning_tree(torch.zeros(0, 1)).shape == (0,)
