"""What a fine-tuning makes the model forget: its pretraining, and earlier tasks over the same backbone."""

from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hftk.errors import UsageError
from hftk.evaluate import scores
from hftk.finetune_recipe import FinetuneRecipe, load_finetune_recipe
from hftk.predict import TaskModel, load_task_model
from hftk.splits import load_rows, split_off
from hftk.tasks.rows import PlacedRow
from hftk.training.retention import Pretraining, pretraining_of, put_back


def known_pretraining(recipe: FinetuneRecipe, tokenizer: PreTrainedTokenizerBase) -> Pretraining | None:
    """What the backbone was trained on, or a sentence why nobody can tell what it forgets."""
    try:
        with PartialState().main_process_first():  # it may tokenise raw files, which the others then find
            return pretraining_of(recipe.model, tokenizer, recipe.transfer, Path(recipe.output) / "data")
    except UsageError as error:
        if recipe.transfer.raw_files or recipe.transfer.replay:
            raise
        PartialState().print(f"what is forgotten is not measured: {error}")
        return None


def earlier_task(folder: str) -> tuple[TaskModel, list[PlacedRow]]:
    """A task model and its validation rows."""
    recipe = load_finetune_recipe(Path(folder, "recipe.yaml"), [])
    rows = load_rows(recipe, "validation")
    return load_task_model(folder), rows or split_off(
        load_rows(recipe, "train"), recipe.task, recipe.data.validation_share
    )[1]


def earlier_scores(
    earlier: dict[str, tuple[TaskModel, list[PlacedRow]]], model: PreTrainedModel | PeftModel, when: str
) -> dict[str, float]:
    """What the heads of earlier tasks score over the backbone of a model: each one's loss and first metric."""
    found = {}
    for name, (task_model, rows) in earlier.items():
        put_back(task_model.model, model)
        for metric, value in islice(scores(task_model, rows).items(), 2):
            found[f"earlier_{name}_{metric}_{when}"] = value
    return found


def forgetting(metrics: dict[str, Any]) -> str:
    """What the pretraining objective and earlier tasks lost, as half a sentence."""
    said = ""
    if "retention_after" in metrics:
        before, after = metrics["retention_before"], metrics["retention_after"]
        said = f"; forgot {after - before:.3f} bits per byte of its pretraining ({before:.3f} → {after:.3f})"
    for name in (
        name.removesuffix("_before") for name in metrics if name.startswith("earlier_") and name.endswith("_before")
    ):
        said += f"; {name} {metrics[f'{name}_before']:.4g} → {metrics[f'{name}_after']:.4g}"
    return said
