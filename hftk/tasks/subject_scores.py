"""Scores of restored subjects."""

from typing import Any

import datasets
import evaluate


class SubjectScores(evaluate.Metric):
    """
    Over the predicates of all texts:

    - `f1`, the share that is right: a word that is the subject or another mention of it, or, for a subject that is not
      in the text, its person. Each predicate has one subject and gets one, so that precision, recall and F1 (micro) are
      the same number;
    - `word_accuracy`, the same for those whose subject is in the text; `person_accuracy`, for the others. 0 where there
      are none.

    `compute(predictions=..., references=...)` takes two equally long lists of dicts of `subjects` (`list[int]`, 0 for
    one not in the text) and `persons` (`list[str]`); references have `mentions` too (`list[list[int]]`).
    """

    def _info(self) -> evaluate.MetricInfo:
        words, persons = datasets.List(datasets.Value("int32")), datasets.List(datasets.Value("string"))
        subjects = {"subjects": words, "persons": persons}
        mentions = {"mentions": datasets.List(words)}
        return evaluate.MetricInfo(
            description="F1 of restored subjects.",
            citation="",
            inputs_description="predictions, references: the subjects and persons of each text's predicates.",
            features=datasets.Features({"predictions": subjects, "references": subjects | mentions}),
        )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float]:
        words: list[bool] = []
        persons: list[bool] = []
        for guess, gold in zip(predictions, references, strict=True):
            for found, guessed, subject, person, mentions in zip(
                guess["subjects"], guess["persons"], gold["subjects"], gold["persons"], gold["mentions"], strict=True
            ):
                if subject:
                    words.append(found in {subject, *mentions})
                else:
                    persons.append(found == 0 and guessed == person)
        return {
            "f1": sum(words + persons) / max(len(words + persons), 1),
            "word_accuracy": sum(words) / max(len(words), 1),
            "person_accuracy": sum(persons) / max(len(persons), 1),
        }
