"""Dependency trees out of the scores of their arcs."""

import numpy as np
import torch
from torch import nn


def find_cycle(heads: np.ndarray) -> list[int]:
    """
    The nodes of one cycle, none if there is no cycle. `heads` (nodes,) gives the head of each node; node 0 has itself.
    """
    above = heads.tolist()
    below_root = {0}
    for start in range(1, len(above)):
        path: dict[int, None] = {}  # in order
        node = start
        while node not in below_root and node not in path:
            path[node] = None
            node = above[node]
        if node in path:
            return list(path)[list(path).index(node) :]
        below_root |= path.keys()
    return []


def best_heads(scores: np.ndarray) -> np.ndarray:
    """
    Chu-Liu/Edmonds: the heads (nodes,) of the tree of greatest weight below node 0, which has itself. `scores` (nodes,
    nodes): a row has the scores of one node's heads, -inf for itself; the row of node 0 does not matter.
    """
    contractions = []
    while True:
        heads = scores.argmax(axis=1)
        heads[0] = 0
        inside = find_cycle(heads)
        if not inside:
            break
        # The cycle becomes one node, the last. To enter it at a word is to give up the head that the word has in it.
        outside = np.delete(np.arange(len(heads)), inside)
        cycle = np.array(inside)
        entering = scores[cycle][:, outside] - scores[cycle, heads[cycle]][:, None]  # (cycle, outside)
        leaving = scores[outside][:, cycle]  # (outside, cycle)
        # by the head outside that enters, and by the node outside that has its head inside
        contractions.append((heads, outside, cycle[entering.argmax(axis=0)], cycle[leaving.argmax(axis=1)]))
        scores = np.pad(scores[outside][:, outside], (0, 1), constant_values=-np.inf)
        scores[-1, :-1] = entering.max(axis=0)
        scores[:-1, -1] = leaving.max(axis=1)
    for expanded, outside, entered, left in reversed(contractions):
        contracted, entering_head = heads[:-1], heads[-1]  # indices into `outside`, or its length for the cycle
        heads = expanded  # in which all of the cycle but one keep their heads
        heads[outside] = np.where(contracted == len(outside), left, outside.take(contracted, mode="clip"))
        heads[entered[entering_head]] = outside[entering_head]
    return heads


def best_with_one_root(scores: np.ndarray) -> np.ndarray:
    """
    [`best_heads`] of the trees in which one word alone has node 0 as its head. With each word in turn, the most
    promising first, until no other can be better: most often after the first.
    """
    among_words = scores[1:, 1:].max(axis=1)  # (words,)
    at_most = among_words.sum() - among_words + scores[1:, 0]  # (words,): what a tree with this word on node 0 weighs
    best, heads = -np.inf, np.zeros(len(scores), dtype=np.int64)
    for root in np.argsort(-at_most):
        if at_most[root] <= best:
            break
        graph = scores.copy()
        graph[1:, 0] = -np.inf
        graph[1 + root, 0] = scores[1 + root, 0]
        found = best_heads(graph)
        weight = np.take_along_axis(graph[1:], found[1:, None], axis=1).sum()
        if weight > best:
            best, heads = weight, found
    return heads


def maximum_spanning_tree(scores: torch.Tensor) -> torch.Tensor:
    """
    The dependency tree of greatest total score in which exactly one word hangs on the root.

    Args:
        scores (`torch.FloatTensor` of shape `(words, 1 + words)`):
            The score of each head (0: the root) for each word. An arc that is not finite is taken only where there is
            no tree without; a word as its own head never.

    Returns:
        `torch.LongTensor` of shape `(words,)`: the heads.

    Source: Chu & Liu 1965; Edmonds 1967.
    """
    words = scores.shape[0]
    graph = np.zeros((words + 1, words + 1))
    graph[1:] = scores.detach().cpu().double().numpy()
    arcs = ~np.eye(words + 1, dtype=bool)  # all that could be: (dependent, head)
    finite = arcs & np.isfinite(graph)
    worse = 1 + 2 * np.where(finite, np.abs(graph), 0).max(axis=1).sum()  # than all the other arcs can make good
    graph = np.where(finite, graph, np.where(arcs, -worse, -np.inf))
    heads = best_heads(graph)
    if (heads[1:] == 0).sum() > 1:
        heads = best_with_one_root(graph)
    return torch.from_numpy(heads[1:]).to(scores.device)


def are_trees(heads: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """
    Which sentences are a tree with one root: (batch, words) heads, of which a sentence's first (batch,) are its own →
    (batch,).
    """
    own = torch.arange(heads.shape[1], device=heads.device) < words[:, None]  # (batch, words)
    reached = nn.functional.pad(heads.masked_fill(~own, 0), (1, 0))  # (batch, 1 + words): the root has itself
    roots = ((heads == 0) & own).sum(dim=1)
    for _ in range(reached.shape[1].bit_length()):  # 2 ** k ≥ nodes steps up
        reached = reached.gather(1, reached)
    return (reached == 0).all(dim=1) & (roots == 1)
