"""
Opens weights wherever they are: finds out the format, and reads no tensor before it is asked for. Files may come from
strangers: nothing in them is run or unpickled, and what a file says of sizes is compared with its size first.
"""

from collections.abc import Callable
from pathlib import Path

from hftk.convert.hdf5 import open_hdf5
from hftk.convert.keras_archive import open_archive
from hftk.convert.safetensors_files import open_safetensors
from hftk.convert.tensor_bundle import open_bundle
from hftk.convert.weights import Tensor, Weights, parse_json, read_bytes
from hftk.errors import UsageError

# What to look for in a folder, in this order.
LOOKED_FOR = [
    "model.safetensors.index.json",
    "model.safetensors",
    "tf_model.h5.index.json",
    "tf_model.h5",
    "saved_model.pb",
    "*.keras",
    "*.weights.h5",
    "*.h5",
    "*.index",
    "*.safetensors",
]
VARIABLES = Path("variables", "variables.index")
MAX_INDEX = 100_000_000  # bytes


def open_weights(path: str | Path) -> Weights:
    """
    Opens the weights in a file or folder.

    Args:
        path (`str` or `Path`):
            A checkpoint of TensorFlow (`NAME`, `NAME.index` or one of its data files), a SavedModel, HDF5, a `.keras`
            archive, safetensors, the `.index.json` of several files, or a folder with one of these.

    Returns:
        `Weights`: tensors by name, to be read one at a time.

    Raises:
        UsageError: there is nothing to be read, or it is damaged, or does what it should not.
    """
    path = Path(path)
    try:
        return _open_folder(path) if path.is_dir() else _open_file(path)
    except OSError as error:
        raise UsageError(
            f"{error.filename or path}: cannot be read ({error.strerror}); name a file that can"
        ) from error


def _open_folder(folder: Path) -> Weights:
    for pattern in LOOKED_FOR:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise UsageError(f"{folder}: has {found[0].name}, {found[1].name} and maybe more; name one of them")
        if found:
            return _open_file(found[0])
    raise UsageError(
        f"{folder}: nothing to read; looked for {', '.join(LOOKED_FOR)} (hftk never unpickles, so neither .bin nor .pt)"
    )


def _open_file(path: Path) -> Weights:
    if path.name == "saved_model.pb":
        variables = path.parent / VARIABLES
        if not variables.is_file():
            raise UsageError(f"{variables}: no such file; a SavedModel needs it, since hftk does not read {path.name}")
        return open_bundle(variables, "SavedModel")
    index = path.with_name(path.name.partition(".data-")[0].removesuffix(".index") + ".index")
    if not path.is_file() and not index.is_file():
        raise UsageError(f"{path}: no such file or folder, and {index.name} is not there either")
    if path.name.endswith(".index.json"):
        return _open_shards(path, open_hdf5 if ".h5." in path.name else open_safetensors)
    if path.name.endswith(".h5"):
        return open_hdf5(path)
    if path.name.endswith(".keras"):
        return open_archive(path)
    if path.name.endswith(".safetensors"):
        return open_safetensors(path)
    if index.is_file():
        return open_bundle(index)
    raise UsageError(f"{path}: no format that hftk reads; name one of {', '.join(LOOKED_FOR)}, or a folder with it")


def _open_shards(index: Path, open_file: Callable[[Path], Weights]) -> Weights:
    """The files that an index names, as one."""
    size = index.stat().st_size
    if size > MAX_INDEX:
        raise UsageError(f"{index}: {size} bytes are too many for an index; get the file again")
    weight_map = parse_json(read_bytes(index, 0, size, "the index").tobytes(), index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError(f"{index}: has no weight_map; get the file again")
    tensors: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for name in sorted({str(name) for name in weight_map.values()}):
        # Nothing beside the index itself: it may come from a stranger.
        if not name or name != Path(name).name or "\\" in name or not name.isprintable():
            raise UsageError(f"{index}: names a file {name!r:.100} that is not in its own folder; get the file again")
        file = index.with_name(name)
        if not file.is_file():
            raise UsageError(f"{file}: no such file, but {index.name} names it; get it too")
        shard = open_file(file)
        twice = next((name for name in shard.tensors if name in tensors), None)
        if twice is not None:
            raise UsageError(f"{file}: {twice} stands in another file too; get the files again")
        tensors |= shard.tensors
        skipped |= shard.skipped
    found = len(tensors) + len(skipped)
    # The TensorFlow classes of transformers put the name of the model before each in the index, and not in the files.
    missing = [name for name in weight_map if not {name, name.partition("/")[2]} & (tensors.keys() | skipped.keys())]
    if missing or found != len(weight_map):
        what = f"lack {missing[0]!r:.100}" if missing else f"hold {found} tensors, not {len(weight_map)}"
        raise UsageError(f"{index}: its files {what}; get the files again")
    return Weights(f"{shard.container}, several files", shard.family, index, tensors, skipped)
