"""
Checkpoints of TensorFlow: `NAME.index`, a table of tensors, and `NAME.data-00000-of-00001` and so on with their bytes.

The index holds messages of tensorflow/core/protobuf/tensor_bundle.proto. A checkpoint of TensorFlow 1 is by names of
variables; one of TensorFlow 2 is by paths through objects, and has a graph of the objects that also tells the names.
The variables of a SavedModel are such a checkpoint too. Every tensor has a checksum, which is checked when it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hftk.convert.crc32c import masked_crc32c
from hftk.convert.protobuf import Message, read_varint
from hftk.convert.skipping import OBJECT_GRAPH, why_skipped
from hftk.convert.table import parse_table
from hftk.convert.weights import (
    ByteOrder,
    Tensor,
    Weights,
    array_dtype,
    byte_size,
    check_apart,
    check_name,
    read_bytes,
    to_array,
)
from hftk.errors import UsageError

# tensorflow/core/framework/types.proto
DTYPES = {
    **{1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64"},
    **{10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64"},
}
STRING = 7
NEWEST = 1  # the version of the format that this code reads
EVERYTHING = (0, -1)  # the extent of a slice in an axis that is not cut


@dataclass(frozen=True)
class _Entry:
    """Where a tensor, or a slice of one, is. `slices`: for each slice start and length in each axis."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    start: int
    size: int
    crc: int
    slices: list[list[tuple[int, int]]]


def _entry(message: Message) -> _Entry:
    slices = [
        [(extent.number(1), extent.number(2)) if 2 in extent.numbers else EVERYTHING for extent in cut.messages(1)]
        for cut in message.messages(7)
    ]
    shape = tuple(axis.number(1) for shape in message.messages(2)[-1:] for axis in shape.messages(2))
    shard, start, size, crc = (message.number(field) for field in (3, 4, 5, 6))
    return _Entry(message.number(1), shape, shard, start, size, crc, slices)


def _ordered(number: int) -> bytes:
    """A number, at least -1, in the encoding of keys that sorts as the numbers do: as many ones as there are bytes."""
    if number == -1:
        return b"\x7f"
    length = number.bit_length() // 7 + 1
    return (((1 << length) - 1) << 7 * length | number).to_bytes(length, "big")


def _slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    """
    The key of a slice (tensorflow/core/util/saved_tensor_slice_util.cc). Bytes 0 and 255 would be escaped in it; a name
    that is printable has none.
    """
    key = b"\0" + name + b"\0\1" + bytes([1, len(extents)])
    return key + b"".join(_ordered(number) for extent in extents for number in extent)


