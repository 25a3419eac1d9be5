"""
Weights in HDF5: what Keras 2 and the TensorFlow classes of transformers save (`tf_model.h5`), and Keras 3
(`model.weights.h5`).

HDF5 can lead out of the file (external links, external storage, virtual datasets), in circles (links), and from a small
file to a huge array (filters, space that was never written). Keras writes nothing of that, so all of it is refused.
There are no checksums: a changed byte in a number gives another number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from struct import error as StructError
from struct import unpack_from

import h5py
import numpy as np

from hftk.convert.hdf5_file import (
    ATTRIBUTE,
    EXTERNAL,
    FILTERS,
    LAYOUT,
    LINK,
    LINK_INFO,
    NOWHERE,
    SOFT_LINK,
    SPACE,
    SYMBOLS,
    TYPE,
    Hdf5File,
    Messages,
    attribute,
    shape_of,
)
from hftk.convert.skipping import why_skipped
from hftk.convert.weights import (
    ITEM_SIZES,
    ByteOrder,
    Tensor,
    Weights,
    byte_size,
    check_apart,
    check_name,
    read_bytes,
    to_array,
)
from hftk.errors import UsageError

MAX_PATH = 1000  # bytes: deep groups with long names could make a small file's names fill the memory
MEND = "damaged, or not written by Keras; get the file again"
STRING, OPAQUE, VARIABLE = 3, 5, 9  # classes of types
TEXT = b"\x19"  # a type: of that class, in version 1
CONTIGUOUS, VIRTUAL = 1, 3  # layouts


def _file_types() -> dict[bytes, tuple[str, ByteOrder]]:
    """The types of numbers as HDF5 describes them, with numpy's name and byte order."""
    types: dict[bytes, tuple[str, ByteOrder]] = {}
    orders: tuple[ByteOrder, ByteOrder] = ("<", ">")
    for name in ITEM_SIZES:
        for order in orders:
            if name != "bfloat16":
                dtype = np.dtype(name).newbyteorder(order)
                encoded = h5py.h5t.py_create(dtype, logical=True).encode()
                types.setdefault(encoded[2:], (name, order))  # before it stands what kind of thing was encoded
    return types


FILE_TYPES = _file_types()


