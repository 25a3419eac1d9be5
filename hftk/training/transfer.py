"""Which weights of a pretrained model a fine-tuning may change, and when: all, the last, top down, adapters."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel, get_peft_config, get_peft_model
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    TrainerCallback,
)
from transformers.trainer_callback import ExportableState

from hftk.errors import UsageError
from hftk.training.layers import backbone_names, layer_stacks, stages
from hftk.training.optimizer import ngram_tables

PEFT_TASKS = {
    AutoModelForSequenceClassification: "SEQ_CLS",
    AutoModelForTokenClassification: "TOKEN_CLS",
    AutoModelForSeq2SeqLM: "SEQ_2_SEQ_LM",
}


@dataclass
class TransferArguments:
    """
    Args:
        method (`str`, *optional*, defaults to `"full"`):
            `full` trains every weight. `last_layer` trains the head; all else is frozen, without dropout, gradients or
            optimizer. `slow_start` trains the head first and thaws the layers below it one by one, from the top down
            (Howard & Ruder 2018, §3.3). `lora` trains the head and adapters beside the frozen weights.
        last_layers (`int`, *optional*, defaults to 0):
            `last_layer`: train so many of the top layers too.
        final_norm (`bool`, *optional*, defaults to `False`):
            `last_layer`: train the normalisation behind the top layer too.
        cache_outputs (`bool`, *optional*, defaults to `False`):
            `last_layer` with nothing but the head: run the frozen model once over each row and keep its outputs in
            memory.
        save_alone (`bool`, *optional*, defaults to `False`):
            `last_layer`: save what was trained alone, beside the name of the checkpoint that it stands on, so that many
            heads share one backbone; `hftk predict` loads it.
        thaw_every (`float`, *optional*, defaults to 0.1):
            `slow_start`: steps, or with less than 1 the share of the training's steps, after which the next layer
            thaws.
        thaw_patience (`int`, *optional*):
            `slow_start`: thaw instead whenever so many evaluations have brought no lower `eval_loss`.
        layer_lr_decay (`float`, *optional*, defaults to 1.0):
            The learning rate of each layer over that of the layer above it (2.6 ** -1 in Howard & Ruder 2018, §3.2).
        peft (`dict`, *optional*):
            `lora`: fields of `peft.LoraConfig`, or of the config that `peft_type` names. By default every linear
            projection of every layer is a target.
        merge (`bool`, *optional*, defaults to `False`):
            `lora`: save the model with the adapters added to its weights, instead of the adapters alone.
        replay (`float`, *optional*, defaults to 0.0):
            Share of raw text in what is learned from: each step adds rows of the pretraining, and their loss has this
            weight, the task's has the rest.
        l2 (`float`, *optional*, defaults to 0.0):
            Adds l2 / 2 times the squared distance of the backbone from its pretrained weights to the loss (L2-SP, Li
            et al. 2018).
        wise (`float`, *optional*, defaults to 1.0):
            After the training the backbone becomes this share of its new weights plus the rest of its old ones
            (WiSE-FT, Wortsman et al. 2022).
        raw_files (`list[str]`, *optional*):
            Raw text that measures retention and is replayed; by default that of the checkpoint's own pretraining.
        raw_column (`str`, *optional*, defaults to `"text"`):
            Its column or key.
        retention_rows (`int`, *optional*, defaults to 128):
            Most held-out rows of each pretraining objective that are scored before and after; 0 measures nothing.
        earlier_tasks (`list[str]`, *optional*):
            Folders of task models over this backbone, whose heads are scored on their own validation rows, with the
            backbone as it was before and as it is after.

    Raises:
        UsageError: a value out of range, or one that another method reads.
    """

    method: Literal["full", "last_layer", "slow_start", "lora"] = "full"
    last_layers: int = 0
    final_norm: bool = False
    cache_outputs: bool = False
    save_alone: bool = False
    thaw_every: float = 0.1
    thaw_patience: int | None = None
    layer_lr_decay: float = 1.0
    peft: dict[str, Any] = field(default_factory=dict)
    merge: bool = False
    replay: float = 0.0
    l2: float = 0.0
    wise: float = 1.0
    raw_files: list[str] = field(default_factory=list)
    raw_column: str = "text"
    retention_rows: int = 128
    earlier_tasks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        readers = {
            "last_layer": ("last_layers", "final_norm", "cache_outputs", "save_alone"),
            "slow_start": ("thaw_every", "thaw_patience"),
            "lora": ("peft", "merge"),
        }
        untouched = TransferArguments.__new__(TransferArguments)
        for method, keys in readers.items():
            for key in keys:
                default = {} if key == "peft" else getattr(untouched, key)
                if method != self.method and getattr(self, key) != default:
                    raise UsageError(f"transfer.{key}: only transfer.method {method} reads it, not {self.method}")
        for key, fits, wanted in (
            ("last_layers", self.last_layers >= 0, "0 or more"),
            ("thaw_every", self.thaw_every > 0, "a number above 0"),
            ("thaw_patience", self.thaw_patience is None or self.thaw_patience > 0, "1 or more"),
            ("layer_lr_decay", 0 < self.layer_lr_decay <= 1, "a number above 0, at most 1"),
            ("replay", 0 <= self.replay < 1, "a share from 0 to below 1"),
            ("l2", self.l2 >= 0, "0 or more"),
            ("wise", 0 <= self.wise <= 1, "a share from 0 to 1"),
            ("retention_rows", self.retention_rows >= 0, "0 or more"),
        ):
            if not fits:
                raise UsageError(f"transfer.{key}: {getattr(self, key)} is not {wanted}")
        if self.cache_outputs and (self.last_layers or self.final_norm):
            raise UsageError("transfer.cache_outputs: outputs that change cannot be kept; train the head alone")
        if self.method == "lora" and (self.l2 or self.wise < 1):
            raise UsageError("transfer.method: lora leaves the pretrained weights alone; l2 and wise pull at them")


def freeze(model: PreTrainedModel, trained: set[str]) -> None:
    """
    Lets only the parameters of these names learn. Whatever else the model holds is in eval mode from the next call of
    [`rest`] on.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def rest(model: nn.Module) -> None:
    """Puts modules whose every parameter is frozen in eval mode: a frozen layer has no dropout and no statistics."""
    for module in model.children():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
        else:
            rest(module)


