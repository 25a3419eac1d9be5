"""The recipe of `hftk finetune`: one type for each shape of task, chosen by `task.name`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from hftk.errors import UsageError
from hftk.recipe import load_recipe
from hftk.report.card import CardArguments
from hftk.tasks.morphemes import Morphemes
from hftk.tasks.n2m import N2M
from hftk.tasks.n2n import N2N
from hftk.tasks.n2path import N2Path
from hftk.tasks.n21 import N21
from hftk.tasks.subjects import Subjects
from hftk.tasks.task import SHORTEST
from hftk.training.guards import GuardArguments
from hftk.training.runtime import RuntimeArguments
from hftk.training.transfer import TransferArguments


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
        word_dropout (`float`, defaults to 0.0):
            Share of the tokens that training hides behind the mask token, drawn anew each time, so that no word is
            learned by heart (word dropout; UDify, Kondratyuk & Straka 2019, hides subwords so).
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
    word_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.max_length < SHORTEST:
            raise UsageError(f"data.max_length: {self.max_length} tokens hold no text; give {SHORTEST} or more")
        if not 0 <= self.word_dropout < 1:
            raise UsageError(f"data.word_dropout: {self.word_dropout} is no share of the tokens; give one from 0 to 1")


@dataclass
class FinetuneRecipe:
    """
    Labelled text to a task model.

    Args:
        output (`str`):
            The run's folder.
        model (`str`):
            Folder or Hub id of the checkpoint to start from, of any type that transformers has the task's head for.
        task ([`N21`], [`N2N`], [`Morphemes`], [`N2Path`], [`Subjects`] or [`N2M`]):
            The shape of the task and its columns.
        data (`TaskDataArguments`):
            The labelled text.
        transfer (`TransferArguments`):
            Which weights may change, and what keeps the model from forgetting what it knew.
        card (`CardArguments`):
            What the model's card says that the run cannot know.
        training (`TrainingArguments`):
            The keys of `transformers.TrainingArguments`, but for `output_dir` and `seed`.
        guard (`GuardArguments`):
            Which steps change nothing: those whose loss or gradient is no number.
        runtime (`RuntimeArguments`):
            The dtype of matrix products and, on a CPU, the attention kernel; measured where neither it nor `training`
            says.
        from_scratch (`bool`, *optional*, defaults to `False`):
            Take the architecture and the tokenizer of `model` but not its weights: what the same fine-tuning comes to
            without pretraining.
        config_overrides (`dict`, *optional*):
            Fields of the model's config that fine-tuning changes: `{dropout: 0.1}`, if it was pretrained without.
        early_stopping_patience (`int`, *optional*):
            Stop after so many evaluations without a better one; needs `training.load_best_model_at_end`.
        seed (`int`, *optional*, defaults to 42):
            Of new weights, dropout and the order of the rows: with the same `runtime` it gives the same weights.
        seeds (`int`, *optional*, defaults to 1):
            Train so many times, with `seed` and the numbers after it, and report each score's mean and spread.
    """

    output: str
    model: str
    task: Any
    data: TaskDataArguments
    transfer: TransferArguments
    guard: GuardArguments
    runtime: RuntimeArguments
    card: CardArguments
    training: TrainingArguments = field(
        metadata={
            "remove_unused_columns": False,
            "train_sampling_strategy": "group_by_length",  # little padding
        }
    )
    from_scratch: bool = False
    config_overrides: dict[str, Any] = field(default_factory=dict)
    early_stopping_patience: int | None = None
    seed: int = 42
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError(f"seeds: {self.seeds} trains nothing; give 1 or more")
        if self.training.label_smoothing_factor:
            raise UsageError(
                "training.label_smoothing_factor: the loss is the task's, and only n2m smooths labels; leave it out, "
                "or give task.label_smoothing"
            )
        if self.data.word_dropout and self.transfer.cache_outputs:
            raise UsageError(
                "data.word_dropout: transfer.cache_outputs reads each row once, so that nothing can be hidden"
            )
        if self.transfer.method == "slow_start":
            # DistributedDataParallel wraps the model before the first layer is frozen
            self.training.ddp_find_unused_parameters = True


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
class SubjectsRecipe(FinetuneRecipe):
    __doc__ = FinetuneRecipe.__doc__
    task: Subjects


@dataclass
class N2MRecipe(FinetuneRecipe):
    __doc__ = FinetuneRecipe.__doc__
    task: N2M


RECIPES: dict[str, type[FinetuneRecipe]] = {
    "n21": N21Recipe,
    "n2n": N2NRecipe,
    "morphemes": MorphemesRecipe,
    "n2path": N2PathRecipe,
    "subjects": SubjectsRecipe,
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
    if not isinstance(name, str) or name not in RECIPES:
        raise UsageError(f"{path}: task.name: {name} is no shape of a task; there are {', '.join(RECIPES)}")
    return RECIPES[name]
