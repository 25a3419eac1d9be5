"""The rows of a recipe's splits, each found to have what the task needs."""

from collections import Counter
from hashlib import blake2b

from hftk.errors import UsageError
from hftk.finetune_recipe import FinetuneRecipe
from hftk.tasks.rows import PlacedRow, Row, read_dataset, read_rows
from hftk.tasks.task import Example, Task


def load_splits(recipe: FinetuneRecipe) -> dict[str, list[PlacedRow]]:
    """
    The rows of `train`, `validation` and `test`, with their places. Without validation rows some of the training's
    become it.

    Raises:
        UsageError: a row lacks what the task needs, or there are none to learn from or to score while it trains.
    """
    placed = {split: load_rows(recipe, split) for split in ("train", "validation", "test")}
    if not placed["train"]:
        raise UsageError("data.train_files: no rows to learn from; name at least one file, or data.dataset")
    if not placed["validation"]:
        placed["train"], placed["validation"] = split_off(placed["train"], recipe.task, recipe.data.validation_share)
    placed["train"] = placed["train"][: recipe.data.max_train_samples]
    if not placed["validation"] and recipe.training.eval_strategy != "no":
        raise UsageError("training.eval_strategy asks for scores during training; name data.validation_files to score")
    return placed


def load_rows(recipe: FinetuneRecipe, split: str) -> list[PlacedRow]:
    """Every row of a split, each found to have what the task needs; with its place."""
    data, task = recipe.data, recipe.task
    files: list[str] = getattr(data, f"{split}_files")
    name: str | None = getattr(data, f"{split}_split")
    rows: list[PlacedRow] = []
    if data.dataset and not data.train_files:
        if name:
            rows += read_dataset(data.dataset, data.dataset_config, name)
    for file in files:
        rows += read_rows(file, task.lists, task.trees)
    for where, row in rows:
        task.check_inputs(row, where)
        task.check_targets(row, where)
    return rows


def split_off(rows: list[PlacedRow], task: Task, share: float) -> tuple[list[PlacedRow], list[PlacedRow]]:
    """Training rows and validation rows: those whose text has a hash in the lowest `share` of all hashes."""

    def is_validation(row: Row) -> bool:
        digest = blake2b(task.text(row).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < share * 2**64

    validation = [placed for placed in rows if is_validation(placed[1])]
    return [placed for placed in rows if not is_validation(placed[1])], validation


def describe(split: str, rows: list[PlacedRow], examples: list[Example], task: Task, names: list[str]) -> str:
    """One sentence about a split: its size, how its labels are spread, and what the model will not see or know."""
    said = [f"{split}: {len(rows):,} rows"]
    counts = Counter(label for _, row in rows for label in task.labels(row))
    if counts:
        shares = [f"{label} {count / counts.total():.1%}" for label, count in counts.most_common(8)]
        said.append(f"{len(counts):,} labels: {', '.join(shares)}{', …' if len(counts) > 8 else ''}")
    unknown = [(where, label) for where, row in rows for label in task.labels(row) if label not in names and names]
    if unknown:
        where, label = unknown[0]
        said.append(f"{len(unknown):,} labels that training never saw count as wrong (first {label!r} at {where})")
    if cut := [where for (where, _), example in zip(rows, examples, strict=True) if example.cut]:
        said.append(f"{len(cut):,} rows are longer than the model reads and were cut (first {cut[0]})")
    return "; ".join(said)
