"""Writes the files of a corpus in one pass over the text, in the same memory for any amount of it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer
from tqdm import tqdm

from hftk.data.cleaning import Dropped

Batch = list[tuple[str, int, bool]]  # text, its hash, whether it is validation
SPLITS = ("train", "validation")
BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 100_000  # so that a batch of long documents takes no more memory than one of short ones
CHUNK = 16_384  # documents of the index that are in memory at once
GROUPS = 64  # of hashes, one of which is in memory at once

# What is known of each document until the duplicates are found.
RECORD = np.dtype([("tokens", "<i4"), ("bytes", "<i4"), ("characters", "<i4"), ("is_validation", "?")])
FATES = ("kept", "duplicate", "in_validation", "without_tokens")
KEPT, DUPLICATE, IN_VALIDATION, WITHOUT_TOKENS = range(4)


def write_corpus(
    train: Iterable[str],
    validation: Iterable[str],
    validation_share: float,
    tokenizer: Tokenizer,
    folder: Path,
    dropped: Dropped,
) -> dict[str, Any]:
    """
    Writes `{train,validation}.{tokens,starts,lengths}` into a folder.

    Args:
        train (`Iterable[str]`), validation (`Iterable[str]`):
            Clean documents.
        validation_share (`float`):
            Share of the training documents that becomes validation; 0 where `validation` is given.
        tokenizer (`Tokenizer`):
            Without truncation and padding.
        folder (`Path`):
            An empty folder.
        dropped (`Dropped`):
            What cleaning drops on the way.

    Returns:
        `dict`: the manifest's `dtype`, `train`, `validation`, `dropped` and `first_dropped`.
    """
    # Validation comes first: of equal texts the first stays.
    documents = chain(
        ((text, hash_text(text), True) for text in validation),
        split_by_hash(train, validation_share),
    )
    dtype = "<u2" if max(tokenizer.get_vocab().values()) < 2**16 else "<u4"
    _write_tokens(documents, tokenizer, dtype, folder)
    fates = _decide_fates(folder)
    sides = _write_index(fates, folder)
    for name in ("hashes", "records"):
        (folder / name).unlink()

    dropped.counts.update(dict(zip(FATES, np.bincount(fates, minlength=len(FATES)).tolist(), strict=True)))
    counts = {reason: count for reason, count in sorted(dropped.counts.items()) if count and reason != "kept"}
    return {"dtype": dtype, **sides, "dropped": counts, "first_dropped": dropped.first}


def hash_text(text: str) -> int:
    """64 bits that tell texts apart and choose the validation documents."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def split_by_hash(texts: Iterable[str], validation_share: float) -> Iterator[tuple[str, int, bool]]:
    """Each text with its hash and whether it is validation; equal texts are on one side."""
    threshold = int(validation_share * 2**64)
    for text in texts:
        number = hash_text(text)
        yield text, number, number < threshold


def _write_tokens(documents: Iterable[tuple[str, int, bool]], tokenizer: Tokenizer, dtype: str, folder: Path) -> None:
    """Writes the ids of all documents, and a hash and a record of each."""
    with (
        open(folder / "train.tokens", "wb") as train,
        open(folder / "validation.tokens", "wb") as validation,
        open(folder / "hashes", "wb") as hashes,
        open(folder / "records", "wb") as records,
        tqdm(desc="tokenising", unit=" documents", unit_scale=True, disable=None) as progress,
    ):
        for batch, encodings in _encoded(_batches(documents), tokenizer):
            ids = [encoding.ids for encoding in encodings]
            record = np.array(
                [
                    (len(row), len(text.encode()), len(text), side)
                    for row, (text, _, side) in zip(ids, batch, strict=True)
                ],
                dtype=RECORD,
            )  # [documents]
            tokens = np.fromiter(chain.from_iterable(ids), dtype=dtype)  # [tokens]
            is_validation = np.repeat(record["is_validation"], record["tokens"])  # [tokens]
            train.write(tokens[~is_validation].tobytes())
            validation.write(tokens[is_validation].tobytes())
            hashes.write(np.array([number for _, number, _ in batch], dtype="<u8").tobytes())
            records.write(record.tobytes())
            progress.update(len(batch))


