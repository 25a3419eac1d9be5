"""`hftk finetune RECIPE`: checkpoint + labelled text → task model, its scores and its predictions."""

import copy
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from hftk.errors import UsageError
from hftk.model import pipeline_hftk
from hftk.recipe import load_recipe, save_recipe
from hftk.report.plots import plot_confusion
from hftk.tasks.morphemes import Morphemes
from hftk.tasks.n2m import N2M
from hftk.tasks.n2n import N2N
from hftk.tasks.n2path import N2Path
from hftk.tasks.n21 import N21
from hftk.tasks.rows import PlacedRow, Row, read_dataset, read_rows, write_rows
from hftk.tasks.task import Example, Task
from hftk.training.finetuning import TaskTrainer


@dataclass
class TaskDataArguments:
    """
    Args:
        train_files (`list[str]`):
            Files to learn from; their labels are the model's labels. `.jsonl`, `.tsv`, `.csv`, `.parquet`, `.conllu`.
        validation_files (`list[str]`, *optional*):
            Files scored as `eval_*`, during training too where `training.eval_strategy` says so. Without them
            `validation_share` is split off the training rows.
        test_files (`list[str]`, *optional*):
            Files scored as `test_*`, once, at the end.
        dataset (`str`, *optional*):
            Hub id or folder as `datasets.load_dataset` takes it; read when there are no `train_files`.
        dataset_config (`str`, *optional*):
            Configuration of the dataset.
        train_split (`str`, defaults to `"train"`), validation_split, test_split (`str`, *optional*):
            Splits of the dataset.
        validation_share (`float`, defaults to 0.1):
            Share of the rows, drawn by a hash of what the model reads, so that no text is on both sides.
        max_train_samples (`int`, *optional*):
            Learn from the first so many rows only.
        max_length (`int`, defaults to 512):
            Most tokens of an input, if the tokenizer does not allow fewer.
    """

    train_files: list[str] = field(default_factory=list)
    validation_files: list[str] = field(default_factory=list)
    test_files: list[str] = field(default_factory=list)
    dataset: str | None = None
    dataset_config: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    validation_share: float = 0.1
    max_train_samples: int | None = None
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
        task ([`N21`], [`N2N`], [`Morphemes`], [`N2Path`] or [`N2M`]):
            The shape of the task and its columns.
        data (`TaskDataArguments`):
            The labelled text.
        training (`TrainingArguments`):
            The keys of `transformers.TrainingArguments`, but for `output_dir` and `seed`.
        from_scratch (`bool`, *optional*, defaults to `False`):
            Take the architecture and the tokenizer of `model` but not its weights: what the same fine-tuning comes to
            without pretraining.
        early_stopping_patience (`int`, *optional*):
            Stop after so many evaluations without a better one; needs `training.load_best_model_at_end`.
        seed (`int`, *optional*, defaults to 42):
            Of new weights, dropout and the order of the rows.
        seeds (`int`, *optional*, defaults to 1):
            Train so many times, with `seed` and the numbers after it, and report each score's mean and spread.
    """

    output: str
    model: str
    task: Any
    data: TaskDataArguments
    training: TrainingArguments = field(
        metadata={
            "remove_unused_columns": False,
            "train_sampling_strategy": "group_by_length",  # little padding
        }
    )
    from_scratch: bool = False
    early_stopping_patience: int | None = None
    seed: int = 42
    seeds: int = 1


@dataclass
class N21Recipe(FinetuneRecipe):
    __doc__ = FinetuneRecipe.__doc__
    task: N21


@dataclass
class N2NRecipe(FinetuneRecipe):
    __doc__ = FinetuneRecipe.__doc__
    task: N2N


@dataclass
class MorphemesRecipe(FinetuneRecipe):
    __doc__ = FinetuneRecipe.__doc__
    task: Morphemes


@dataclass
class N2PathRecipe(FinetuneRecipe):
    __doc__ = FinetuneRecipe.__doc__
    task: N2Path


@dataclass
class N2MRecipe(FinetuneRecipe):
    __doc__ = FinetuneRecipe.__doc__
    task: N2M


RECIPES: dict[str, type[FinetuneRecipe]] = {
    "n21": N21Recipe,
    "n2n": N2NRecipe,
    "morphemes": MorphemesRecipe,
    "n2path": N2PathRecipe,
    "n2m": N2MRecipe,
}


def load_finetune_recipe(path: str | Path, overrides: list[str]) -> FinetuneRecipe:
    """[`hftk.recipe.load_recipe`] for the task that the file names in `task.name`."""
    return load_recipe(path, overrides, recipe_class(path))


def recipe_class(path: str | Path) -> type[FinetuneRecipe]:
    """
    The recipe's type, by its `task.name`. What is wrong with the file is left to [`load_recipe`] to tell.

    Raises:
        UsageError: the file names no task that there is.
    """
    try:
        values = yaml.safe_load(Path(path).read_bytes())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return N21Recipe
    task = values.get("task") if isinstance(values, dict) else None
    name = task.get("name") if isinstance(task, dict) else None
    if name not in RECIPES:
        raise UsageError(f"{path}: task.name: {name} is no shape of a task; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def finetune(recipe: FinetuneRecipe) -> dict[str, Any]:
    """
    Trains a task model and writes it to `recipe.output`, with `recipe.yaml`, `metrics.json` and, for validation and
    test rows, `<split>_predictions.jsonl`. With several seeds, a folder for each, `seed-42` for one.

    Returns:
        What `metrics.json` holds: the Trainer's `train_*` numbers, then `eval_*` for validation rows and `test_*` for
        test rows, with the loss and what the task's `score` returns. With several seeds, means over them, and standard
        deviations as `…_std`.

    Raises:
        UsageError: files, columns or a model that do not fit together.
    """
    if recipe.seeds == 1:
        return finetune_once(recipe)
    runs = []
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        training = copy.deepcopy(recipe.training)
        training.seed = training.data_seed = seed
        training.output_dir = f"{recipe.output}/seed-{seed}"
        runs.append(finetune_once(replace(recipe, output=training.output_dir, training=training, seed=seed, seeds=1)))
    metrics: dict[str, Any] = {}
    for name, value in runs[0].items():
        values = [run[name] for run in runs]
        metrics[name] = mean(values) if isinstance(value, int | float) else value
        if isinstance(value, int | float):
            metrics[f"{name}_std"] = stdev(values)
    save_recipe(recipe, Path(recipe.output) / "recipe.yaml")
    write_metrics(metrics, Path(recipe.output) / "metrics.json")
    print(f"{recipe.output}: {recipe.seeds} seeds: {readable_scores(metrics)}")
    return metrics


def finetune_once(recipe: FinetuneRecipe) -> dict[str, Any]:
    """[`finetune`] with one seed."""
    set_seed(recipe.seed)
    task, output = recipe.task, Path(recipe.output)
    placed = {split: load_rows(recipe, split) for split in ("train", "validation", "test")}
    if not placed["train"]:
        raise UsageError("data.train_files: no rows to learn from; name at least one file, or data.dataset")
    if not placed["validation"]:
        placed["train"], placed["validation"] = split_off(placed["train"], task, recipe.data.validation_share)
    placed["train"] = placed["train"][: recipe.data.max_train_samples]
    if not placed["validation"] and recipe.training.eval_strategy != "no":
        raise UsageError("training.eval_strategy asks for scores during training; name data.validation_files to score")
    rows = {split: [row for _, row in placed[split]] for split in placed}

    names = task.label_names(rows["train"])
    tokenizer, model = task.load(recipe.model, names, recipe.from_scratch)
    max_length = min(recipe.data.max_length, tokenizer.model_max_length)
    examples = {split: [task.encode(row, tokenizer, max_length, names) for row in rows[split]] for split in rows}
    for split in rows:
        print(describe(split, placed[split], examples[split], task, names))

    trainer = TaskTrainer(
        task=task,
        names=names,
        examples=examples,
        rows=rows,
        model=model,
        args=recipe.training,
        processing_class=tokenizer,
        callbacks=[EarlyStoppingCallback(recipe.early_stopping_patience)] if recipe.early_stopping_patience else [],
    )
    metrics: dict[str, Any] = trainer.train(resume_from_checkpoint=recipe.training.resume_from_checkpoint).metrics
    model.config.custom_pipelines = task.pipelines
    trainer.save_model()
    if task.pipelines and trainer.is_world_process_zero():
        shutil.copy(pipeline_hftk.__file__, output)

    for split, prefix in (("validation", "eval"), ("test", "test")):
        if rows[split]:
            predictions, scores = trainer.score(split, prefix)
            metrics |= scores
            if trainer.is_world_process_zero():
                predicted = [
                    {**row, "predicted": task.columns(prediction, row)}
                    for row, prediction in zip(rows[split], predictions, strict=True)
                ]
                write_rows(predicted, output / f"{split}_predictions.jsonl")
                if isinstance(task, N21) and task.problem_type == "single_label_classification":
                    wanted = [str(row[task.label_column]) for row in rows[split]]
                    plot_confusion(wanted, predictions, output / "plots" / f"{split}_confusion.png")
    if trainer.is_world_process_zero():
        save_recipe(recipe, output / "recipe.yaml")
        write_metrics(metrics, output / "metrics.json")
        print(f"{output}: {readable_scores(metrics)}")
    return metrics


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
        rows += read_rows(file, task.lists)
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


def readable_scores(metrics: dict[str, Any]) -> str:
    """The scores of a run in one line."""
    scores = {name: value for name, value in metrics.items() if name.startswith(("eval_", "test_"))}
    return ", ".join(
        f"{name} {value:.4g}" + (f" ± {scores[f'{name}_std']:.2g}" if f"{name}_std" in scores else "")
        for name, value in scores.items()
        if isinstance(value, int | float) and not name.endswith("_std")
    )


def write_metrics(metrics: dict[str, Any], file: Path) -> None:
    """Writes flat numbers to a file that appears only once it is whole."""
    unfinished = Path(f"{file}.unfinished")
    unfinished.write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(file)
