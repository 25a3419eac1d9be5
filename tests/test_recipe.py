import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from transformers import TrainingArguments

from hftk.errors import UsageError
from hftk.recipe import Budget, PretrainRecipe, _default_training, load_recipe, save_recipe

MINIMAL = "output: run\nmodel:\n  preset: t5\n  d_model: 64\n"


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL)
    return path


def test_values_are_typed(recipe_file):
    recipe_file.write_text(
        MINIMAL
        + "  norm_eps: 1e-5\n  residual: off\n"
        + "data:\n  train_files: [a.txt, b.txt]\n"
        + "objective:\n  weights: {masked_lm: 2}\n"
        + "budget:\n  minutes: 3\n"
        + "training:\n  learning_rate: 1e-4\n  eval_steps: 5\n  bf16: false\n  lr_scheduler_kwargs: {num_cycles: 2}\n"
    )
    recipe = load_recipe(recipe_file, ["--training.max_steps", "30", "--seed=7", "--output", "1"], PretrainRecipe)
    assert recipe.model == {"preset": "t5", "d_model": 64, "norm_eps": 1e-5, "residual": False}
    assert recipe.data.train_files == ["a.txt", "b.txt"]
    assert recipe.objective.weights == {"masked_lm": 2.0}
    assert recipe.budget == Budget(minutes=3.0)
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.max_steps == 30
    assert recipe.training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert (recipe.seed, recipe.output) == (7, "1")


def test_output_and_seed_reach_the_training_arguments(recipe_file):
    training = load_recipe(recipe_file, ["--seed", "7"], PretrainRecipe).training
    assert (training.output_dir, training.seed) == ("run", 7)


def test_where_defaults_are_not_those_of_the_training_arguments(recipe_file):
    training = load_recipe(recipe_file, [], PretrainRecipe).training
    ours, theirs = training.to_dict(), TrainingArguments("run").to_dict()
    on_processors = set() if torch.accelerator.is_available() else {"use_cpu", "dataloader_pin_memory"}
    expected = {"logging_nan_inf_filter", "remove_unused_columns"} | on_processors
    assert {name for name in ours if ours[name] != theirs[name]} == expected
    assert not training.logging_nan_inf_filter and not training.remove_unused_columns
    asked = ["--training.remove_unused_columns", "true"]
    assert load_recipe(recipe_file, asked, PretrainRecipe).training.remove_unused_columns


@pytest.mark.parametrize(
    "overrides",
    [
        ["--data.train_files", "a", "b"],
        ["--data.train_files", "[a, b]"],
        ["--data.train_files=[a, b]"],
        ["--data.train_files+", "a", "--data.train_files+", "b"],
        ["--data.train_files+", "a", "b"],
        ["--data.train_files=a", "b"],
    ],
)
def test_a_list_is_given_in_any_of_these_forms(recipe_file, overrides):
    assert load_recipe(recipe_file, overrides, PretrainRecipe).data.train_files == ["a", "b"]


def test_a_list_of_the_file_is_replaced_or_continued(recipe_file):
    recipe_file.write_text(MINIMAL + "data:\n  train_files: [a]\n")
    assert load_recipe(recipe_file, ["--data.train_files", "b"], PretrainRecipe).data.train_files == ["b"]
    assert load_recipe(recipe_file, ["--data.train_files+", "b"], PretrainRecipe).data.train_files == ["a", "b"]


