"""Fine-tuning's Trainer."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from hftk.data.packing import PackedRows
from hftk.tasks.rows import Row
from hftk.tasks.task import IGNORED, Example, Features, Task
from hftk.training.layers import backbone_names, backbone_of
from hftk.training.prediction import predict_examples
from hftk.training.sampling import StepsOfLikeLengths, TrainingRows
from hftk.training.trainer import HftkTrainer
from hftk.training.transfer import TransferArguments, layer_learning_rates, rest


class KeptOutputs:
    """
    The outputs of a frozen backbone for each training row, computed once.

    Args:
        model ([`PreTrainedModel`]): a task model of which the head alone learns.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.backbone = backbone_of(model)
        self.kind: type[ModelOutput] = BaseModelOutput
        self.rows: list[dict[str, torch.Tensor]] = []

    @torch.no_grad()
    def compute(self, task: Task, features: list[Features], tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        """Runs the backbone over all rows, `size` of like lengths at a time, and numbers them."""
        given: list[ModelOutput] = []
        hook = self.backbone.register_forward_hook(lambda module, inputs, outputs: given.append(outputs))
        self.model.eval()
        order = sorted(range(len(features)), key=lambda row: len(features[row]["input_ids"]))
        self.rows = [{} for _ in features]
        for first in range(0, len(order), size):
            places = order[first : first + size]
            batch = task.collate([features[place] for place in places], tokenizer, self.model)
            task.forward(self.model, {name: tensor.to(self.model.device) for name, tensor in batch.items()})
            outputs = given.pop()
            self.kind = type(outputs)
            for name, states in outputs.items():
                if isinstance(states, torch.Tensor):  # (rows, tokens, width), of a pooler (rows, width)
                    for place, row in zip(places, states.cpu(), strict=True):
                        length = len(features[place]["input_ids"]) if row.dim() == 2 else len(row)
                        self.rows[place][name] = row[:length].clone()
        hook.remove()
        for number, row in enumerate(features):
            row["kept"] = number

    def batch(self, features: list[Features]) -> dict[str, torch.Tensor]:
        """What is kept for these rows, padded with zeros on the right."""
        rows = [self.rows[row.pop("kept")] for row in features]
        return {name: pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]}

    @contextmanager
    def instead(self, kept: dict[str, torch.Tensor]) -> Iterator[None]:
        """Within, the backbone answers with what is kept for a batch."""
        forward = self.backbone.forward
        self.backbone.forward = lambda *args, **kwargs: self.kind(**kept)
        try:
            yield
        finally:
            self.backbone.forward = forward


class Replay:
    """
    Raw text that a task model goes on learning from.

    Args:
        model ([`PreTrainedModel`]): the pretraining model, whose backbone has the very parameters of the task model.
        rows ([`PackedRows`]): `rows_per_batch` of them are learned from in a step.
        size (`int`): rows beside each batch of a process.
    """

    def __init__(self, model: PreTrainedModel, rows: PackedRows, size: int):
        self.model, self.rows, self.size = model, rows, size
        self.step, self.place = -1, 0

    def loss(self, step: int, accelerator: Accelerator) -> torch.Tensor:
        """The mean loss of the next rows: which they are depends on the step alone, so that a resume reads on."""
        self.place = self.place + 1 if step == self.step else 0
        self.step = step
        rows = self.rows
        batch_of_step = self.place * accelerator.num_processes + accelerator.process_index
        first = step * rows.rows_per_batch + batch_of_step * self.size
        batch = rows.collate([rows[row % len(rows)] for row in range(first, first + self.size)])
        self.model.train()
        with accelerator.autocast():
            return self.model(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()}).loss


