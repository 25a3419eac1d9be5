"""
Predicting labels with a text classifier that `hftk finetune` wrote, by `hftk predict` and by transformers' pipeline,
in turns: rows a second, files, tokenising and all else but the start of Python included.

    python benchmarks/classify.py DIR ROWS.jsonl TEXT_COLUMN

`as documented` is the pipeline over the rows as they come; `at its best` is over rows sorted by length, in batches of
the fastest of 8, 32 and 128.
"""

import json
import os
import time

from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset
from turns import arguments_of, in_turns

from hftk.predict import predict

DIRECTORY, ROWS, COLUMN = arguments_of(3)


def ours() -> dict[str, float]:
    start = time.perf_counter()
    predict(DIRECTORY, input=ROWS, output=os.devnull)
    return rate(time.perf_counter() - start)


def theirs(best: bool) -> dict[str, float]:
    batch_sizes = (8, 32, 128) if best else (1,)
    seconds = []
    for batch_size in batch_sizes:
        start = time.perf_counter()
        classify = pipeline("text-classification", model=DIRECTORY)
        rows = read()
        if best:
            rows.sort(key=lambda row: len(row[COLUMN]))
        for _ in classify(KeyDataset(rows, COLUMN), batch_size=batch_size):  # type: ignore[arg-type]
            pass
        seconds.append(time.perf_counter() - start)
    return rate(min(seconds))


def read() -> list[dict[str, str]]:
    with open(ROWS, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def rate(seconds: float) -> dict[str, float]:
    return {"rows a second": len(read()) / seconds}


if __name__ == "__main__":
    in_turns(
        {
            "hftk predict": ours,
            "pipeline as documented": lambda: theirs(best=False),
            "pipeline at its best": lambda: theirs(best=True),
        },
        "rows a second",
    )
