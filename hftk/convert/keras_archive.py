"""
`NAME.keras`, the archive of Keras 3: a zip of config.json, metadata.json and model.weights.h5.

Keras stores them uncompressed, so that the weights can be read where they lie; a compressed one, which could be of any
size once it is unpacked, is refused. Both parts have checksums, which are checked when the archive is opened. The
config says how to build layers, down to code that is to be run. It is read as JSON and given on, and nothing is built.
"""

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

from hftk.convert.hdf5 import open_hdf5
from hftk.convert.weights import Weights, parse_json, read_bytes
from hftk.errors import UsageError

WEIGHTS = "model.weights.h5"
CONFIG = "config.json"
MAX_CONFIG = 100_000_000  # bytes; a parsed one takes several times as much
LOCAL_HEADER = 30  # bytes, before the name
ENCRYPTED = 1
PIECE = 1 << 22  # bytes


def _member(file: Path, archive: zipfile.ZipFile, name: str) -> tuple[int, int]:
    """Where a member's bytes start, and how many they are. All of them are compared with their checksum."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise UsageError(f"{file}: {len(found)} members are called {name}, not 1: damaged, or not written by Keras 3")
    [info] = found
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
        raise UsageError(f"{file}: {name} in it is compressed, which Keras never does; unpack it and name {WEIGHTS}")
    total = file.stat().st_size
    header = read_bytes(file, info.header_offset, min(LOCAL_HEADER, total), "the archive")
    lengths = header[26:30].view("<u2")  # of the name and of what stands between it and the bytes
    start = info.header_offset + LOCAL_HEADER + int(lengths.sum())
    if info.file_size != info.compress_size or start + info.file_size > total:
        raise UsageError(f"{file}: {name} in it is cut off; get the file again")
    checksum = 0
    for at in range(0, info.file_size, PIECE):
        piece = read_bytes(file, start + at, min(PIECE, info.file_size - at), name)
        checksum = zlib.crc32(piece.data, checksum)
    if checksum != info.CRC:
        raise UsageError(f"{file}: the checksum of {name} in it is wrong: damaged; get the file again")
    return start, info.file_size


def open_archive(file: Path) -> Weights:
    """
    Opens an archive of Keras 3, and checks it: that reads it once from end to end.

    Args:
        file (`Path`):
            The archive.

    Returns:
        `Weights`: of the HDF5 file in it, with the parsed config.

    Raises:
        UsageError: it is damaged or compressed, or has no such parts.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            config_start, config_size = _member(file, archive, CONFIG)
            start, size = _member(file, archive, WEIGHTS)
    except UsageError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UsageError(f"{file}: not a zip archive that can be read ({error}); get the file again") from error
    if config_size > MAX_CONFIG:
        raise UsageError(f"{file}: {CONFIG} in it has {config_size} bytes: not written by Keras 3")
    config = parse_json(read_bytes(file, config_start, config_size, CONFIG).tobytes(), file)
    weights = open_hdf5(file, start, size)
    return replace(weights, container="Keras archive", config=config)
