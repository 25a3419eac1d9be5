"""Raw text, cleaned and tokenised once to disk: the corpus that training opens."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from hftk.data import cleaning, sources
from hftk.data.corpus import Corpus, open_corpus
from hftk.data.writing import split_by_hash, write_corpus
from hftk.errors import UsageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class DataArguments:
    """
    Args:
        train_files (`list[str]`, defaults to none):
            Files, globs or folders of `.txt` (one document a line), `.jsonl` or `.parquet`, each also `.gz` or `.zst`.
        validation_files (`list[str]`, defaults to none):
            The same for validation; without them `validation_share` is split off the training text.
        dataset (`str`, *optional*):
            Hub id or folder as `datasets.load_dataset` takes it, streamed; read when there are no `train_files`.
        dataset_config (`str`, *optional*):
            Configuration of the dataset.
        dataset_split (`str`, defaults to `"train"`):
            Split of the dataset.
        text_column (`str`, defaults to `"text"`):
            Key or column of the text in `.jsonl`, `.parquet` and datasets.
        validation_share (`float`, defaults to 0.005):
            Share of the documents, drawn by a hash of their text, that is validation. Unused with `validation_files`.
        max_source_length (`int`, defaults to 512):
            Tokens of a packed row for the encoder.
        max_target_length (`int`, defaults to 512):
            Tokens of a packed row for the decoder.
        near_duplicates (`bool`, defaults to `False`):
            Drop documents that are much like another one, too (MinHash over words); `hftk prepare` does it.
        languages (`list[str]`, defaults to none):
            Keep documents in these languages only (ISO 639-1: `ko`, `en`, …), as fastText's model of 176 languages
            tells them; `hftk prepare` does it.
        packing (`bool`, defaults to `True`):
            Fill each row with as many documents as fit; `False` gives each document a row of its own.
        cache_dir (`str`, *optional*):
            Folder of the prepared corpora; by default `data` in the run's output folder.
    """

    train_files: list[str] = field(default_factory=list)
    validation_files: list[str] = field(default_factory=list)
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"
    text_column: str = "text"
    validation_share: float = 0.005
    near_duplicates: bool = False
    languages: list[str] = field(default_factory=list)
    max_source_length: int = 512
    max_target_length: int = 512
    packing: bool = True
    cache_dir: str | None = None


def training_documents(data: DataArguments) -> Iterator[str]:
    """
    Streams the cleaned training texts, as a tokenizer is trained on them: duplicates included, without the share that
    is split off for validation.

    Args:
        data (`DataArguments`):
            Where the text is.

    Returns:
        `Iterator[str]`

    Raises:
        UsageError: If a source cannot be read.
    """
    check_data(data)
    texts = cleaning.clean_documents(raw_documents(data), cleaning.Dropped())
    for text, _, is_validation in split_by_hash(texts, share_of_validation(data)):
        if not is_validation:
            yield text


def prepare_corpus(data: DataArguments, tokenizer: PreTrainedTokenizerFast, cache_dir: Path) -> Corpus:
    """
    Tokenises the text once to disk, or opens what an earlier call made of the same sources with the same tokenizer.

    Exact duplicates are dropped but for the first, and training documents that occur in `validation_files`. Memory
    stays the same for any amount of text, but for some three bytes a document.

    Args:
        data (`DataArguments`):
            Where the text is.
        tokenizer (`PreTrainedTokenizerFast`):
            Special tokens written out in a text are tokenised as text.
        cache_dir (`Path`):
            Folder of the prepared corpora; each lies in a folder named by its fingerprint.

    Returns:
        `Corpus`

    Raises:
        UsageError: If a source cannot be read, nothing is left to train or validate on, or the disk is full.
    """
    check_data(data)
    backend = encoding_backend(tokenizer)
    folder, manifest = corpus_folder(data, backend, Path(cache_dir))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                if needs_prepare(data):
                    raise UsageError(
                        f"data: {folder} is not there; run hftk prepare with this recipe first, since it is what finds "
                        "near-duplicates and languages"
                    )
                _prepare(data, backend, manifest, folder)
    except OSError as error:
        mend = "free some space or set data.cache_dir" if error.errno in NO_ROOM else "set data.cache_dir"
        raise UsageError(f"{folder}: the corpus cannot be written: {error.strerror}; {mend}") from error
    return open_corpus(folder)


def needs_prepare(data: DataArguments) -> bool:
    """Whether `hftk prepare` alone can make the corpus."""
    return data.near_duplicates or bool(data.languages)


def corpus_folder(data: DataArguments, backend: Tokenizer, cache_dir: Path) -> tuple[Path, dict[str, Any]]:
    """Where the corpus of these sources and this tokenizer lies in `cache_dir`, and how its manifest begins."""
    settings = _settings(data, backend)
    fingerprint = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
    return cache_dir / fingerprint, {"fingerprint": fingerprint, "settings": settings}


def _prepare(data: DataArguments, backend: Tokenizer, manifest: dict[str, Any], folder: Path) -> None:
    """Writes into a temporary sibling, so that a folder of this name is always whole."""
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir()
    dropped = cleaning.Dropped()
    try:
        written = write_corpus(
            cleaning.clean_documents(raw_documents(data), dropped),
            cleaning.clean_documents(sources.read_documents(data.validation_files, data.text_column), dropped),
            share_of_validation(data),
            backend,
            unfinished,
            dropped,
        )
        check_sides(written, data)
        write_manifest(manifest | written, unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_manifest(manifest: dict[str, Any], folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False))


def check_sides(manifest: dict[str, Any], data: DataArguments) -> None:
    """Raises `UsageError` if no document is left on one side."""
    counts = manifest["dropped"] or "nothing"
    if not manifest["train"]["documents"]:
        raise UsageError(f"data: no document is left to train on (dropped: {counts}), give more text")
    if not manifest["validation"]["documents"]:
        if data.validation_files:
            raise UsageError(f"data.validation_files: no document is left (dropped: {counts}), give others")
        raise UsageError(
            f"data.validation_share: of {manifest['train']['documents']} documents none became validation at "
            f"{data.validation_share}, raise it or give data.validation_files"
        )


def find_corpus(cache_dir: Path, tokenizer: PreTrainedTokenizerFast) -> Corpus | None:
    """The corpus in `cache_dir` that [`prepare_corpus`] made with this tokenizer, if there is one."""
    wanted = _hash(encoding_backend(tokenizer))
    for manifest in sorted(cache_dir.glob("*/manifest.json")):
        corpus = open_corpus(manifest.parent)
        if corpus.manifest["settings"]["tokenizer"] == wanted:
            return corpus
    return None


def encoding_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy, set to encode raw text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _hash(backend: Tokenizer) -> str:
    return blake2b(backend.to_str().encode(), digest_size=16).hexdigest()


def check_data(data: DataArguments) -> None:
    if not data.train_files and data.dataset is None:
        raise UsageError("data: there is nothing to read, give data.train_files or data.dataset")
    if not data.validation_files and not 0 < data.validation_share < 1:
        raise UsageError(f"data.validation_share: {data.validation_share} is not between 0 and 1")


def raw_documents(data: DataArguments) -> Iterator[sources.RawDocument]:
    """Streams the training documents as they are."""
    if data.train_files:
        return sources.read_documents(data.train_files, data.text_column)
    return sources.read_dataset(str(data.dataset), data.dataset_config, data.dataset_split, data.text_column)


def _settings(data: DataArguments, backend: Tokenizer) -> dict[str, Any]:
    """What the files of a prepared corpus depend on. Of a dataset on the Hub it is the name: nothing is asked."""
    if data.train_files:
        train: Any = [_stamp(path) for path in sources.find_files(data.train_files)]
    else:
        local = sorted(str(path) for path in Path(str(data.dataset)).rglob("*") if path.is_file())
        train = [data.dataset, data.dataset_config, data.dataset_split, [_stamp(path) for path in local]]
    return {
        "train": train,
        "validation": [_stamp(path) for path in sources.find_files(data.validation_files)],
        "text_column": data.text_column,
        "validation_share": share_of_validation(data),
        "cleaning": cleaning.VERSION,
        "near_duplicates": data.near_duplicates,
        "languages": sorted(data.languages),
        "tokenizer": _hash(backend),
    }


def _stamp(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


def share_of_validation(data: DataArguments) -> float:
    """Of the training documents."""
    return 0.0 if data.validation_files else data.validation_share
