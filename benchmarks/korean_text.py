"""
The text that the Korean backbone learns from: raw reviews, and the train splits of the task recipes without labels.

    python benchmarks/korean_text.py $DATA texts.jsonl
    hftk pretrain pretrain/korean --data.train_files texts.jsonl --data.text_column text

The tasks' own texts are few, so each comes back in windows of one, two, three and four neighbours; a question comes
alone and with its answer, an English sentence alone and with its translation. Sentences of the documents that the
restoration of subjects is tested on are left out: they hold the subjects.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from subject_rows import KAIST_TEST

from hftk.tasks.rows import read_rows


def texts(data: Path, reviews: int) -> Iterator[str]:
    """The texts of all corpora in the folder; of the unlabelled reviews the first so many."""
    for _, row in islice(read_rows(f"{data}/nsmc/raw_train.parquet"), reviews):
        yield row["text"]
    for _, row in read_rows(f"{data}/nsmc/train.parquet"):
        yield row["text"]
    kaist = read_rows(f"{data}/ud_korean_kaist/train.conllu")
    yield from windows(row["text"] for _, row in kaist if row["idx"].rpartition("-")[0] not in KAIST_TEST)
    yield from windows(row["text"] for _, row in read_rows(f"{data}/ud_korean_gsd/train.conllu"))
    yield from windows("".join(row["tokens"]) for _, row in read_rows(f"{data}/klue_ner/train.tsv", lists=True))
    for _, row in read_rows(f"{data}/chatbot_ko/train.jsonl"):
        yield from pair(row["source"], row["target"])
    for _, row in read_rows(f"{data}/libreoffice_en_ko/train.jsonl"):
        yield from pair(row["en"], row["ko"])


def windows(sentences: Iterable[str]) -> Iterator[str]:
    """Each sentence in windows of one to four."""
    sentences = list(sentences)
    for size in range(1, 5):
        for start in range(0, len(sentences), size):
            yield " ".join(sentences[start : start + size])


def pair(first: str, second: str) -> Iterator[str]:
    """Each alone, and both in either order."""
    yield from (first, second, f"{first}\n{second}", f"{second}\n{first}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("output", type=Path, metavar="FILE")
    parser.add_argument("--reviews", type=int, default=500_000, help="how many of the unlabelled ones")
    arguments = parser.parse_args()
    with open(arguments.output, "w", encoding="utf-8") as file:
        for text in texts(arguments.data, arguments.reviews):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