class _Bundle:
    """An index and the sizes of its data files."""

    def __init__(self, index: Path):
        self.index = index
        data = read_bytes(index, 0, index.stat().st_size, "the index")
        table = parse_table(data.tobytes())
        if b"" not in table:
            raise ValueError("it has no header")
        header = Message(table.pop(b""))
        self.shards = header.number(1)
        self.byte_order: ByteOrder = ">" if header.number(2) else "<"
        if any(version.number(2) > NEWEST for version in header.messages(3)):
            raise ValueError("its format is newer than the one that hftk reads")
        self.entries = {key: _entry(Message(value)) for key, value in table.items()}

    def file(self, shard: int) -> Path:
        """A data file. No name out of the index gets into its name."""
        return self.index.with_name(f"{self.index.name.removesuffix('.index')}.data-{shard:05d}-of-{self.shards:05d}")

    def check_places(self) -> None:
        """Raises unless each tensor has the size of its shape, and a place of its own in a file that is there."""
        places: dict[int, list[tuple[int, int, str]]] = {}
        for key, entry in self.entries.items():
            name = key.decode(errors="backslashreplace")
            if entry.slices:
                continue
            if entry.dtype in DTYPES and byte_size(entry.shape, DTYPES[entry.dtype]) != entry.size:
                raise ValueError(f"{ascii(name)} has {entry.size} bytes, which is not what its shape needs")
            places.setdefault(entry.shard, []).append((entry.start, entry.start + entry.size, ascii(name)))
        for shard, ranges in places.items():
            if shard >= self.shards:
                raise ValueError(f"{ranges[0][2]} is in file {shard} of {self.shards}")
            file = self.file(shard)
            if not file.is_file():
                raise UsageError(f"{file}: no such file, but {self.index} says that it has {ranges[0][2]}; get it too")
            check_apart(ranges, file.stat().st_size, file)

    def bytes_of(self, key: bytes, name: str) -> np.ndarray:
        entry = self.entries[key]
        return read_bytes(self.file(entry.shard), entry.start, entry.size, name)

    def read(self, key: bytes, name: str) -> np.ndarray:
        """A tensor, or a slice of one, that is in one piece."""
        entry = self.entries[key]
        data = self.bytes_of(key, name)
        if masked_crc32c(data) != entry.crc:
            raise UsageError(f"{self.file(entry.shard)}: the checksum of {name} is wrong: damaged; get the file again")
        return to_array(data, DTYPES[entry.dtype], entry.shape, self.byte_order)

    def read_slices(self, keys: list[bytes], axis: int, shape: tuple[int, ...], name: str) -> np.ndarray:
        """A tensor whose slices follow each other in an axis; never more than it and a slice are in memory."""
        whole = np.empty(shape, array_dtype(DTYPES[self.entries[keys[0]].dtype]))
        start = 0
        for key in keys:
            end = start + self.entries[key].shape[axis]
            whole[(slice(None),) * axis + (slice(start, end),)] = self.read(key, name)
            start = end
        return whole

    def slices(self, key: bytes) -> tuple[list[bytes], int]:
        """The keys of the slices of a tensor, in order, and the axis that they cut."""
        entry = self.entries[key]
        rank = len(entry.shape)
        if any(len(extents) != rank for extents in entry.slices):
            raise ValueError("a slice has other axes than its tensor")
        cut = [axis for axis in range(rank) if any(extents[axis] != EVERYTHING for extents in entry.slices)]
        # An axis may also be given in full by numbers.
        cut = [axis for axis in cut if any(extents[axis] != (0, entry.shape[axis]) for extents in entry.slices)]
        if len(cut) != 1:
            raise ValueError(f"{ascii(key.decode())} is cut in {len(cut)} axes; hftk joins slices in one")
        [axis] = cut
        ordered = sorted(entry.slices, key=lambda extents: extents[axis])
        keys, end = [], 0
        for extents in ordered:
            start, length = extents[axis]
            slice_key = _slice_key(key, extents)
            part = self.entries.get(slice_key)
            shape = (*entry.shape[:axis], length, *entry.shape[axis + 1 :])
            if start != end or part is None or part.slices or (part.dtype, part.shape) != (entry.dtype, shape):
                raise ValueError(f"{ascii(key.decode())} lacks a slice, or has one that does not fit")
            keys.append(slice_key)
            end += length
        if end != entry.shape[axis]:
            raise ValueError(f"{ascii(key.decode())} lacks its last slice")
        return keys, axis

    def full_names(self) -> dict[str, str]:
        """The names of variables by their keys, from the graph of objects; none where there is none."""
        key = OBJECT_GRAPH.encode()
        if key not in self.entries:
            return {}
        entry = self.entries[key]
        if entry.dtype != STRING or entry.shape or entry.slices:
            raise ValueError("the graph of objects is not a string")
        data = self.bytes_of(key, OBJECT_GRAPH)
        length, at = read_varint(data.tobytes(), 0)
        # Summed up is not how the length is written, but what it is.
        number = np.array([length], f"{self.byte_order}u{4 if length < 1 << 32 else 8}").view(np.uint8)
        if at + 4 + length != len(data) or masked_crc32c(np.concatenate([number, data[at:]])) != entry.crc:
            raise UsageError(
                f"{self.file(entry.shard)}: the checksum of {OBJECT_GRAPH} is wrong: damaged; get it again"
            )
        names = {}
        for node in Message(data[at + 4 :].tobytes()).messages(1):
            for attribute in node.messages(2):
                names[attribute.text(3)] = check_name(attribute.text(2), self.index)
        return names


def open_bundle(index: Path, container: str = "TensorFlow checkpoint") -> Weights:
    """
    Opens a checkpoint: reads its index, and no tensor.

    Args:
        index (`Path`):
            The file `NAME.index`.
        container (`str`, defaults to `"TensorFlow checkpoint"`):
            What to call the format.

    Returns:
        `Weights`: names are the keys of the checkpoint. A partitioned variable is one tensor.

    Raises:
        UsageError: files are missing or damaged.
    """
    try:
        bundle = _Bundle(index)
        bundle.check_places()
        full_names = bundle.full_names()
        parts = {key: bundle.slices(key) for key, entry in bundle.entries.items() if entry.slices}
        in_parts = {key for keys, _ in parts.values() for key in keys}
        if any(key.startswith(b"\0") and key not in in_parts for key in bundle.entries):
            raise ValueError("a slice belongs to no tensor")
        names = {check_name(key.decode(), index): key for key in bundle.entries if key not in in_parts}
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{index}: {error}; get the file again") from error

    tensors: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for name, key in names.items():
        entry = bundle.entries[key]
        reason = why_skipped(name, names) or ("text" if entry.dtype == STRING else "")
        if reason:
            skipped[name] = reason
            continue
        if entry.dtype not in DTYPES:
            raise UsageError(f"{index}: {name} is of type {entry.dtype}, which hftk cannot read; save it without")
        read = partial(bundle.read, key, name)
        if key in parts:
            read = partial(bundle.read_slices, *parts[key], entry.shape, name)
        tensors[name] = Tensor(entry.shape, DTYPES[entry.dtype], read, full_names.get(name, ""))
    family = "TensorFlow 2, by objects" if OBJECT_GRAPH in names else "TensorFlow 1, by names"
    return Weights(container, family, index, tensors, skipped)
