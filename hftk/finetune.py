"""`hftk finetune RECIPE`: checkpoint + labelled text → task model, its scores and its predictions."""

import copy
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from safetensors.torch import save_file
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.dynamic_module_utils import custom_object_save

from hftk.errors import UsageError
from hftk.finetune_recipe import FinetuneRecipe, load_finetune_recipe
from hftk.forgetting import earlier_scores, earlier_task, forgetting, known_pretraining
from hftk.hub.fingerprint import save_fingerprint
from hftk.hub.push import push_run
from hftk.model import pipeline_hftk
from hftk.recipe import save_recipe
from hftk.report.card import write_card
from hftk.report.folder import write_metrics, write_run
from hftk.report.plots import plot_confusion, plot_losses
from hftk.splits import describe, load_splits
from hftk.tasks.candidates import Candidates
from hftk.tasks.n2m import N2M
from hftk.tasks.n21 import N21
from hftk.tasks.rows import Row, write_rows
from hftk.tasks.task import LAST_LAYER, Features, Task
from hftk.training.checkpoints import clear, clear_seeds, finished, last_checkpoint
from hftk.training.finetuning import TaskTrainer
from hftk.training.optimizer import let_gradients_be_sparse
from hftk.training.runtime import PROBED_BATCHES, faster_dtype, fastest_kernel, keep_pages, seconds_per_step
from hftk.training.stopping import EarlyStopping
from hftk.training.trainer import peak_memory_gb, read_log
from hftk.training.transfer import SlowStart, freeze, last_layer_names, what_trains, with_adapters


def finetune(recipe: FinetuneRecipe, resume: bool = False) -> dict[str, Any]:
    """
    Trains a task model and writes it to `recipe.output`, with `recipe.yaml`, `metrics.json` and, for validation and
    test rows, `<split>_predictions.jsonl`. With several seeds, a folder for each, `seed-42` for one.

    Args:
        recipe ([`FinetuneRecipe`]): the whole run.
        resume (`bool`, defaults to `False`):
            go on from the last whole checkpoint in `recipe.output`. What is finished stays as it is, of several seeds
            those that are.

    Returns:
        What `metrics.json` holds: the Trainer's `train_*` numbers, then `eval_*` for validation rows and `test_*` for
        test rows, with the loss and what the task's `score` returns. With several seeds, means over them, and standard
        deviations as `…_std`.

    Raises:
        UsageError: files, columns or a model that do not fit together.
    """
    if recipe.seeds == 1:
        return finetune_once(recipe, resume)
    state = PartialState()
    folders = {seed: Path(recipe.output) / f"seed-{seed}" for seed in range(recipe.seed, recipe.seed + recipe.seeds)}
    if not resume and state.is_main_process:
        clear_seeds(Path(recipe.output), list(folders.values()))
    runs = []
    for seed, folder in folders.items():
        training = copy.deepcopy(recipe.training)
        training.seed = training.data_seed = seed
        training.output_dir = str(folder)
        once = replace(recipe, output=training.output_dir, training=training, seed=seed, seeds=1)
        runs.append(finetune_once(once, resume))
    metrics: dict[str, Any] = {}
    for name, value in runs[0].items():
        values = [run[name] for run in runs]
        metrics[name] = mean(values) if isinstance(value, int | float) else value
        if isinstance(value, int | float):
            metrics[f"{name}_std"] = stdev(values)
    if state.is_main_process:
        save_recipe(recipe, Path(recipe.output) / "recipe.yaml")
        write_metrics(metrics, Path(recipe.output) / "metrics.json")
    state.print(f"{recipe.output}: {recipe.seeds} seeds: {readable_scores(metrics)}")
    return metrics


