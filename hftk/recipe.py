"""
A run as one typed value: a YAML file, then dotted overrides of the command line, then dataclasses.

jsonargparse reads and types the values; `recipe_keys` says where a wrong one stands.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser, set_parsing_settings
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from hftk.data.objectives import ObjectiveArguments
from hftk.data.preparation import DataArguments
from hftk.data.tokenizer import TokenizerArguments
from hftk.errors import UsageError
from hftk.model.configuration_hftk import HftkConfig
from hftk.recipe_keys import (
    GIVEN_ELSEWHERE,
    Given,
    ModelArguments,
    accepts_null,
    known_keys,
    read_file_keys,
    read_overrides,
    type_name,
)
from hftk.report.card import CardArguments
from hftk.training.guards import PretrainingGuardArguments
from hftk.training.pretraining import MeasureArguments
from hftk.training.runtime import RuntimeArguments

# A recipe may come from anyone: its values must not name code (`class_path`), which jsonargparse would import and call.
set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=["*"])

# Where recipes' defaults are not those of `TrainingArguments`; a recipe adds its own as metadata of its `training`.
TRAINING_DEFAULTS = {
    "logging_nan_inf_filter": False,  # it would replace a NaN loss by the average of the others, and hide it
    # Without it each of several processes on a CPU would take itself for the only one, and train a model of its own.
    "use_cpu": not torch.accelerator.is_available(),
}

Recipe = TypeVar("Recipe")


@dataclass
class Budget:
    """
    How long to train. Give at most one; without any, `training.max_steps` or `training.num_train_epochs` decides.

    Args:
        steps (`int`, *optional*):
            Optimizer steps.
        tokens (`int`, *optional*):
            Tokens that the model reads.
        minutes (`float`, *optional*):
            Minutes on this machine, by a measured speed; `recipe.yaml` keeps the number of steps that they come to.

    Raises:
        UsageError: If more than one is given, or one is not above 0.
    """

    steps: int | None = None
    tokens: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        limits = {name: limit for name, limit in vars(self).items() if limit is not None}
        if len(limits) > 1:
            raise UsageError(f"budget: {' and '.join(limits)} are given; give one")
        for name, limit in limits.items():
            if not limit > 0:
                raise UsageError(f"budget.{name}: {limit} leaves nothing to train; give a number above 0")


@dataclass
class PretrainRecipe:
    """
    Raw text to a checkpoint.

    Args:
        output (`str`):
            The run's folder.
        model (`str` or `dict`):
            A folder or a Hub id to go on from; or what to build: a `preset` (`vanilla`, `bart`, `t5`, `modern`) and any
            field of `HftkConfig`.
        tokenizer (`TokenizerArguments`):
            The tokenizer to train or to take.
        data (`DataArguments`):
            The raw text.
        objective (`ObjectiveArguments`):
            The noise to undo.
        budget (`Budget`):
            How long to train.
        runtime (`RuntimeArguments`):
            How to run on this machine. What is left open is measured once, and then kept.
        measure (`MeasureArguments`):
            What to measure beside the loss.
        guard (`PretrainingGuardArguments`):
            Which steps change nothing.
        card (`CardArguments`):
            What the model's card says that the run cannot know.
        training (`TrainingArguments`):
            The keys of `transformers.TrainingArguments`, but for `output_dir` and `seed`.
        seed (`int`, *optional*, defaults to 42):
            Of the weights, the rows and their noise.
        muon (`bool`, *optional*, defaults to `False`):
            Let the matrices of the layers learn by Muon, and not by AdamW: [`hftk.training.optimizer.HftkOptimizer`].
            Not for DeepSpeed, nor with another `training.optim`.
    """

    output: str
    model: ModelArguments
    tokenizer: TokenizerArguments
    data: DataArguments
    objective: ObjectiveArguments
    budget: Budget
    runtime: RuntimeArguments
    measure: MeasureArguments
    guard: PretrainingGuardArguments
    card: CardArguments
    training: TrainingArguments = field(
        metadata={"remove_unused_columns": False}  # it would drop what a packed row tells the collator
    )
    seed: int = 42
    muon: bool = False

    def __post_init__(self) -> None:
        if self.muon and self.training.optim != OptimizerNames.ADAMW_TORCH_FUSED:
            raise UsageError(f"muon: it goes with AdamW, and training.optim is {self.training.optim.value}; give one")
        if isinstance(self.model, dict):
            HftkConfig.from_preset(
                **{"preset": "modern", **self.model}
            )  # refuses what cannot be built, before any work


def load_recipe(path: str | Path, overrides: Sequence[str], recipe_class: type[Recipe]) -> Recipe:
    """
    Reads a recipe.

    Args:
        path (`str` or `Path`):
            A YAML file.
        overrides (`Sequence[str]`):
            Arguments of the command line, as `["--training.max_steps", "30", "--data.train_files", "a.txt", "b.txt"]`.
        recipe_class (`type`):
            The dataclass to fill, [`PretrainRecipe`] for one. Its sections are dataclasses with defaults for all keys;
            it has `output`, `seed` and `training`.

    Returns:
        An object of `recipe_class`.

    Raises:
        UsageError: In one line, with file, line and key, for whatever is wrong in the file or the overrides.
    """
    path = Path(path)
    known = known_keys(recipe_class)
    arguments, given = read_overrides(overrides, known, read_file_keys(path, known))
    not_given = {key.removeprefix("training.") for key in known.keys() - given.keys() if key.startswith("training.")}
    parser = recipe_parser(recipe_class, not_given)
    parser.add_argument("--config", action="config")
    try:
        values = parser.parse_args([f"--config={path}", *arguments])
    except ArgumentError as error:
        raise UsageError(_wrong_value(str(error), path, known, given)) from error
    del values["config"]
    for key, where in given.items():  # jsonargparse takes null for anything
        if values.get(key) is None and not accepts_null(known[key]):
            raise UsageError(f"{where.place}: {key}: expected {type_name(known[key])}, not {where.text or 'null'}")
    try:
        return recipe_class(**vars(parser.instantiate(values)))
    except (ValueError, TypeError, ImportError, OSError) as error:  # a dataclass refuses the value, or needs something
        message = " ".join(str(error).split())
        raise UsageError(f"{_place(message, path, given)}: {message}") from error


def recipe_parser(recipe_class: type, not_given: Set[str] = frozenset()) -> ArgumentParser:
    """
    The parser of a recipe's keys. Its `format_help()` lists them.

    Args:
        recipe_class (`type`): as in [`load_recipe`].
        not_given (`Set[str]`, *optional*):
            Keys of `training` to leave to `TrainingArguments`, which has over a hundred: each takes time to type.
    """
    parser = ArgumentParser(
        exit_on_error=False,
        print_config=None,
        add_help=False,
        usage=SUPPRESS,
        epilog="The keys of `training` are described at https://huggingface.co/docs/transformers/main_classes/trainer.",
    )
    parser.add_class_arguments(recipe_class, skip={"training"})
    defaults = _training_defaults(recipe_class)
    parser.add_class_arguments(TrainingArguments, "training", default=defaults, skip=set(not_given - defaults.keys()))
    for target, source in GIVEN_ELSEWHERE.items():
        parser.link_arguments(source, target)
    for action in parser._actions:
        if action.metavar == "CONFIG":
            action.help = SUPPRESS  # jsonargparse would read a section from a file of its own; a recipe is one file
    return parser


def _training_defaults(recipe_class: type) -> dict[str, Any]:
    training = next(entry for entry in fields(recipe_class) if entry.name == "training")
    return TRAINING_DEFAULTS | dict(training.metadata)


def _wrong_value(message: str, path: Path, known: dict[str, Any], given: dict[str, Given]) -> str:
    """jsonargparse's message about a value, in one line with its place."""
    named = re.match(r'Parser key "([^"]+)"', message)
    if not named:
        return f"{path}: {' '.join(message.split())}"
    key = named[1]
    if key not in given:
        return f"{path}: '{key}' is missing; give it in the file or as --{key}"
    return f"{given[key].place}: {key}: expected {type_name(known[key])}, not {' '.join(given[key].text.split())}"


