"""What a backbone knew before a fine-tuning, asked again after it: its pretraining, scored on held-out raw text."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from accelerate import Accelerator
from peft import PeftModel
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hftk.data.corpus import Corpus
from hftk.data.objectives import Objective, ObjectiveArguments
from hftk.data.packing import PackedRows, evaluation_rows
from hftk.data.preparation import DataArguments, find_corpus, prepare_corpus
from hftk.data.vocabulary import SKIP_GRAM, Vocabulary
from hftk.errors import UsageError
from hftk.model.modeling_hftk_arc import HftkForArcPrediction
from hftk.tasks.task import loading_quietly
from hftk.training.finetuning import Replay, TaskTrainer
from hftk.training.layers import backbone_names
from hftk.training.pretraining import HeldOut, held_out, negative_log_likelihood
from hftk.training.transfer import TransferArguments

BATCH_SIZE = 16
FOREIGN_LENGTH = 128  # tokens of a row for a model that cannot keep packed documents apart


@dataclass
class Pretraining:
    """
    A checkpoint's pretraining, ready to be scored or gone on with.

    Args:
        checkpoint (`str`): folder or Hub id.
        objective ([`Objective`]): what it was trained on.
        corpus ([`Corpus`]): raw text, one side of which it never saw.
        held_out (`dict[str, HeldOut]`): rows of that side under fixed noise, by objective.
        data ([`DataArguments`]): how long rows are.
    """

    checkpoint: str
    objective: Objective
    corpus: Corpus
    held_out: dict[str, HeldOut]
    data: DataArguments

    def bits_per_byte(self, model: nn.Module, accelerator: Accelerator) -> float:
        """
        The weighted mean of the objectives' bits per byte, as pretraining reports it, for the pretraining model with
        the backbone of a task model in it.
        """
        whole = self.with_backbone_of(model, accelerator)
        bits, weights = 0.0, sum(part.weight for part in self.held_out.values())
        for part in self.held_out.values():
            nats = negative_log_likelihood(whole, part.rows, BATCH_SIZE, accelerator)
            bits += part.weight / weights * nats / math.log(2) / part.label_bytes
        return bits

    def with_backbone_of(self, model: nn.Module, accelerator: Accelerator) -> PreTrainedModel:
        """The pretraining model; what the task model lacks (a decoder, the head) is the checkpoint's own."""
        whole = load_pretraining_model(self.checkpoint).to(accelerator.device)
        put_back(whole, model)
        return whole.eval()

    def replay(self, trainer: TaskTrainer, share: float) -> Replay:
        """Raw text beside a training: so many rows a batch that `share` of all tokens are theirs."""
        arguments = trainer.args
        whole = self.with_backbone_of(trainer.model, trainer.accelerator)
        learning = {id(parameter) for parameter in trainer.model.parameters()}
        for parameter in whole.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in learning)
        features = trainer.train_dataset.rows
        tokens = sum(len(row["input_ids"]) for row in features) / len(features)
        task_tokens = tokens * arguments.per_device_train_batch_size
        size = max(1, round(share / (1 - share) * task_tokens / self.data.max_source_length))
        rows = PackedRows(
            self.corpus.train,
            self.objective,
            rows_per_batch=size * arguments.gradient_accumulation_steps * trainer.accelerator.num_processes,
            seed=arguments.seed,
            max_source_length=self.data.max_source_length,
            max_target_length=self.data.max_target_length,
            packing=self.data.packing,
        )
        return Replay(whole, rows, size)


