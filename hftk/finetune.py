"""`hftk finetune RECIPE`: checkpoint + labelled text → task model, its scores and its predictions."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import SequentialSampler
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from hftk.errors import UsageError
from hftk.recipe import save_recipe
from hftk.tasks import n2n
from hftk.tasks.jsonl import Row, read_rows, write_rows
from hftk.training.trainer import HftkTrainer


@dataclass
class TaskDataArguments:
    """
    Args:
        train_files (`list[str]`):
            Files of JSON lines to learn from; their labels are the model's labels.
        validation_files (`list[str]`, *optional*):
            Files scored as `eval_*`, during training too where `training.eval_strategy` says so.
        test_files (`list[str]`, *optional*):
            Files scored as `test_*`, once, at the end.
        max_length (`int`, defaults to 512):
            Most tokens of an input, if the tokenizer does not allow fewer; the words beyond are not seen.
    """

    train_files: list[str] = field(default_factory=list)
    validation_files: list[str] = field(default_factory=list)
    test_files: list[str] = field(default_factory=list)
    max_length: int = 512


@dataclass
class FinetuneRecipe:
    """
    Labelled text to a task model.

    Args:
        output (`str`):
            The run's folder.
        model (`str`):
            Folder or Hub id of the checkpoint to start from, of any type that transformers has the task's head for.
        task (`TaskArguments`):
            The shape of the task and its columns.
        data (`TaskDataArguments`):
            The labelled text.
        training (`TrainingArguments`):
            The keys of `transformers.TrainingArguments`, but for `output_dir` and `seed`.
        from_scratch (`bool`, *optional*, defaults to `False`):
            Take the architecture and the tokenizer of `model` but not its weights: what the same fine-tuning comes to
            without pretraining.
        seed (`int`, *optional*, defaults to 42):
            Of new weights, dropout and the order of the rows.
    """

    output: str
    model: str
    task: n2n.TaskArguments
    data: TaskDataArguments
    training: TrainingArguments
    from_scratch: bool = False
    seed: int = 42


class TaskTrainer(HftkTrainer):
    """Evaluates rows in their order: predictions must line up with them even where training groups rows by length."""

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        return SequentialSampler(eval_dataset)


def finetune(recipe: FinetuneRecipe) -> dict[str, float]:
    """
    Trains a task model and writes it to `recipe.output`, with `recipe.yaml`, `metrics.json` and, for validation and
    test files, `<split>_predictions.jsonl`.

    Returns:
        What `metrics.json` holds: the Trainer's `train_*` numbers, then `eval_*` for validation files and `test_*` for
        test files, with the loss and what the task's `score` returns.

    Raises:
        UsageError: files, columns or a model that do not fit together.
    """
    set_seed(recipe.seed)
    task = recipe.task
    rows = {
        "train": load_rows(recipe.data.train_files, task),
        "validation": load_rows(recipe.data.validation_files, task),
        "test": load_rows(recipe.data.test_files, task),
    }
    if not rows["train"]:
        raise UsageError("data.train_files: no rows to learn from; name at least one file of JSON lines")
    if not rows["validation"] and recipe.training.eval_strategy != "no":
        raise UsageError("training.eval_strategy asks for scores during training; name data.validation_files to score")

    names = n2n.label_names(rows["train"], task)
    tokenizer, model = load_model(recipe.model, task, names, recipe.from_scratch)
    max_length = min(recipe.data.max_length, tokenizer.model_max_length)
    encoded = {split: [n2n.encode(row, task, tokenizer, max_length) for row in rows[split]] for split in rows}
    features: dict[str, Any] = {  # lists, which serve a Trainer as datasets
        split: [n2n.features(words, row, task, names) for words, row in zip(encoded[split], rows[split], strict=True)]
        for split in rows
    }

    def score(prediction: EvalPrediction, split: str) -> dict[str, float]:
        predicted = n2n.readable(np.asarray(prediction.predictions), encoded[split], names)
        return n2n.score(predicted, rows[split], task)

    trainer = TaskTrainer(
        model=model,
        args=recipe.training,
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_loss_func=n2n.loss,
        compute_metrics=partial(score, split="validation"),
        preprocess_logits_for_metrics=most_probable,
    )
    metrics = trainer.train(resume_from_checkpoint=recipe.training.resume_from_checkpoint).metrics
    trainer.save_model()

    for split, prefix in (("validation", "eval"), ("test", "test")):
        if rows[split]:
            trainer.compute_metrics = partial(score, split=split)
            output = trainer.predict(features[split], metric_key_prefix=prefix)
            metrics |= output.metrics or {}
            if trainer.is_world_process_zero():
                predicted = n2n.readable(np.asarray(output.predictions), encoded[split], names)
                write_rows(
                    [{**row, "predicted": labels} for row, labels in zip(rows[split], predicted, strict=True)],
                    Path(recipe.output) / f"{split}_predictions.jsonl",
                )
    if trainer.is_world_process_zero():
        save_recipe(recipe, Path(recipe.output) / "recipe.yaml")
        write_metrics(metrics, Path(recipe.output) / "metrics.json")
    return metrics


def load_rows(files: list[str], task: n2n.TaskArguments) -> list[Row]:
    """Every row of the files, each found to have its words and their labels."""
    rows = []
    for file in files:
        for where, row in read_rows(file):
            n2n.check_words(row, task, where)
            n2n.check_labels(row, task, where)
            rows.append(row)
    return rows


def load_model(
    name: str, task: n2n.TaskArguments, labels: list[str] | None = None, from_scratch: bool = False
) -> tuple[PreTrainedTokenizerBase, Any]:
    """
    A checkpoint's tokenizer, and its model under the task's head.

    Args:
        name (`str`):
            Folder or Hub id.
        task (`TaskArguments`):
            Names the head.
        labels (`list[str]`, *optional*):
            Labels of a new head; by default the head is the checkpoint's own.
        from_scratch (`bool`, defaults to `False`):
            Random weights instead of the checkpoint's.

    Raises:
        UsageError: nothing to load there, no such head for this type of model, or a tokenizer without offsets.
    """
    names = (
        {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        if labels
        else {}
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="right")
        config = AutoConfig.from_pretrained(name, **names)
        model = n2n.HEAD.from_config(config) if from_scratch else n2n.HEAD.from_pretrained(name, config=config)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name} cannot be loaded for {task.name}: {' '.join(str(error).split())}") from error
    if not tokenizer.is_fast:
        raise UsageError(f"{name} has a slow tokenizer, which does not tell where its tokens stand in the text")
    return tokenizer, model


def most_probable(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Keeps of each token's logits [..., labels] only the best label's id [...]: all that the score needs."""
    return logits.argmax(dim=-1)


def write_metrics(metrics: dict[str, float], file: Path) -> None:
    """Writes flat numbers to a file that appears only once it is whole."""
    unfinished = Path(f"{file}.unfinished")
    unfinished.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(file)
