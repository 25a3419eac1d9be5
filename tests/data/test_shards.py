"""Shards are read as the one array that they are parts of."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hftk.data.shards import ShardedTokens


@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any), data=st.data())
def test_shards_are_one_array(tmp_path_factory, lengths, data):
    whole = np.arange(sum(lengths), dtype="<u2")
    folder = tmp_path_factory.mktemp("shards")
    files = [folder / str(number) for number in range(len(lengths))]
    for file, part in zip(files, np.split(whole, np.cumsum(lengths)[:-1]), strict=True):
        part.tofile(file)
    tokens = ShardedTokens(files, "<u2")
    start, stop = (data.draw(st.integers(0, len(whole))) for _ in range(2))
    places = data.draw(st.lists(st.integers(0, len(whole) - 1)))
    assert len(tokens) == len(whole)
    assert tokens[:].tolist() == whole.tolist()
    if start < len(whole):  # as all that reads them does
        assert tokens[start:stop].tolist() == whole[start:stop].tolist()
    assert tokens[np.array(places, dtype=np.int64)].tolist() == whole[places].tolist()
