"""Sentences and their dependency trees in files: CoNLL-U (universaldependencies.org/format)."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from hftk.errors import UsageError

Row = dict[str, Any]

ID, HEAD, DEPREL, DEPS = 0, 6, 7, 8  # places of the columns in a line
COLUMNS = ["id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"]
NUMBER = re.compile("0|[1-9][0-9]{0,8}")


def check_tree(heads: list[int]) -> tuple[int, str] | None:
    """
    What keeps heads from being a tree with one root.

    Args:
        heads (`list[int]`):
            The head of each word, counted from 1; 0 for the root.

    Returns:
        `None` for a tree; otherwise the word where it fails, counted from 1 (0: the sentence as a whole), and how.
    """
    for word, head in enumerate(heads, start=1):
        if not 0 <= head <= len(heads):
            return word, f"head {head} of word {word} is not in the sentence, which has {len(heads)} words"
    roots = [word for word, head in enumerate(heads, start=1) if head == 0]
    if not roots:
        return 0, "no word is the root"
    if len(roots) > 1:
        return roots[1], f"word {roots[1]} is a second root beside word {roots[0]}"
    below_root = {0}
    for start in range(1, len(heads) + 1):
        path: set[int] = set()
        word = start
        while word not in below_root:
            if word in path:
                return word, f"word {word} is in a cycle: its head, and the head of that, lead back to it"
            path.add(word)
            word = heads[word - 1]
        below_root |= path
    return None


def _parse_sentence(lines: list[str], source: str, first: int, trees: bool) -> Row:
    """The row, but for its `conllu`, of the sentence that starts at line `first`; see [`parse_sentences`]."""
    words: list[list[str]] = []  # [words, 10]
    numbers = [first]  # the line of each word; at 0 that of the sentence
    comments: dict[str, str] = {}
    for number, line in enumerate(lines, start=first):
        line = line.removesuffix("\n").removesuffix("\r")
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            comments[key.strip()] = value.strip()
            continue
        columns = line.split("\t")
        if len(columns) != len(COLUMNS) or not all(columns):
            raise UsageError(
                f"{source}:{number}: {line!r:.60} is not a line of CoNLL-U; give it {len(COLUMNS)} columns with a tab "
                "between them and _ where there is nothing, and end a sentence with an empty line"
            )
        if columns[ID] == str(len(words) + 1):
            words.append(columns)
            numbers.append(number)
        elif not re.fullmatch(rf"{len(words) + 1}-[1-9][0-9]*|{len(words)}\.[1-9][0-9]*", columns[ID]):
            raise UsageError(
                f"{source}:{number}: id {columns[ID]!r:.60} where word {len(words) + 1} should be; number the words of "
                "a sentence 1, 2, 3 and so on, and end it with an empty line"
            )
    if not words:
        raise UsageError(f"{source}:{first}: a sentence without words; give it words or take it out")

    for number, word in zip(numbers[1:], words, strict=True):
        if not NUMBER.fullmatch(word[HEAD]) and (trees or word[HEAD] != "_"):
            raise UsageError(
                f"{source}:{number}: head {word[HEAD]!r:.60} is not a number; give the id of a word, or 0 for the root"
            )
    heads = [None if word[HEAD] == "_" else int(word[HEAD]) for word in words]
    fault = check_tree([head for head in heads if head is not None]) if trees else None
    if fault:
        raise UsageError(f"{source}:{numbers[fault[0]]}: {fault[1]}; heads must make a tree with one root")

    columns_of_words = {name: [word[place] for word in words] for place, name in enumerate(COLUMNS) if place != ID}
    return {
        "idx": comments.get("sent_id", ""),
        "text": comments.get("text") or " ".join(columns_of_words["tokens"]),
        **columns_of_words,
        "head": heads,
    }


def parse_sentences(lines: Iterable[str], source: str, trees: bool = False) -> Iterator[tuple[str, Row]]:
    """
    Parses sentences as they come, each as soon as its empty line is there, so that a pipe is answered before it ends.

    Args:
        lines (`Iterable[str]`):
            The lines with their ends, as [`utf8_lines`] gives them. Empty lines beyond the one after each sentence are
            passed over; after the last sentence there may be none.
        source (`str`):
            Their name in errors.
        trees (`bool`, defaults to `False`):
            Whether the heads of each sentence must make a tree with one root. If not, a head may also be `_`.

    Returns:
        Pairs of a sentence's place (`"source:line"`, its first line) and its row, which has the columns of the data set
        universal_dependencies: `idx` (the sent_id, empty without), `text` (without that comment the words with spaces
        between them), and lists with one item a word: `tokens`, `lemmas`, `upos`, `xpos`, `feats`, `head`, `deprel`,
        `deps`, `misc`. They hold what the file holds, `_` included; heads are integers, `None` for `_`. Ranges of
        multiword tokens and empty nodes are only in `conllu`, the whole text of the sentence with its empty line.

    Raises:
        UsageError: a line is not CoNLL-U, the ids are not in order, the heads are not a tree, or there is no sentence.
    """
    sentence: list[str] = []
    found = False
    for number, line in enumerate(chain(lines, [""]), start=1):
        if line.rstrip("\r\n"):
            sentence.append(line)
        elif sentence:
            first = number - len(sentence)
            row = _parse_sentence(sentence, source, first, trees)
            yield f"{source}:{first}", {**row, "conllu": "".join(sentence) + line}
            sentence, found = [], True
    if not found:
        raise UsageError(f"{source}: no sentences; name a file in CoNLL-U")


def utf8_lines(lines: Iterable[bytes], source: str) -> Iterator[str]:
    """
    Decodes the lines of a file opened in binary mode, or of `sys.stdin.buffer`, and leaves their ends as they are. A
    byte order mark is dropped. Raises `UsageError` with the number of a line that is not UTF-8.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{source}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def read_sentences(file: str, trees: bool = False) -> Iterator[tuple[str, Row]]:
    """The sentences of a file as [`parse_sentences`] gives them. Raises `UsageError` if it cannot be read."""
    try:
        with open(file, "rb") as lines:
            yield from parse_sentences(utf8_lines(lines, file), file, trees)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); name a file in CoNLL-U") from error


def with_tree(conllu: str, heads: list[int], deprels: list[str]) -> str:
    """
    A sentence with another tree; whatever else is in its text stays as it is, to the byte.

    DEPS, the graph of enhanced dependencies, is the exception: a graph made for the old tree would contradict the new
    one, and readers would take it for predicted. It becomes `_` at each word. Empty nodes keep theirs.

    Args:
        conllu (`str`):
            The text of the sentence, column `conllu` of [`parse_sentences`].
        heads (`list[int]`):
            The new head of each word, counted from 1; 0 for the root.
        deprels (`list[str]`):
            The new relation of each word to its head.
    """
    # Not splitlines: it would also cut at characters that may stand in a word.
    lines = conllu.split("\n")
    words = [i for i, line in enumerate(lines) if re.match("[0-9]+\t", line)]
    for i, head, deprel in zip(words, heads, deprels, strict=True):
        columns = lines[i].split("\t")
        columns[HEAD], columns[DEPREL], columns[DEPS] = str(head), deprel, "_"
        lines[i] = "\t".join(columns)
    return "\n".join(lines)