def last_layer_names(model: PreTrainedModel, arguments: TransferArguments) -> set[str]:
    """
    The parameters that `last_layer` trains.

    Raises:
        UsageError: there is no such weight: a model whose head is its embeddings has no last layer of its own.
    """
    above = stages(model)
    has_head = not set(above[0]) & backbone_names(model)
    layers = above[1:-1] if has_head else above[:-1]
    if arguments.last_layers > len(layers):
        raise UsageError(f"transfer.last_layers: {arguments.last_layers} of {len(layers)} layers; give at most as many")
    trained = set(above[0]) if has_head else set()
    for layer in layers[: arguments.last_layers]:
        trained |= set(layer)
    if arguments.final_norm:
        stack, _ = layer_stacks(model)[-1]
        trained |= {name for name in layers[0] if not name.startswith(f"{stack}.")}
    if not trained:
        raise UsageError(
            f"transfer.method: the head of {type(model).__name__} is its embeddings, so last_layer has none to train; "
            "give transfer.last_layers 1 or more"
        )
    return trained


class SlowStart(TrainerCallback, ExportableState):
    """
    Thaws a model from the top down. Every parameter is in the optimizer from the first step, and none of it moves what
    is frozen, since that has no gradient.

    Args:
        model ([`PreTrainedModel`]): is frozen but for its head when the training begins.
        arguments ([`TransferArguments`]): `thaw_every` or `thaw_patience`.
    """

    def __init__(self, model: PreTrainedModel, arguments: TransferArguments):
        self.model, self.arguments = model, arguments
        self.stages = stages(model)
        self.thawed = 0
        # of `thaw_patience`; a checkpoint keeps them
        self.stalls, self.best, self.since_best = 0, float("inf"), 0

    def state(self) -> dict[str, Any]:
        return {
            "args": {},
            "attributes": {"stalls": self.stalls, "best": self.best, "since_best": self.since_best},
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # the Trainer would restore a callback by building another, from nothing but JSON
        for name, value in state.stateful_callbacks[type(self).__name__]["attributes"].items():
            setattr(self, name, value)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.arguments.thaw_patience is None:
            every = self.arguments.thaw_every
            thaws = int(state.global_step // (every if every >= 1 else max(1.0, every * state.max_steps)))
        else:
            thaws = self.stalls
        thawed = min(1 + thaws, len(self.stages))
        if thawed != self.thawed:
            self.thawed = thawed
            freeze(self.model, {name for stage in self.stages[:thawed] for name in stage})

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        if metrics["eval_loss"] < self.best:
            self.best, self.since_best = metrics["eval_loss"], 0
            return
        self.since_best += 1
        if self.since_best == self.arguments.thaw_patience:
            self.stalls, self.since_best = self.stalls + 1, 0


def with_adapters(model: PreTrainedModel, head: Any, checkpoint: str, arguments: TransferArguments) -> PeftModel:
    """
    The model with peft's adapters on it, its head trained whole and saved with them.

    Args:
        model ([`PreTrainedModel`]): any.
        head: the Auto class that loaded it, which tells peft's kind of task.
        checkpoint (`str`): from where, which the adapters remember.
        arguments ([`TransferArguments`]): `peft`.

    Raises:
        UsageError: fields that peft does not know, in its own words.
    """
    linear = {
        name.rpartition(".")[2]
        for _, layers in layer_stacks(model)
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear)
    }
    top = {name.partition(".")[0] for name, _ in model.named_parameters() if name not in backbone_names(model)}
    fields = {
        "peft_type": "LORA",
        "task_type": PEFT_TASKS.get(head),
        "target_modules": sorted(linear),
        "modules_to_save": sorted(top) or None,
        **arguments.peft,
    }
    try:
        config: PeftConfig = get_peft_config(fields)
        adapted = get_peft_model(model, config)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"transfer.peft: {' '.join(str(error).split())}") from error
    config.base_model_name_or_path = checkpoint  # peft takes it from the model, and a parser does not know it
    return adapted


