"""N→1: one label for a text or a pair of texts (sentiment, topic, inference), several labels, or a number."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.tasks.metrics import LabelScores, MultiLabelScores, RegressionScores
from hftk.tasks.rows import Row, column
from hftk.tasks.task import Example, Features, Task

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass
class N21(Task[Any]):
    """
    What is predicted is a label's name, a list of names, or a number.

    Args:
        name (`"n21"`):
            The shape of the task: one label for a text.
        text_column (`str`, defaults to `"text"`):
            Column of the text.
        second_text_column (`str`, *optional*):
            Column of a second text, read together with the first.
        label_column (`str`, defaults to `"label"`):
            Column of the label, of the list of labels, or of the number.
        problem_type (`str`, defaults to `"single_label_classification"`):
            Or `"multi_label_classification"`, or `"regression"`: transformers' names.
    """

    name: Literal["n21"]
    text_column: str = "text"
    second_text_column: str | None = None
    label_column: str = "label"
    problem_type: ProblemType = "single_label_classification"

    head: ClassVar[Any] = AutoModelForSequenceClassification

    def check_inputs(self, row: Row, where: str) -> None:
        for key in ("text_column", "second_text_column"):
            name = getattr(self, key)
            if name is None:
                continue
            text = column(row, name, f"task.{key}", where)
            if not isinstance(text, str):
                raise UsageError(f"{where}: column {name!r} must hold a text, not {text!r:.60}")
            if not text.strip():
                raise UsageError(f"{where}: column {name!r} is empty; remove the row, or give it a text")

    def check_targets(self, row: Row, where: str) -> None:
        label = column(row, self.label_column, "task.label_column", where)
        kinds: dict[ProblemType, tuple[type | tuple[type, ...], str]] = {
            "single_label_classification": ((str, int), "a label"),
            "multi_label_classification": (list, "a list of labels"),
            "regression": ((int, float), "a number"),
        }
        kind, described = kinds[self.problem_type]
        if self.problem_type == "regression" and isinstance(label, str):  # a table's
            try:
                row[self.label_column] = label = float(label)
            except ValueError:
                pass
        if not isinstance(label, kind) or label == "":
            raise UsageError(
                f"{where}: column {self.label_column!r} must hold {described}, not {label!r:.60}, "
                f"since task.problem_type is {self.problem_type}"
            )

    def label_names(self, rows: list[Row]) -> list[str]:
        if self.problem_type == "regression":
            return ["number"]
        names = sorted({name for row in rows for name in self.labels(row)})
        if len(names) < 2:
            raise UsageError(f"data.train_files: every row has the label {names[0]!r}; there is nothing to tell apart")
        return names

    def labels(self, row: Row) -> list[str]:
        if self.problem_type == "regression":
            return []
        label = row[self.label_column]
        return [str(name) for name in label] if isinstance(label, list) else [str(label)]

    def text(self, row: Row) -> str:
        return row[self.text_column] + "\n" + (row[self.second_text_column] if self.second_text_column else "")

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, names: list[str] | None) -> Example:
        texts = [row[self.text_column], *([row[self.second_text_column]] if self.second_text_column else [])]
        whole: Features = dict(tokenizer(*texts, verbose=False))  # whether it is too long is told by us
        cut = len(whole["input_ids"]) > max_length
        features = dict(tokenizer(*texts, truncation=True, max_length=max_length)) if cut else whole
        if names is not None:
            if self.problem_type == "regression":
                features["labels"] = row[self.label_column]
            elif self.problem_type == "multi_label_classification":
                features["labels"] = [int(name in self.labels(row)) for name in names]
            else:
                [label] = self.labels(row)
                features["labels"] = names.index(label) if label in names else -100
        return Example([features], cut=cut)

    def collate(
        self, features: list[Features], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> dict[str, torch.Tensor]:
        batch = dict(tokenizer.pad(features, return_tensors="pt"))
        if "labels" in batch and self.problem_type != "single_label_classification":
            batch["labels"] = batch["labels"].float()
        return batch

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy, binary cross-entropy over all labels, or squared error, as `problem_type` says."""
        if self.problem_type == "single_label_classification":
            return super().loss(logits, labels, num_items_in_batch)
        if self.problem_type == "multi_label_classification":
            total = binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum")
        else:
            total = mse_loss(logits.float().squeeze(-1), labels, reduction="sum")
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def predict(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], outputs: Any, tokenizer: PreTrainedTokenizerBase
    ) -> list[Any]:
        logits = outputs["logits"].float()
        if self.problem_type == "regression":
            return logits.squeeze(-1).tolist()
        if self.problem_type == "multi_label_classification":
            return (logits > 0).tolist()
        return logits.argmax(dim=-1).tolist()

    def join(self, example: Example, raw: list[Any], names: list[str]) -> Any:
        [predicted] = raw
        if self.problem_type == "regression":
            return predicted
        if self.problem_type == "multi_label_classification":
            return [name for name, chosen in zip(names, predicted, strict=True) if chosen]
        return names[predicted]

    def columns(self, prediction: Any, row: Row) -> Row:
        return {self.label_column: prediction}

    def score(self, predictions: list[Any], rows: list[Row]) -> dict[str, float]:
        if self.problem_type == "regression":
            references: Iterable[Any] = [row[self.label_column] for row in rows]
            return RegressionScores(keep_in_memory=True).compute(predictions=predictions, references=references)
        references = [self.labels(row) for row in rows]
        if self.problem_type == "multi_label_classification":
            return MultiLabelScores(keep_in_memory=True).compute(predictions=predictions, references=references)
        return LabelScores(keep_in_memory=True).compute(
            predictions=predictions, references=[label for [label] in references]
        )

    def head_config(self, names: list[str] | None) -> dict[str, Any]:
        return {**super().head_config(names), "problem_type": self.problem_type} if names else {}
