"""A family of models: its rules, and how its configuration corresponds to hftk's, again in both directions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hftk.convert.rules import Config, Naming
from hftk.errors import UsageError
from hftk.model.configuration_hftk import HftkConfig

Choice = tuple[tuple[Config, Config], ...]

# What BART's configuration and those like it call as hftk's does.
SAME_FIELDS = tuple(
    (name, name)
    for name in (
        *("vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim"),
        *("encoder_attention_heads", "decoder_attention_heads", "dropout", "attention_dropout", "activation_dropout"),
        *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
    )
)

# The fields of hftk's configuration that change what a model computes.
COMPUTES = (
    *("vocab_size", "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "head_dim"),
    *("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim"),
    *("norm_type", "norm_position", "norm_eps", "final_norm", "embedding_norm", "residual", "position_embedding_type"),
    *("activation_function", "gated_feed_forward", "use_bias", "ngram_order", "attention_window", "type_vocab_size"),
    *("scale_embedding", "scale_attention", "scale_lm_head", "tie_lm_head", "lm_head_transform"),
)
COMPUTES_RELATIVE = ("relative_attention_num_buckets", "relative_attention_max_distance")


def always(**hftk: Any) -> Choice:
    """What torch's class always does and hftk can be told to do."""
    return (({}, hftk),)


@dataclass(frozen=True)
class ConfigTable:
    """
    Corresponding fields of two configurations, torch's and hftk's.

    Args:
        fields (`tuple[tuple[str, str], ...]`):
            Pairs of names for the same value.
        choices (`tuple[Choice, ...]`):
            Of each, one alternative holds: a pair of values on both sides.
        required (`dict[str, Any]`, *optional*):
            What torch's must say for hftk to compute the same.
    """

    fields: tuple[tuple[str, str], ...]
    choices: tuple[Choice, ...]
    required: Config = field(default_factory=dict)

    def to_hftk(self, config: Config) -> Config:
        """hftk's fields. Raises `UsageError` for what hftk does not do."""
        for name, value in self.required.items():
            if config.get(name, value) != value:
                raise UsageError(f"config: hftk has no {name}={config[name]!r}; it can take {value!r} only")
        found = {ours: config.get(theirs) for theirs, ours in self.fields}
        for choice in self.choices:
            held = [hftk for torch, hftk in choice if all(config.get(name) == value for name, value in torch.items())]
            if not held:
                name = next(iter(choice[0][0]))
                values = ", ".join(repr(torch[name]) for torch, _ in choice)
                raise UsageError(f"config: hftk has no {name}={config.get(name)!r}; it can take {values}")
            found |= held[0]
        return found

    def from_hftk(self, config: Config) -> Config:
        """torch's fields, of those that hftk's tell."""
        found = {theirs: config[ours] for theirs, ours in self.fields}
        for choice in self.choices:
            held = [torch for torch, hftk in choice if all(config[n] == v for n, v in hftk.items() if n in COMPUTES)]
            found |= held[0] if held else {}
        return found


@dataclass(frozen=True)
class Family:
    """
    A type of model in transformers, and the names that others give to its tensors.

    Args:
        model_type (`str`):
            Of transformers' configuration.
        prefix (`str`):
            What its classes with a head have before the names of the class without one.
        hftk_classes (`dict[str, str]`):
            hftk's class for each of transformers', those with the most parts first.
        namings (`dict[str, Naming]`):
            `tf`: transformers' TensorFlow classes; `hftk`; and others.
        config ([`ConfigTable`]):
            torch's fields and hftk's.
        shown (`dict[str, str]`, *optional*):
            Tensors by torch's names whose presence sets a field of hftk's configuration.
        facts (`tuple[str, ...]`, *optional*):
            The fields of torch's configuration that change what is computed and that no weight shows.
        stated (`dict[str, str]`, *optional*):
            Such facts that have no field.
        left_out (`tuple[tuple[str, str], ...]`, *optional*):
            Patterns of torch's names that a target may lack, with the reason.
        computed (`dict[str, Callable]`, *optional*):
            Tensors that follow from the configuration, by torch's names.
    """

    model_type: str
    prefix: str
    hftk_classes: dict[str, str]
    namings: dict[str, Naming]
    config: ConfigTable
    shown: dict[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    stated: dict[str, str] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()
    computed: dict[str, Callable[[Config], np.ndarray]] = field(default_factory=dict)

    def to_hftk(self, config: Config, names: set[str]) -> HftkConfig:
        """
        hftk's configuration for torch's.

        Args:
            config (`dict`):
                torch's, with all fields.
            names (`set[str]`):
                torch's names of the tensors that are there.

        Raises:
            UsageError: hftk cannot compute the same.
        """
        shown = {ours: name in names for name, ours in self.shown.items()}
        try:
            return HftkConfig(**self.config.to_hftk(config), **shown)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"config: hftk cannot be this {self.model_type}: {error}") from error

    def from_hftk(self, config: HftkConfig) -> Config:
        """
        torch's configuration for hftk's.

        Raises:
            UsageError: this family cannot compute the same; the first field that stands against it is named.
        """
        ours = _complete(config)
        theirs = {**self.config.from_hftk(ours), "model_type": self.model_type}
        again = _complete(self.to_hftk({**self.config.required, **theirs}, self._names_shown(ours)))
        for name in self._compared(ours):
            if ours[name] != again[name]:
                raise UsageError(f"config: {self.model_type} has no {name}={ours[name]!r}, only {again[name]!r}")
        return theirs

    def _names_shown(self, config: Config) -> set[str]:
        return {name for name, ours in self.shown.items() if config[ours]}

    def _compared(self, config: Config) -> list[str]:
        encoder_alone = not any("Conditional" in name for name in self.hftk_classes.values())
        names = [name for name in COMPUTES if not (encoder_alone and name.startswith("decoder_"))]
        return names + list(COMPUTES_RELATIVE if config["position_embedding_type"] == "relative" else ())


def _complete(config: HftkConfig) -> Config:
    """With the width of a head, which may be left to follow from others."""
    fields = config.to_dict()
    fields["head_dim"] = config.head_dim or config.d_model // config.encoder_attention_heads
    return fields