class TaskTrainer(HftkTrainer):
    """
    The Trainer of `hftk finetune`. The loss is the task's, over all labels of an optimizer step; evaluation predicts,
    and reports `eval_loss` (nats a label) and what the task's `score` returns.

    Args:
        task ([`Task`]): the shape of the task.
        names (`list[str]`): its labels.
        examples (`dict[str, list[Example]]`), rows (`dict[str, list[Row]]`): by split, `train` and `validation` too.
        transfer ([`TransferArguments`]): what is added to the loss, kept, or learned more slowly.
        replay ([`Replay`], *optional*): raw text that is learned from beside the task.
        word_dropout (`float`, defaults to 0.0): the share of the tokens that is hidden.
        others: those of [`transformers.Trainer`], which must have `model` and `processing_class`.
    """

    def __init__(
        self,
        *,
        task: Task,
        names: list[str],
        examples: dict[str, list[Example]],
        rows: dict[str, list[Row]],
        transfer: TransferArguments,
        replay: Replay | None = None,
        word_dropout: float = 0.0,
        model: PreTrainedModel,
        processing_class: PreTrainedTokenizerBase,
        **kwargs: Any,
    ):
        self.task, self.names, self.examples, self.rows = task, names, examples, rows
        self.transfer, self.replay, self.word_dropout = transfer, replay, word_dropout
        self.kept = KeptOutputs(model) if transfer.cache_outputs else None
        self.order: StepsOfLikeLengths | None = None  # of the training rows; None for a strategy of transformers
        super().__init__(
            model=model,
            processing_class=processing_class,
            train_dataset=TrainingRows([features for example in examples["train"] for features in example.features]),
            eval_dataset=examples["validation"] or None,
            data_collator=self.collate,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # so that a step's labels are counted
        self.pretrained = {}
        if transfer.l2 or transfer.wise < 1:
            self.pretrained = {
                name: parameter.detach().clone()
                for name, parameter in model.named_parameters()
                if name in backbone_names(model)
            }

    def before_training(self) -> None:
        if self.kept is not None:
            size = self.args.per_device_eval_batch_size
            self.kept.compute(self.task, self.train_dataset.rows, self.processing_class, size)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        args = self.args
        if args.train_sampling_strategy not in ("group_by_length", "random"):
            return super()._get_train_sampler(train_dataset)
        alike = args.train_sampling_strategy == "random"
        self.order = StepsOfLikeLengths(
            [0 if alike else len(row["input_ids"]) for row in self.train_dataset.rows],
            self.get_total_train_batch_size(args),
            args.seed if args.data_seed is None else args.data_seed,
        )
        return self.order

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        if self.order is not None:  # which accelerate no longer finds where several processes skip an epoch's beginning
            self.order.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)

    def rows_of_step(self, step: int) -> list[int]:
        if self.order is None:
            return []
        sampler = copy.copy(self.order)
        size = self.get_total_train_batch_size(self.args)
        epoch, place = divmod(step, math.ceil(len(self.train_dataset) / size))
        sampler.set_epoch(epoch)
        return [row for row in sampler if row is not None][place * size : (place + 1) * size]

    def collate(self, features: list[Features]) -> dict[str, Any]:
        real = [dict(row) for row in features if "blank" not in row]
        if not real:  # goes along with what the other processes have, and does not count
            batch = self.collate([{name: value for name, value in features[0].items() if name != "blank"}])
            return {"labels": torch.full_like(batch["labels"], IGNORED), "blank": batch}
        kept = {} if self.kept is None else {"kept": self.kept.batch(real)}
        return {**self.task.collate(real, self.processing_class, self.model), **kept}

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.transfer.layer_lr_decay < 1:
            layer_learning_rates(optimizer, self.model, self.transfer.layer_lr_decay)
        return optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        rest(model)  # the Trainer has just put all of it in training mode
        counts = "blank" not in inputs
        inputs = inputs.get("blank", inputs)
        if self.word_dropout:  # here and not where batches are made, since those may be made ahead of what a resume saw
            inputs["input_ids"] = hide_words(inputs["input_ids"], self.processing_class, self.word_dropout)
        with nullcontext() if self.kept is None else self.kept.instead(inputs.pop("kept")):
            loss, outputs = self.task.forward(model, inputs, num_items_in_batch)
        assert loss is not None  # training rows have labels
        loss = loss if counts else 0 * loss
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        parts = self.args.gradient_accumulation_steps  # over which what follows is spread
        if self.replay is not None:
            raw = self.replay.loss(self.state.global_step, self.accelerator)
            loss = (1 - self.transfer.replay) * loss + self.transfer.replay * raw / parts
        if self.transfer.l2:
            moved = [
                (parameter - self.pretrained[name]).square().sum()
                for name, parameter in self.model.named_parameters()
                if parameter.requires_grad and name in self.pretrained
            ]
            loss = loss + self.transfer.l2 / 2 * torch.stack(moved).sum() / parts
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def average_with_pretrained(self) -> None:
        """WiSE-FT: the backbone becomes `transfer.wise` of what it is and the rest of what it was."""
        for name, parameter in self.model.named_parameters():
            if name in self.pretrained:
                parameter.copy_(torch.lerp(self.pretrained[name], parameter, self.transfer.wise))

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        _, metrics = self.score("validation", metric_key_prefix)
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, split: str, prefix: str) -> tuple[list[Any], dict[str, float]]:
        """The predictions for a split's rows, and their metrics."""
        examples = self.examples[split]
        with self.compute_loss_context_manager():
            predictions, loss = predict_examples(
                self.task,
                self.model,
                self.processing_class,
                [len(example.features[0]["input_ids"]) for example in examples],
                examples.__getitem__,
                self.names,
                self.args.per_device_eval_batch_size,
                self.accelerator.process_index,
                self.accelerator.num_processes,
            )
        scores = {"loss": loss, **self.task.score(predictions, self.rows[split])}
        return predictions, {f"{prefix}_{name}": value for name, value in scores.items()}


def hide_words(input_ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase, share: float) -> torch.Tensor:
    """The ids, each with the chance `share` of being the mask token, but for special tokens."""
    special = torch.isin(input_ids, torch.tensor(tokenizer.all_special_ids, device=input_ids.device))
    hidden = torch.rand(input_ids.shape, device=input_ids.device) < share
    return input_ids.masked_fill(hidden & ~special, tokenizer.mask_token_id)
