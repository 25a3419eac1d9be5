"""`hftk predict DIR`: rows in, the same rows with a task model's predictions out."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.finetune_recipe import load_finetune_recipe
from hftk.hub.repository import folder_of
from hftk.report.predictions import as_svg, as_text
from hftk.tasks.candidates import Candidates, load_candidates
from hftk.tasks.conllu import parse_sentences, utf8_lines
from hftk.tasks.n2m import N2M
from hftk.tasks.rows import PlacedRow, Row, parse_rows, read_rows, write_rows
from hftk.tasks.task import Example, Task
from hftk.training.layers import backbone_of
from hftk.training.prediction import predict_examples
from hftk.training.retention import backbone_parameters, put_back
from hftk.training.runtime import KERNELS, faster_dtype, keep_pages

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
    dtype: torch.dtype
    candidates: Candidates | None = None

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
        read = [row for _, row in rows]
        offered = self.candidates.of(read) if self.candidates else None

        def example_of(place: int) -> Example:
            example = self.task.encode(read[place], self.tokenizer, self.max_length, names)
            if self.candidates and offered:
                self.candidates.task.offer(example, offered[place], self.tokenizer)
            return example

        lengths = [len(self.task.text(row)) for row in read]
        with torch.autocast(self.model.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return predict_examples(self.task, self.model, self.tokenizer, lengths, example_of, self.names, BATCH_SIZE)


def load_task_model(directory: str) -> TaskModel:
    """
    What `hftk finetune` wrote, in a folder or a repository of the Hub, on the GPU if there is one. Matrix products are
    in bfloat16 if it was trained with them and they are faster here; on a CPU the attention kernel is that of the
    training. Raises `UsageError` if there is nothing of the kind.
    """
    folder = folder_of(directory)
    recipe_file = folder / "recipe.yaml"
    if not recipe_file.is_file():
        raise UsageError(f"{directory}: no recipe.yaml in it; name a folder that `hftk finetune` wrote")
    # how it was trained is of no matter, and may ask for what this machine does not have
    recipe = load_finetune_recipe(recipe_file, ["--training.bf16", "false", "--training.fp16", "false"])
    tokenizer, model = recipe.task.load(str(folder))
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    keep_pages()
    dtype = getattr(torch, faster_dtype(model.device)) if recipe.runtime.dtype == "bfloat16" else torch.float32
    if model.device.type == "cpu" and recipe.runtime.attn_implementation in KERNELS:
        model.set_attn_implementation(recipe.runtime.attn_implementation)
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    max_length = min(recipe.data.max_length, tokenizer.model_max_length)
    task = recipe.task
    candidates = load_candidates(folder, task) if isinstance(task, N2M) and task.candidates else None
    return TaskModel(task, tokenizer, model, names, max_length, dtype, candidates)


def predict(
    directory: str | list[str],
    input: str = "-",
    output: str = "-",
    format: Literal["rows", "text", "svg"] | None = None,
) -> None:
    """
    Predicts for every row, in order, as they come.

    Args:
        directory (`str` or `list[str]`):
            What `hftk finetune` wrote, or a repository with it; of several, over one backbone, each row gets all
            predictions, and the backbone reads it once.
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
    directories = [directory] if isinstance(directory, str) else directory
    task_models = [load_task_model(each) for each in directories]
    if len(task_models) > 1:
        share_backbone(dict(zip(directories, task_models, strict=True)))
    # rows are read, and drawn, as the shape that asks for the most
    task = max((each.task for each in task_models), key=lambda task: (task.trees, task.lists))
    conllu = task.trees and input.endswith(("-", ".conllu"))
    if input != "-":
        rows = read_rows(input, task.lists)
    elif conllu:
        rows = parse_sentences(utf8_lines(sys.stdin.buffer, "standard input"), "standard input")
    else:
        rows = parse_rows(sys.stdin, "standard input")
    predictions = predict_rows(rows, task_models, BATCH_SIZE if input == "-" else CHUNK)
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


def predict_rows(rows: Iterator[PlacedRow], task_models: list[TaskModel], chunk: int) -> Iterator[tuple[Row, Row]]:
    """Each row as it was read, and with its columns filled with what the models predict, `chunk` rows at a time."""
    while placed := list(islice(rows, chunk)):
        filled = [dict(row) for _, row in placed]
        for task_model in task_models:
            predictions, _ = task_model.predict(placed)
            for (_, row), prediction, columns in zip(placed, predictions, filled, strict=True):
                columns |= task_model.task.columns(prediction, row)
        yield from zip((row for _, row in placed), filled, strict=True)


def share_backbone(task_models: dict[str, TaskModel]) -> None:
    """
    Lets models over the same frozen backbone have it once in memory, and a batch that one of them has read is not read
    again by the others.

    Args:
        task_models (`dict[str, TaskModel]`): by folder.

    Raises:
        UsageError: a backbone that is another.
    """
    (first, owner), *others = task_models.items()
    weights = backbone_parameters(owner.model)
    for folder, other in others:
        theirs = backbone_parameters(other.model)
        if any(name in weights and not torch.equal(weights[name], theirs[name]) for name in theirs):
            raise UsageError(
                f"{folder}: its backbone is not that of {first}; name models of transfer.method last_layer"
            )
        put_back(other.model, owner.model)
    read: dict[tuple[Any, ...], Any] = {}
    for task_model in task_models.values():
        backbone = backbone_of(task_model.model)
        backbone.forward = _reading_once(backbone, read)


def _reading_once(backbone: torch.nn.Module, read: dict[tuple[Any, ...], Any]) -> Callable[..., Any]:
    forward = backbone.forward
    parts = tuple(name for name, _ in backbone.named_children())  # a pooler gives more

    def once(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        given = tuple(sorted(name for name, value in kwargs.items() if value is not None and value is not False))
        key = (parts, input_ids.shape, input_ids.cpu().numpy().tobytes(), given)
        outputs = read.get(key)
        if outputs is None:
            if len(read) >= CHUNK:
                read.clear()
            outputs = read[key] = forward(input_ids=input_ids, **kwargs)
        return outputs

    return once


def _write_text(parts: Iterator[str], output: str) -> None:
    if output == "-":
        for part in parts:
            print(part, end="", flush=True)
        return
    unfinished = Path(f"{output}.unfinished")
    with open(unfinished, "w", encoding="utf-8", newline="") as file:
        file.writelines(parts)
    unfinished.replace(output)
