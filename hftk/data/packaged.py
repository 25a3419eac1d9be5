"""Real text that installs from the package index: what the quickstart learns from, without a download of its own."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hftk.errors import UsageError


@dataclass
class TaggedSentence:
    """
    Args:
        text (`str`):
            The sentence as it was written.
        words (`list[str]`):
            Its words and punctuation marks.
        tags (`list[str]`):
            The part of speech of each, as people annotated it.
    """

    text: str
    words: list[str]
    tags: list[str]


def turkish_web_treebank() -> list[TaggedSentence]:
    """
    The sentences of the Turkish Web Treebank, out of the package `turkish-treebanks` (Apache-2.0).

    The treebank cuts a word wherever a derivation changes its part of speech. The pieces, related by `ig` (inflectional
    group), are joined again here, with the tag of the last one: the part that the whole word plays in its sentence.

    Raises:
        UsageError: the package is not installed.
    """
    sentences = []
    for block in _read_conllu("web") + _read_conllu("wiki"):
        lines = block.splitlines()
        text = next(line.removeprefix("# text = ") for line in lines if line.startswith("# text = "))
        words, tags, word = [], [], ""
        for line in lines:
            if not line.startswith("#"):
                _, form, _, tag, _, _, _, relation, _, _ = line.split("\t")
                word += form
                if relation != "ig":
                    words.append(word)
                    tags.append(tag)
                    word = ""
        sentences.append(TaggedSentence(text, words, tags))
    return sentences


def _read_conllu(section: str) -> list[str]:
    """The blocks of lines, one a sentence, of a file that the package installs beside itself."""
    try:
        file = Path(str(distribution("turkish-treebanks").locate_file(f"data/{section}.conllu")))
    except PackageNotFoundError as error:
        raise UsageError(
            "the text comes with the Python package 'turkish-treebanks': pip install 'hftk[quickstart]'"
        ) from error
    return file.read_text(encoding="utf-8").strip().split("\n\n")
