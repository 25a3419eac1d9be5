"""Real text that installs from the package index: what the quickstart learns from, without a download of its own."""

import json
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import yaml

from hftk.errors import UsageError


@dataclass
class Sentence:
    """
    Args:
        text (`str`):
            The sentence as it was written.
        words (`list[str]`):
            Its words and punctuation marks.
        tags (`list[str]`):
            The part of speech of each, as people annotated it.
        heads (`list[int]`):
            The head of each, counted from 1; 0 for the root.
        relations (`list[str]`):
            The relation of each to its head.
    """

    text: str
    words: list[str]
    tags: list[str]
    heads: list[int]
    relations: list[str]


def turkish_web_treebank() -> list[Sentence]:
    """
    The sentences of the Turkish Web Treebank, out of the package `turkish-treebanks` (Apache-2.0).

    The treebank cuts a word wherever a derivation changes its part of speech. The pieces, related by `ig` (inflectional
    group), are joined again here, with the tag and the head of the last one: the part that the whole word plays in its
    sentence.

    Raises:
        UsageError: the package is not installed.
    """
    folder = _distribution("turkish-treebanks").locate_file("data")
    sentences = []
    for section in ("web", "wiki"):
        for block in Path(str(folder), f"{section}.conllu").read_text(encoding="utf-8").strip().split("\n\n"):
            sentences.append(_joined(block.splitlines()))
    return sentences


def _joined(lines: list[str]) -> Sentence:
    sentence = Sentence(next(line[9:] for line in lines if line.startswith("# text = ")), [], [], [], [])
    word_of_piece = [0]  # counted from 1, as the pieces are
    piece_heads = []
    word = ""
    for line in lines:
        if line.startswith("#"):
            continue
        _, form, _, tag, _, _, head, relation, _, _ = line.split("\t")
        word += form
        word_of_piece.append(len(sentence.words) + 1)
        if relation != "ig":
            sentence.words.append(word)
            sentence.tags.append(tag)
            sentence.relations.append(relation)
            piece_heads.append(int(head))
            word = ""
    sentence.heads += [word_of_piece[head] for head in piece_heads]
    return sentence


def korean_messages() -> list[tuple[str, str]]:
    """
    Messages of JupyterLab in English and in Korean, each English one once, out of the package
    `jupyterlab-language-pack-ko-KR` (BSD-3-Clause). Raises `UsageError` if it is not installed.
    """
    package = _distribution("jupyterlab-language-pack-ko-KR")
    messages: dict[str, str] = {}
    for file in sorted(map(str, package.files or [])):
        if file.endswith(".json"):
            catalogue = json.loads(Path(str(package.locate_file(file))).read_text(encoding="utf-8"))
            for key, translations in catalogue.items():
                english = key.rpartition("\x04")[2]  # the context of a message stands before it
                if isinstance(translations, list) and english and translations[0]:
                    messages.setdefault(english, translations[0])
    return list(messages.items())


def dialogues(language: str) -> list[tuple[str, list[str]]]:
    """
    The topic and the turns of each conversation of `chatterbot-corpus` (BSD-3-Clause) in a language (`"english"`,
    `"korean"`). Raises `UsageError` if it is not installed.
    """
    package = _distribution("chatterbot-corpus")
    found = []
    for file in sorted(map(str, package.files or [])):
        if f"/{language}/" in file and file.endswith(".yml"):
            content = yaml.safe_load(Path(str(package.locate_file(file))).read_text(encoding="utf-8"))
            for turns in content["conversations"]:
                found.append((Path(file).stem, [str(turn) for turn in turns]))
    return found


def _distribution(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise UsageError(f"the text comes with the Python package {name!r}: pip install 'hftk[quickstart]'") from error
