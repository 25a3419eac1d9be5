"""`hftk plan RECIPE`: parameters, memory, speed and hours of a run, before anything is spent."""

import copy
import json
import math
import random
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from hftk.data.objectives import Objective
from hftk.data.preparation import prepare_corpus, training_documents
from hftk.data.vocabulary import Vocabulary
from hftk.errors import UsageError
from hftk.finetune import choose_dtype, choose_kernel, probe_batches, seconds_per_task_step, set_out
from hftk.finetune_recipe import FinetuneRecipe, load_finetune_recipe
from hftk.pretrain import build_model, choose_runtime_and_steps, make_tokenizer, tokens_per_row, training_rows
from hftk.recipe import PretrainRecipe, load_recipe
from hftk.splits import load_rows
from hftk.training.optimizer import ngram_tables
from hftk.training.runtime import keep_pages
from hftk.training.trainer import peak_memory_gb

SAMPLE = 5000  # documents or rows that stand for all
PROBED_BATCHES = 8
# What their makers publish: dense FLOP a second in 16 bits, bytes a second of memory, and GB of it.
GPUS = {
    "t4": (65e12, 320e9, 16),
    "l4": (121e12, 300e9, 24),
    "rtx4090": (165e12, 1.0e12, 24),
    "a100": (312e12, 2.0e12, 80),
    "h100": (989e12, 3.35e12, 80),
    "h200": (989e12, 4.8e12, 141),
}
UTILISATION = 0.35  # of that peak; well-kept trainings report 0.3 to 0.5
BYTES_A_PARAMETER = 16  # float32: the weight, its gradient and AdamW's two moments


def plan(
    path: str | Path, overrides: list[str], gpu: str | None = None, gpus: int = 1, price: float | None = None
) -> dict[str, Any]:
    """
    What a run will take: measured here in seconds, on a sample of its own rows; or, for GPUs, estimated.

    Args:
        path (`str` or `Path`): a recipe of `hftk pretrain` or `hftk finetune`.
        overrides (`list[str]`): as on the command line.
        gpu (`str`, *optional*): a name in `GPUS`; without it this machine is measured.
        gpus (`int`, defaults to 1): how many of them, each with the recipe's batch.
        price (`float`, *optional*): of an hour of one GPU, or of this machine.

    Returns:
        `dict[str, Any]`: `parameters`, `trainable_parameters`, `steps`, `tokens_per_step`, `tokens_per_second` and
        `hours` (of training alone, without evaluations), `memory_gb` (of a process), `cost`, and `source`, how all
        that is known.

    Raises:
        UsageError: the recipe cannot be run, or no such GPU is known.
    """
    if gpu is not None and gpu not in GPUS:
        raise UsageError(f"--gpu: {gpu} is not known; there are {', '.join(GPUS)}")
    if gpus < 1:
        raise UsageError(f"--gpus: {gpus} train nothing; give 1 or more")
    keep_pages()
    if re.search(rb"^task\s*:", Path(path).read_bytes(), re.MULTILINE):
        found, model, rows = plan_finetuning(load_finetune_recipe(path, overrides))
    else:
        found, model, rows = plan_pretraining(load_recipe(path, overrides, PretrainRecipe))
    seconds, found["source"] = found.pop("seconds"), "measured on a sample of the rows, on this machine"
    if gpu is not None:
        peak, bandwidth, memory = GPUS[gpu]
        found["steps"] = math.ceil(found["steps"] / gpus)
        found["memory_gb"] = estimated_memory_gb(model, found["tokens_per_step"])
        seconds = flops(model, found["tokens_per_step"]) / (peak * UTILISATION)
        seconds += 3 * found["memory_gb"] * 2**30 / bandwidth  # written, read again, and the gradients beside
        found["tokens_per_step"] *= gpus
        found["source"] = f"an estimate: {UTILISATION:.0%} of the {peak / 1e12:.0f} TFLOP/s published of {gpu}, at best"
        if found["memory_gb"] > memory:
            found["source"] += f"; {memory} GB do not hold it, lower training.per_device_train_batch_size of {rows}"
    found["tokens_per_second"] = found["tokens_per_step"] / seconds
    found["hours"] = found["steps"] * seconds / 3600
    if price is not None:
        found["cost"] = found["hours"] * gpus * price
    return found


