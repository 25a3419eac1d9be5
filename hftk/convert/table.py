"""
The sorted table that the `.index` of a checkpoint is, in the format of LevelDB
(github.com/google/leveldb/blob/main/doc/table_format.md).

    data blocks, a block of metadata that stays empty, a block that says where the data blocks are, a footer
"""

import numpy as np

from hftk.convert.crc32c import masked_crc32c
from hftk.convert.protobuf import read_varint

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48
TRAILER = 5  # after each block: how it is compressed, and a checksum of the block and of that byte
# A key holds only what differs from the one before. Real tables grow to about twice their size by that; a table of a
# few megabytes could be made to grow to terabytes.
GROWTH = 64


def _block(data: bytes, start: int, size: int) -> bytes:
    end = start + size
    if end + TRAILER > len(data) - FOOTER:
        raise ValueError(f"a block at byte {start} is cut off")
    stored = int.from_bytes(data[end + 1 : end + TRAILER], "little")
    if masked_crc32c(np.frombuffer(data, np.uint8, size + 1, start)) != stored:
        raise ValueError(f"the checksum of the block at byte {start} is wrong")
    if data[end]:
        raise ValueError(f"the block at byte {start} is compressed, which TensorFlow never does, so that hftk cannot")
    return data[start:end]


def _entries(block: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Keys and values of a block. The keys may come to `limit` bytes."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts  # where entries start that repeat nothing: for searching
    if end < 0:
        raise ValueError("a block is shorter than its own index")
    found: list[tuple[bytes, bytes]] = []
    key, at, length = b"", 0, 0
    while at < end:
        shared, at = read_varint(block, at)
        added, at = read_varint(block, at)
        size, at = read_varint(block, at)
        if shared > len(key) or added + size > end - at:
            raise ValueError("an entry is cut off")
        next_key = key[:shared] + block[at : at + added]
        length += len(next_key)
        if length > limit:
            raise ValueError("the keys are far longer than the file")
        if found and next_key <= key:
            raise ValueError("the keys are not in order")
        key = next_key
        at += added
        found.append((key, block[at : at + size]))
        at += size
    return found


def parse_table(data: bytes) -> dict[bytes, bytes]:
    """
    All entries of a table, each block checked against its checksum.

    Args:
        data (`bytes`):
            The file.

    Returns:
        `dict[bytes, bytes]`: value by key, in the order of the keys.

    Raises:
        ValueError: it is no such table, or damaged.
    """
    if len(data) < FOOTER or data[-len(MAGIC) :] != MAGIC:
        raise ValueError("not the index of a checkpoint")
    footer = data[-FOOTER:]
    _, at = read_varint(footer, 0)  # the metadata: where it starts, its size
    _, at = read_varint(footer, at)
    start, at = read_varint(footer, at)
    size, at = read_varint(footer, at)
    limit = GROWTH * len(data)
    table: dict[bytes, bytes] = {}
    last_end = 0
    for _, handle in _entries(_block(data, start, size), limit):
        start, at = read_varint(handle, 0)
        size, at = read_varint(handle, at)
        if start < last_end:
            raise ValueError("blocks overlap")
        last_end = start + size + TRAILER
        entries = _entries(_block(data, start, size), limit)
        if table and entries and entries[0][0] <= next(reversed(table)):
            raise ValueError("the keys are not in order")
        table.update(entries)
        limit -= sum(len(key) for key, _ in entries)
    return table
