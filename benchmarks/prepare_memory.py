"""
Peak memory of preparing a corpus, for two sizes of the same text, each in a process of its own.

    python benchmarks/prepare_memory.py --files $DATA/nsmc/raw_train.parquet

The text is repeated, each time with another suffix, until every size is reached: all documents are distinct, so that
the index is as large as it can be. The last column is what a document more costs.
"""

import argparse
import itertools
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hftk.data.preparation import DataArguments, prepare_corpus
from hftk.data.sources import read_documents
from hftk.data.tokenizer import TokenizerArguments, load_tokenizer, train_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="*", default=[], help="text to repeat; without it, made-up words")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--megabytes", nargs="+", type=float, default=[25, 100])
    parser.add_argument("--formats", nargs="+", choices=("txt", "jsonl", "parquet"), default=["txt", "parquet"])
    parser.add_argument("--lines", type=int, default=1, help="lines of the text that make one document")
    parser.add_argument("--algorithm", choices=("bpe", "unigram"), default="bpe")
    parser.add_argument("--vocab-size", type=int, default=16384)
    arguments = parser.parse_args()

    print("format         MB  documents  seconds  MB/s  peak MB  bytes a document more")
    with tempfile.TemporaryDirectory() as folder:
        in_fresh_process(train, arguments, f"{folder}/tokenizer")
        for kind in arguments.formats:
            smallest = None
            for megabytes in arguments.megabytes:
                file = f"{folder}/{megabytes:g}.{kind}"
                count = in_fresh_process(write, arguments, int(megabytes * 1e6), file)
                peak, seconds = in_fresh_process(prepare, file, f"{folder}/tokenizer", f"{folder}/cache")
                smallest = smallest or (count, peak)
                more = (peak - smallest[1]) / (count - smallest[0]) if count > smallest[0] else float("nan")
                print(
                    f"{kind:8} {megabytes:8g} {count:10,} {seconds:8.1f} {megabytes / seconds:5.1f} {peak / 1e6:8.1f}"
                    f" {more:22.2f}",
                    flush=True,
                )


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Linux counts a parent's memory to the peak of its child, so the parent does nothing itself."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def train(arguments: argparse.Namespace, folder: str) -> None:
    sample = itertools.islice(documents(arguments), 20_000)
    train_tokenizer(
        sample, TokenizerArguments(algorithm=arguments.algorithm, vocab_size=arguments.vocab_size)
    ).save_pretrained(folder)


def prepare(file: str, tokenizer: str, cache: str) -> tuple[int, float]:
    """Returns the peak in bytes (`ru_maxrss` counts kilobytes on Linux) and the seconds without imports."""
    start = time.perf_counter()
    prepare_corpus(DataArguments(train_files=[file]), load_tokenizer(tokenizer), Path(cache))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.perf_counter() - start


def documents(arguments: argparse.Namespace) -> Iterator[str]:
    """Distinct documents without end."""
    for tile in itertools.count():
        raw = read_documents(arguments.files, arguments.text_column)
        lines = (text for text, _, _ in raw) if arguments.files else made_up(tile)
        for number in itertools.count():
            part = list(itertools.islice(lines, arguments.lines))
            if not part:
                break
            yield f"{' '.join(part)} {tile}.{number}"


def made_up(seed: int) -> Iterator[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5_000)]
    for _ in range(100_000):
        yield " ".join(draw.choices(words, k=12))


def write(arguments: argparse.Namespace, size: int, file: str) -> int:
    """Writes documents up to a size in bytes; parquet in a single row group, the hardest case. Returns their number."""
    texts = documents(arguments)
    chosen = []
    while size > 0:
        chosen.append(next(texts).replace("\n", " "))
        size -= len(chosen[-1].encode()) + 1
    if file.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": chosen}), file, row_group_size=len(chosen))
    else:
        with open(file, "w") as out:
            for text in chosen:
                out.write((text if file.endswith(".txt") else json.dumps({"text": text}, ensure_ascii=False)) + "\n")
    return len(chosen)


if __name__ == "__main__":
    main()
