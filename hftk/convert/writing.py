"""
Writes weights tensor by tensor, so that never more than one is in memory. The library for safetensors takes all of them
at once; its format is a header and the bytes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from hftk.convert.plan import Step
from hftk.convert.safetensors_files import DTYPES
from hftk.convert.weights import ITEM_SIZES, byte_size

PIECE = 1 << 24  # bytes
MAX_ATTRIBUTE = 64_000  # bytes; HDF5 has no room for more in the head of an object
Read = Callable[[Step], np.ndarray]


def to_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    """
    Numbers as they are stored, bfloat16 as its 16 bits.

    Args:
        array (`np.ndarray`):
            Of any shape.
        dtype (`str`):
            A key of `ITEM_SIZES`. Numbers are rounded to the nearest, of two to the even one.
    """
    if dtype != "bfloat16":
        return array.astype(dtype, copy=False)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array in rows that lie together, about `PIECE` bytes at a time."""
    if array.ndim == 0 or array.nbytes <= PIECE:
        yield np.ascontiguousarray(array)
        return
    rows = max(1, PIECE * len(array) // array.nbytes)
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows])


def write_safetensors(file: Path, steps: Sequence[Step], read: Read) -> None:
    """
    Writes `model.safetensors` for torch.

    Args:
        file (`Path`):
            Where to.
        steps (`Sequence[Step]`):
            Its tensors.
        read (`Callable[[Step], np.ndarray]`):
            Gives the numbers of a step, in its dtype as [`to_dtype`] makes it.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    steps = sorted(steps, key=lambda step: (-ITEM_SIZES[step.dtype], step.target))  # so that all are aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for step in steps:
        start, end = end, end + byte_size(step.shape, step.dtype)
        header[step.target] = {"dtype": names[step.dtype], "shape": step.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for step in steps:
            for piece in pieces(read(step)):
                out.write(piece.data)


def layer_of(name: str) -> str:
    """The group of `tf_model.h5` for a bare name of the TensorFlow classes: the part of the model that owns it."""
    return name.split("/")[0].split(".")[0]


def weight_name(name: str) -> str:
    """
    The name that a variable has in `tf_model.h5`. Before it stands the name of the model, which may be anything; shared
    embeddings and a bare bias stand outside of it.
    """
    first, _, rest = name.partition("/")
    if rest == "embeddings" and first.endswith("shared"):
        return f"{first}/{name}:0"
    return f"tf_model/{name}:0" if rest else f"{name}:0"


def h5_path(name: str) -> str:
    """Where in `tf_model.h5` a variable is."""
    return f"{layer_of(name)}/{weight_name(name)}"


def checkpoint_key(name: str) -> str:
    """Where in the checkpoint of a SavedModel a variable is that its module has in a dictionary."""
    return f"tensors/{name.replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def write_h5(file: Path, steps: Sequence[Step], read: Read) -> None:
    """
    Writes `tf_model.h5`, which the TensorFlow classes of transformers 4 load.

    Args:
        file (`Path`):
            Where to.
        steps (`Sequence[Step]`):
            Its tensors, by bare names.
        read (`Callable[[Step], np.ndarray]`):
            Gives the numbers of a step.
    """
    layers: dict[str, list[Step]] = {}
    for step in steps:
        layers.setdefault(layer_of(step.target), []).append(step)
    with h5py.File(file, "w") as out:
        out.attrs.update({"backend": b"tensorflow", "keras_version": b"2"})
        _write_names(out, "layer_names", list(layers))
        for layer, of_layer in layers.items():
            group = out.create_group(layer)
            _write_names(group, "weight_names", [weight_name(step.target) for step in of_layer])
            for step in of_layer:
                dataset = group.create_dataset(weight_name(step.target), step.shape, step.dtype)
                start = 0
                for piece in pieces(read(step)):
                    if piece.ndim == 0:
                        dataset[()] = piece
                    elif len(piece):
                        dataset[start : start + len(piece)] = piece
                        start += len(piece)


def _write_names(group: h5py.Group, attribute: str, names: list[str]) -> None:
    """As Keras does: where they are too many for one attribute, they are in several with numbers."""
    width = max(len(name) for name in names)
    chunk = MAX_ATTRIBUTE // width
    if len(names) <= chunk:
        group.attrs[attribute] = np.array(names, "S")
        return
    for number, start in enumerate(range(0, len(names), chunk)):
        group.attrs[f"{attribute}{number}"] = np.array(names[start : start + chunk], "S")