def layer_learning_rates(optimizer: torch.optim.Optimizer, model: PreTrainedModel, decay: float) -> None:
    """
    Cuts the optimizer's groups by layer: the head keeps its learning rate, each layer below it has `decay` times that
    of the layer above. Before the schedule is built, which starts from these.
    """
    parameters = dict(model.named_parameters())
    depth = {id(parameters[name]): place for place, stage in enumerate(stages(model)) for name in stage}
    groups = []
    for group in optimizer.param_groups:
        for place in sorted({depth[id(parameter)] for parameter in group["params"]}):
            inside = [parameter for parameter in group["params"] if depth[id(parameter)] == place]
            groups.append({**group, "params": inside, "lr": group["lr"] * decay**place})
    optimizer.param_groups[:] = groups


def what_trains(model: nn.Module, arguments: TransferArguments) -> str:
    """One sentence at the start of a run."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    later = ""
    if arguments.method == "slow_start":  # frozen at the first step only
        named = dict(model.named_parameters())
        parameters = [named[name] for name in stages(model)[0]]
        later = " at first; layer by layer the rest follows"
    trained = sum(parameter.numel() for parameter in parameters)
    total = sum(parameter.numel() for parameter in model.parameters())
    state = 12 * trained  # a gradient and AdamW's two moments, 4 bytes each
    for table in ngram_tables(model):
        if any(table.weight is parameter for parameter in parameters):  # one moment a row; gradients, if not of rows
            state -= (12 if table.sparse else 8) * table.weight.numel() - 4 * table.num_embeddings
    return (
        f"{arguments.method} trains {trained:,} of {total:,} parameters ({trained / total:.1%}), "
        f"with {state / 2**20:,.1f} MiB of gradients and moments{later}"
    )
