"""
Rows for the restoration of subjects, Korean and Turkish, and what two simple guesses score on them.

    python benchmarks/subject_rows.py $DATA subjects
    hftk finetune n2path/subjects --model DIR --data.train_files subjects/korean_train.jsonl \\
      --data.validation_files subjects/korean_validation.jsonl --data.test_files subjects/korean_test.jsonl
"""

import argparse
from collections import Counter
from hashlib import blake2b
from importlib.metadata import distribution
from itertools import chain
from pathlib import Path

from hftk.tasks.conllu import read_sentences
from hftk.tasks.rows import Row, write_rows
from hftk.tasks.subject_data import kaist_rows, turkish_rows
from hftk.tasks.subjects import Subjects

# whole documents, since all of them have sentences on every side of the treebank's own split
KAIST_VALIDATION = {"M2TA_069", "MH2_0070", "MH2_0159"}
KAIST_TEST = {"M2TA_070", "M2TA_090", "MH2_0110", "MH2_0149"}


def korean_split(document: str) -> str:
    if document in KAIST_TEST:
        return "test"
    return "validation" if document in KAIST_VALIDATION else "train"


def turkish_split(document: str) -> str:
    """A tenth of the documents, by a hash of the name, are validation, and a tenth are test."""
    tenth = int.from_bytes(blake2b(document.encode(), digest_size=8).digest(), "big") % 10
    return {0: "validation", 1: "test"}.get(tenth, "train")


def guesses(train: list[Row], rows: list[Row]) -> dict[str, float]:
    """
    F1 of the nearest subject before each predicate, and of the person that most often is not in the training texts;
    where there is no such subject, the first guess is the second.
    """
    persons = Counter(
        person for row in train for subject, person in zip(row["subjects"], row["persons"], strict=True) if not subject
    )
    [(frequent, _)] = persons.most_common(1)
    task = Subjects("subjects")
    same_persons = [[frequent] * len(row["predicates"]) for row in rows]
    nearest = [{"subjects": row["nearest_subject"], "persons": p} for row, p in zip(rows, same_persons, strict=True)]
    nobody = [{"subjects": [0] * len(persons), "persons": persons} for persons in same_persons]
    return {
        "nearest subject": task.score(nearest, rows)["f1"],
        f"person {frequent}": task.score(nobody, rows)["f1"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("output", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)

    kaist = [f"{arguments.data}/ud_korean_kaist/{split}.conllu" for split in ("train", "validation", "test")]
    twt = [str(distribution("turkish-treebanks").locate_file(f"data/{part}.conllu")) for part in ("web", "wiki")]
    korean = kaist_rows(chain.from_iterable(map(read_sentences, kaist)))
    turkish = turkish_rows(chain.from_iterable(map(read_sentences, twt)))
    for language, (rows, left_out), split_of in (("korean", korean, korean_split), ("turkish", turkish, turkish_split)):
        print(f"{language}: left out {dict(left_out.most_common())}")
        splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
        for row in rows:
            splits[split_of(row["document"])].append(row)
        for split, part in splits.items():
            write_rows(part, arguments.output / f"{language}_{split}.jsonl")
            answers = Counter(
                "word" if subject else f"person {person}"
                for row in part
                for subject, person in zip(row["subjects"], row["persons"], strict=True)
            )
            scores = {name: round(score, 3) for name, score in guesses(splits["train"], part).items()}
            print(f"{language} {split}: {len(part)} rows, {dict(answers.most_common())}; F1 {scores}")