def finetune_once(recipe: FinetuneRecipe, resume: bool) -> dict[str, Any]:
    """[`finetune`] with one seed."""
    task, output, state = recipe.task, Path(recipe.output), PartialState()
    if resume and finished(output):
        state.print(f"{output}: is finished")
        return json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    checkpoint = last_checkpoint(recipe.training, resume)
    if checkpoint:  # what the interrupted run had chosen stays chosen
        recipe.runtime = load_finetune_recipe(Path(checkpoint).with_name("recipe.yaml"), []).runtime
    keep_pages()
    choose_dtype(recipe)
    set_seed(recipe.seed)
    placed = load_splits(recipe)
    rows = {split: [row for _, row in placed[split]] for split in placed}

    names = task.label_names(rows["train"])
    tokenizer, model = task.load(recipe.model, names, recipe.from_scratch, recipe.config_overrides)
    if recipe.data.word_dropout and tokenizer.mask_token_id is None:
        raise UsageError(f"data.word_dropout: the tokenizer of {recipe.model} has no mask token to hide words behind")
    max_length = min(recipe.data.max_length, tokenizer.model_max_length)
    examples = {split: [task.encode(row, tokenizer, max_length, names) for row in rows[split]] for split in rows}
    candidates = None
    if isinstance(task, N2M) and task.candidates:
        candidates = Candidates(rows["train"], task)
        for split in ("validation", "test"):
            for example, offered in zip(examples[split], candidates.of(rows[split]), strict=True):
                task.offer(example, offered, tokenizer)
    for split in rows:
        state.print(describe(split, placed[split], examples[split], task, names))

    earlier = {Path(folder).name: earlier_task(folder) for folder in recipe.transfer.earlier_tasks}
    callbacks: list[TrainerCallback] = []
    if recipe.early_stopping_patience:
        callbacks.append(EarlyStopping(recipe.early_stopping_patience))
    model = set_out(model, recipe, callbacks)
    features = [each for example in examples["train"] for each in example.features]
    choose_kernel(recipe, model, probe_batches(recipe, features, tokenizer, model, PROBED_BATCHES))
    state.print(what_trains(model, recipe.transfer))
    trainer = TaskTrainer(
        task=task,
        names=names,
        examples=examples,
        rows=rows,
        transfer=recipe.transfer,
        word_dropout=recipe.data.word_dropout,
        model=model,
        args=recipe.training,
        processing_class=tokenizer,
        callbacks=callbacks,
        guard=recipe.guard,
    )
    pretraining = None if recipe.from_scratch else known_pretraining(recipe, tokenizer)
    metrics: dict[str, Any] = {"trainable_parameters": trainer.get_num_trainable_parameters()}
    if pretraining is not None and recipe.transfer.retention_rows:
        metrics["retention_before"] = pretraining.bits_per_byte(model, trainer.accelerator)
    metrics |= earlier_scores(earlier, model, "before")
    if pretraining is not None and recipe.transfer.replay:
        trainer.replay = pretraining.replay(trainer, recipe.transfer.replay)

    if checkpoint is None and trainer.is_world_process_zero():
        clear(output)
        output.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, output / "recipe.yaml")
    metrics |= trainer.train(checkpoint).metrics
    metrics["minutes"] = trainer.minutes()
    metrics["peak_memory_gb"] = peak_memory_gb()
    trainer.average_with_pretrained()
    if pretraining is not None and recipe.transfer.retention_rows:
        metrics["retention_after"] = pretraining.bits_per_byte(model, trainer.accelerator)
    metrics |= earlier_scores(earlier, model, "after")
    model.config.custom_pipelines = task.pipelines
    save(trainer, recipe)
    if candidates and trainer.is_world_process_zero():
        candidates.save(output)
    if task.pipelines and trainer.is_world_process_zero():
        shutil.copy(pipeline_hftk.__file__, output)

    for split, prefix in (("validation", "eval"), ("test", "test")):
        if rows[split]:
            predictions, scores = trainer.score(split, prefix)
            metrics |= scores
            if trainer.is_world_process_zero():
                write_predictions(output, split, rows[split], predictions, task)
    if trainer.is_world_process_zero():
        write_metrics(metrics, output / "metrics.json")
        held: dict[str, Any] = {split: {"rows": len(rows[split])} for split in rows if rows[split]}
        held |= {"steps": trainer.state.global_step, "max_length": max_length}
        write_run(output, held, sum(parameter.numel() for parameter in trainer.model.parameters()))
        plot_losses(read_log(output), output / "plots" / "loss.png")
        save_fingerprint(output)
        write_card(output)
        if recipe.training.push_to_hub:
            push_run(trainer)
        print(f"{output}: {readable_scores(metrics)}{forgetting(metrics)}")
    return metrics


def write_predictions(output: Path, split: str, rows: list[Row], predictions: list[Any], task: Task) -> None:
    """Beside each row what is predicted; of single labels a confusion matrix too."""
    predicted = [
        {**row, "predicted": task.columns(prediction, row)} for row, prediction in zip(rows, predictions, strict=True)
    ]
    write_rows(predicted, output / f"{split}_predictions.jsonl")
    if isinstance(task, N21) and task.problem_type == "single_label_classification":
        wanted = [str(row[task.label_column]) for row in rows]
        plot_confusion(wanted, predictions, output / "plots" / f"{split}_confusion.png")


