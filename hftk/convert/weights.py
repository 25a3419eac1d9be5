"""What every reader of weights gives: tensors by name, none of them read yet. And what all readers check."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hftk.errors import UsageError

# The bytes of an element, by the name of the type. numpy has all of them but bfloat16.
ITEM_SIZES = {
    **{"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex64": 8, "complex128": 16, "bool": 1},
    **{"int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1},
}
ByteOrder = Literal["<", ">"]
MAX_RANK = 32
# Numbers in a tensor. One that is empty may be so in one axis only, and numpy has its limits in the others too.
MAX_COUNT = 1 << 48


@dataclass(frozen=True)
class Tensor:
    """
    A tensor in a file.

    Args:
        shape (`tuple[int, ...]`):
            Its shape.
        dtype (`str`):
            As it is stored: `bfloat16`, or the name of numpy.
        read (`Callable[[], np.ndarray]`):
            Reads it from its file, each time anew, and checks it where the format has checksums. Gives an array of
            `shape`, of `dtype` but for bfloat16, which comes as float32 with the same values. Raises `UsageError`.
        full_name (`str`, *optional*):
            The variable's name in the program that saved it, where a checkpoint keeps it beside its key. It need not be
            unique.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    full_name: str = ""

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """How many bytes they take as they are stored."""
        return self.count * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class Weights:
    """
    The weights that a file or folder holds.

    Args:
        container (`str`):
            The format of the files.
        family (`str`):
            Who gave the tensors their names, and so what they look like.
        source (`Path`):
            The file that was opened; of several the one that tells of the others.
        tensors (`dict[str, Tensor]`):
            By name. Names are printable.
        skipped (`dict[str, str]`):
            The names of what is not a weight, with the reason.
        config (`dict`, *optional*):
            The configuration that the same file carries; empty where it carries none. It is never acted upon.
    """

    container: str
    family: str
    source: Path
    tensors: dict[str, Tensor]
    skipped: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)


def byte_size(shape: Sequence[int], dtype: str) -> int:
    """How many bytes a tensor takes in a file. Raises `ValueError` for a shape that no array can have."""
    if len(shape) > MAX_RANK or math.prod(max(length, 1) for length in shape) > MAX_COUNT:
        raise ValueError(f"no tensor has the shape {str(shape):.200}")
    return math.prod(shape) * ITEM_SIZES[dtype]


def array_dtype(dtype: str) -> str:
    """The type of the array that a tensor is read to."""
    return "float32" if dtype == "bfloat16" else dtype


def check_apart(ranges: Iterable[tuple[int, int, str]], size: int, file: Path) -> None:
    """
    Raises `UsageError` unless all tensors lie in their file and none has bytes of another.

    Args:
        ranges (`Iterable[tuple[int, int, str]]`):
            For each tensor where its bytes start, where they end, and its name.
        size (`int`):
            The bytes of the file.
        file (`Path`):
            Its name in errors.
    """
    last_end, last = 0, ""
    for start, end, name in sorted(ranges):
        if end > size:
            raise UsageError(f"{file}: {name} ends at byte {end} of {size}: cut off or damaged; get the file again")
        if start < last_end and start < end:
            raise UsageError(f"{file}: {name} overlaps {last}: damaged; get the file again")
        if end > last_end:
            last_end, last = end, name


def check_name(name: str, file: Path) -> str:
    """The name, if it can be printed: that of a stranger might steer the terminal, or be two lines."""
    if not name.isprintable():
        raise UsageError(f"{file}: the name {ascii(name):.200} is not printable text: damaged; get the file again")
    return name


def read_bytes(file: Path, start: int, size: int, what: str) -> np.ndarray:
    """Bytes of a file [size] uint8. `size` must have been checked against that of the file; `what` is for errors."""
    try:
        data = np.fromfile(file, np.uint8, size, offset=start)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); name a file that can") from error
    if len(data) < size:
        raise UsageError(f"{file}: ends within {what}: cut off; get the file again")
    return data


def to_array(data: np.ndarray, dtype: str, shape: tuple[int, ...], byte_order: ByteOrder = "<") -> np.ndarray:
    """
    The tensor that bytes hold.

    Args:
        data (`np.ndarray`):
            [bytes] uint8, as many as shape and dtype need.
        dtype (`str`):
            A key of `ITEM_SIZES`.
        shape (`tuple[int, ...]`):
            The shape of the tensor.
        byte_order (`ByteOrder`, defaults to `"<"`):
            `<` if the least byte of a number comes first, otherwise `>`.

    Returns:
        `np.ndarray`: `shape`, in the byte order of this machine; bfloat16 as float32.
    """
    if dtype == "bfloat16":
        wide = data.view(f"{byte_order}u2").astype(np.uint32)
        wide <<= 16  # it is the upper half of a float32
        return wide.view(np.float32).reshape(shape)
    if dtype == "bool":  # any other byte than 0 and 1 would not be a bool to numpy
        return (data != 0).reshape(shape)
    return data.view(byte_order + np.dtype(dtype).str[1:]).astype(dtype, copy=False).reshape(shape)


def parse_json(text: bytes, file: Path) -> dict[str, Any]:
    """The object in a JSON text. Raises `UsageError` if it is none, or names a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands there twice")
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: its JSON cannot be read ({error}): damaged; get the file again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file}: its JSON is not an object: damaged; get the file again")
    return found
