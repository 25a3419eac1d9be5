"""
Preparing a corpus (reading, cleaning, tokenising, duplicates, files of ids) and the `tokenizers` library alone, which
is given the same texts in memory and keeps nothing, in turns: MB of text a second, on all cores.

    python benchmarks/prepare_speed.py FILE COLUMN

The tokenizer, a byte-level BPE of 8,192, is trained on the file first. `encode_batch` also finds the place of each
token in the text; `encode_batch_fast`, which ours calls, does not.

What cProfile told of ours, on two busy cores, with 150,000 reviews (13.4 MB): of 12.1 seconds 8.7 were in
`encode_batch_fast`, 1.1 in reading and cleaning, 0.5 in hashes and the split, 0.3 in batches, 1.4 in taking ids, sizes
and bytes out of the encodings and writing them, 0.1 in finding duplicates. Reading and writing go on while a batch
is encoded.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from turns import arguments_of, in_turns

from hftk.data.preparation import DataArguments, encoding_backend, prepare_corpus, training_documents
from hftk.data.tokenizer import TokenizerArguments, load_tokenizer, train_tokenizer

FILE, COLUMN = arguments_of(2)
DATA = DataArguments(train_files=[FILE], text_column=COLUMN)


def ours() -> dict[str, float]:
    tokenizer = load_tokenizer(os.environ["BENCHMARK_TOKENIZER"])
    with tempfile.TemporaryDirectory() as folder:
        return rate(lambda: prepare_corpus(DATA, tokenizer, Path(folder)))


def alone(fast: bool) -> dict[str, float]:
    backend = encoding_backend(load_tokenizer(os.environ["BENCHMARK_TOKENIZER"]))
    encode, known = backend.encode_batch_fast if fast else backend.encode_batch, texts()
    return rate(lambda: encode(known))


def rate(work: Callable[[], object]) -> dict[str, float]:
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return {"MB a second": sum(len(text.encode()) for text in texts()) / 1e6 / seconds}


def texts() -> list[str]:
    """Cleaned, duplicates included, but for the half percent that is validation."""
    return list(training_documents(DATA))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if "BENCHMARK_TOKENIZER" not in os.environ:
            train_tokenizer(texts(), TokenizerArguments(vocab_size=8192)).save_pretrained(folder)
            os.environ["BENCHMARK_TOKENIZER"] = folder
        in_turns(
            {
                "hftk": ours,
                "tokenizers, encode_batch": lambda: alone(fast=False),
                "tokenizers, encode_batch_fast": lambda: alone(fast=True),
            },
            "MB a second",
        )
