"""Morphemes of Korean words, syllable by syllable: an N→N task whose labels come from a treebank's LEMMA and XPOS."""

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any, Literal

from hftk.errors import UsageError
from hftk.tasks.alignment import running_text
from hftk.tasks.n2n import N2N, Labels
from hftk.tasks.rows import Row, column


def morpheme_labels(form: str, lemma: str, xpos: str) -> list[str]:
    """
    Which morphemes each character of a word has a part in.

    Lemma and form differ where sounds merged (`가깝+ㄴ` is written `가까운`), so they are compared by letters. What
    the form has and the lemma has not belongs to the morpheme before it; a morpheme that left no letter is counted at
    the character where the next one begins, or at the last.

    Args:
        form (`str`): the word as it is written.
        lemma (`str`): its morphemes, joined by `+`.
        xpos (`str`): their tags, joined by `+`.

    Returns:
        `list[str]`: for each character its morphemes' tags, `B-` where the morpheme begins and `I-` where it goes on,
        joined by `+`: `B-VA`, `I-VA`, `I-VA+B-ETM` for `가까운`. [`joined_tags`] gives `xpos` back.
    """
    tags = xpos.split("+")
    morphemes = lemma.split("+") if len(lemma.split("+")) == len(tags) else [lemma]  # a `+` may be one itself
    letters = [(letter, place) for place, character in enumerate(form) for letter in _letters(character)]
    lemma_letters = [(letter, number) for number, text in enumerate(morphemes) for letter in _letters(text)]

    owners: list[int | None] = [None] * len(letters)
    matcher = SequenceMatcher(None, [x for x, _ in letters], [x for x, _ in lemma_letters], autojunk=False)
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            owners[block.a + offset] = lemma_letters[block.b + offset][1]
    shares: list[list[int]] = [[] for _ in form]  # of each character the morphemes that have a part in it, in order
    owner = next((owner for owner in owners if owner is not None), 0)
    for (_, place), found in zip(letters, owners, strict=True):
        owner = owner if found is None else found
        if owner not in shares[place]:
            shares[place].append(owner)

    begun = 0
    labels = []
    for place, morphemes_here in enumerate(shares):
        parts = []
        last = len(tags) if place == len(form) - 1 else 0
        for number in morphemes_here or [begun - 1]:
            parts += [f"I-{tags[number]}"] if number < begun else [f"B-{tag}" for tag in tags[begun : number + 1]]
            begun = max(begun, number + 1)
        parts += [f"B-{tag}" for tag in tags[begun:last]]
        begun = max(begun, last)
        labels.append("+".join(parts))
    return labels


def joined_tags(labels: list[str]) -> str:
    """The tags of all morphemes that begin in a word, joined by `+`."""
    return "+".join(part[2:] for label in labels for part in label.split("+") if part.startswith("B-"))


def _letters(text: str) -> list[str]:
    """Consonants and vowels by name, whether they stand in a syllable, first or last, or by themselves."""
    return [
        unicodedata.name(letter, letter).split()[-1] if "ᄀ" <= letter <= "ᇿ" else letter
        for letter in unicodedata.normalize("NFKD", text)
    ]


def silver_morphemes(text: str) -> Row:
    """
    What kiwipiepy makes of raw text: the columns `tokens` (what stands between spaces), `lemmas` and `xpos` (Sejong
    tags), as a treebank has them. A word of which it makes nothing has `_` for both.
    """
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    words: list[list[Any]] = [[] for _ in starts]
    for morpheme in _kiwi().tokenize(text):
        words[bisect_right(starts, morpheme.start) - 1].append(morpheme)
    return {
        "tokens": text.split(),
        "lemmas": ["+".join(morpheme.form for morpheme in word) or "_" for word in words],
        "xpos": ["+".join(morpheme.tag for morpheme in word) or "_" for word in words],
    }


@cache
def _kiwi() -> Any:
    try:
        from kiwipiepy import Kiwi
    except ImportError as error:
        raise UsageError("task.silver: the labels come from kiwipiepy: pip install 'hftk[ko]'") from error
    return Kiwi(num_workers=1)  # loads its model, once


@dataclass
class Morphemes(N2N):
    """
    Rows are sentences out of CoNLL-U, with the columns `tokens` and, to learn from, `lemmas` and `xpos`; or they have a
    `text`. What is predicted is a label for each character, from which each word's `xpos` follows.

    Args:
        name (`"morphemes"`):
            The morphemes of each word.
        silver (`bool`, defaults to `False`):
            Learn from what kiwipiepy makes of each row's `text`, not from people's labels.
    """

    name: Literal["morphemes"]  # type: ignore[assignment]
    silver: bool = False
    unit: Literal["character"] = "character"
    tokens_column: Literal["characters"] = "characters"
    labels_column: Literal["morphemes"] = "morphemes"

    def check_inputs(self, row: Row, where: str) -> None:
        if "tokens" not in row and isinstance(row.get("text"), str):
            row["tokens"] = row["text"].split()
        words = column(row, "tokens", "the column of words", where)
        row["characters"] = list("".join(running_text(words, row.get("misc"))))
        super().check_inputs(row, where)

    def check_targets(self, row: Row, where: str) -> None:
        if self.silver:
            row |= silver_morphemes(column(row, "text", "the text", where))
        lemmas, tags = column(row, "lemmas", "the lemmas", where), column(row, "xpos", "the tags", where)
        labels: list[str] = []
        glued = running_text(row["tokens"], row.get("misc"))
        for text, form, lemma, xpos in zip(glued, row["tokens"], lemmas, tags, strict=True):
            if "_" in (lemma, xpos) and form != "_" and not self.silver:
                raise UsageError(
                    f"{where}: the word {form!r} has no lemma or no xpos; both are needed for its morphemes"
                )
            labels += ["O"] * (len(text) - len(form)) + morpheme_labels(form, lemma, xpos)
        row["morphemes"] = labels

    def entities(self, names: list[str]) -> bool:
        return False  # one syllable may be of several morphemes, so that `I-VA+B-ETM` may well follow `B-VA`

    def columns(self, prediction: Labels, row: Row) -> Row:
        return {"xpos": self._words(prediction, row)}

    def score(self, predictions: list[Labels], rows: list[Row]) -> dict[str, float]:
        """Those of single characters, and `xpos_accuracy`: of words whose morphemes all have their right tags."""
        words = [
            given == wanted
            for labels, row in zip(predictions, rows, strict=True)
            for given, wanted in zip(self._words(labels, row), row["xpos"], strict=True)
        ]
        return {"xpos_accuracy": sum(words) / len(words), **super().score(predictions, rows)}

    def _words(self, labels: Labels, row: Row) -> list[str]:
        """Each word's tags."""
        tags, place = [], 0
        for text, form in zip(running_text(row["tokens"], row.get("misc")), row["tokens"], strict=True):
            place += len(text)
            tags.append(joined_tags(labels[place - len(form) : place]))
        return tags