def test_the_model_is_replaced_or_changed(recipe_file):
    assert load_recipe(recipe_file, ["--model", "folder"], PretrainRecipe).model == "folder"
    changed = load_recipe(recipe_file, ["--model.norm_type", "batch_norm", "--model.d_model", "32"], PretrainRecipe)
    assert changed.model == {"preset": "t5", "d_model": 32, "norm_type": "batch_norm"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("training:\n  max_stepz: 3\n", ":6: unknown key 'training.max_stepz'; did you mean 'max_steps'?"),
        ("training:\n  seed: 3\n", ":6: unknown key 'training.seed'; did you mean 'seed'?"),
        ("training:\n  output_dir: x\n", ":6: unknown key 'training.output_dir'; did you mean 'output'?"),
        ("training:\n  max_steps: x\n", ":6: training.max_steps: expected int, not x"),
        ("training:\n  max_steps: null\n", ":6: training.max_steps: expected int, not null"),
        ("training:\n  eval_steps: x\n", ":6: training.eval_steps: expected float or null, not x"),
        ("tokenizer:\n  algorithm: word\n", ":6: tokenizer.algorithm: expected bpe or unigram, not word"),
        ("objective:\n  weights: {masked_lm:\n    x}\n", ":6: objective.weights: expected dict[str, float], not"),
        ("objective:\n  weights: {masked_lm: -1}\n", ":6: objective.weights.masked_lm: -1.0 is no weight"),
        ("data:\n  train_files: a\n", ":6: data.train_files: expected list[str], not a"),
        ("data:\n  text_column: no\n", ":6: data.text_column: expected str, not no"),
        ("seed:\n", ":5: seed: expected int, not "),
        ("budget:\n  steps: 3\n  minutes: 4\n", ":6: budget: steps and minutes are given; give one"),
        ("budget:\n  steps: 0\n", ":6: budget.steps: 0 leaves nothing to train; give a number above 0"),
        ("objective:\n  name: mixture\n  noise_density: 2\n", ":7: objective.noise_density: 2.0 is not between 0"),
        ("training:\n  bf16: false\n  lr_scheduler_type: bla\n", ": bla is not a valid SchedulerType"),
        ("training:\n  tf32: null\n  logging_steps: 0\n", ":7: logging strategy"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(recipe_file, more, message):
    recipe_file.write_text(MINIMAL + more)
    with pytest.raises(UsageError) as error:
        load_recipe(recipe_file, [], PretrainRecipe)
    assert str(error.value).startswith(f"{recipe_file}{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--training.max_stepz", "30"], "unknown key 'training.max_stepz'; did you mean 'max_steps'?"),
        (["--training.max_steps", "x"], "training.max_steps: expected int, not x"),
        (["--objective.weights.masked_lm", "x"], "objective.weights: expected dict[str, float], not x"),
        (["--budget.steps", "-1"], "budget.steps: -1 leaves nothing to train; give a number above 0"),
        (["--model.norm_type", "bla"], "norm_type='bla' does not exist"),
        (["--training", "x.yaml"], "'training' is a section"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_as_such(recipe_file, overrides, message):
    with pytest.raises(UsageError) as error:
        load_recipe(recipe_file, overrides, PretrainRecipe)
    assert str(error.value).startswith(f"command line: {message}")


def test_a_model_that_cannot_be_built_is_refused_with_its_line(recipe_file):
    recipe_file.write_text("output: run\nmodel:\n  preset: t5\n  d_model: 65\n")
    with pytest.raises(UsageError, match=":4: d_model=65 does not divide"):
        load_recipe(recipe_file, [], PretrainRecipe)
    recipe_file.write_text("output: run\nmodel:\n  d_model: 64\n  preset: t6\n")
    with pytest.raises(UsageError, match=":4: preset 't6' does not exist"):
        load_recipe(recipe_file, [], PretrainRecipe)


def test_a_missing_key_may_come_from_the_command_line(recipe_file):
    recipe_file.write_text("model: folder\n")
    with pytest.raises(UsageError, match="r.yaml: 'output' is missing; give it in the file or as --output"):
        load_recipe(recipe_file, [], PretrainRecipe)
    assert load_recipe(recipe_file, ["--output", "run"], PretrainRecipe).output == "run"


@dataclass
class OpenRecipe:
    output: str
    anything: Any
    training: TrainingArguments
    seed: int = 1


def test_a_recipe_cannot_run_code(recipe_file, tmp_path):
    touched = tmp_path / "touched"
    call = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(touched)]}}
    counter = {"class_path": "collections.Counter"}
    for value in (call, counter):
        recipe_file.write_text(yaml.safe_dump({"output": "run", "anything": value}))
        assert load_recipe(recipe_file, [], OpenRecipe).anything == value
    recipe_file.write_text(MINIMAL + "tokenizer:\n  class_path: subprocess.Popen\n")
    with pytest.raises(UsageError, match=":6: unknown key 'tokenizer.class_path'"):
        load_recipe(recipe_file, [], PretrainRecipe)
    recipe_file.write_text(f"output: !!python/object/apply:os.system ['touch {touched}']\nmodel: folder\n")
    with pytest.raises(UsageError):
        load_recipe(recipe_file, [], PretrainRecipe)
    assert not touched.exists()


