"""`hftk predict DIR`: rows in, the same rows with a task model's predictions out."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.finetune import load_finetune_recipe
from hftk.tasks.conllu import parse_sentences, utf8_lines
from hftk.tasks.n2path import N2Path
from hftk.tasks.rows import PlacedRow, Row, parse_rows, read_rows, write_rows
from hftk.tasks.task import Task
from hftk.training.finetuning import predict_examples

BATCH_SIZE = 32
CHUNK = 1024  # rows of a file that are sorted by length before they are cut into batches


@dataclass
class TaskModel:
    """What [`load_task_model`] found in a folder."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    names: list[str]
    max_length: int

    def predict(self, rows: list[PlacedRow], labelled: bool = False) -> tuple[list[Any], float]:
        """
        The prediction for each row, and with `labelled` the mean loss.

        Raises:
            UsageError: a row lacks what the task needs.
        """
        for where, row in rows:
            self.task.check_inputs(row, where)
            if labelled:
                self.task.check_targets(row, where)
        names = self.names if labelled else None
        examples = [self.task.encode(row, self.tokenizer, self.max_length, names) for _, row in rows]
        return predict_examples(self.task, self.model, self.tokenizer, examples, self.names, BATCH_SIZE)


def load_task_model(directory: str) -> TaskModel:
    """What `hftk finetune` wrote, on the GPU if there is one. Raises `UsageError` if there is nothing of the kind."""
    recipe_file = Path(directory) / "recipe.yaml"
    if not recipe_file.is_file():
        raise UsageError(f"{directory}: no recipe.yaml in it; name a folder that `hftk finetune` wrote")
    # how it was trained is of no matter, and may ask for what this machine does not have
    recipe = load_finetune_recipe(recipe_file, ["--training.bf16", "false", "--training.fp16", "false"])
    tokenizer, model = recipe.task.load(directory)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    return TaskModel(recipe.task, tokenizer, model, names, min(recipe.data.max_length, tokenizer.model_max_length))


def predict(directory: str, input: str = "-", output: str = "-") -> None:
    """
    Predicts for every row, in order, as they come.

    Args:
        directory (`str`):
            What `hftk finetune` wrote.
        input (`str`, defaults to `"-"`):
            File with the columns that the model was trained on but for the labels; `-` is standard input, JSON lines
            (for trees CoNLL-U).
        output (`str`, defaults to `"-"`):
            File for the rows with what was predicted, JSON lines (for trees out of CoNLL-U the same); `-` is standard
            output.

    Raises:
        UsageError: no model there, or a row that lacks what the task needs.
    """
    task_model = load_task_model(directory)
    conllu = isinstance(task_model.task, N2Path) and input.endswith(("-", ".conllu"))
    if input != "-":
        rows = read_rows(input, task_model.task.lists)
    elif conllu:
        rows = parse_sentences(utf8_lines(sys.stdin.buffer, "standard input"), "standard input")
    else:
        rows = parse_rows(sys.stdin, "standard input")
    predictions = predict_rows(rows, task_model, BATCH_SIZE if input == "-" else CHUNK)
    if conllu:
        _write_text((row["conllu"] for row in predictions), output)
    elif output == "-":
        _write_text((json.dumps(row, ensure_ascii=False) + "\n" for row in predictions), output)
    else:
        write_rows(predictions, Path(output))


def predict_rows(rows: Iterator[PlacedRow], task_model: TaskModel, chunk: int) -> Iterator[Row]:
    """Fills each row's columns with what the model predicts, `chunk` rows at a time."""
    while placed := list(islice(rows, chunk)):
        predictions, _ = task_model.predict(placed)
        for (_, row), prediction in zip(placed, predictions, strict=True):
            yield {**row, **task_model.task.columns(prediction, row)}


def _write_text(parts: Iterator[str], output: str) -> None:
    if output == "-":
        for part in parts:
            print(part, end="", flush=True)
        return
    unfinished = Path(f"{output}.unfinished")
    with open(unfinished, "w", encoding="utf-8", newline="") as file:
        file.writelines(parts)
    unfinished.replace(output)
