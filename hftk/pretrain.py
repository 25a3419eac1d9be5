"""`hftk pretrain`: raw text becomes a checkpoint that AutoModel loads."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hftk.data.corpus import Corpus, token_counts
from hftk.data.objectives import Objective
from hftk.data.packing import PackedRows, evaluation_rows
from hftk.data.preparation import needs_prepare, prepare_corpus, training_documents
from hftk.data.tokenizer import load_tokenizer, train_tokenizer
from hftk.data.vocabulary import SKIP_GRAM, Vocabulary
from hftk.errors import UsageError
from hftk.hub.fingerprint import save_fingerprint
from hftk.hub.push import push_run
from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForConditionalGeneration, HftkForMaskedLM, HftkForPreTraining
from hftk.recipe import PretrainRecipe, load_recipe, save_recipe
from hftk.report.card import write_card
from hftk.report.folder import write_metrics, write_run
from hftk.report.plots import plot_layer_gradients, plot_losses
from hftk.training.checkpoints import clear, finished, last_checkpoint
from hftk.training.guards import in_one_line
from hftk.training.optimizer import let_gradients_be_sparse
from hftk.training.pretraining import HeldOut, PretrainingTrainer, held_out, unigram_bits_per_byte
from hftk.training.runtime import PROBED_BATCHES, choose_runtime, keep_pages
from hftk.training.trainer import peak_memory_gb, read_log


def pretrain(recipe: PretrainRecipe, resume: bool = False) -> dict[str, float]:
    """
    Train a tokenizer and a model on raw text, as the recipe says, and leave a run's folder.

    Args:
        recipe ([`PretrainRecipe`]):
            the whole run; what is chosen on the way (dtype, attention kernel, number of steps) is written
            into it and to `recipe.yaml`.
        resume (`bool`, defaults to `False`):
            go on from the last whole checkpoint in `recipe.output`; a finished run stays as it is.

    Returns:
        `dict[str, float]`: what `metrics.json` holds.

    Raises:
        UsageError: what the user can mend, in one line.
    """
    output, state = Path(recipe.output), PartialState()
    if resume and finished(output):
        state.print(f"{output}: is finished")
        return json.loads((output / "metrics.json").read_text())
    checkpoint = last_checkpoint(recipe.training, resume)
    if checkpoint:
        take_choices(recipe, checkpoint)

    keep_pages()
    set_seed(recipe.seed)
    with state.main_process_first():
        if state.is_main_process and checkpoint is None:
            clear(output)
        made = checkpoint is not None or not state.is_main_process or needs_prepare(recipe.data)
        tokenizer = make_tokenizer(recipe, reuse=made)
        corpus = prepare_corpus(recipe.data, tokenizer, Path(recipe.data.cache_dir or output / "data"))
    state.print(corpus.summary())

    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    objective = Objective(recipe.objective, vocabulary)
    set_seed(recipe.seed)  # the weights do not depend on whether the corpus was there already
    model = build_model(recipe, tokenizer, objective)
    rows = training_rows(recipe, corpus, objective)
    held_out_rows = held_out_text(recipe, corpus, objective, vocabulary)
    shuffled_rows = {}
    if recipe.measure.shuffled_words:
        shuffled_rows = held_out_text(recipe, corpus, objective.with_shuffled_words(), vocabulary)
    evaluated = [part.rows for part in (*held_out_rows.values(), *shuffled_rows.values())]
    with in_one_line(recipe.training):
        choose_runtime_and_steps(recipe, model, rows, evaluated)
    rows.rows = recipe.training.max_steps * rows.rows_per_batch

    if state.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, output / "recipe.yaml")

    trainer = PretrainingTrainer(
        model=model,
        args=recipe.training,
        train_dataset=rows,
        data_collator=rows.collate,
        processing_class=tokenizer,
        held_out=held_out_rows,
        shuffled=shuffled_rows,
        layer_gradients=recipe.measure.layer_gradients,
        muon=recipe.muon,
        guard=recipe.guard,
    )
    state.print(announcement(recipe, model, rows))
    trainer.train(checkpoint)
    metrics = last_evaluation(trainer)
    metrics["steps"] = trainer.state.global_step
    metrics["tokens_seen"] = round(trainer.state.global_step * rows.rows_per_batch * tokens_per_row(rows))
    metrics["minutes"] = trainer.minutes()
    metrics["trainable_parameters"] = trainer.get_num_trainable_parameters()
    metrics["peak_memory_gb"] = peak_memory_gb()
    metrics["tokens_per_second"] = metrics["tokens_seen"] / (60 * metrics["minutes"])
    counts = token_counts(corpus, len(vocabulary.token_bytes))
    for name, part in held_out_rows.items():
        if name == SKIP_GRAM:
            continue  # it predicts no tokens
        metrics[f"eval_{name}_unigram_bits_per_byte"] = unigram_bits_per_byte(part, counts, vocabulary)
    trainer.save_model()
    if state.is_main_process:
        write_metrics(metrics, output / "metrics.json")
        held = {split: corpus.manifest[split] for split in ("train", "validation", "dropped")}
        write_run(output, held, model.num_parameters())
        log = read_log(output)
        plot_losses(log, output / "plots" / "loss.png")
        if recipe.measure.layer_gradients:
            plot_layer_gradients({output.name: log}, output / "plots" / "gradients.png")
        save_fingerprint(output)
        write_card(output)
        if recipe.training.push_to_hub:
            push_run(trainer)
    state.print(summary(output, metrics))
    return metrics


def make_tokenizer(recipe: PretrainRecipe, reuse: bool = False) -> PreTrainedTokenizerBase:
    """
    The recipe's tokenizer: the one that it names, that of the checkpoint that it starts from, or one trained on its
    text and kept in `output`/tokenizer.

    Args:
        recipe ([`PretrainRecipe`]):
            The run.
        reuse (`bool`, defaults to `False`):
            Take the one in `output`/tokenizer, if there is one.
    """
    path = recipe.tokenizer.path or (recipe.model if isinstance(recipe.model, str) else None)
    folder = Path(recipe.output) / "tokenizer"
    if path is not None or (reuse and folder.exists()):
        return load_tokenizer(path or str(folder))
    tokenizer = train_tokenizer(training_documents(recipe.data), recipe.tokenizer, recipe.data.max_source_length)
    unfinished = Path(f"{folder}.unfinished")
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)  # an earlier run's
    unfinished.rename(folder)
    return tokenizer


def build_model(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase, objective: Objective) -> PreTrainedModel:
    """
    The model that the objectives train: the encoder alone for `masked_lm`, both stacks for denoising, with random
    weights or those of the checkpoint that the recipe names.
    """
    objectives = set(objective.names)
    if isinstance(recipe.model, str):
        try:
            config = AutoConfig.from_pretrained(recipe.model)
        except OSError as error:
            raise UsageError(f"model: {recipe.model} is no checkpoint's folder and no Hub id to be had") from error
        if not isinstance(config, HftkConfig):
            raise UsageError(
                f"model: {recipe.model} is of type {config.model_type}; hftk pretrain goes on with models of type hftk"
            )
        objectives |= set(config.trained_objectives or [])
    else:
        fields = {"preset": "modern", "vocab_size": len(tokenizer), **recipe.model}
        longest = max(recipe.data.max_source_length, recipe.data.max_target_length)
        fields.setdefault("max_position_embeddings", max(longest, HftkConfig.max_position_embeddings))
        config = HftkConfig.from_preset(
            **fields,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.bos_token_id,
        )
    if len(tokenizer) > config.vocab_size:
        raise UsageError(
            f"model.vocab_size: the tokenizer has {len(tokenizer)} tokens, the model room for {config.vocab_size}; "
            f"set model.vocab_size to {len(tokenizer)} or more, or leave it out"
        )
    if config.norm_type == "batch_norm" and recipe.data.packing:
        raise UsageError(
            "model.norm_type: batch_norm would mix the statistics of the documents of a packed row; "
            "set data.packing to false"
        )
    for key in ("max_source_length", "max_target_length"):
        if config.position_embedding_type == "learned" and getattr(recipe.data, key) > config.max_position_embeddings:
            raise UsageError(
                f"data.{key}: {getattr(recipe.data, key)} is longer than the model's table of "
                f"{config.max_position_embeddings} positions; lower it or raise model.max_position_embeddings"
            )
    if objectives == {"masked_lm"}:
        model_class: type[PreTrainedModel] = HftkForMaskedLM
    elif objectives & {"masked_lm", SKIP_GRAM}:
        model_class = HftkForPreTraining
    else:
        model_class = HftkForConditionalGeneration
    model = model_class.from_pretrained(recipe.model) if isinstance(recipe.model, str) else model_class(config)
    model.config.trained_objectives = sorted(objectives)
    let_gradients_be_sparse(model, recipe.training)
    return model


def training_rows(recipe: PretrainRecipe, corpus: Corpus, objective: Objective) -> PackedRows:
    """The rows that are probed for speed; the caller sets how many the run takes."""
    training = recipe.training
    rows_per_batch = training.train_batch_size * training.world_size * training.gradient_accumulation_steps
    return PackedRows(
        corpus.train,
        objective,
        rows=PROBED_BATCHES * rows_per_batch,
        rows_per_batch=rows_per_batch,
        seed=recipe.seed,
        max_source_length=recipe.data.max_source_length,
        max_target_length=recipe.data.max_target_length,
        packing=recipe.data.packing,
    )


def held_out_text(
    recipe: PretrainRecipe, corpus: Corpus, objective: Objective, vocabulary: Vocabulary
) -> dict[str, HeldOut]:
    """The validation text as each objective sees it."""
    data = recipe.data
    form = data.max_source_length, data.max_target_length, data.packing
    return {
        name: held_out(evaluation_rows(corpus.validation, objective, name, *form), float(share), vocabulary)
        for name, share in zip(objective.names, objective.shares, strict=True)
    }


def tokens_per_row(rows: PackedRows) -> float:
    """Tokens of text in an average row."""
    return float(np.asarray(rows.documents.lengths).sum(dtype=np.int64)) / rows.rows_per_epoch


def choose_runtime_and_steps(
    recipe: PretrainRecipe, model: PreTrainedModel, rows: PackedRows, evaluated: list[PackedRows]
) -> None:
    """Settle what the recipe leaves open, on the main process, for all of them."""
    training = recipe.training
    if training.mixed_precision == "bf16":
        recipe.runtime.dtype = "bfloat16"
    runtime = recipe.runtime
    if None in (runtime.dtype, runtime.attn_implementation, runtime.seconds_per_step):
        batches, shares = batches_of_each_objective(rows, training.train_batch_size)
        runtime = choose_runtime(model, batches, runtime, training.device, recipe.muon, shares)
    [runtime] = broadcast_object_list([runtime])
    recipe.runtime = runtime
    model.set_attn_implementation(runtime.attn_implementation)
    training.mixed_precision = "bf16" if runtime.dtype == "bfloat16" else "no"
    training.train_sampling_strategy = "sequential"

    if training.max_steps <= 0:  # once chosen, it stays
        evaluation_batches = sum(map(len, evaluated)) / training.per_device_eval_batch_size
        training.max_steps = steps_within(recipe, rows, evaluation_batches / training.world_size)


def batches_of_each_objective(rows: PackedRows, size: int) -> tuple[list[dict[str, torch.Tensor]], list[float]]:
    """What a mixture draws first is chance: so a few batches of each objective, and its share for each of them."""
    batches, shares = [], []
    for name, share in zip(rows.objective.names, rows.objective.shares, strict=True):
        narrowed = rows.only(name)
        for first in range(0, PROBED_BATCHES * rows.rows_per_batch, rows.rows_per_batch):
            batches.append(rows.collate([narrowed[first + place] for place in range(size)]))
            shares.append(float(share))
    return batches, shares


def steps_within(recipe: PretrainRecipe, rows: PackedRows, evaluation_batches: float) -> int:
    """The number of steps that the recipe's budget comes to; without a budget, that of `training.num_train_epochs`."""
    budget, training = recipe.budget, recipe.training
    if budget.steps:
        return budget.steps
    if budget.tokens:
        return math.ceil(budget.tokens / (tokens_per_row(rows) * rows.rows_per_batch))
    if budget.minutes:
        assert recipe.runtime.seconds_per_step is not None  # measured by now
        seconds = recipe.runtime.seconds_per_step * training.gradient_accumulation_steps
        # an evaluation is a forward pass, a third of a step
        evaluation = recipe.runtime.seconds_per_step / 3 * evaluation_batches
        if training.eval_strategy == "steps":
            every = training.eval_steps or training.logging_steps
            seconds += evaluation / every if every >= 1 else 0
        return max(1, int((budget.minutes * 60 - evaluation) / seconds))
    return math.ceil(training.num_train_epochs * rows.rows_per_epoch / rows.rows_per_batch)


