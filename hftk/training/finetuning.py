"""Fine-tuning's Trainer: one loop predicts, for the scores of a training and for `hftk predict`."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hftk.tasks.rows import Row
from hftk.tasks.task import Example, Task
from hftk.training.trainer import HftkTrainer


class TaskTrainer(HftkTrainer):
    """
    The Trainer of `hftk finetune`. The loss is the task's, over all labels of an optimizer step; evaluation predicts,
    and reports `eval_loss` (nats a label) and what the task's `score` returns.

    Args:
        task ([`Task`]): the shape of the task.
        names (`list[str]`): its labels.
        examples (`dict[str, list[Example]]`), rows (`dict[str, list[Row]]`): by split, `train` and `validation` too.
        others: those of [`transformers.Trainer`], which must have `model` and `processing_class`.
    """

    def __init__(
        self,
        *,
        task: Task,
        names: list[str],
        examples: dict[str, list[Example]],
        rows: dict[str, list[Row]],
        model: PreTrainedModel,
        processing_class: PreTrainedTokenizerBase,
        **kwargs: Any,
    ):
        self.task, self.names, self.examples, self.rows = task, names, examples, rows
        super().__init__(
            model=model,
            processing_class=processing_class,
            train_dataset=[features for example in examples["train"] for features in example.features],
            eval_dataset=examples["validation"] or None,
            data_collator=lambda features: task.collate(features, processing_class, model),
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # so that a step's labels are counted

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss, outputs = self.task.forward(model, inputs, num_items_in_batch)
        assert loss is not None  # training rows have labels
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        _, metrics = self.score("validation", metric_key_prefix)
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, split: str, prefix: str) -> tuple[list[Any], dict[str, float]]:
        """The predictions for a split's rows, and their metrics."""
        with self.compute_loss_context_manager():
            predictions, loss = predict_examples(
                self.task,
                self.model,
                self.processing_class,
                self.examples[split],
                self.names,
                self.args.per_device_eval_batch_size,
                self.accelerator.process_index,
                self.accelerator.num_processes,
            )
        scores = {"loss": loss, **self.task.score(predictions, self.rows[split])}
        return predictions, {f"{prefix}_{name}": value for name, value in scores.items()}


@torch.no_grad()
def predict_examples(
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    names: list[str],
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> tuple[list[Any], float]:
    """
    Predicts for every row, in batches of like lengths.

    Args:
        task ([`Task`]), model ([`PreTrainedModel`]), tokenizer, names (`list[str]`): as fine-tuning left them.
        examples (`Sequence[Example]`): the rows, encoded.
        batch_size (`int`): windows a batch.
        process_index (`int`, defaults to 0), num_processes (`int`, defaults to 1):
            each process takes every n-th batch, and all get all predictions.

    Returns:
        A prediction for each row, in order, and the mean loss of all batches weighed by their rows, nan without labels.
    """
    model.eval()
    windows = [(row, place) for row, example in enumerate(examples) for place in range(len(example.features))]
    windows.sort(key=lambda window: -len(examples[window[0]].features[window[1]]["input_ids"]))
    found: list[tuple[tuple[int, int], Any]] = []
    losses: list[tuple[float, int]] = []
    for first in range(batch_size * process_index, len(windows), batch_size * num_processes):
        places = windows[first : first + batch_size]
        batch = task.collate([examples[row].features[place] for row, place in places], tokenizer, model)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        loss, outputs = task.forward(model, batch)
        found += zip(places, task.predict(model, batch, outputs, tokenizer), strict=True)
        losses.append((float("nan") if loss is None else loss.item(), len(places)))
    if num_processes > 1:
        found, losses = gather_object(found), gather_object(losses)

    raw = dict(found)
    predictions = [
        task.join(example, [raw[row, place] for place in range(len(example.features))], names)
        for row, example in enumerate(examples)
    ]
    return predictions, sum(loss * rows for loss, rows in losses) / max(1, len(windows))
