"""`hftk predict DIR`: rows in, the same rows with a task model's predictions out."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.finetune_recipe import load_finetune_recipe
from hftk.report.predictions import as_svg, as_text
from hftk.tasks.conllu import parse_sentences, utf8_lines
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


def predict(
    directory: str, input: str = "-", output: str = "-", format: Literal["rows", "text", "svg"] | None = None
) -> None:
    """
    Predicts for every row, in order, as they come.

    Args:
        directory (`str`):
            What `hftk finetune` wrote.
        input (`str`, defaults to `"-"`):
            File with the columns that the model was trained on but for the labels; `-` is standard input, JSON lines
            (for trees CoNLL-U).
        output (`str`, defaults to `"-"`):
            File for what was predicted; `-` is standard output.
        format (`str`, *optional*):
            `"rows"`: the rows with what was predicted, JSON lines (for trees out of CoNLL-U the same). `"text"` or
            `"svg"`: for the eye, see [`as_text`] and [`as_svg`]. By default text on a terminal, otherwise rows.

    Raises:
        UsageError: no model there, a row that lacks what the task needs, or no drawing for such a task.
    """
    terminal = output == "-" and sys.stdout.isatty()
    format = format or ("text" if terminal else "rows")
    task_model = load_task_model(directory)
    task = task_model.task
    conllu = task.trees and input.endswith(("-", ".conllu"))
    if input != "-":
        rows = read_rows(input, task.lists)
    elif conllu:
        rows = parse_sentences(utf8_lines(sys.stdin.buffer, "standard input"), "standard input")
    else:
        rows = parse_rows(sys.stdin, "standard input")
    predictions = predict_rows(rows, task_model, BATCH_SIZE if input == "-" else CHUNK)
    if format == "svg":
        as_svg(task, [])  # refuses a task before it takes its time
        _write_text(iter([as_svg(task, [row for _, row in predictions])]), output)
    elif format == "text":
        colour = terminal and not os.environ.get("NO_COLOR")
        _write_text((as_text(task, row, colour, read) + "\n" for read, row in predictions), output)
    elif conllu:
        _write_text((row["conllu"] for _, row in predictions), output)
    elif output == "-":
        _write_text((json.dumps(row, ensure_ascii=False) + "\n" for _, row in predictions), output)
    else:
        write_rows((row for _, row in predictions), Path(output))


def predict_rows(rows: Iterator[PlacedRow], task_model: TaskModel, chunk: int) -> Iterator[tuple[Row, Row]]:
    """Each row as it was read, and with its columns filled with what the model predicts, `chunk` rows at a time."""
    while placed := list(islice(rows, chunk)):
        predictions, _ = task_model.predict(placed)
        for (_, row), prediction in zip(placed, predictions, strict=True):
            yield row, {**row, **task_model.task.columns(prediction, row)}


def _write_text(parts: Iterator[str], output: str) -> None:
    if output == "-":
        for part in parts:
            print(part, end="", flush=True)
        return
    unfinished = Path(f"{output}.unfinished")
    with open(unfinished, "w", encoding="utf-8", newline="") as file:
        file.writelines(parts)
    unfinished.replace(output)
