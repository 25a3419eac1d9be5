"""The corpus on disk: flat files of the ids of its documents, which training maps into memory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hftk.data.shards import ShardedTokens
from hftk.data.writing import SPLITS
from hftk.errors import UsageError


@dataclass(frozen=True, eq=False)
class Documents:
    """
    One side of a corpus. `documents[i]` are the ids of document `i`, without special tokens.

    Args:
        tokens (`np.ndarray` or [`~hftk.data.shards.ShardedTokens`] of shape `(num_tokens,)`, uint16 or uint32):
            Ids of all documents in the order of the source, mapped from disk. Between the documents may lie dropped
            duplicates.
        starts (`np.ndarray` of shape `(num_documents,)`, int64):
            Where each document begins in `tokens`.
        lengths (`np.ndarray` of shape `(num_documents,)`, int32):
            Tokens of each document, at least 1.
    """

    tokens: np.ndarray | ShardedTokens
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self.starts[index]
        return self.tokens[start : start + self.lengths[index]]


@dataclass(frozen=True, eq=False)
class Corpus:
    """
    A prepared corpus.

    Args:
        folder (`Path`):
            Where it lies.
        train (`Documents`), validation (`Documents`):
            Its two sides; no text is on both.
        manifest (`dict`):
            `fingerprint`, `settings` (what the fingerprint is of), `dtype`; for `train` and `validation` the
            `documents`, `tokens`, UTF-8 `bytes` and `characters` kept; `dropped` documents by reason, and
            `first_dropped`, the place of the first of each, where known.
    """

    folder: Path
    train: Documents
    validation: Documents
    manifest: dict[str, Any]

    def summary(self) -> str:
        """One line for people: documents, tokens, characters per token, and what was dropped."""
        train, validation = self.manifest["train"], self.manifest["validation"]
        first = self.manifest["first_dropped"]
        dropped = [
            f"{count:,} {reason}" + (f" (first: {first[reason]})" if reason in first else "")
            for reason, count in self.manifest["dropped"].items()
        ]
        return (
            f"{train['documents']:,} documents, {train['tokens']:,} tokens, "
            f"{train['characters'] / train['tokens']:.2f} characters per token; "
            f"validation: {validation['documents']:,} documents, {validation['tokens']:,} tokens; "
            f"dropped: {', '.join(dropped) or 'nothing'}"
        )


def open_corpus(folder: Path) -> Corpus:
    """
    Opens a prepared corpus.

    Args:
        folder (`Path`):
            A folder that `prepare_corpus` made.

    Returns:
        `Corpus`

    Raises:
        UsageError: If there is none, or a file of it has another size than it should.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        sides = {split: _open_documents(folder, split, manifest) for split in SPLITS}
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: this is no whole prepared corpus ({error}), delete it to make it anew") from error
    return Corpus(folder, **sides, manifest=manifest)


def token_counts(corpus: Corpus, vocab_size: int, chunk: int = 1 << 22) -> np.ndarray:
    """How often each token occurs in the training text, `(vocab_size,)`; read beside the pages that stay mapped."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for path in _token_files(corpus.folder, "train", corpus.manifest):
        with open(path, "rb") as file:
            while len(tokens := np.fromfile(file, corpus.manifest["dtype"], chunk)):
                counts += np.bincount(tokens, minlength=vocab_size)
    return counts


def _token_files(folder: Path, split: str, manifest: dict[str, Any]) -> list[Path]:
    if "shards" in manifest:
        return [folder / shard[split]["file"] for shard in manifest["shards"]]
    return [folder / f"{split}.tokens"]


def _open_documents(folder: Path, split: str, manifest: dict[str, Any]) -> Documents:
    starts = np.memmap(folder / f"{split}.starts", dtype="<i8", mode="r")
    lengths = np.memmap(folder / f"{split}.lengths", dtype="<i4", mode="r")
    files = _token_files(folder, split, manifest)
    if "shards" in manifest:
        tokens: Any = ShardedTokens(files, manifest["dtype"])
    else:
        # a plain array over the same pages: to index it is quicker
        tokens = np.asarray(np.memmap(files[0], dtype=manifest["dtype"], mode="r"))
    documents = Documents(tokens, starts, lengths)
    count = manifest[split]["documents"]
    if not len(documents.starts) == len(documents.lengths) == count:
        raise ValueError(f"{split} has not {count} documents")
    if documents.starts[-1] + documents.lengths[-1] > len(documents.tokens):
        raise ValueError(f"{split}.tokens is cut off")
    return documents
