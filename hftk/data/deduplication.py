"""What a task of `hftk prepare` does: read its part of the text, sign its documents, write its shard."""

import io
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import file_digest
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import LanguageFilter
from datatrove.utils.lid import FT176LID
from datatrove.utils.stats import PipelineStats
from datatrove.utils.text import TextNormConfig, simplify_text
from datatrove.utils.word_tokenizers import WhitespaceTokenizer
from tokenizers import Tokenizer

from hftk.data.cleaning import Dropped, clean_documents
from hftk.data.preparation import DataArguments, raw_documents, share_of_validation, write_manifest
from hftk.data.sources import RawDocument, find_files, read_documents
from hftk.data.writing import SPLITS, hash_text, write_corpus
from hftk.errors import UsageError

# 14 buckets of 8 hashes over 5 words: two documents that share 80 % of these are found with a probability of 92 %. The
# text is NFC already.
MINHASH = MinhashConfig(norm_config=TextNormConfig(norm_unicode_diacritics=False))
STAGES = ("signatures", "duplicates", "clusters", "shards")


class Signatures(MinhashDedupSignature):
    """
    MinHash over words between white space (Broder 1997); a text of fewer than `n_grams` words, and every text where
    near-duplicates stay, is signed as a whole, so that it is like no other but its copies.
    """

    def __init__(self, folder: str, near_duplicates: bool):
        super().__init__(folder, MINHASH, WhitespaceTokenizer())
        self.near_duplicates = near_duplicates

    def get_shingles(self, text: str) -> np.ndarray:
        """uint64 of shape (n-grams, 1)"""
        n = self.config.n_grams
        words = simplify_text(text, self.config.norm_config).split() if self.near_duplicates else []
        shingles = [" ".join(words[first : first + n]) for first in range(len(words) - n + 1)] or [text]
        return np.array([self._hash_func(shingle.encode()) for shingle in shingles], dtype=np.uint64)[:, None]


def check_languages(languages: list[str]) -> None:
    """Fetches fastText's model before the tasks do; raises `UsageError` for a language that it does not know."""
    identifier = FT176LID()
    try:
        known = {label.removeprefix("__label__") for label in identifier.model.get_labels()}
    except OSError as error:
        raise UsageError(f"data.languages: {identifier.MODEL_URL} cannot be fetched: {error}") from error
    if unknown := sorted(set(languages) - known):
        raise UsageError(f"data.languages: {', '.join(unknown)}: fastText's model knows {', '.join(sorted(known))}")


class QuietExecutor(LocalPipelineExecutor):
    """Processes of this machine, which log to their files alone."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        with redirect_stderr(io.StringIO()):
            return super()._run_for_rank(rank, local_rank, node_rank)


@dataclass
class Preparation:
    """
    A corpus that many tasks prepare, in four stages. Each task of a stage makes files of its own.

    Args:
        data (`DataArguments`): where the text is.
        tokenizer (`str`): as `Tokenizer.to_str` gives it.
        folder (`Path`): of all that is made.
        tasks (`int`): among which the text is divided.
    """

    data: DataArguments
    tokenizer: str = field(repr=False)  # its text would be in the log of every task
    folder: Path
    tasks: int
    dropped: Dropped = field(default_factory=Dropped)  # by one task, of which each has a copy of all this
    read_documents: int = 0

    def tasks_of(self, stage: str) -> int:
        return {"duplicates": MINHASH.num_buckets, "clusters": 1}.get(stage, self.tasks)

    def steps(self, stage: str) -> list[Any]:
        """What datatrove runs for each task of a stage."""
        signatures, duplicates, clusters = (str(self.folder / name) for name in STAGES[:3])
        steps: dict[str, list[Any]] = {
            "signatures": [self.read, Signatures(signatures, self.data.near_duplicates)],
            "duplicates": [MinhashDedupBuckets(signatures, duplicates, config=MINHASH)],
            "clusters": [MinhashDedupCluster(duplicates, clusters, config=MINHASH)],
            "shards": [self.read, MinhashDedupFilter(clusters), self.write],
        }
        return steps[stage]

    def read(self, _: None, rank: int, tasks: int) -> Iterator[Document]:
        """A task's clean documents in the languages that are asked for, without those that are in validation files."""
        language = LanguageFilter(self.data.languages) if self.data.languages else None
        files = find_files(self.data.train_files)
        if len(files) < tasks:
            raw: Iterator[RawDocument] = islice(raw_documents(self.data), rank, None, tasks)
        else:
            raw = read_documents(files[rank::tasks], self.data.text_column)
        for text in clean_documents(raw, self.dropped):
            document = Document(text=text, id="")
            if hash_text(text) in self.in_validation:
                self.dropped.counts["in_validation"] += 1
            elif language and not language.filter(document):
                self.dropped.counts["language"] += 1
            else:
                self.read_documents += 1
                yield document

    @cached_property
    def in_validation(self) -> set[int]:
        return {hash_text(text) for text in self.validation(Dropped())}

    def validation(self, dropped: Dropped) -> Iterator[str]:
        return clean_documents(read_documents(self.data.validation_files, self.data.text_column), dropped)

    def write(self, documents: Iterator[Document], rank: int, tasks: int) -> None:
        """A shard: a corpus of its own, whose manifest has a hash of each file of tokens."""
        folder = self.folder / "shards" / f"{rank:05d}"
        shutil.rmtree(folder, ignore_errors=True)  # of a task that was killed
        folder.mkdir(parents=True)
        kept = count()
        manifest = write_corpus(
            (document.text for document, _ in zip(documents, kept, strict=False)),
            self.validation(self.dropped) if rank == 0 else (),
            share_of_validation(self.data),
            Tokenizer.from_str(self.tokenizer),
            folder,
            self.dropped,
        )
        reason = "near_duplicate" if self.data.near_duplicates else "duplicate"
        manifest["dropped"] = Counter(manifest["dropped"]) + Counter({reason: self.read_documents - next(kept)})
        for split in SPLITS:
            with open(folder / f"{split}.tokens", "rb") as tokens:
                manifest[split]["sha256"] = file_digest(tokens, "sha256").hexdigest()
        write_manifest(manifest, folder)
