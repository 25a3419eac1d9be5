"""Makes raw text clean: NFC, no control characters; empty and broken documents are dropped and counted."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

VERSION = 1  # raise it when the same raw text comes out differently: prepared corpora are then made anew

LINE_BREAKS = re.compile("\r\n?|[\v\f\x85]")
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
BROKEN = re.compile("[\ufffd\x00\ud800-\udfff]")  # U+FFFD stands where bytes were not UTF-8


class Dropped:
    """
    How many documents were dropped for which reason, and where the first of each kind was.

    Attributes:
        counts (`Counter[str]`):
            Documents by reason: `"empty"`, `"broken"`, and those that `prepare_corpus` adds.
        first (`dict[str, str]`):
            `file:line` of the first one by reason, where it is known.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, place: str) -> None:
        self.counts[reason] += 1
        self.first.setdefault(reason, place)


def clean(text: str) -> str:
    """
    Brings a text into NFC and rid of control characters; every way to break a line becomes `\\n`, tabs stay.

    Args:
        text (`str`):
            Raw text.

    Returns:
        `str`: the clean text; cleaning it again changes nothing.
    """
    if not text.isprintable():  # most texts are, and this is quick
        text = LINE_BREAKS.sub("\n", text)
        text = CONTROL_CHARACTERS.sub("", text)
    return unicodedata.normalize("NFC", text)


def clean_documents(raw: Iterable[tuple[str, str, int]], dropped: Dropped) -> Iterator[str]:
    """
    Cleans documents and drops those that hold nothing but white space, U+FFFD, NUL or half a surrogate pair.

    Args:
        raw (`Iterable[tuple[str, str, int]]`):
            Text, name of its source, and its line or row there.
        dropped (`Dropped`):
            Counts the reasons `"empty"` and `"broken"`.

    Returns:
        `Iterator[str]`: the clean documents.
    """
    for text, source, number in raw:
        if BROKEN.search(text):
            dropped.add("broken", f"{source}:{number}")
            continue
        text = clean(text)
        if not text or text.isspace():
            dropped.add("empty", f"{source}:{number}")
            continue
        yield text
