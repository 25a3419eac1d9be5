"""Raw documents out of files, globs, folders and `datasets`, streamed. Each comes with its source and line or row."""

import glob
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from hftk.errors import UsageError

if TYPE_CHECKING:
    from pyarrow import NativeFile

FORMATS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FIRST_BLOCK = 65536  # bytes that tell text from something else
ROWS = 512  # of parquet, read at once

RawDocument = tuple[str, str, int]  # text, source, line or row counted from 1


def find_files(patterns: list[str]) -> list[str]:
    """
    The files that paths, globs and folders stand for.

    Args:
        patterns (`list[str]`):
            Paths, globs (`**` too) and folders. A folder stands for its `.txt`, `.jsonl` and `.parquet` files, plain or
            `.gz` or `.zst`.

    Returns:
        `list[str]`: each file once; sorted within a glob or a folder.

    Raises:
        UsageError: If one of them stands for no file, or for a file of another kind.
    """
    files: dict[str, None] = {}
    for pattern in patterns:
        if os.path.isdir(pattern):
            found = [path for path in sorted(glob.glob(os.path.join(glob.escape(pattern), "*"))) if _format(path)]
        elif os.path.exists(pattern):
            found = [pattern]
        else:
            found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
        if not found:
            raise UsageError(f"{pattern}: no {_one_of_formats()} file is there, correct the path")
        for path in found:
            if not _format(path):
                raise UsageError(f"{path}: its name does not end with {_one_of_formats()} (or these with .gz or .zst)")
        files.update(dict.fromkeys(found))
    return list(files)


def read_documents(files: list[str], text_column: str) -> Iterator[RawDocument]:
    """
    Streams the documents of files.

    Args:
        files (`list[str]`):
            What `find_files` takes: `.txt` holds one document a line, `.jsonl` and `.parquet` one a row.
        text_column (`str`):
            Key or column of the text in `.jsonl` and `.parquet`.

    Returns:
        `Iterator[tuple[str, str, int]]`: text, file, and line or row counted from 1. Bytes that are not UTF-8 come as
        U+FFFD, and a null as an empty text: cleaning drops and counts both.

    Raises:
        UsageError: If a file is missing, empty, binary or mostly not UTF-8, if its compression, parquet or json is
            broken, or if it has no such column of text.
    """
    for path in find_files(files):
        try:
            if os.path.getsize(path) == 0:
                raise UsageError(f"{path}: the file is empty, remove it from the list")
            if _format(path) == ".parquet":
                yield from _read_parquet(path, text_column)
            else:
                _refuse_other_than_text(path)
                yield from _read_lines(path, text_column)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read, make it anew: {_first_line(error)}") from error


def read_dataset(name: str, config: str | None, split: str, text_column: str) -> Iterator[RawDocument]:
    """
    Streams the documents of a dataset, without downloading it as a whole.

    Args:
        name (`str`), config (`str`, *optional*), split (`str`):
            As `datasets.load_dataset` takes them.
        text_column (`str`):
            Column of the text.

    Returns:
        `Iterator[tuple[str, str, int]]`: text, `name`, and row counted from 1.

    Raises:
        UsageError: If the dataset cannot be loaded or has no such column of text.
    """
    import datasets  # slow to import

    try:
        for number, row in enumerate(datasets.load_dataset(name, config, split=split, streaming=True), start=1):
            yield _text_of(row, text_column, f"{name}:{number}"), name, number
    except UsageError:
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(f"data.dataset: {name} cannot be read: {_first_line(error)}") from error


def _format(path: str) -> str | None:
    stem, ending = os.path.splitext(path.lower())
    if ending in COMPRESSIONS:
        ending = os.path.splitext(stem)[1]
    return ending if ending in FORMATS else None


def _one_of_formats() -> str:
    return ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]


def _open(path: str) -> "NativeFile":
    """Opens a file for reading, decompressed. Unlike zstandard, pyarrow tells a cut-off file from a whole one."""
    import pyarrow  # slow to import

    return pyarrow.input_stream(path, compression=COMPRESSIONS.get(os.path.splitext(path.lower())[1]))


def _refuse_other_than_text(path: str) -> None:
    with io.BufferedReader(_open(path)) as stream:
        block = stream.read(FIRST_BLOCK)
    if not block:
        raise UsageError(f"{path}: the file is empty, remove it from the list")
    if b"\0" in block:
        raise UsageError(f"{path}: this is a binary file (or UTF-16), give text in UTF-8")
    lines = block.split(b"\n")
    if len(block) == FIRST_BLOCK:
        del lines[-1]  # cut off, maybe within a character
    lines = [line for line in lines if line.strip()]
    if sum(not _is_utf8(line) for line in lines) > len(lines) / 2:
        raise UsageError(f"{path}: most of its lines are not UTF-8, convert it: iconv -f OLD_ENCODING -t UTF-8")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_lines(path: str, text_column: str) -> Iterator[RawDocument]:
    is_json = _format(path) == ".jsonl"
    with io.BufferedReader(_open(path)) as stream:
        for number, line in enumerate(stream, start=1):
            text = line.rstrip(b"\r\n").decode(errors="replace").removeprefix("\ufeff")
            if is_json and text.strip():
                text = _text_of(_parse(text, path, number), text_column, f"{path}:{number}")
            yield text, path, number


def _parse(line: str, path: str, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}:{number}: this line is not json: {error}; correct or remove it") from error


def _text_of(row: Any, column: str, place: str) -> str:
    if not isinstance(row, dict):
        raise UsageError(f"{place}: a json object is needed, not {type(row).__name__}")
    if column not in row:
        raise UsageError(f"{place}: there is no column {column!r}, set data.text_column to one of {', '.join(row)}")
    text = row[column]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UsageError(f"{place}: column {column!r} is no text but {type(text).__name__}, set data.text_column")
    return text


def _read_parquet(path: str, text_column: str) -> Iterator[RawDocument]:
    import pyarrow
    import pyarrow.parquet

    with _seekable(path) as file:
        try:
            # Buffered, and a few rows at a time: a row group, which may be the whole file, is never held in memory.
            parquet = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=FIRST_BLOCK)
            schema = parquet.schema_arrow
            if text_column not in schema.names:
                columns = ", ".join(schema.names)
                raise UsageError(
                    f"{path}: there is no column {text_column!r}, set data.text_column to one of {columns}"
                )
            kind = schema.field(text_column).type
            if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
                raise UsageError(f"{path}: column {text_column!r} is no text but {kind}, set data.text_column")
            if parquet.metadata.num_rows == 0:
                raise UsageError(f"{path}: the file has no rows, remove it from the list")
            number = 0
            for batch in parquet.iter_batches(ROWS, columns=[text_column], use_threads=False):
                # As bytes, since pyarrow does not check that they are UTF-8.
                for encoded in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                    number += 1
                    yield (encoded or b"").decode(errors="replace"), path, number
        except (pyarrow.ArrowException, OSError) as error:
            raise UsageError(f"{path}: the parquet is broken, make it anew: {_first_line(error)}") from error


def _seekable(path: str) -> BinaryIO:
    """A parquet file as it is, or decompressed into a temporary file, since reading parquet begins at its end."""
    if path.lower().endswith(".parquet"):
        return open(path, "rb")
    temporary = tempfile.TemporaryFile()
    with _open(path) as stream:
        shutil.copyfileobj(stream, temporary)
    return temporary


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