def _place(message: str, path: Path, given: dict[str, Given]) -> str:
    """The place of the key that a message is about: ours begin with it, those of transformers name it somewhere."""
    start = message.partition(":")[0]
    for key, where in given.items():
        if key == start or key.startswith(f"{start}.") or start.startswith(f"{key}."):
            return where.place
    for key, where in given.items():
        section, _, name = key.rpartition(".")
        if section in ("training", "model") and re.search(rf"\b{name}\b", message):
            return where.place
    return str(path)


def save_recipe(recipe: Any, path: str | Path) -> None:
    """
    Writes the recipe that launches the same run again: what differs from the defaults.

    Args:
        recipe:
            An object that [`load_recipe`] returned, with whatever was decided since.
        path (`str` or `Path`):
            The file to write.
    """
    changed = _changed(recipe)
    training = _changed_training(recipe.training, type(recipe))
    text = yaml.safe_dump(changed | ({"training": training} if training else {}), sort_keys=False, allow_unicode=True)
    unfinished = Path(f"{path}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _changed(section: Any) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for entry in fields(section):
        value = getattr(section, entry.name)
        if isinstance(value, TrainingArguments):
            continue
        if is_dataclass(value):
            below = _changed(value)
            changed |= {entry.name: below} if below else {}
        elif value != (entry.default if entry.default_factory is MISSING else entry.default_factory()):
            changed[entry.name] = value
    return changed


def _changed_training(training: TrainingArguments, recipe_class: type) -> dict[str, Any]:
    defaults = _default_training(recipe_class).to_dict()
    # `to_dict` writes the same mask for every Hub token, so that none differs
    changed = {name: value for name, value in training.to_dict().items() if value != defaults[name]}
    if "debug" in changed:
        changed["debug"] = " ".join(changed["debug"])  # the form that it is given in
    return {name: value for name, value in changed.items() if name not in ("output_dir", "seed")}


@cache
def _default_training(recipe_class: type) -> TrainingArguments:
    """What an untouched `training:` section becomes: `TrainingArguments` derives some of its values from others."""
    # Without this key TrainingArguments would open the process group anew, under a running Trainer.
    as_it_is = {"use_configured_state": True}
    return TrainingArguments(accelerator_config=as_it_is, **_training_defaults(recipe_class))
