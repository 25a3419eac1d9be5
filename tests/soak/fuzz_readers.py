"""
Coverage-guided fuzzing of what reads strangers' files. Whatever the bytes: they are read, or refused in one line by
a `UsageError`, in seconds and in little memory.

    make soak                                                               # every format, 10 minutes in all
    python -m tests.soak.fuzz_readers hdf5 runs/soak/corpus/hdf5 -max_total_time=60
    python -m tests.soak.fuzz_readers hdf5 runs/soak/hdf5-crash-…           # what was found, again

Checksums hold here whatever the bytes are: a fuzzer would hardly get past them, and whoever writes a hostile file makes
them right.
"""

import resource
import shutil
import sys
import tempfile
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import atheris

with atheris.instrument_imports(include=["hftk.convert", "zipfile"]):
    from hftk.convert import keras_archive, table, tensor_bundle
    from hftk.convert.listing import listing
    from hftk.convert.readers import open_weights
from hftk.errors import UsageError
from tests.soak.seeds import SEPARATOR

# The names of the files in an input; of `bundle` there may be any number of data files.
FILES = {
    "bundle": ["model.index"],
    "hdf5": ["tf_model.h5"],
    "keras": ["model.keras"],
    "safetensors": ["model.safetensors"],
    "shards": ["model.safetensors.index.json", "first.safetensors", "second.safetensors"],
    "h5_shards": ["tf_model.h5.index.json", "first.h5", "second.h5"],
}
FOLDER = Path(tempfile.mkdtemp(prefix="soak-"))
MAX_LINE = 2_000  # characters
MAX_EXTRA = 200_000_000  # bytes of memory, and ten times the file
LIMITS = ["-timeout=10", "-rss_limit_mb=2000", "-max_len=65536"]


class AnyNumber(int):
    """A checksum that is always right."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def without_checksums() -> None:
    modules: list[Any] = [table, tensor_bundle]
    for module in modules:
        module.masked_crc32c = lambda data: AnyNumber()
    archive: Any = keras_archive
    archive.zlib = SimpleNamespace(crc32=lambda data, value: AnyNumber(), error=zlib.error)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_files(kind: str, data: bytes) -> Path:
    """The input's files; the first is to be opened."""
    for old in FOLDER.iterdir():
        old.unlink()
    parts = data.split(SEPARATOR)
    names = FILES[kind]
    if kind == "bundle":
        names = names + [f"model.data-{shard:05d}-of-{len(parts) - 1:05d}" for shard in range(len(parts) - 1)]
    for name, part in zip(names, parts, strict=False):
        (FOLDER / name).write_bytes(part)
    return FOLDER / names[0]


def read_all(kind: str, data: bytes) -> None:
    path = write_files(kind, data)
    before = peak_memory()
    try:
        weights = open_weights(path)
        for line in listing(weights):
            assert line.isprintable()
        for tensor in weights.tensors.values():
            assert tensor.read().shape == tensor.shape
    except UsageError as error:
        assert str(error).isprintable() and len(str(error)) < MAX_LINE, str(error)
    assert peak_memory() - before < MAX_EXTRA + 10 * len(data), "too much memory"


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of zipfile and numpy about strange files
    without_checksums()
    kind = sys.argv[1]
    atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[2:]], lambda data: read_all(kind, data))
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(FOLDER)
