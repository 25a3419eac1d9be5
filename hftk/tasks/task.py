"""What the four shapes of a task have in common: a task's keys in a recipe, and what is done with its rows."""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput, logging

from hftk.errors import UsageError
from hftk.tasks.rows import Row

ADAPTERS = "adapter_config.json"  # what peft writes
LAST_LAYER = "last_layer.safetensors"  # the head of a model whose other weights another folder has
SHORTEST = 3  # texts that can be read: their start, a token, their end
IGNORED = -100  # what `cross_entropy` leaves out by default

Features = dict[str, Any]  # lists of integers, and the label of an N→1 row
Prediction = TypeVar("Prediction")


@dataclass
class Example:
    """
    A row as the model reads it.

    Args:
        features (`list[Features]`):
            What the model takes, labels too where the row has them: one dictionary for each window of a long text, or
            for each direction of a translation.
        places (`list[tuple[int, int]]`, *optional*):
            For each unit of the row its window and, there, the token that has its label.
        cut (`bool`, defaults to `False`):
            Whether the row was longer than the model reads.
    """

    features: list[Features]
    places: list[tuple[int, int]] | None = None
    cut: bool = False


@dataclass
class Task(Generic[Prediction], metaclass=ABCMeta):
    """
    A shape of task. Subclasses are dataclasses, whose fields are the recipe's `task` keys; `Prediction` is what is
    predicted for a row.
    """

    name: str
    head: ClassVar[Any]  # the Auto class of the model
    lists: ClassVar[bool] = False  # see `read_rows`
    trees: ClassVar[bool] = False  # what is predicted are trees; see `read_rows`
    pipelines: ClassVar[dict[str, dict[str, Any]]] = {}  # of ours, where transformers has none; see `pipeline_hftk.py`

    @abstractmethod
    def check_inputs(self, row: Row, where: str) -> None:
        """Raises `UsageError`, beginning with `where`, unless the row has what the model reads."""

    @abstractmethod
    def check_targets(self, row: Row, where: str) -> None:
        """The same for what the model is to predict."""

    @abstractmethod
    def label_names(self, rows: list[Row]) -> list[str]:
        """The labels of the training rows; a label's place in the list is its id. Empty for a task without labels."""

    def labels(self, row: Row) -> list[str]:
        """The labels of a checked row."""
        return []

    @abstractmethod
    def text(self, row: Row) -> str:
        """What the model reads of a checked row."""

    @abstractmethod
    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, names: list[str] | None) -> Example:
        """A checked row as the model reads it, with labels if their `names` are given."""

    @abstractmethod
    def collate(
        self, features: list[Features], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> dict[str, torch.Tensor]:
        """A batch: `input_ids` and all that goes with them, padded on the right."""

    def forward(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, ModelOutput | None]:
        """The loss, if the batch has labels, and the model's outputs."""
        outputs = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        loss = self.loss(outputs["logits"], batch["labels"], num_items_in_batch) if "labels" in batch else None
        return loss, outputs

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None) -> torch.Tensor:
        """
        Cross-entropy, averaged over all labels of an optimizer step: the same into however many batches a step is cut.
        The losses of most models are averages over a batch, and the average of those weighs labels by how few stand
        beside them.

        Args:
            logits (`torch.Tensor` of shape [..., labels]):
                The model's.
            labels (`torch.Tensor` of shape [...]):
                -100 where there is nothing to learn.
            num_items_in_batch (`torch.Tensor`, *optional*):
                How many labels the whole step learns from; by default those of `labels`.
        """
        total = cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum")
        # a batch to evaluate may hold nothing but labels that training never showed
        return total / ((labels != IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)

    @abstractmethod
    def predict(
        self,
        model: PreTrainedModel,
        batch: dict[str, torch.Tensor],
        outputs: ModelOutput | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> list[Any]:
        """
        The raw prediction for each item of a batch.

        Args:
            model ([`PreTrainedModel`]): in eval mode.
            batch (`dict[str, torch.Tensor]`): what [`collate`] made.
            outputs (`ModelOutput`): what [`forward`] gave for it.
        """

    @abstractmethod
    def join(self, example: Example, raw: list[Any], names: list[str]) -> Prediction:
        """The prediction for a row from those for its items."""

    @abstractmethod
    def columns(self, prediction: Prediction, row: Row) -> Row:
        """The prediction as columns of the row."""

    def references(self, rows: list[Row]) -> list[Prediction]:
        """What rows say, in the form of predictions, for a metric that anyone wrote."""
        raise UsageError(
            f"--metric: what {self.name} predicts is in no form that metrics of the Hub take; leave it out"
        )

    @abstractmethod
    def score(self, predictions: list[Prediction], rows: list[Row]) -> dict[str, float]:
        """The task's metrics."""

    def load(
        self,
        checkpoint: str,
        names: list[str] | None = None,
        from_scratch: bool = False,
        config_overrides: dict[str, Any] | None = None,
    ) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        """
        A checkpoint's tokenizer, and its model under the task's head.

        Args:
            checkpoint (`str`):
                Folder or Hub id.
            names (`list[str]`, *optional*):
                Labels of a new head; by default the head is the checkpoint's own.
            from_scratch (`bool`, defaults to `False`):
                Random weights instead of the checkpoint's.
            config_overrides (`dict[str, Any]`, *optional*):
                Fields of the checkpoint's config that are to be others.

        Raises:
            UsageError: nothing to load there, no such head for this type of model, or a tokenizer without offsets.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="right")
            whole = checkpoint if names is not None else whole_checkpoint(checkpoint)
            if whole != checkpoint:  # which knows nothing of the labels
                names = list(AutoConfig.from_pretrained(checkpoint).id2label.values())
            config = AutoConfig.from_pretrained(whole)
            for field, value in (config_overrides or {}).items():
                if not hasattr(config, field):
                    raise UsageError(
                        f"config_overrides: the config of {checkpoint}, a {config.model_type}, has no {field}"
                    )
                setattr(config, field, value)
            model, new = self.load_model(whole, config, names, from_scratch)
            if whole != checkpoint:
                model = with_saved_part(model, checkpoint)
            elif new:
                PartialState().print(f"{checkpoint} leaves to be learned from random weights: {', '.join(new)}")
        except UsageError:
            raise
        except Exception as error:  # a broken file makes tokenizers, safetensors and transformers raise anything
            raise UsageError(
                f"{checkpoint} cannot be loaded for {self.name}: {' '.join(str(error).split())}"
            ) from error
        if not tokenizer.is_fast:
            raise UsageError(f"{checkpoint} has a slow tokenizer, which does not tell where its tokens stand in a text")
        if tokenizer.pad_token_id is None:
            raise UsageError(f"{checkpoint} has a tokenizer without a pad_token; name one in its tokenizer_config.json")
        length = tokenizer.model_max_length
        if not isinstance(length, int | float) or length < SHORTEST:
            raise UsageError(
                f"{checkpoint} has a tokenizer of model_max_length {length!r}; give it a number from {SHORTEST} on in "
                "its tokenizer_config.json, or leave it out"
            )
        known, largest = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values())
        if largest >= known:
            raise UsageError(
                f"{checkpoint} has embeddings for {known:,} tokens, and its tokenizer gives ids up to {largest:,}"
            )
        ids = ("pad_token_id", "bos_token_id", "eos_token_id")
        model.config.update({name: getattr(tokenizer, name) for name in ids})  # as the Trainer would, with a warning
        return tokenizer, model

    def load_model(
        self, checkpoint: str, config: PreTrainedConfig, names: list[str] | None, from_scratch: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        """The model alone, by the checkpoint's config, and which weights of it the checkpoint lacks; see [`load`]."""
        config.update(self.head_config(names))
        if from_scratch:
            return self.head.from_config(config), []
        with loading_quietly():  # a table about the weights of a new head would look like a fault
            model, info = self.head.from_pretrained(checkpoint, config=config, output_loading_info=True)
        return model, sorted(info["missing_keys"])

    def head_config(self, names: list[str] | None) -> dict[str, Any]:
        """What the labels change in a checkpoint's config."""
        if not names:
            return {}
        return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


@contextmanager
def loading_quietly() -> Iterator[None]:
    """Within, transformers tells errors only."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def whole_checkpoint(folder: str) -> str:
    """The checkpoint on which the adapters or the last layer in a folder stand; the folder itself if it has all."""
    if Path(folder, ADAPTERS).is_file():
        return str(PeftConfig.from_pretrained(folder).base_model_name_or_path)
    if Path(folder, LAST_LAYER).is_file():
        with safe_open(Path(folder, LAST_LAYER), "pt") as file:
            return file.metadata()["backbone"]
    return folder


def with_saved_part(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """The model with the adapters or the last layer that the folder has."""
    if Path(folder, ADAPTERS).is_file():
        return PeftModel.from_pretrained(model, folder)
    model.load_state_dict(load_file(Path(folder, LAST_LAYER)), strict=False)
    return model


def pad_labels(labels: list[list[int]], length: int) -> torch.Tensor:
    """[items, length], -100 behind each item's own labels."""
    return torch.tensor([item + [IGNORED] * (length - len(item)) for item in labels])