def plan_pretraining(recipe: PretrainRecipe) -> tuple[dict[str, Any], PreTrainedModel, int]:
    """Makes what `hftk pretrain` makes before its first step, of the first documents alone."""
    recipe = copy.deepcopy(recipe)
    with TemporaryDirectory() as folder:
        documents = training_documents(recipe.data)
        sample, share = list(islice(documents, SAMPLE)), 1.0
        training = recipe.training
        if not any(vars(recipe.budget).values()) and training.max_steps <= 0:  # a number of epochs, of all the text
            length = sum(map(len, sample))
            share = length / (length + sum(map(len, documents)))
        files = {"train": sample[1:], "validation": sample[:1]}  # one document of which is not used
        for name, texts in files.items():
            Path(folder, f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        data = replace(
            recipe.data,
            train_files=[f"{folder}/train.jsonl"],
            validation_files=[f"{folder}/validation.jsonl"],
            dataset=None,
            text_column="text",
            cache_dir=None,
            near_duplicates=False,
            languages=[],
        )
        recipe = replace(recipe, output=folder, data=data)
        if isinstance(recipe.model, dict):  # the sample may not have so many tokens
            recipe.model.setdefault("vocab_size", recipe.tokenizer.vocab_size)
        tokenizer = make_tokenizer(recipe)
        corpus = prepare_corpus(data, tokenizer, Path(folder, "data"))
        objective = Objective(recipe.objective, Vocabulary.from_tokenizer(tokenizer))
        model = build_model(recipe, tokenizer, objective)
        rows = training_rows(recipe, corpus, objective)
        choose_runtime_and_steps(recipe, model, rows, [])
        assert recipe.runtime.seconds_per_step is not None
        found = {
            "parameters": model.num_parameters(),
            "trainable_parameters": model.num_parameters(only_trainable=True),
            "steps": math.ceil(training.max_steps / share),
            "tokens_per_step": tokens_per_row(rows) * rows.rows_per_batch,
            "seconds": recipe.runtime.seconds_per_step * training.gradient_accumulation_steps,
            "memory_gb": peak_memory_gb(),
        }
        return found, model, training.train_batch_size


def plan_finetuning(recipe: FinetuneRecipe) -> tuple[dict[str, Any], PreTrainedModel, int]:
    """Takes steps on batches of the lengths that a training sees."""
    task, training = recipe.task, recipe.training
    choose_dtype(recipe)
    rows = [row for _, row in load_rows(recipe, "train")][: recipe.data.max_train_samples]
    if not rows:
        raise UsageError("data.train_files: no rows to learn from; name at least one file, or data.dataset")
    names = task.label_names(rows)
    tokenizer, model = task.load(recipe.model, names, recipe.from_scratch, recipe.config_overrides)
    max_length = min(recipe.data.max_length, tokenizer.model_max_length)
    sample = random.Random(recipe.seed).sample(rows, min(SAMPLE, len(rows)))
    features = [f for row in sample for f in task.encode(row, tokenizer, max_length, names).features]
    model = set_out(model, recipe, []).to(training.device).train()
    batches = probe_batches(recipe, features, tokenizer, model, PROBED_BATCHES)
    choose_kernel(recipe, model, batches)
    size = training.train_batch_size
    longest = sorted(features, key=lambda row: len(row["input_ids"]))[-size:]
    batches.append(task.collate(longest, tokenizer, model))  # for the memory
    seconds = seconds_per_task_step(recipe, model, batches)
    of_step = training.world_size * training.gradient_accumulation_steps
    steps_of_epoch = math.ceil(len(rows) * len(features) / len(sample) / (size * of_step))
    found = {
        "parameters": model.num_parameters(),
        "trainable_parameters": model.num_parameters(only_trainable=True),
        "steps": training.max_steps
        if training.max_steps > 0
        else math.ceil(training.num_train_epochs * steps_of_epoch),
        "tokens_per_step": sum(len(row["input_ids"]) for row in features) / len(features) * size * of_step,
        "seconds": seconds * training.gradient_accumulation_steps,
        "memory_gb": peak_memory_gb(),
    }
    return found, model, size


def flops(model: PreTrainedModel, tokens: float) -> float:
    """Of forward and backward: 6 for each weight that is multiplied and each token (Kaplan et al. 2020, §2.1)."""
    return 6 * model.num_parameters(exclude_embeddings=True) * tokens


def estimated_memory_gb(model: PreTrainedModel, tokens: float) -> float:
    """Weights, gradients, moments and what the layers keep: 34 bytes a token and feature (Korthikanti et al. 2022)."""
    config = model.config
    layers = config.encoder_layers + config.decoder_layers
    moments = 8 * sum(table.weight.numel() for table in ngram_tables(model))  # a table has next to none of them
    kept = 34 * tokens * config.d_model * layers
    return (BYTES_A_PARAMETER * model.num_parameters() - moments + kept) / 2**30