def choose_dtype(recipe: FinetuneRecipe) -> None:
    """The faster one for matrix products, measured on the main process for all, unless the recipe says which."""
    runtime, training = recipe.runtime, recipe.training
    if training.mixed_precision == "bf16":
        runtime.dtype = "bfloat16"
    elif training.mixed_precision == "no":
        [runtime.dtype] = broadcast_object_list([runtime.dtype or faster_dtype(training.device)])
        training.mixed_precision = "bf16" if runtime.dtype == "bfloat16" else "no"


def probe_batches(
    recipe: FinetuneRecipe,
    features: list[Features],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | PeftModel,
    count: int,
) -> list[dict[str, torch.Tensor]]:
    """`count` batches of the lengths that a training sees, or fewer where there are fewer rows."""
    training = recipe.training
    if training.train_sampling_strategy == "group_by_length":
        features = sorted(features, key=lambda row: len(row["input_ids"]))
    size = training.train_batch_size
    whole = [features[first : first + size] for first in range(0, len(features), size)]
    count = min(count, len(whole))
    return [recipe.task.collate(whole[len(whole) * n // count], tokenizer, model) for n in range(count)]


def choose_kernel(
    recipe: FinetuneRecipe, model: PreTrainedModel | PeftModel, batches: list[dict[str, torch.Tensor]]
) -> None:
    """
    The attention kernel: on a CPU the faster one for these batches, measured on the main process for all, unless the
    recipe says which; on a GPU the model's own.
    """
    runtime = recipe.runtime
    if runtime.attn_implementation is None and recipe.training.device.type == "cpu" and model._supports_sdpa:
        kernel = fastest_kernel(model, batches, partial(seconds_per_task_step, recipe, model))
        [runtime.attn_implementation] = broadcast_object_list([kernel])
    if runtime.attn_implementation:
        model.set_attn_implementation(runtime.attn_implementation)


def seconds_per_task_step(
    recipe: FinetuneRecipe, model: PreTrainedModel | PeftModel, batches: list[dict[str, torch.Tensor]]
) -> float:
    """[`seconds_per_step`] of a fine-tuning."""
    dtype = torch.bfloat16 if recipe.training.mixed_precision == "bf16" else torch.float32
    return seconds_per_step(
        model, batches, dtype, recipe.training.device, lambda model, batch: recipe.task.forward(model, batch)[0]
    )


def set_out(
    model: PreTrainedModel, recipe: FinetuneRecipe, callbacks: list[TrainerCallback]
) -> PreTrainedModel | PeftModel:
    """The model as `transfer.method` trains it: whole, frozen but for its last layer, to be thawed, with adapters."""
    transfer = recipe.transfer
    let_gradients_be_sparse(model, recipe.training)
    if transfer.method == "last_layer":
        freeze(model, last_layer_names(model, transfer))
    elif transfer.method == "slow_start":
        callbacks.append(SlowStart(model, transfer))
    elif transfer.method == "lora":
        return with_adapters(model, recipe.task.head, recipe.model, transfer)
    return model


def save(trainer: TaskTrainer, recipe: FinetuneRecipe) -> None:
    """The whole model; or adapters or a last layer alone, with the config of the whole."""
    transfer, output = recipe.transfer, recipe.output
    alone = transfer.save_alone or (transfer.method == "lora" and not transfer.merge)
    if transfer.merge:
        trainer.model = trainer.model.merge_and_unload()
    if not transfer.save_alone:
        trainer.save_model()
    if alone and trainer.is_world_process_zero():
        base = trainer.model.get_base_model() if transfer.method == "lora" else trainer.model
        if base.is_remote_code():  # elsewhere than here
            custom_object_save(base, output, config=base.config)
        base.config.architectures = [type(base).__name__]
        base.config.save_pretrained(output)
    if transfer.save_alone and trainer.is_world_process_zero():
        trained = {n: p.detach().cpu().contiguous() for n, p in trainer.model.named_parameters() if p.requires_grad}
        save_file(trained, Path(output, LAST_LAYER), metadata={"backbone": recipe.model})
        trainer.processing_class.save_pretrained(output)


def readable_scores(metrics: dict[str, Any]) -> str:
    """The scores of a run in one line."""
    scores = {name: value for name, value in metrics.items() if name.startswith(("eval_", "test_"))}
    return ", ".join(
        f"{name} {value:.4g}" + (f" ± {scores[f'{name}_std']:.2g}" if f"{name}_std" in scores else "")
        for name, value in scores.items()
        if isinstance(value, int | float) and not name.endswith("_std")
    )
