"""Labels of entities: `B-…` where one starts, `I-…` where it goes on, `O` outside (IOB2)."""

import re

import numpy as np
import torch

from hftk.tasks.task import IGNORED

ENTITY = re.compile(r"O|[BI]-.+")


def are_entities(names: list[str]) -> bool:
    """Whether labels are those of entities."""
    return any(name.startswith("B-") for name in names) and all(ENTITY.fullmatch(name) for name in names)


def may_follow(names: list[str]) -> np.ndarray:
    """[labels before, labels]: whether the second may stand behind the first: an `I-X` only behind `B-X` or `I-X`."""
    return np.array([[not b.startswith("I-") or (a != "O" and a[2:] == b[2:]) for b in names] for a in names])


def best_entities(scores: np.ndarray, names: list[str]) -> list[int]:
    """
    The most probable sequence of labels in which each `I-X` follows a `B-X` or an `I-X` (Viterbi).

    Args:
        scores (`np.ndarray` of shape [units, labels]):
            Log-probabilities.
        names (`list[str]`):
            The label of each column.

    Returns:
        `list[int]` of length units: label ids.
    """
    starts_inside = np.array([name.startswith("I-") for name in names])
    forbidden = np.where(may_follow(names), 0.0, -np.inf)
    best = np.where(starts_inside, -np.inf, scores[0])  # [labels]: of the best sequence that ends with the label
    before = []
    for unit in scores[1:]:
        paths = best[:, None] + forbidden  # [labels before, labels]
        before.append(paths.argmax(axis=0))
        best = paths.max(axis=0) + unit
    ids = [int(best.argmax())]
    for pointers in reversed(before):
        ids.append(int(pointers[ids[-1]]))
    return ids[::-1]


def entity_loss(logits: torch.Tensor, labels: torch.Tensor, names: list[str]) -> torch.Tensor:
    """
    How improbable the labels of whole sequences are among all sequences that [`best_entities`] chooses from: a
    linear-chain CRF (Lafferty et al., 2001) whose transitions are known beforehand. A sequence may begin inside an
    entity, as the second window of a long text does; and where labels themselves break the rule, anything may follow.

    Args:
        logits (`torch.Tensor` of shape [sequences, tokens, labels]):
            The model's.
        labels (`torch.LongTensor` of shape [sequences, tokens]):
            -100 where a token has none: the next that has one follows the last that had one.
        names (`list[str]`):
            The label of each id.

    Returns:
        `torch.Tensor`: nats, the sum over all sequences.
    """
    order = (labels == IGNORED).int().argsort(dim=1, stable=True)  # tokens with labels first
    wanted = labels.gather(1, order)
    labelled = wanted != IGNORED
    wanted = wanted.clamp(min=0)
    scores = logits.float().gather(1, order[..., None].expand_as(logits)) * labelled[..., None]
    follows = torch.from_numpy(may_follow(names)).to(labels.device)
    broken = ~follows[wanted[:, :-1], wanted[:, 1:]]  # [sequences, tokens - 1]
    paths = scores[:, 0]  # [sequences, labels]: the log of what all sequences that end with the label weigh
    for token in range(1, int(labelled.sum(dim=1).max())):
        open_ = follows | broken[:, token - 1, None, None]  # [sequences, labels before, labels]
        longer = paths[:, :, None].masked_fill(~open_, -torch.inf).logsumexp(dim=1) + scores[:, token]
        paths = torch.where(labelled[:, token, None], longer, paths)
    nats = paths.logsumexp(dim=1) - scores.gather(2, wanted[..., None])[..., 0].sum(dim=1)
    return nats[labelled[:, 0]].sum()
