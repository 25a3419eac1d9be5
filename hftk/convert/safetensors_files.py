"""
Weights in safetensors (huggingface.co/docs/safetensors): a header in JSON, then the bytes of the tensors.

Read here and not by the library, whose numpy side has no bfloat16. There are no checksums.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hftk.convert.weights import Tensor, Weights, byte_size, check_name, parse_json, read_bytes, to_array
from hftk.errors import UsageError

DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
}
MAX_HEADER = 100_000_000  # bytes: the limit of the format
FAMILIES = {"tf": "TensorFlow classes of transformers", "pt": "torch"}


def _counts(value: Any, length: int | None = None) -> list[int]:
    """A list of numbers that count something. Raises `ValueError` if it is none."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise ValueError(f"{value!r:.100} is not a list of {'' if length is None else length} numbers")
    if not all(type(item) is int and item >= 0 for item in value):
        raise ValueError(f"{value!r:.100} has other things than numbers from 0 on")
    return value


def _read(file: Path, start: int, shape: tuple[int, ...], dtype: str, name: str) -> np.ndarray:
    return to_array(read_bytes(file, start, byte_size(shape, dtype), name), dtype, shape)


def _tensor(entry: Any, name: str, file: Path, data_start: int) -> tuple[int, int, Tensor]:
    """Where the bytes of a tensor start and end, counted from the header's end, and the tensor."""
    if not isinstance(entry, dict):
        raise ValueError("it is not described by an object")
    dtype = DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise ValueError(f"hftk does not read numbers of type {entry.get('dtype')!r:.100}")
    shape = tuple(_counts(entry.get("shape")))
    start, end = _counts(entry.get("data_offsets"), 2)
    if end - start != byte_size(shape, dtype):
        raise ValueError(f"it has {end - start} bytes, which is not what its shape needs")
    return start, end, Tensor(shape, dtype, partial(_read, file, data_start + start, shape, dtype, name))


def open_safetensors(file: Path) -> Weights:
    """
    Opens a file in safetensors: reads its header, and no tensor.

    Args:
        file (`Path`):
            The file.

    Returns:
        `Weights`: `family` tells whose names they are, torch's or those of the TensorFlow classes.

    Raises:
        UsageError: the file is damaged or cut off.
    """
    size = file.stat().st_size
    header_size = int.from_bytes(read_bytes(file, 0, min(size, 8), "the header").tobytes(), "little")
    if size < 8 or header_size > min(size - 8, MAX_HEADER):
        raise UsageError(f"{file}: not in safetensors, or cut off; get the file again")
    header = parse_json(read_bytes(file, 8, header_size, "the header").tobytes(), file)
    metadata = header.pop("__metadata__", {})
    written_by = str(metadata.get("format", "")) if isinstance(metadata, dict) else ""
    places = []
    tensors = {}
    for name, entry in header.items():
        check_name(name, file)
        try:
            start, end, tensor = _tensor(entry, name, file, 8 + header_size)
        except ValueError as error:
            raise UsageError(f"{file}: {name}: {error}; get the file again") from error
        places.append((start, end, name))
        tensors[name] = tensor
    # The format has no room between tensors, nor after them.
    last_end = 0
    for start, end, name in sorted(places):
        if start != last_end:
            raise UsageError(f"{file}: {name} does not follow the tensor before it: damaged; get the file again")
        last_end = end
    if 8 + header_size + last_end != size:
        raise UsageError(f"{file}: has {size} bytes, but the last tensor ends at {8 + header_size + last_end}: cut off")
    return Weights("safetensors", FAMILIES.get(written_by, "unknown"), file, tensors, {})
