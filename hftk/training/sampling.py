"""The order in which labelled rows are learned from: the same, whatever number of processes share a step."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

POOL = 50  # steps' rows that are drawn together and sorted by length


class TrainingRows(Dataset):
    """
    Rows to learn from, and one that nothing is learned from: that of a batch for which an epoch's last step has none.

    Args:
        rows (`list[dict[str, Any]]`): their features.
    """

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | None) -> dict[str, Any]:
        return {**self.rows[0], "blank": True} if index is None else self.rows[index]


class StepsOfLikeLengths(Sampler[int | None]):
    """
    Every row once an epoch, in an order that is a function of the seed and the epoch: drawn at random, those of like
    lengths in one step, the steps in random order. What does not fill a step comes last, filled up with None: so no
    process that shares a step waits for another, and all steps have as many batches, beside which text is replayed.

    Args:
        lengths (`Sequence[int]`): of the rows, in tokens.
        rows_per_step (`int`): of all processes and accumulated batches together.
        seed (`int`): of the order.
    """

    def __init__(self, lengths: Sequence[int], rows_per_step: int, seed: int):
        self.lengths, self.rows_per_step, self.seed = lengths, rows_per_step, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch by accelerate."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.rows_per_step) * self.rows_per_step

    def __iter__(self) -> Iterator[int | None]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        drawn = torch.randperm(len(self.lengths), generator=generator).tolist()
        whole = len(drawn) // self.rows_per_step * self.rows_per_step
        steps, last = [], drawn[whole:]
        for first in range(0, whole, POOL * self.rows_per_step):
            pool = sorted(drawn[first : min(first + POOL * self.rows_per_step, whole)], key=self.lengths.__getitem__)
            steps += [pool[at : at + self.rows_per_step] for at in range(0, len(pool), self.rows_per_step)]
        for step in torch.randperm(len(steps), generator=generator).tolist():
            yield from steps[step]
        yield from sorted(last, key=self.lengths.__getitem__)
        yield from [None] * (len(self) - len(drawn))
