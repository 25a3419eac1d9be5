"""Dependency trees out of the scores of their arcs."""

import torch
from torch import nn


def find_cycle(heads: torch.Tensor) -> torch.Tensor:
    """
    The nodes of one cycle, none if there is no cycle. `heads` (nodes,) gives the head of each node; node 0 has itself.
    """
    reached = heads
    for _ in range(len(heads).bit_length()):  # 2 ** k ≥ nodes steps up: at the root, or on a cycle
        reached = reached[reached]
    on_cycles = reached[reached != 0]
    cycle = on_cycles[:1].tolist()
    while cycle and (head := int(heads[cycle[-1]])) != cycle[0]:
        cycle.append(head)
    return torch.tensor(cycle, dtype=torch.long)


def best_heads(scores: torch.Tensor) -> torch.Tensor:
    """
    Chu-Liu/Edmonds: the heads (nodes,) of the tree of greatest weight below node 0, which has itself. `scores` (nodes,
    nodes): a row has the scores of one node's heads, -inf for itself; the row of node 0 does not matter.
    """
    contractions = []
    while True:
        heads = scores.argmax(dim=1)
        heads[0] = 0
        inside = find_cycle(heads)  # (cycle,)
        if len(inside) == 0:
            break
        # The cycle becomes one node, the last. To enter it at a word is to give up the head that the word has in it.
        outside = torch.tensor(sorted(set(range(len(heads))) - set(inside.tolist())))
        given_up = scores[inside, heads[inside]][:, None]  # (cycle, 1)
        entering, entered = (scores[inside][:, outside] - given_up).max(dim=0)  # (outside,): by the head that enters
        leaving, left = scores[outside][:, inside].max(dim=1)  # (outside,): by the node that has its head inside
        contractions.append((heads, outside, inside[entered], inside[left]))
        scores = nn.functional.pad(scores[outside][:, outside], (0, 1, 0, 1), value=-torch.inf)
        scores[-1, :-1] = entering
        scores[:-1, -1] = leaving
    for expanded, outside, entered, left in reversed(contractions):
        contracted, entering_head = heads[:-1], heads[-1]  # indices into `outside`, or its length for the cycle
        heads = expanded  # in which all of the cycle but one keep their heads
        heads[outside] = torch.where(contracted == len(outside), left, outside[contracted.clamp(max=len(outside) - 1)])
        heads[entered[entering_head]] = outside[entering_head]
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

    Source: Chu & Liu 1965; Edmonds 1967; for the one root Stanojević & Cohen 2021, "A Root of the Problem".
    """
    words = scores.shape[0]
    graph = torch.zeros(words + 1, words + 1, dtype=torch.float64)
    graph[1:] = scores.detach().cpu()
    arcs = ~torch.eye(words + 1, dtype=torch.bool)  # all that could be: (dependent, head)
    finite = arcs & graph.isfinite()
    worse = 1 + 2 * torch.where(finite, graph, 0).abs().amax(dim=1).sum()  # than all the other arcs can make good
    graph = torch.where(finite, graph, torch.where(arcs, -worse, -torch.inf))
    heads = graph.argmax(dim=1)
    heads[0] = 0
    if len(find_cycle(heads)) or (heads[1:] == 0).sum() > 1:
        graph[:, 0] -= (2 * words + 1) * worse  # so that of two words on the root one would rather have any other head
        heads = best_heads(graph)
    return heads[1:].to(scores.device)


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
