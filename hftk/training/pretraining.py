"""Pretraining's Trainer, and what it measures on held-out text: loss and bits per byte of each objective."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from hftk.data.packing import PackedRows
from hftk.data.vocabulary import Vocabulary
from hftk.training.trainer import HftkTrainer


@dataclass
class HeldOut:
    """
    Held-out rows of one objective and what is known of their labels before any model sees them.

    Args:
        rows ([`PackedRows`]): one pass over the validation documents, under fixed noise.
        weight (`float`): the objective's share of the training batches.
        label_counts (`np.ndarray` of shape `(vocab_size,)`): how often each token is to be predicted.
        label_bytes (`int`): UTF-8 bytes of these tokens; special tokens have none.
    """

    rows: PackedRows
    weight: float
    label_counts: np.ndarray
    label_bytes: int


def held_out(rows: PackedRows, weight: float, vocabulary: Vocabulary) -> HeldOut:
    """Counts the labels of `rows`."""
    token_bytes = vocabulary.token_bytes
    counts = np.zeros(len(token_bytes), dtype=np.int64)
    for index in range(len(rows)):
        labels = rows[index]["labels"]
        counts += np.bincount(labels[labels >= 0], minlength=len(counts))
    return HeldOut(rows, weight, counts, int((counts * token_bytes).sum()))


def unigram_bits_per_byte(held_out: HeldOut, token_counts: np.ndarray, vocabulary: Vocabulary) -> float:
    """
    Bits per byte of guessing each held-out token by its frequency in the training text (add-one smoothed). Special
    tokens, which the text does not hold, are given to the guess for free.

    Args:
        held_out ([`HeldOut`]): what is to be predicted.
        token_counts (`np.ndarray` of shape `(vocab_size,)`): of the training text.
        vocabulary ([`Vocabulary`]): tells which tokens are special.
    """
    ordinary = vocabulary.random_tokens
    smoothed = token_counts[ordinary] + 1
    bits = -np.log2(smoothed / smoothed.sum())
    return float((held_out.label_counts[ordinary] * bits).sum() / held_out.label_bytes)


@torch.no_grad()
def negative_log_likelihood(
    model: PreTrainedModel, rows: PackedRows, batch_size: int, accelerator: Accelerator
) -> float:
    """Sum over all labels of `rows`, in nats; each process takes every n-th batch of `batch_size` rows."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for first in range(0, len(rows), batch_size * accelerator.num_processes):
        begin = first + batch_size * accelerator.process_index
        mine = range(begin, min(begin + batch_size, len(rows)))
        # a process without rows of its own goes along with one whose labels do not count, as sharded models require
        batch = rows.collate([rows[index] for index in mine or [0]])
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        labels = batch["labels"] if mine else torch.full_like(batch["labels"], -100)
        with accelerator.autocast():
            logits = model(**batch).logits
        total += cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum").double()
    return accelerator.reduce(total, "sum").item()


class PretrainingTrainer(HftkTrainer):
    """
    The Trainer of `hftk pretrain`. Rows are read in order (each is a function of the seed and its index, see
    [`PackedRows`]), and evaluation reports, for each objective and their weighted mean, `eval_loss` (nats a label) and
    `eval_bits_per_byte` (negative log-likelihood of all labels over the UTF-8 bytes of those labels).

    Args:
        held_out (`dict[str, HeldOut]`): what to evaluate on, by objective.
        others: those of [`transformers.Trainer`].
    """

    def __init__(self, *args: Any, held_out: dict[str, HeldOut], **kwargs: Any):
        super().__init__(*args, eval_dataset={name: part.rows for name, part in held_out.items()}, **kwargs)
        self.held_out = held_out

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        metrics: dict[str, float] = {f"{metric_key_prefix}_loss": 0.0, f"{metric_key_prefix}_bits_per_byte": 0.0}
        for name, part in self.held_out.items():
            nats = negative_log_likelihood(
                self.model, part.rows, self.args.per_device_eval_batch_size, self.accelerator
            )
            loss = nats / int(part.label_counts.sum())
            bits_per_byte = nats / math.log(2) / part.label_bytes
            metrics[f"{metric_key_prefix}_{name}_loss"] = loss
            metrics[f"{metric_key_prefix}_{name}_bits_per_byte"] = bits_per_byte
            metrics[f"{metric_key_prefix}_loss"] += part.weight * loss
            metrics[f"{metric_key_prefix}_bits_per_byte"] += part.weight * bits_per_byte
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        rows: PackedRows = self.train_dataset
        # the Trainer takes all the rows of a run for one epoch
        self.state.epoch = self.state.global_step * rows.rows_per_batch / rows.rows_per_epoch
        super().log(logs, start_time)
