"""N→N: one label for each word or each character of a text (parts of speech, named entities, morphemes)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from hftk.errors import UsageError
from hftk.tasks.alignment import encode_units, running_text, spaced_characters, spans_and_gaps
from hftk.tasks.entities import are_entities, best_entities, entity_loss
from hftk.tasks.metrics import EntityScores, LabelScores
from hftk.tasks.rows import Row, column
from hftk.tasks.task import IGNORED, Example, Features, Task, pad_labels

Labels = list[str]  # a label for each unit


@dataclass
class N2N(Task[Labels]):
    """
    Args:
        name (`"n2n"`):
            The shape of the task: one label for each unit.
        unit (`str`, defaults to `"word"`):
            What carries a label: `"word"` (words are read as running text) or `"character"` (each is a token of its
            own, for entities and morphemes that start inside a word; a space is read with the character after it:
            `I-…` if that is, else `O`), or `"span"` (given pieces of a text; what is between them is read too).
        tokens_column (`str`, defaults to `"tokens"`):
            Column with each row's list of units; for characters a text will do, for spans it must be one.
        spans_column (`str`, defaults to `"spans"`):
            For spans: column with each row's list of `[start, end]`, characters of the text, in order and apart.
        labels_column (`str`, defaults to `"labels"`):
            Column with each row's list of label names, one a unit. Where they are all `O`, `B-…` and `I-…`, they are
            entities: predictions never put an `I-` where none can stand, the loss is that of whole sequences without
            such an `I-`, and the score is that of whole entities.
        label_token (`str`, defaults to `"first"`):
            Which of the subwords of a word or span has its label: the `"first"`, where transformers' pipeline looks
            for it, or the `"last"`: in Korean a word's ending tells more of it than its start.
    """

    name: Literal["n2n"]
    unit: Literal["word", "character", "span"] = "word"
    tokens_column: str = "tokens"
    spans_column: str = "spans"
    labels_column: str = "labels"
    label_token: Literal["first", "last"] = "first"

    head: ClassVar[Any] = AutoModelForTokenClassification
    lists: ClassVar[bool] = True

    def check_inputs(self, row: Row, where: str) -> None:
        units = column(row, self.tokens_column, "task.tokens_column", where)
        if self.unit == "span":
            self._check_spans(units, column(row, self.spans_column, "task.spans_column", where), where)
            return
        if self.unit == "character" and isinstance(units, str):
            units = row[self.tokens_column] = list(units)
        if not isinstance(units, list) or not all(isinstance(unit, str) for unit in units):
            raise UsageError(
                f"{where}: column {self.tokens_column!r} must hold a list of {self.unit}s, not {units!r:.60}"
            )
        if not units or "" in units:
            raise UsageError(f"{where}: column {self.tokens_column!r} holds an empty text or an empty {self.unit}")

    def _check_spans(self, text: Any, spans: Any, where: str) -> None:
        if not isinstance(text, str):
            raise UsageError(f"{where}: column {self.tokens_column!r} must hold a text, not {text!r:.60}")
        if not isinstance(spans, list) or not spans:
            raise UsageError(f"{where}: column {self.spans_column!r} must hold a list of spans, not {spans!r:.60}")
        last = 0
        for span in spans:
            whole = isinstance(span, list) and len(span) == 2 and all(type(edge) is int for edge in span)
            if not whole or not last <= span[0] < span[1] <= len(text) or not text[span[0] : span[1]].strip():
                raise UsageError(
                    f"{where}: span {span!r:.60} is no [start, end] within the text's {len(text)} characters and "
                    f"behind the span before it, which ends at {last}"
                )
            last = span[1]

    def check_targets(self, row: Row, where: str) -> None:
        labels = column(row, self.labels_column, "task.labels_column", where)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UsageError(
                f"{where}: column {self.labels_column!r} must hold a list of label names, not {labels!r:.60}"
            )
        units = row[self.spans_column if self.unit == "span" else self.tokens_column]
        if len(labels) != len(units):
            raise UsageError(
                f"{where}: {len(units)} {self.unit}s but {len(labels)} labels; give each {self.unit} one label"
            )

    def label_names(self, rows: list[Row]) -> list[str]:
        names = sorted({label for row in rows for label in row[self.labels_column]})
        if len(names) < 2:
            raise UsageError(f"data.train_files: every {self.unit} has the label {names[0]!r}; nothing to tell apart")
        return names

    def labels(self, row: Row) -> list[str]:
        return row[self.labels_column]

    def text(self, row: Row) -> str:
        return "".join(self._units(row))

    def _units(self, row: Row) -> list[str]:
        """What stands for each unit in the text that the model reads; of spans also what is between them."""
        units = row[self.tokens_column]
        if self.unit == "span":
            *pieces, rest = spans_and_gaps(units, row[self.spans_column])
            return [*pieces, rest] if rest else pieces
        return running_text(units, row.get("misc")) if self.unit == "word" else spaced_characters(units)

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, names: list[str] | None) -> Example:
        """
        `input_ids` of each window and, with `names`, `labels` of the same length. A unit's label stands at
        its first token, or its last, in the one window that shows most around it; the loss ignores all other tokens,
        and a label that no training row has.
        """
        encoded = encode_units(self._units(row), tokenizer, max_length)
        first = self.label_token == "first"
        labelled = encoded.places[1::2] if self.unit == "span" else encoded.places
        places = [(window, begin if first else end - 1) for window, begin, end in labelled]
        features: list[Features] = [{"input_ids": ids} for ids in encoded.windows]
        if names is not None:
            ids_of = {name: i for i, name in enumerate(names)}
            for item in features:
                item["labels"] = [IGNORED] * len(item["input_ids"])
            # in order, so that a character's label replaces that of the space before it
            for (window, token), name in zip(places, row[self.labels_column], strict=True):
                features[window]["labels"][token] = ids_of.get(name, IGNORED)
        return Example(features, places)

    def collate(
        self, features: list[Features], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> dict[str, torch.Tensor]:
        inputs = [{"input_ids": window["input_ids"]} for window in features]
        batch = dict(tokenizer.pad(inputs, return_tensors="pt"))
        if "labels" in features[0]:
            batch["labels"] = pad_labels([window["labels"] for window in features], batch["input_ids"].shape[1])
        return batch

    def forward(
        self, model: Any, batch: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, ModelOutput | None]:
        names = list(extract_model_from_parallel(model).config.id2label.values())
        if "labels" not in batch or not self.entities(names):
            return super().forward(model, batch, num_items_in_batch)
        labels = batch["labels"]
        outputs = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        count = (labels != IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return entity_loss(outputs["logits"], labels, names) / count, outputs

    def predict(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], outputs: Any, tokenizer: PreTrainedTokenizerBase
    ) -> list[Any]:
        """For each window the log-probability of each label at each token, [tokens, labels]."""
        return list(outputs["logits"].float().log_softmax(dim=-1).cpu().numpy())

    def join(self, example: Example, raw: list[Any], names: list[str]) -> Labels:
        assert example.places is not None
        read = list(dict.fromkeys(example.places))  # a space and the character after it are read at one place
        scores = np.stack([raw[window][token] for window, token in read])  # [places, labels]
        ids = best_entities(scores, names) if self.entities(names) else scores.argmax(axis=-1)
        found = {place: names[i] for place, i in zip(read, ids, strict=True)}
        labels = [found[place] for place in example.places]
        for unit in range(len(labels) - 1):
            if example.places[unit] == example.places[unit + 1]:
                labels[unit] = labels[unit] if labels[unit].startswith("I-") else "O"
        return labels

    def entities(self, names: list[str]) -> bool:
        """Whether labels are those of entities."""
        return are_entities(names)

    def columns(self, prediction: Labels, row: Row) -> Row:
        return {self.labels_column: prediction}

    def score(self, predictions: list[Labels], rows: list[Row]) -> dict[str, float]:
        """Accuracy and F1: of whole entities (strict, micro), or macro over all labels."""
        references = [row[self.labels_column] for row in rows]
        if self.entities([label for labels in references for label in labels]):
            return EntityScores(keep_in_memory=True).compute(predictions=predictions, references=references)
        return LabelScores(keep_in_memory=True).compute(
            predictions=[label for labels in predictions for label in labels],
            references=[label for labels in references for label in labels],
        )
