"""A task's rows in files: one JSON object a line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hftk.errors import UsageError

Row = dict[str, Any]


def parse_rows(lines: Iterable[str], source: str) -> Iterator[tuple[str, Row]]:
    """
    Parses lines as they come, so that a pipe is answered before it ends.

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


def read_rows(file: str) -> Iterator[tuple[str, Row]]:
    """The rows of a file as [`parse_rows`] gives them. Raises `UsageError` if it cannot be read."""
    try:
        with open(file, encoding="utf-8") as lines:
            yield from parse_rows(lines, file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); name a UTF-8 file with one JSON object a line") from error


def write_rows(rows: Iterable[Row], file: Path) -> None:
    """Writes rows to a file that appears only once it is whole."""
    unfinished = Path(f"{file}.unfinished")
    with open(unfinished, "w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    unfinished.replace(file)
