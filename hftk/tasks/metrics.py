"""Scores of tasks: `evaluate.Metric` around the libraries that define them. Making one needs no network."""

import datasets
import evaluate
from sklearn.metrics import accuracy_score, f1_score


class LabelScores(evaluate.Metric):
    """
    Accuracy, and F1 averaged over the labels that occur in the references (macro), as scikit-learn computes them.

    `compute(predictions=..., references=...)` takes two equally long lists of label names and returns
    `{"accuracy": ..., "f1": ...}`, both between 0 and 1.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy and macro F1 of predicted labels.",
            citation="",
            inputs_description="predictions, references: one label name an item.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1": float(
                f1_score(references, predictions, labels=sorted(set(references)), average="macro", zero_division=0)
            ),
        }
