"""
Weights to read. Those in artifacts/ were saved by TensorFlow, Keras and transformers themselves, with random numbers.
What they do not show (several data files, partitioned variables, damage of one's choice) is written here, by a writer
of checkpoints that shares no code with the reader.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from hftk.convert.readers import open_weights
from hftk.errors import UsageError

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10, "bfloat16": 14, "float16": 19}


def plain_crc32c(data: bytes) -> int:
    """Bit by bit, as it is defined."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def number_field(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


def part_field(field: int, part: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(part)) + part


class BundleWriter:
    """Collects tensors, then writes the index and the data files. Attributes may be changed to write a bad one."""

    def __init__(self, crc32c: Callable[[bytes], int] = plain_crc32c):
        self.crc32c = crc32c
        self.shards = [b"", b""]
        self.entries: dict[bytes, bytes] = {}
        self.header = number_field(1, 2) + part_field(3, number_field(1, 1))
        self.compression = 0
        self.block_size = 200  # bytes, from where the next block starts

    def masked(self, data: bytes) -> int:
        crc = self.crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    def entry(self, dtype: str, shape: tuple[int, ...], shard: int, start: int, size: int, crc: int) -> bytes:
        axes = b"".join(part_field(2, number_field(1, length)) for length in shape)
        place = number_field(3, shard) + number_field(4, start) + number_field(5, size)
        return number_field(1, TYPES[dtype]) + part_field(2, axes) + place + varint(6 << 3 | 5) + struct.pack("<I", crc)

    def add(self, key: str | bytes, array: np.ndarray, shard: int = 0, dtype: str = "") -> None:
        data = array.tobytes()
        key = key.encode() if isinstance(key, str) else key
        start = len(self.shards[shard])
        self.shards[shard] += data
        self.entries[key] = self.entry(
            dtype or array.dtype.name, array.shape, shard, start, len(data), self.masked(data)
        )

    def add_parts(self, name: str, parts: list[np.ndarray], axis: int) -> None:
        """A variable that is cut into parts of at most 63 in an axis, the others taken whole."""
        shape = np.concatenate(parts, axis).shape
        axes = b"".join(part_field(2, number_field(1, length)) for length in shape)
        slices, start = b"", 0
        for place, part in enumerate(parts):
            length = part.shape[axis]
            cut = number_field(1, start) * (start > 0) + number_field(2, length)
            extents = [cut if i == axis else b"" for i in range(len(shape))]
            slices += part_field(7, b"".join(part_field(1, extent) for extent in extents))
            numbers = [(0x80 | start, 0x80 | length) if i == axis else (0x80, 0x7F) for i in range(len(shape))]
            key = b"\0" + name.encode() + b"\0\1" + bytes([1, len(shape)]) + bytes(n for pair in numbers for n in pair)
            self.add(key, part, place % len(self.shards))
            start += length
        self.entries[name.encode()] = number_field(1, TYPES[parts[0].dtype.name]) + part_field(2, axes) + slices

    def block(self, pairs: list[tuple[bytes, bytes]]) -> bytes:
        """Entries that leave out what their key has in common with the one before."""
        data, last = b"", b""
        for key, value in pairs:
            shared = len(os.path.commonprefix([key, last]))
            data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
            last = key
        return data + struct.pack("<II", 0, 1)

    def write(self, prefix: Path) -> Path:
        pairs = sorted({b"": self.header, **self.entries}.items())
        index, handles = b"", []

        def append(block: bytes) -> bytes:
            nonlocal index
            handle = varint(len(index)) + varint(len(block))
            block += bytes([self.compression])
            index += block + struct.pack("<I", self.masked(block))
            return handle

        waiting: list[tuple[bytes, bytes]] = []
        for key, value in pairs:
            waiting.append((key, value))
            if sum(len(key) + len(value) for key, value in waiting) > self.block_size or key == pairs[-1][0]:
                handles.append((key, append(self.block(waiting))))
                waiting = []
        footer = append(self.block([])) + append(self.block(handles))
        index += footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
        prefix.with_name(prefix.name + ".index").write_bytes(index)
        for shard, data in enumerate(self.shards):
            prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{len(self.shards):05d}").write_bytes(data)
        return prefix.with_name(prefix.name + ".index")


@pytest.fixture(scope="session")
def bundle_writer() -> type[BundleWriter]:
    return BundleWriter


@pytest.fixture(scope="session")
def artifacts() -> Path:
    return Path(__file__).with_name("artifacts")


Contents = dict[str, tuple[str, tuple[int, ...], bytes]]


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], Contents]:
    """Type, shape and bytes of every tensor."""

    def read(path: Path) -> Contents:
        found = {}
        for name, tensor in open_weights(path).tensors.items():
            array = tensor.read()
            found[name] = (tensor.dtype, array.shape, array.tobytes())
        return found

    return read


@pytest.fixture(scope="session")
def contents_or_none(contents) -> Callable[[Path], Contents | None]:
    """The same, or `None` if it was refused as it should be: with a `UsageError` of one line."""

    def read(path: Path) -> Contents | None:
        try:
            return contents(path)
        except UsageError as error:
            assert "\n" not in str(error)
            return None

    return read


@pytest.fixture(scope="session")
def damages() -> Callable[[bytes], st.SearchStrategy[bytes]]:
    """A file with a byte changed, or cut off."""

    def damaged(data: bytes) -> st.SearchStrategy[bytes]:
        def flip(place: int, bits: int) -> bytes:
            return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]

        places = st.integers(0, len(data) - 1)
        return st.one_of(st.builds(flip, places, st.integers(1, 255)), places.map(lambda place: data[:place]))

    return damaged
