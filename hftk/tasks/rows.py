"""A task's rows: dictionaries of columns, out of files and data sets, each with its place for error messages."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hftk.errors import UsageError
from hftk.tasks.conllu import read_sentences

Row = dict[str, Any]
PlacedRow = tuple[str, Row]  # "file:line" and the row

FORMATS = (".jsonl", ".json", ".tsv", ".csv", ".parquet", ".conllu")
COMMENT = re.compile(r"#+ ")  # above a text's units; a unit "#" is followed by a tab


def read_rows(file: str, lists: bool = False, trees: bool = False) -> Iterator[PlacedRow]:
    """
    The rows of a file.

    Args:
        file (`str`):
            `.jsonl`: an object a line. `.csv`, `.tsv`: a table under a line of column names. `.parquet`. `.conllu`:
            sentences with the columns of [`hftk.tasks.conllu`].
        lists (`bool`, defaults to `False`):
            Rows are lists, which no table holds: a `.tsv` is then a unit, a tab and its label on each line (as in
            CoNLL-2003), an empty line between texts, comments behind `#` and a space. Its columns are `tokens` and
            `labels`.
        trees (`bool`, defaults to `False`):
            The heads in a `.conllu` must be trees.

    Returns:
        Pairs of a row's place (`"file:line"`) and the row.

    Raises:
        UsageError: the file cannot be read, is of no such kind, or a line of it is broken.
    """
    suffix = Path(file).suffix
    if suffix not in FORMATS:
        raise UsageError(f"{file}: its name must end with {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if suffix == ".conllu":
        yield from read_sentences(file, trees)
    elif suffix == ".parquet":
        yield from _read_parquet(file)
    else:
        parse = {".csv": _parse_csv, ".tsv": _parse_units if lists else _parse_tsv}.get(suffix, parse_rows)
        try:
            with open(file, encoding="utf-8-sig", newline="") as lines:
                yield from parse(lines, file)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: cannot be read ({error}); name a UTF-8 file") from error


def read_dataset(name: str, config: str | None, split: str) -> Iterator[PlacedRow]:
    """
    The rows of a data set as `datasets.load_dataset` finds it, with names in place of the numbers of its labels.

    Raises:
        UsageError: it cannot be loaded.
    """
    import datasets  # slow to import

    try:
        rows = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError) as error:
        raise UsageError(f"data.dataset: {name} cannot be loaded: {' '.join(str(error).split())}") from error
    names: dict[str, list[str]] = {}
    for column, feature in rows.features.items():
        inner = getattr(feature, "feature", feature)  # of a list, what it lists
        if isinstance(inner, datasets.ClassLabel):
            names[column] = inner.names
    for number, row in enumerate(rows, start=1):
        for column, labels in names.items():
            value = row[column]
            row[column] = [labels[label] for label in value] if isinstance(value, list) else labels[value]
        yield f"{name}:{number}", row


def parse_rows(lines: Iterable[str], source: str) -> Iterator[PlacedRow]:
    """
    Rows of JSON, as they come, so that a pipe is answered before it ends.

    Args:
        lines (`Iterable[str]`):
            An open file, or standard input; blank lines are passed over.
        source (`str`):
            Its name in errors.

    Returns:
        Pairs of a row's place (`"source:line"`) and the row.

    Raises:
        UsageError: a line is not a JSON object.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{source}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(f"{where}: not JSON ({error}); each line must be one JSON object") from error
            if not isinstance(row, dict):
                raise UsageError(f"{where}: each line must be one JSON object, not {line.strip():.60}")
            yield where, row


def write_rows(rows: Iterable[Row], file: Path) -> None:
    """Writes rows as JSON lines to a file that appears only once it is whole."""
    unfinished = Path(f"{file}.unfinished")
    with open(unfinished, "w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    unfinished.replace(file)


def column(row: Row, name: str, key: str, where: str) -> Any:
    """The value of a row's column, which the recipe's `key` names. Raises `UsageError` if there is no such column."""
    if name not in row:
        raise UsageError(
            f"{where}: no column {name!r}; the columns are {', '.join(row)}, and {key} names the one to read"
        )
    return row[name]


def _parse_csv(lines: Iterable[str], source: str) -> Iterator[PlacedRow]:
    reader = csv.DictReader(lines, strict=True)
    yield from _table(reader, source)


def _parse_tsv(lines: Iterable[str], source: str) -> Iterator[PlacedRow]:
    # quotation marks in a text stand for themselves
    yield from _table(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), source)


def _table(reader: csv.DictReader, source: str) -> Iterator[PlacedRow]:
    try:
        for row in reader:
            where = f"{source}:{reader.line_num}"
            if None in row or None in row.values():
                raise UsageError(f"{where}: the line has more or fewer fields than the {len(row)} columns of line 1")
            yield where, row
    except csv.Error as error:
        raise UsageError(f"{source}:{reader.line_num}: {error}; quote fields that hold commas or quotes") from error


def _parse_units(lines: Iterable[str], source: str) -> Iterator[PlacedRow]:
    units: list[str] = []
    labels: list[str] = []
    where = ""
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if not line:
            if units:
                yield where, {"tokens": units, "labels": labels}
            units, labels = [], []
        elif not COMMENT.match(line):
            unit, tab, label = line.partition("\t")
            if not (unit and tab and label) or "\t" in label:
                raise UsageError(f"{source}:{number}: expected a unit, a tab and its label, not {line!r:.60}")
            where = where if units else f"{source}:{number}"
            units.append(unit)
            labels.append(label)
    if units:
        yield where, {"tokens": units, "labels": labels}


def _read_parquet(file: str) -> Iterator[PlacedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{file}:{number}", row
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UsageError(f"{file}: cannot be read as parquet ({' '.join(str(error).split())}); make it anew") from error