def take_choices(recipe: PretrainRecipe, checkpoint: str) -> None:
    """What the interrupted run had chosen stays chosen."""
    chosen = load_recipe(Path(checkpoint).with_name("recipe.yaml"), [], PretrainRecipe)
    recipe.runtime = chosen.runtime
    recipe.training.max_steps = chosen.training.max_steps


def last_evaluation(trainer: PretrainingTrainer) -> dict[str, float]:
    """The metrics of the final weights, measured now unless the last step did."""
    for line in reversed(trainer.state.log_history):
        if "eval_loss" in line and line["step"] == trainer.state.global_step:
            return {name: value for name, value in line.items() if name.startswith("eval_")}
    return trainer.evaluate()


def announcement(recipe: PretrainRecipe, model: PreTrainedModel, rows: PackedRows) -> str:
    """One sentence at the start of the run."""
    runtime, objectives = recipe.runtime, " and ".join(rows.objective.names)
    cut = f", {rows.cut_documents:,} documents longer than a row cut to pieces" if rows.cut_documents else ""
    return (
        f"training {model.num_parameters() / 1e6:.1f} M parameters on {objectives}: "
        f"{recipe.training.max_steps:,} steps of {rows.rows_per_batch} rows "
        f"({tokens_per_row(rows):.0f} tokens each{cut}), {runtime.dtype}, {runtime.attn_implementation} attention, "
        f"{runtime.seconds_per_step:.2f} s a batch"
    )


def summary(output: Path, metrics: dict[str, float]) -> str:
    """One sentence at its end."""
    names = [name.removeprefix("eval_").removesuffix("_unigram_bits_per_byte") for name in metrics if "unigram" in name]
    scores = "; ".join(
        f"{name} {metrics[f'eval_{name}_bits_per_byte']:.3f} bits per byte (a unigram guess: "
        f"{metrics[f'eval_{name}_unigram_bits_per_byte']:.3f})"
        for name in names
    )
    scores = scores or f"{metrics['eval_loss']:.3f} nats a word"  # skip_gram
    return f"{output}: after {metrics['steps']:,} steps, {metrics['minutes']:.1f} minutes: {scores}"