ROUND_TRIPS = [
    [],
    ["--model", "folder", "--seed", "3"],
    ["--data.train_files", "a b", "한.txt", "--data.validation_share", "0.1", "--data.text_column", "null"],
    ["--budget.tokens", "1000", "--objective.weights", "{infilling: 1}", "--tokenizer.vocab_size", "500"],
    ["--training.learning_rate", "1e-4", "--training.max_steps", "30", "--training.eval_strategy", "steps"],
    ["--training.eval_strategy", "epoch", "--training.save_strategy", "epoch"]
    + ["--training.load_best_model_at_end", "true", "--training.save_total_limit", "2"],
    ["--training.report_to", "[]", "--training.debug", "underflow_overflow", "--training.use_cpu", "true"],
    ["--training.accelerator_config", "{split_batches: true}", "--training.lr_scheduler_type", "cosine"],
    ["--training.activation_checkpointing", "true", "--training.logging_nan_inf_filter", "true"],
    ["--training.optim", "adamw_torch", "--training.logging_steps", "0.1", "--training.warmup_steps", "0.2"],
]


@pytest.mark.parametrize("overrides", ROUND_TRIPS)
def test_a_saved_recipe_is_the_same_recipe(recipe_file, overrides):
    recipe = load_recipe(recipe_file, overrides, PretrainRecipe)
    saved = recipe_file.with_name("saved.yaml")
    save_recipe(recipe, saved)
    assert load_recipe(saved, [], PretrainRecipe) == recipe
    assert [path.name for path in recipe_file.parent.iterdir() if "saved" in path.name] == ["saved.yaml"]


def test_only_what_differs_is_saved(recipe_file):
    overrides = ["--training.max_steps", "30", "--data.train_files", "a", "--training.report_to", "none"]
    recipe = load_recipe(recipe_file, overrides, PretrainRecipe)
    recipe = dataclasses.replace(recipe, budget=Budget(steps=5))
    recipe.training.max_steps = 5
    saved = recipe_file.with_name("saved.yaml")
    save_recipe(recipe, saved)
    assert yaml.safe_load(saved.read_text()) == {
        "output": "run",
        "model": {"preset": "t5", "d_model": 64},
        "data": {"train_files": ["a"]},
        "budget": {"steps": 5},
        "training": {"max_steps": 5},
    }


def test_a_token_is_not_saved(recipe_file):
    recipe = load_recipe(recipe_file, ["--training.hub_token", "hf_secret"], PretrainRecipe)
    assert recipe.training.hub_token == "hf_secret"
    save_recipe(recipe, recipe_file)
    assert "token" not in recipe_file.read_text().lower()


def test_saving_leaves_a_running_accelerator_alone(recipe_file):
    recipe = load_recipe(recipe_file, [], PretrainRecipe)
    Accelerator()
    _default_training.cache_clear()
    before = dict(PartialState._shared_state), dict(AcceleratorState._shared_state)
    save_recipe(recipe, recipe_file)
    assert before == (PartialState._shared_state, AcceleratorState._shared_state)


@dataclass
class Words:
    column: str = "words"


@dataclass
class SmallRecipe:
    output: str
    model: str
    words: Words = field(default_factory=Words)
    training: TrainingArguments = field(default_factory=lambda: TrainingArguments("nowhere"))
    seed: int = 1


def test_another_recipe_is_a_dataclass_of_its_own(recipe_file):
    recipe_file.write_text("output: run\nmodel: folder\nwords:\n  column: w\n")
    recipe = load_recipe(recipe_file, ["--training.max_steps", "3"], SmallRecipe)
    assert recipe.words == Words("w")
    assert recipe.training.remove_unused_columns
    assert not recipe.training.logging_nan_inf_filter
    save_recipe(recipe, recipe_file)
    assert load_recipe(recipe_file, [], SmallRecipe) == recipe
    with pytest.raises(UsageError, match="command line: unknown key 'model.d_model'"):
        load_recipe(recipe_file, ["--model.d_model", "3"], SmallRecipe)
