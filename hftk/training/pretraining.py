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
from hftk.data.vocabulary import SKIP_GRAM, Vocabulary
from hftk.training.trainer import HftkTrainer


@dataclass
class MeasureArguments:
    """
    What a run measures beside the loss, to see what a choice of architecture does.

    Args:
        shuffled_words (`bool`, defaults to `False`):
            Evaluate the held-out rows also with the words of each input in random order: `eval_shuffled_loss` and
            `eval_shuffled_bits_per_byte`. Without positions they equal those in order.
        layer_gradients (`bool`, defaults to `False`):
            Log the gradient norm of each layer before clipping, and draw it. Each process measures the gradients that
            it holds; under DDP these are all.
    """

    shuffled_words: bool = False
    layer_gradients: bool = False


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
    """Counts the labels of `rows`; those of skip_gram are no tokens, and there are none to count."""
    token_bytes = vocabulary.token_bytes
    counts = np.zeros(len(token_bytes), dtype=np.int64)
    for index in range(0 if rows.objective.names == [SKIP_GRAM] else len(rows)):
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


@torch.no_grad()
def mean_loss(model: PreTrainedModel, rows: PackedRows, batch_size: int, accelerator: Accelerator) -> float:
    """Over the batches of `rows`, for an objective that predicts no tokens; each process computes all of them."""
    model.eval()
    starts = range(0, len(rows), batch_size)
    total = 0.0
    for first in starts:
        batch = rows.collate([rows[index] for index in range(first, min(first + batch_size, len(rows)))])
        total += model(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()}).loss.item()
    return total / len(starts)


def layer_gradient_norms(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """
    L2 norm of the gradient of all parameters of each layer, a scalar by the layer's name (`encoder.layers.0`), from the
    input to the output.
    """
    gradients: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        stack, layers, rest = name.partition(".layers.")
        if layers and parameter.grad is not None:
            gradients.setdefault(f"{stack}{layers}{rest.split('.')[0]}", []).append(parameter.grad)
    return {layer: torch.nn.utils.get_total_norm(tensors) for layer, tensors in gradients.items()}


class PretrainingTrainer(HftkTrainer):
    """
    The Trainer of `hftk pretrain`. Rows are read in order (each is a function of the seed and its index, see
    [`PackedRows`]), and evaluation reports, for each objective and their weighted mean, `eval_loss` (nats a label) and
    `eval_bits_per_byte` (negative log-likelihood of all labels over the UTF-8 bytes of those labels). skip_gram, whose
    labels are words of the batch, has a loss of its own and no part in a mixture's means.

    Args:
        held_out (`dict[str, HeldOut]`): what to evaluate on, by objective.
        shuffled (`dict[str, HeldOut]`): the same with shuffled words, for `eval_shuffled_loss` and so on; may be empty.
        layer_gradients (`bool`): log `grad_norm_encoder.layers.0` and so on beside `grad_norm`.
        muon (`bool`): matrices learn by Muon, see [`hftk.training.optimizer.HftkOptimizer`].
        others: those of [`transformers.Trainer`].
    """

    def __init__(
        self,
        *args: Any,
        held_out: dict[str, HeldOut],
        shuffled: dict[str, HeldOut],
        layer_gradients: bool,
        muon: bool,
        **kwargs: Any,
    ):
        super().__init__(*args, eval_dataset={name: part.rows for name, part in held_out.items()}, **kwargs)
        self.held_out = held_out
        self.shuffled = shuffled
        self.layer_gradients = layer_gradients
        self.muon = muon
        self._layer_gradients: dict[str, torch.Tensor] = {}

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.layer_gradients and self.accelerator.sync_gradients:  # the last of a step's accumulated batches
            self._layer_gradients = layer_gradient_norms(self.model)
        return loss

    def rows_of_step(self, step: int) -> list[int]:
        size = self.train_dataset.rows_per_batch
        return list(range(step * size, (step + 1) * size))

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        metrics = self._scores(self.held_out, metric_key_prefix)
        if self.shuffled:
            metrics |= self._scores(self.shuffled, f"{metric_key_prefix}_shuffled")
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _scores(self, parts: dict[str, HeldOut], prefix: str) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if SKIP_GRAM in parts:
            rows = parts[SKIP_GRAM].rows
            loss = mean_loss(self.model, rows, self.args.per_device_eval_batch_size, self.accelerator)
            metrics[f"{prefix}_{SKIP_GRAM}_loss"] = loss
            if len(parts) == 1:
                return {f"{prefix}_loss": loss, **metrics}
        parts = {name: part for name, part in parts.items() if name != SKIP_GRAM}
        weights = sum(part.weight for part in parts.values())
        metrics |= {f"{prefix}_loss": 0.0, f"{prefix}_bits_per_byte": 0.0}
        for name, part in parts.items():
            nats = negative_log_likelihood(
                self.model, part.rows, self.args.per_device_eval_batch_size, self.accelerator
            )
            loss = nats / int(part.label_counts.sum())
            bits_per_byte = nats / math.log(2) / part.label_bytes
            metrics[f"{prefix}_{name}_loss"] = loss
            metrics[f"{prefix}_{name}_bits_per_byte"] = bits_per_byte
            metrics[f"{prefix}_loss"] += part.weight / weights * loss
            metrics[f"{prefix}_bits_per_byte"] += part.weight / weights * bits_per_byte
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        rows: PackedRows = self.train_dataset
        # the Trainer takes all the rows of a run for one epoch
        self.state.epoch = self.state.global_step * rows.rows_per_batch / rows.rows_per_epoch
        if "loss" in logs:
            logs |= {f"grad_norm_{layer}": norm.item() for layer, norm in self._layer_gradients.items()}
        super().log(logs, start_time)