def pretraining_of(
    checkpoint: str, tokenizer: PreTrainedTokenizerBase, transfer: TransferArguments, cache_dir: Path
) -> Pretraining:
    """
    Finds out what a checkpoint was trained on, and raw text to measure it with.

    Args:
        checkpoint (`str`): folder or Hub id, ours or anyone's.
        tokenizer ([`PreTrainedTokenizerBase`]): its own.
        transfer ([`TransferArguments`]): `raw_files`, `raw_column`, `retention_rows`.
        cache_dir (`Path`): where raw files are kept tokenised.

    Raises:
        UsageError: an objective that nobody can tell, a checkpoint that was fine-tuned since, or no raw text.
    """
    recipe_file = Path(checkpoint) / "recipe.yaml"
    config = AutoConfig.from_pretrained(checkpoint)
    if config.model_type == "hftk" and recipe_file.is_file():
        # of the recipe these sections alone: new TrainingArguments would take a running Trainer's processes from it
        written = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
        if "task" in written:
            raise UsageError(f"{checkpoint} was fine-tuned, and no longer has all parts of its pretraining")
        arguments = ObjectiveArguments(**written.get("objective", {}))
        if arguments.name == SKIP_GRAM:
            raise UsageError(f"{checkpoint} was trained on skip_gram, which tells no tokens and has no bits per byte")
        data = DataArguments(**written.get("data", {}))
    else:
        arguments = ObjectiveArguments(name=foreign_objective(config, tokenizer))
        data = DataArguments(max_source_length=FOREIGN_LENGTH, max_target_length=FOREIGN_LENGTH, packing=False)
    if transfer.raw_files:
        raw = DataArguments(train_files=transfer.raw_files, text_column=transfer.raw_column, validation_share=0.1)
        corpus = prepare_corpus(raw, tokenizer, cache_dir)
    else:
        found = find_corpus(Path(checkpoint) / "data", tokenizer)
        if found is None:
            raise UsageError(f"{checkpoint} brings no raw text of its pretraining; name some in transfer.raw_files")
        corpus = found
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    objective = Objective(arguments, vocabulary)
    parts = {}
    for name, share in zip(objective.names, objective.shares, strict=True):
        if name == SKIP_GRAM:
            continue  # it tells no tokens
        rows = evaluation_rows(
            corpus.validation, objective, name, data.max_source_length, data.max_target_length, data.packing
        )
        rows.rows = min(rows.rows, transfer.retention_rows or rows.rows)
        parts[name] = held_out(rows, float(share), vocabulary)
    return Pretraining(checkpoint, objective, corpus, parts, data)


def foreign_objective(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> Literal["masked_lm", "span_corruption", "infilling"]:
    """What a model that is not ours was trained on: T5 has sentinels, BART masks and a decoder, BERT masks."""
    if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        if "<extra_id_0>" in tokenizer.get_vocab():
            return "span_corruption"
        if tokenizer.mask_token_id is not None:
            return "infilling"
    elif type(config) in MODEL_FOR_MASKED_LM_MAPPING and tokenizer.mask_token_id is not None:
        return "masked_lm"
    raise UsageError(f"a {config.model_type} has no denoising objective that its tokenizer tells")


def load_pretraining_model(checkpoint: str) -> PreTrainedModel:
    """The model that pretraining trained, with all its parts."""
    config = AutoConfig.from_pretrained(checkpoint)
    if config.model_type == "hftk":
        auto = AutoModelForPreTraining
    else:
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForMaskedLM
    with loading_quietly():  # a decoder that masked_lm never trained is never run either
        return auto.from_pretrained(checkpoint)


def put_back(whole: PreTrainedModel, model: nn.Module) -> None:
    """
    Gives a model the backbone of another: the very parameters, or of one with adapters a copy into which they are
    merged.

    Args:
        whole ([`PreTrainedModel`]): is changed; weights that it ties stay tied.
        model ([`PreTrainedModel`] or [`PeftModel`]):
            another head over the same kind of backbone; is left as it is.
    """
    base = model
    if isinstance(model, PeftModel):
        model.merge_adapter()
        base = model.get_base_model()
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in whole.modules():
        for attribute, parameter in module._parameters.items():
            places.setdefault(id(parameter), []).append((module, attribute))
    targets = backbone_parameters(whole)
    for name, parameter in backbone_parameters(base).items():
        if name in targets:  # all but poolers, and of an encoder-decoder the half that one of them lacks
            given = parameter if base is model else nn.Parameter(parameter.detach().clone())
            for module, attribute in places[id(targets[name])]:
                module._parameters[attribute] = given
    if isinstance(model, PeftModel):
        model.unmerge_adapter()


def backbone_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The parameters of the backbone by the names that they have in it alone; tied ones by each of their names."""
    inside = backbone_names(model)
    known = {id(parameter) for name, parameter in model.named_parameters() if name in inside}
    prefix, within = f"{model.base_model_prefix}.", ""
    if isinstance(model, HftkForArcPrediction) and model.config.backbone_config.is_encoder_decoder:
        within = "encoder."  # the parser has the encoder alone
    return {
        within + name.removeprefix(prefix).replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in known
    }
