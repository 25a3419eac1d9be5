"""Units of a text against subwords: which tokens of the encoded text stand for which word or character."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase


@dataclass
class EncodedUnits:
    """
    The units of a text as the model reads them, in as many windows as it takes.

    Args:
        windows (`list[list[int]]`):
            The `input_ids` of each window, special tokens and all, at most `max_length` of them. Neighbours overlap.
        units (`list[list[int | None]]`):
            The unit that each token of each window belongs to; `None` for special tokens.
        places (`list[tuple[int, int, int]]`):
            For each unit the window that shows most around it and, there, its first token and the one after its last.
    """

    windows: list[list[int]]
    units: list[list[int | None]]
    places: list[tuple[int, int, int]]


def running_text(words: list[str], misc: list[str] | None = None) -> list[str]:
    """
    Words with the space before them: none before the first, nor after a word whose column MISC (CoNLL-U) says
    `SpaceAfter=No`.
    """
    glued = [False, *("SpaceAfter=No" in fields.split("|") for fields in misc or [])]
    return [word if i == 0 or (misc and glued[i]) else f" {word}" for i, word in enumerate(words)]


def spaced_characters(characters: list[str]) -> list[str]:
    """
    Characters with the space before them, as words have it, and nothing in the place of a space: subwords that hold a
    space alone are rare in most vocabularies, and missing from many. At the end of a text a space stands for itself.
    """
    pieces = list(characters)
    for i in range(len(pieces) - 1):
        if pieces[i].isspace():
            pieces[i + 1] = pieces[i] + pieces[i + 1]
            pieces[i] = ""
    return pieces


def spans_and_gaps(text: str, spans: list[tuple[int, int]]) -> list[str]:
    """
    A text cut at the edges of its spans: what is before the first, the first, what is before the second, and so on, and
    what is behind the last. A space before a span goes with it, as words have it.

    Args:
        text (`str`): the text.
        spans (`list[tuple[int, int]]`): each span's first character and the one after its last, in order, apart.

    Returns:
        `list[str]` of length 2 · spans + 1: the spans at odd places; together they are the text.
    """
    edges = [0]
    for start, end in spans:
        edges += [max(edges[-1], len(text[:start].rstrip())), end]
    return [text[begin:end] for begin, end in pairwise([*edges, len(text)])]


def encode_units(units: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedUnits:
    """
    Encodes each unit by itself, so that none shares a token with another. With the spaces of [`running_text`] or
    [`spaced_characters`] it has the subwords that pretraining saw.

    Args:
        units (`list[str]`):
            Words or characters. None is changed, split or left out: one that the tokenizer drops is read as its unknown
            token. An empty one stands where the next one does.
        tokenizer (`PreTrainedTokenizerBase`):
            A fast one: only those know which token is of which unit.
        max_length (`int`):
            Most tokens of a window, special tokens included. A longer text is read in windows that overlap by a
            quarter.
    """
    full = [i for i, unit in enumerate(units) if unit]
    pieces = [units[i] for i in full]
    windows, pieces_of_tokens = _encode(pieces, tokenizer, max_length)
    if dropped := set(range(len(full))).difference(*pieces_of_tokens):
        unknown = tokenizer.unk_token or tokenizer.mask_token
        pieces = [unknown if i in dropped else piece for i, piece in enumerate(pieces)]
        windows, pieces_of_tokens = _encode(pieces, tokenizer, max_length)
    units_of_tokens = [[None if place is None else full[place] for place in window] for window in pieces_of_tokens]

    best: dict[int, tuple[float, tuple[int, int, int]]] = {}
    for window, owners in enumerate(units_of_tokens):
        for token, unit in enumerate(owners):
            if unit is None or (token > 0 and unit == owners[token - 1]):  # not a unit's first token
                continue
            before = token if window > 0 else math.inf  # a text's own start and end hide nothing
            after = len(owners) - token if window < len(windows) - 1 else math.inf
            shown = min(before, after)
            if unit not in best or shown > best[unit][0]:
                end = next((i for i in range(token, len(owners)) if owners[i] != unit), len(owners))
                best[unit] = shown, (window, token, end)
    next_full = [full[bisect_left(full, unit)] for unit in range(len(units))]
    return EncodedUnits(windows, units_of_tokens, [best[unit][1] for unit in next_full])


def _encode(
    pieces: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], list[list[int | None]]]:
    """The ids of each window, and the piece that each of its tokens is of."""
    encoding = tokenizer(
        pieces,
        is_split_into_words=True,
        truncation=True,
        max_length=max_length,
        stride=max_length // 4,
        return_overflowing_tokens=True,
    )
    windows: list[list[int]] = encoding["input_ids"]
    return windows, [encoding.word_ids(window) for window in range(len(windows))]
