"""
Weights in HDF5: what Keras 2 and the TensorFlow classes of transformers save (`tf_model.h5`), and Keras 3
(`model.weights.h5`).

HDF5 can lead out of the file (external links, external storage, virtual datasets), in circles (links), and from a small
file to a huge array (filters, space that was never written). Keras writes nothing of that, so all of it is refused.
Links are looked at before they are followed, and layouts before a shape is asked for, since asking may already open
other files. There are no checksums: a changed byte in a number gives another number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import RawIOBase
from pathlib import Path

import h5py
import numpy as np

from hftk.convert.skipping import why_skipped
from hftk.convert.weights import ITEM_SIZES, ByteOrder, Tensor, Weights, byte_size, check_apart, check_name, to_array
from hftk.errors import UsageError

MAX_PATH = 1000  # bytes: deep groups with long names could make a small file's names fill the memory
MEND = "damaged, or not written by Keras; get the file again"


def _file_types() -> list[tuple[h5py.h5t.TypeID, str, ByteOrder]]:
    """The types of numbers as HDF5 describes them, with numpy's name and byte order."""
    types: list[tuple[h5py.h5t.TypeID, str, ByteOrder]] = []
    orders: tuple[ByteOrder, ByteOrder] = ("<", ">")
    for name in ITEM_SIZES:
        for order in orders:
            if name != "bfloat16":
                dtype = np.dtype(name).newbyteorder(order)
                types.append((h5py.h5t.py_create(dtype, logical=True), name, order))
    return types


FILE_TYPES = _file_types()


@contextmanager
def _told_in_one_line(file: Path, what: str) -> Iterator[None]:
    """What the library raises for a damaged file is of many types."""
    try:
        yield
    except UsageError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{file}: {what} cannot be read ({reason}): {MEND}") from error


def _datasets(root: h5py.h5g.GroupID, file: Path) -> dict[str, h5py.h5d.DatasetID]:
    """All datasets by path. Nothing of them is read."""
    found: dict[str, h5py.h5d.DatasetID] = {}
    seen = {h5py.h5o.get_info(root).addr}
    groups = [(root, "")]
    while groups:
        group, path = groups.pop()
        names: list[bytes] = []
        group.links.iterate(names.append)
        for name in names:
            # A name with a slash would be looked up as a path.
            inside = f"{path}{check_name(name.decode(), file)}"
            if len(inside) > MAX_PATH or b"/" in name or name in (b"", b"."):
                raise UsageError(f"{file}: {inside:.100} is no name that Keras gives: {MEND}")
            if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                raise UsageError(f"{file}: {inside} is a link to elsewhere, which hftk does not follow; {MEND}")
            item = h5py.h5o.open(group, name)
            address = h5py.h5o.get_info(item).addr
            if address in seen:
                raise UsageError(f"{file}: {inside} stands in the file under another name too: {MEND}")
            seen.add(address)
            if isinstance(item, h5py.h5g.GroupID):
                groups.append((item, inside + "/"))
            elif isinstance(item, h5py.h5d.DatasetID):
                found[inside] = item
            else:
                raise UsageError(f"{file}: {inside} is neither a group nor a tensor: {MEND}")
    return dict(sorted(found.items()))


def _type(dataset: h5py.h5d.DatasetID, path: str, file: Path) -> tuple[str, ByteOrder]:
    """The type of the numbers and their byte order; `text` for strings."""
    stored = dataset.get_type()
    if stored.get_class() == h5py.h5t.STRING:
        return "text", "<"
    for file_type, name, order in FILE_TYPES:
        if stored.equal(file_type):
            return name, order
    if stored.get_class() == h5py.h5t.OPAQUE and stored.get_size() == 2 and h5py.h5a.exists(dataset, b"dtype"):
        # HDF5 knows no bfloat16; Keras says so beside the bytes.
        attribute = h5py.h5a.open(dataset, b"dtype")
        if attribute.shape == () and h5py.Dataset(dataset).attrs["dtype"] == "bfloat16":
            return "bfloat16", "<"
    raise UsageError(f"{file}: {path} does not hold numbers of a type that hftk reads; save it as float32")


def _check_storage(dataset: h5py.h5d.DatasetID, path: str, file: Path) -> None:
    """Raises unless the bytes are in this file, as they are."""
    creation = dataset.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count():
        raise UsageError(f"{file}: {path} lies in other files, which hftk does not open; write it into one file")
    if creation.get_nfilters():
        raise UsageError(f"{file}: {path} is compressed, which Keras never does; undo it: h5repack -f NONE {file} NEW")


def _read(
    dataset: h5py.h5d.DatasetID, tensor: tuple[str, ByteOrder, tuple[int, ...]], path: str, file: Path
) -> np.ndarray:
    dtype, order, shape = tensor
    data = np.empty(byte_size(shape, dtype), np.uint8)
    with _told_in_one_line(file, path):
        # As bytes: the type of the file on both sides, so that the library converts nothing.
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, data, mtype=dataset.get_type())
    return to_array(data, dtype, shape, order)


def open_hdf5(file: Path, part: RawIOBase | None = None, size: int | None = None) -> Weights:
    """
    Opens weights in HDF5: reads what there is, and no tensor.

    Args:
        file (`Path`):
            The file.
        part (`RawIOBase`, *optional*):
            What to read instead, where the HDF5 file is a part of `file`.
        size (`int`, *optional*):
            The bytes of `part`.

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
        # Locks are for those who write too, and some network drives have none.
        root = h5py.File(part or file, "r", locking=None if part else False)["/"].id
        datasets = _datasets(root, file)
    for path, dataset in datasets.items():
        with _told_in_one_line(file, path):
            _check_storage(dataset, path, file)
            dtype, order = _type(dataset, path, file)
            reason = why_skipped(path, datasets) or ("text" if dtype == "text" else "")
            if reason:
                skipped[path] = reason
                continue
            space = dataset.get_space()
            if space.get_simple_extent_type() == h5py.h5s.NULL:
                raise UsageError(f"{file}: {path} has no shape: {MEND}")
            shape = space.get_simple_extent_dims()
            stored = dataset.get_storage_size()
            if not byte_size(shape, dtype) <= stored <= size:
                raise UsageError(f"{file}: {path} is larger than what the file has of it: {MEND}")
            start = dataset.get_offset()
            if start is not None:  # in one piece
                places.append((start, start + stored, path))
        tensors[path] = Tensor(shape, dtype, partial(_read, dataset, (dtype, order, shape), path, file))
    check_apart(places, size, file)
    by_objects = any("vars" in path.split("/") for path in tensors)
    return Weights("HDF5", "Keras 3, by objects" if by_objects else "Keras 2, by names", file, tensors, skipped)