@contextmanager
def _told_in_one_line(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except (ValueError, StructError) as error:
        raise UsageError(f"{file}: {what} cannot be read ({error}): {MEND}") from error


def _datasets(hdf5: Hdf5File, file: Path) -> dict[str, Messages]:
    """All datasets by path: what their headers say."""
    found: dict[str, Messages] = {}
    seen = {hdf5.root}
    groups = [(hdf5.messages(hdf5.root), "")]
    while groups:
        group, path = groups.pop()
        if LINK in group or SYMBOLS not in group:
            raise UsageError(f"{file}: group {path or '/'} has a link to elsewhere, or is in a newer form: {MEND}")
        for message in group[SYMBOLS]:
            for name, address, kind in hdf5.links(message):
                inside = f"{path}{check_name(name.decode(), file)}"
                if len(inside) > MAX_PATH or b"/" in name or name in (b"", b"."):
                    raise UsageError(f"{file}: {inside:.100} is no name that Keras gives: {MEND}")
                if kind == SOFT_LINK:
                    raise UsageError(f"{file}: {inside} is a link to elsewhere, which hftk does not follow; {MEND}")
                if address in seen or inside in found:
                    raise UsageError(f"{file}: {inside} stands in the file under another name too: {MEND}")
                seen.add(address)
                messages = hdf5.messages(address)
                if SYMBOLS in messages or LINK_INFO in messages:
                    groups.append((messages, inside + "/"))
                elif LAYOUT in messages and SPACE in messages and TYPE in messages:
                    found[inside] = messages
                else:
                    raise UsageError(f"{file}: {inside} is neither a group nor a tensor: {MEND}")
    return dict(sorted(found.items()))


def _type(hdf5: Hdf5File, messages: Messages, path: str, file: Path) -> tuple[str, ByteOrder]:
    """The type of the numbers and their byte order; `text` for strings."""
    [stored] = messages[TYPE]
    for encoded, number in FILE_TYPES.items():
        if stored.startswith(encoded) and not any(stored[len(encoded) :]):
            return number
    kind, flags, size = unpack_from("<BBxxI", stored)
    if kind & 15 == STRING or (kind & 15 == VARIABLE and flags & 15 == 1):
        return "text", "<"
    if kind & 15 == OPAQUE and size == 2:
        # HDF5 knows no bfloat16; Keras says so beside the bytes.
        for message in messages.get(ATTRIBUTE, []):
            name, its_type, value = attribute(message)
            if name == b"dtype" and its_type[:1] == TEXT and hdf5.text(value) == b"bfloat16":
                return "bfloat16", "<"
    raise UsageError(f"{file}: {path} does not hold numbers of a type that hftk reads; save it as float32")


def _place(messages: Messages, path: str, file: Path) -> tuple[int, int]:
    """Where the bytes are and how many. Raises unless they are in this file, as they are, in one piece."""
    [layout] = messages[LAYOUT]
    version, kind = unpack_from("<BB", layout)
    if EXTERNAL in messages or (version >= 3 and kind == VIRTUAL):
        raise UsageError(f"{file}: {path} lies in other files, which hftk does not open; write it into one file")
    if FILTERS in messages:
        raise UsageError(f"{file}: {path} is compressed, which Keras never does; undo it: h5repack -f NONE {file} NEW")
    if version != 3 or kind != CONTIGUOUS:
        raise UsageError(f"{file}: {path} is in pieces, which Keras never does; undo it: h5repack -l CONTI {file} NEW")
    start, size = unpack_from("<QQ", layout, 2)
    return (0, 0) if start == NOWHERE else (start, size)


def _read(file: Path, start: int, tensor: tuple[str, ByteOrder, tuple[int, ...]], path: str) -> np.ndarray:
    dtype, order, shape = tensor
    return to_array(read_bytes(file, start, byte_size(shape, dtype), path), dtype, shape, order)


def open_hdf5(file: Path, start: int = 0, size: int | None = None) -> Weights:
    """
    Opens weights in HDF5: reads what there is, and no tensor.

    Args:
        file (`Path`):
            The file.
        start (`int`, defaults to 0), size (`int`, *optional*):
            Where in it the HDF5 file starts, and its bytes, if it is only a part.

    Returns:
        `Weights`: names are the paths of datasets. What Keras 2 ties stands under two of them, with the same values.

    Raises:
        UsageError: the file is damaged, or does what the head of this module names.
    """
    size = file.stat().st_size if size is None else size
    tensors: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    places: list[tuple[int, int, str]] = []
    with _told_in_one_line(file, "what is in it"):
        hdf5 = Hdf5File(file, start, size)
        datasets = _datasets(hdf5, file)
    for path, messages in datasets.items():
        with _told_in_one_line(file, path):
            at, stored = _place(messages, path, file)
            dtype, order = _type(hdf5, messages, path, file)
            reason = why_skipped(path, datasets) or ("text" if dtype == "text" else "")
            if reason:
                skipped[path] = reason
                continue
            shape = shape_of(messages[SPACE][0])
            if shape is None:
                raise UsageError(f"{file}: {path} has no shape: {MEND}")
            if byte_size(shape, dtype) != stored:
                raise UsageError(f"{file}: {path} has {stored} bytes, which is not what its shape needs: {MEND}")
            places.append((at, at + stored, path))
        tensors[path] = Tensor(shape, dtype, partial(_read, file, start + at, (dtype, order, shape), path))
    check_apart(places, size, file)
    by_objects = any("vars" in path.split("/") for path in tensors)
    return Weights("HDF5", "Keras 3, by objects" if by_objects else "Keras 2, by names", file, tensors, skipped)
