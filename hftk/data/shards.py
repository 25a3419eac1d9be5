"""The shards of a corpus that many tasks wrote, read as if they were one file."""

from pathlib import Path

import numpy as np


class ShardedTokens:
    """
    The ids of all documents, as `np.memmap` gives them of one file.

    Args:
        files (`list[Path]`): of the shards, in their order; an empty one holds nothing.
        dtype (`str`): of the ids.
    """

    def __init__(self, files: list[Path], dtype: str):
        self.dtype = np.dtype(dtype)
        # numpy refuses to map an empty file
        self.shards = [np.memmap(file, dtype=dtype, mode="r") for file in files if file.stat().st_size]
        self.ends = np.cumsum([len(shard) for shard in self.shards])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        if isinstance(places, slice):
            start, stop, _ = places.indices(len(self))
            firsts = self.ends - [len(shard) for shard in self.shards]
            parts = zip(self.shards, firsts, self.ends, strict=True)
            return np.concatenate(
                [shard[max(start - first, 0) : max(stop - first, 0)] for shard, first, end in parts if start < end]
            )
        tokens = np.empty(len(places), dtype=self.dtype)
        shard_of = np.searchsorted(self.ends, places, side="right")  # [places]
        for number in np.unique(shard_of):
            inside = shard_of == number
            shard = self.shards[number]
            tokens[inside] = shard[places[inside] - (self.ends[number] - len(shard))]
        return tokens
