"""N→N: one label for each word of a text (parts of speech, named entities)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from hftk.errors import UsageError
from hftk.tasks.alignment import EncodedWords, encode_words
from hftk.tasks.metrics import LabelScores

Row = dict[str, Any]

HEAD = AutoModelForTokenClassification
IGNORED = -100  # what `cross_entropy` leaves out by default


@dataclass
class TaskArguments:
    """
    Args:
        name (`str`, defaults to `"n2n"`):
            The shape of the task: one label for each unit.
        unit (`str`, defaults to `"word"`):
            What an item of `tokens_column` is.
        tokens_column (`str`, defaults to `"tokens"`):
            Column with each row's list of words.
        labels_column (`str`, defaults to `"labels"`):
            Column with each row's list of label names, one a word.
    """

    name: Literal["n2n"] = "n2n"
    unit: Literal["word"] = "word"
    tokens_column: str = "tokens"
    labels_column: str = "labels"


def check_words(row: Row, task: TaskArguments, where: str) -> None:
    """Raises `UsageError` unless the row has a list of words; `where` names the row."""
    words = row.get(task.tokens_column)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(
            f"{where}: column {task.tokens_column!r} must hold a list of words, not {words!r:.60}; "
            f"the columns are {', '.join(row)}, and task.tokens_column names the one to read"
        )


def check_labels(row: Row, task: TaskArguments, where: str) -> None:
    """Raises `UsageError` unless the row has a label for each of its words."""
    labels = row.get(task.labels_column)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UsageError(
            f"{where}: column {task.labels_column!r} must hold a list of label names, not {labels!r:.60}; "
            f"the columns are {', '.join(row)}, and task.labels_column names the one to read"
        )
    words = row[task.tokens_column]
    if len(labels) != len(words):
        raise UsageError(f"{where}: {len(words)} words but {len(labels)} labels; give each word one label")


def label_names(train_rows: list[Row], task: TaskArguments) -> list[str]:
    """The labels of the training rows in alphabetical order; a label's place is its id."""
    return sorted({label for row in train_rows for label in row[task.labels_column]})


def encode(row: Row, task: TaskArguments, tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedWords:
    """The words of a row as the model reads them."""
    return encode_words(row[task.tokens_column], tokenizer, max_length)


def features(encoded: EncodedWords, row: Row, task: TaskArguments, names: list[str]) -> dict[str, list[int]]:
    """
    What the model learns from a row.

    Returns:
        `input_ids` and `labels`, both of length tokens. A word's label stands at its first token. The loss ignores the
        other tokens, and a label that no training row has: no model can predict it, and [`score`] counts it as wrong.
    """
    ids = {name: i for i, name in enumerate(names)}
    labels = [IGNORED] * len(encoded.input_ids)
    for token, name in zip(encoded.first_tokens, row[task.labels_column], strict=True):
        if token is not None:
            labels[token] = ids.get(name, IGNORED)
    return {"input_ids": encoded.input_ids, "labels": labels}


def loss(outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
    """
    Cross-entropy, averaged over all words of an optimizer step: the same into however many batches a step is cut. The
    losses of most models are averages over a batch, and the average of those weighs words by how few stand beside them.

    Args:
        outputs (`ModelOutput`):
            The model's, with `logits` of shape [rows, tokens, labels].
        labels (`torch.Tensor` of shape [rows, tokens]):
            -100 where there is nothing to learn.
        num_items_in_batch (`torch.Tensor`, *optional*):
            How many words the whole step learns from; by default those of `labels`.
    """
    total = cross_entropy(outputs["logits"].flatten(0, 1).float(), labels.flatten(), reduction="sum")
    # A batch to evaluate may hold nothing but labels that training never showed.
    words = (labels != IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return total / words


def readable(label_ids: np.ndarray, encoded: list[EncodedWords], names: list[str]) -> list[list[str | None]]:
    """
    Predictions for tokens → predictions for words.

    Args:
        label_ids (`np.ndarray` of shape [rows, tokens]):
            The most probable label at each token, rows padded on the right.
        encoded (`list[EncodedWords]`):
            The rows as the model read them.
        names (`list[str]`):
            The label of each id.

    Returns:
        For each row a label name for each word, `None` for a word that the model was not shown.
    """
    return [
        [None if token is None else names[ids[token]] for token in row.first_tokens]
        for ids, row in zip(label_ids, encoded, strict=True)
    ]


def score(predicted: list[list[str | None]], rows: list[Row], task: TaskArguments) -> dict[str, float]:
    """Accuracy and macro F1 over all words. One that the model was not shown counts as wrong, and in `words_unseen`."""
    predictions = [label for labels in predicted for label in labels]
    references = [label for row in rows for label in row[task.labels_column]]
    scores = LabelScores(keep_in_memory=True).compute(
        predictions=[label or "" for label in predictions], references=references
    )
    return {**scores, "words_unseen": predictions.count(None)}
