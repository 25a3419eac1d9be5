"""`hftk evaluate DIR --data FILE`: what a task model scores on labelled rows."""

import json
from typing import Any

from evaluate import load

from hftk.predict import TaskModel, load_task_model
from hftk.tasks.rows import PlacedRow, read_rows


def evaluate(directory: str, files: list[str], metric: str | None = None) -> dict[str, Any]:
    """
    Predicts the rows of files, prints the scores as JSON and returns them.

    Args:
        directory (`str`):
            What `hftk finetune` wrote, or a repository of the Hub with it.
        files (`list[str]`):
            Labelled rows, in the formats and columns that the model was trained on.
        metric (`str`, *optional*):
            A metric of the Hub or a folder, as `evaluate.load` takes it, computed too. Its code is run.

    Raises:
        UsageError: no model there, or a row that lacks what the task needs.
    """
    task_model = load_task_model(directory)
    task = task_model.task
    rows = [placed for file in files for placed in read_rows(file, task.lists, task.trees)]
    metrics = scores(task_model, rows)
    if metric is not None:
        references = task.references([row for _, row in rows])
        predictions, _ = task_model.predict(rows)
        metrics |= load(metric, keep_in_memory=True).compute(predictions=predictions, references=references)
    print(json.dumps(metrics, indent=2, ensure_ascii=False))
    return metrics


def scores(task_model: TaskModel, rows: list[PlacedRow]) -> dict[str, Any]:
    """The loss, and the task's metrics."""
    predictions, loss = task_model.predict(rows, labelled=True)
    return {"loss": loss, **task_model.task.score(predictions, [row for _, row in rows])}
