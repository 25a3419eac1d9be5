"""Scores of tasks: `evaluate.Metric` around the libraries that define them. Making one needs no network."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import accuracy_score as sequence_accuracy
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error
from sklearn.preprocessing import MultiLabelBinarizer


class LabelScores(evaluate.Metric):
    """
    Accuracy, F1 averaged over the labels that occur in the references (macro), and Matthews' correlation, as
    scikit-learn computes them.

    `compute(predictions=..., references=...)` takes two equally long lists of label names and returns
    `{"accuracy": ..., "f1": ..., "matthews": ...}`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Accuracy, F1 and correlation of predicted labels.", "a label name an item", datasets.Value("string")
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1": float(
                f1_score(references, predictions, labels=sorted(set(references)), average="macro", zero_division=0)
            ),
            "matthews": float(matthews_corrcoef(references, predictions)),
        }


class MultiLabelScores(evaluate.Metric):
    """
    For several labels an item: F1 over all decisions (`f1`, micro), F1 averaged over labels (`f1_macro`), and the share
    of items whose labels are all right and complete (`accuracy`), as scikit-learn computes them.

    `compute(predictions=..., references=...)` takes two equally long lists of lists of label names.
    """

    def _info(self) -> evaluate.MetricInfo:
        names = datasets.List(datasets.Value("string"))
        return _info("F1 of predicted sets of labels.", "a list of label names an item", names)

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        binarizer = MultiLabelBinarizer().fit([*references, *predictions])
        wanted, given = binarizer.transform(references), binarizer.transform(predictions)
        return {
            "accuracy": float(accuracy_score(wanted, given)),
            "f1": float(f1_score(wanted, given, average="micro", zero_division=0)),
            "f1_macro": float(f1_score(wanted, given, average="macro", zero_division=0)),
        }


class RegressionScores(evaluate.Metric):
    """
    Mean squared error (`mse`) and the correlations of Pearson and Spearman, as scikit-learn and scipy compute them; a
    correlation with a constant is 0.

    `compute(predictions=..., references=...)` takes two equally long lists of numbers.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Error and correlation of predicted numbers.", "a number an item", datasets.Value("float64"))

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        constant = np.ptp(predictions) == 0 or np.ptp(references) == 0
        return {
            "mse": float(mean_squared_error(references, predictions)),
            "pearson": 0.0 if constant else float(pearsonr(references, predictions).statistic),
            "spearman": 0.0 if constant else float(spearmanr(references, predictions).statistic),
        }


class EntityScores(evaluate.Metric):
    """
    Precision, recall and F1 of whole entities (micro; an entity counts if its span and its label are right: seqeval's
    strict mode for IOB2), and the accuracy of single units.

    `compute(predictions=..., references=...)` takes two equally long lists of lists of `O`, `B-…`, `I-…`.
    """

    def _info(self) -> evaluate.MetricInfo:
        labels = datasets.List(datasets.Value("string"))
        return _info("Strict precision, recall and F1 of entities.", "a list of IOB2 labels a text", labels)

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        precision, recall, f1, _ = precision_recall_fscore_support(
            references, predictions, average="micro", scheme=IOB2, zero_division=0
        )
        return {
            "accuracy": float(sequence_accuracy(references, predictions)),
            "f1": float(f1),
            "precision": float(precision),
            "recall": float(recall),
        }


class TranslationScores(evaluate.Metric):
    """
    BLEU and chrF++ between 0 and 100, with the signatures that say how they were computed, by sacreBLEU.

    `compute(predictions=..., references=...)` takes two equally long lists of texts.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("BLEU and chrF++ of written texts.", "a text an item", datasets.Value("string"))

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        for name, metric in (("bleu", BLEU()), ("chrf", CHRF(word_order=2))):
            scores[name] = metric.corpus_score(predictions, [references]).score
            scores[f"{name}_signature"] = str(metric.get_signature())
        return scores


def _info(description: str, items: str, feature: Any) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=f"predictions, references: {items}.",
        features=datasets.Features({"predictions": feature, "references": feature}),
    )
