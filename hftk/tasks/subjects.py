"""Subject restoration: for each predicate without a subject, the word that is meant, or a person not in the text."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.tasks.alignment import encode_units, running_text
from hftk.tasks.n2path import N2Path
from hftk.tasks.rows import Row, column
from hftk.tasks.subject_scores import SubjectScores
from hftk.tasks.task import IGNORED, Example, Features

PERSONS = ["1", "2", "3"]

SubjectsFound = dict[str, Any]  # `subjects` (list[int], 0 for one not in the text) and `persons` (list[str])


@dataclass
class Subjects(N2Path):
    """
    Rows are texts: `tokens`, the words of a sentence and of those before it, and `predicates`, which of them (from 1)
    lack a subject. For each predicate `subjects` has the word that is its subject, 0 for one that is not in the text,
    and `persons` has `"1"`, `"2"` or `"3"`. Two columns may be there: `misc`, as in [`N2Path`], and `mentions`, for
    each predicate all words that name its subject, which count as right too.

    The model is that of [`N2Path`], but the arcs that it learns are those of the predicates, a graph and no tree; its
    root is whoever is not in the text, and its relations are the persons.

    Args:
        name (`"subjects"`):
            The task.
        scalar_mix (`bool`, defaults to `False`):
            Read a learned mean of all layers instead of the last one; see [`HftkArcConfig`].
    """

    name: Literal["subjects"]  # type: ignore[assignment]

    trees: ClassVar[bool] = False
    pipelines: ClassVar[dict[str, dict[str, Any]]] = {}

    def check_inputs(self, row: Row, where: str) -> None:
        super().check_inputs(row, where)
        predicates, count = column(row, "predicates", "the predicates", where), len(row["tokens"])
        if not isinstance(predicates, list) or not predicates or len(set(map(str, predicates))) < len(predicates):
            raise UsageError(f"{where}: column 'predicates' must list each predicate once, not {predicates!r:.60}")
        _check_words(predicates, 1, count, "predicate", where)

    def check_targets(self, row: Row, where: str) -> None:
        predicates = row["predicates"]
        subjects, persons = column(row, "subjects", "the subjects", where), column(row, "persons", "the persons", where)
        mentions = row.setdefault("mentions", [[] for _ in predicates])
        if not len(predicates) == len(subjects) == len(persons) == len(mentions):
            raise UsageError(
                f"{where}: {len(predicates)} predicates, {len(subjects)} subjects, {len(persons)} persons, "
                f"{len(mentions)} lists of mentions; give each predicate one"
            )
        _check_words(subjects, 0, len(row["tokens"]), "subject", where)
        for words in mentions:
            _check_words(words, 1, len(row["tokens"]), "mention", where)
        for predicate, subject, person in zip(predicates, subjects, persons, strict=True):
            if subject == predicate:
                raise UsageError(f"{where}: word {predicate} is its own subject; give another, or 0 for none")
            if person not in PERSONS:
                raise UsageError(f"{where}: person {person!r:.60} of word {predicate}; give '1', '2' or '3'")

    def label_names(self, rows: list[Row]) -> list[str]:
        return PERSONS

    def labels(self, row: Row) -> list[str]:
        return row["persons"]

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, names: list[str] | None) -> Example:
        """
        As [`N2Path.encode`] does; heads and labels are -100 but for predicates. Of a text longer than `max_length` the
        model sees what is around the last predicate.
        """
        words, predicates = row["tokens"], row["predicates"]
        encoded = encode_units(running_text(words, row.get("misc")), tokenizer, max_length)
        window, *_ = encoded.places[max(predicates) - 1]
        features: Features = {
            "input_ids": encoded.windows[window],
            "word_ids": [0 if unit is None else unit + 1 for unit in encoded.units[window]],
            "word_counts": [len(words)],
            "predicates": predicates,
        }
        if names is not None:
            features["heads"], features["labels"] = [IGNORED] * len(words), [IGNORED] * len(words)
            for predicate, subject, person in zip(predicates, row["subjects"], row["persons"], strict=True):
                features["heads"][predicate - 1] = subject
                features["labels"][predicate - 1] = names.index(person)
        return Example([features], cut=len(encoded.windows) > 1)

    def predict(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], outputs: Any, tokenizer: PreTrainedTokenizerBase
    ) -> list[Any]:
        """For each text the best arc of each word, whether it is a predicate or not, and the label of that arc."""
        heads = outputs.arc_scores.argmax(dim=-1)  # (batch, words)
        arcs = heads[:, :, None, None].expand(-1, -1, 1, outputs.label_scores.shape[-1])
        labels = outputs.label_scores.gather(2, arcs).squeeze(2).argmax(dim=-1)  # (batch, words)
        return list(zip(heads.tolist(), labels.tolist(), strict=True))

    def join(self, example: Example, raw: list[Any], names: list[str]) -> SubjectsFound:
        [(heads, labels)] = raw
        predicates = example.features[0]["predicates"]
        return {
            "subjects": [heads[predicate - 1] for predicate in predicates],
            "persons": [names[labels[predicate - 1]] for predicate in predicates],
        }

    def columns(self, prediction: SubjectsFound, row: Row) -> Row:
        return prediction

    def references(self, rows: list[Row]) -> list[SubjectsFound]:
        return [{name: row[name] for name in ("subjects", "persons", "mentions")} for row in rows]

    def score(self, predictions: list[SubjectsFound], rows: list[Row]) -> dict[str, float]:
        return SubjectScores(keep_in_memory=True).compute(predictions=predictions, references=self.references(rows))


def _check_words(words: list[Any], least: int, most: int, role: str, where: str) -> None:
    for word in words:
        if not isinstance(word, int) or not least <= word <= most:
            raise UsageError(f"{where}: {role} {word!r:.60} is no word of the text; words are {least} to {most}")