def _encoded(batches: Iterable[Batch], tokenizer: Tokenizer) -> Iterator[tuple[Batch, list[Encoding]]]:
    """Each batch with its encodings. While one is encoded, the next is read and the one before it is written."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        before: tuple[Batch, Future[list[Encoding]]] | None = None
        for batch in batches:
            texts = [text for text, _, _ in batch]
            encodings = thread.submit(tokenizer.encode_batch_fast, texts, add_special_tokens=False)
            if before:
                yield before[0], before[1].result()
            before = batch, encodings
        if before:
            yield before[0], before[1].result()


def _batches(documents: Iterable[tuple[str, int, bool]]) -> Iterator[Batch]:
    batch: Batch = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document[0])
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _decide_fates(folder: Path) -> np.ndarray:
    """
    What becomes of each document, as an index into `FATES`: the first of equal hashes is kept.

    The file of hashes is read once for each group of hashes, which costs little beside the tokenising.
    """
    count = (folder / "hashes").stat().st_size // 8
    fates = np.zeros(count, dtype=np.uint8)  # [documents]
    is_validation = np.zeros(count, dtype=bool)  # [documents]
    for here, records in _chunks(folder / "records", RECORD):
        fates[here] = np.where(records["tokens"] > 0, KEPT, WITHOUT_TOKENS)
        is_validation[here] = records["is_validation"]

    for group in range(GROUPS if count else 0):
        found = []
        for here, chunk in _chunks(folder / "hashes", "<u8"):
            inside = np.flatnonzero(chunk % GROUPS == group)
            found.append((chunk[inside], here.start + inside))
        hashes, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))  # both [of this group]
        order = np.argsort(hashes, kind="stable")
        hashes, positions = hashes[order], positions[order]
        is_first = np.concatenate([[True], hashes[1:] != hashes[:-1]])[: len(hashes)]
        again = positions[~is_first]
        kept = positions[is_first][np.cumsum(is_first) - 1][~is_first]  # the first document of the same text
        fates[again] = np.where(is_validation[kept] & ~is_validation[again], IN_VALIDATION, DUPLICATE)
    return fates


def _write_index(fates: np.ndarray, folder: Path) -> dict[str, dict[str, int]]:
    """Writes where the kept documents of each side start and how long they are, and adds them up."""
    sides = {}
    for split in SPLITS:
        end = 0
        totals = dict.fromkeys(("documents", "tokens", "bytes", "characters"), 0)
        with open(folder / f"{split}.starts", "wb") as starts, open(folder / f"{split}.lengths", "wb") as lengths:
            for here, records in _chunks(folder / "records", RECORD):
                of_split = records["is_validation"] == (split == "validation")
                side, kept = records[of_split], fates[here][of_split] == KEPT
                ends = end + np.cumsum(side["tokens"], dtype="<i8")
                starts.write((ends - side["tokens"])[kept].tobytes())
                lengths.write(side["tokens"][kept].tobytes())
                end = int(ends[-1]) if len(ends) else end
                totals["documents"] += int(kept.sum())
                for name in ("tokens", "bytes", "characters"):
                    totals[name] += int(side[name][kept].sum(dtype=np.int64))
        sides[split] = totals
    return sides


def _chunks(path: Path, dtype: np.typing.DTypeLike) -> Iterator[tuple[slice, np.ndarray]]:
    """Arrays of up to `CHUNK` entries of a flat file, each with where in the file it is."""
    with open(path, "rb") as file:
        first = 0
        while len(chunk := np.fromfile(file, dtype=dtype, count=CHUNK)):
            yield slice(first, first + len(chunk)), chunk
            first += len(chunk)
