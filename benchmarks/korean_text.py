"""
The text that the Korean backbone learns from: raw reviews, and the train splits of the task recipes without labels.

    python benchmarks/korean_text.py $DATA texts.jsonl
    hftk pretrain pretrain/korean --data.train_files texts.jsonl
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hftk.tasks.rows import read_rows


def texts(data: Path, reviews: int) -> Iterator[str]:
    """The texts of all corpora in the folder; of the unlabelled reviews the first so many."""
    for _, row in islice(read_rows(f"{data}/nsmc/raw_train.parquet"), reviews):
        yield row["text"]
    for _, row in read_rows(f"{data}/nsmc/train.parquet"):
        yield row["text"]
    for treebank in ("kaist", "gsd"):
        for _, row in read_rows(f"{data}/ud_korean_{treebank}/train.conllu"):
            yield row["text"]
    for _, row in read_rows(f"{data}/klue_ner/train.tsv", lists=True):
        yield "".join(row["tokens"])
    for _, row in read_rows(f"{data}/chatbot_ko/train.jsonl"):
        yield row["source"]
        yield row["target"]
    for _, row in read_rows(f"{data}/libreoffice_en_ko/train.jsonl"):
        yield row["en"]
        yield row["ko"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("output", type=Path, metavar="FILE")
    parser.add_argument("--reviews", type=int, default=200_000, help="how many of the unlabelled ones")
    arguments = parser.parse_args()
    with open(arguments.output, "w", encoding="utf-8") as file:
        for text in texts(arguments.data, arguments.reviews):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
