"""Finds out what weights are: which family, whose names, with which configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hftk
from hftk.convert.expected import torch_class, torch_config
from hftk.convert.families import FAMILIES
from hftk.convert.families.hftk import CLASS, HFTK
from hftk.convert.family import Family
from hftk.convert.plan import torch_names
from hftk.convert.rules import Config, Naming
from hftk.convert.weights import Weights, parse_json
from hftk.errors import UsageError

CONFIGS = ("config.json", "bert_config.json")
MAX_CONFIG = 10_000_000  # bytes


@dataclass(frozen=True)
class Source:
    """
    Weights that were recognised.

    Args:
        family ([`Family`]):
            Their family.
        naming_name (`str`), naming (`Naming`, *optional*):
            Whose names they have; `None` for torch's.
        raw_config, config (`dict`):
            torch's configuration as it was given, and with all its fields.
        config_file (`str`):
            Where it comes from.
        folder (`Path`):
            What else belongs to the model is here.
    """

    family: Family
    naming_name: str
    naming: Naming | None
    raw_config: Config
    config: Config
    config_file: str
    folder: Path

    @property
    def default_target(self) -> str:
        if self.family is HFTK:
            return "hftk"
        if self.naming is None:
            raise UsageError("--to: these weights are torch's already; name hftk or tf")
        return "torch"

    @property
    def architectures(self) -> list[str]:
        """The classes that the configuration names, as far as they are of this family."""
        named = self.raw_config.get("architectures")
        names = [str(name).removeprefix("TF") for name in named] if isinstance(named, list) else []
        return [name for name in names if torch_class(self.family, name)]

    def hftk_naming(self, config: hftk.HftkConfig) -> Naming:
        """The names that this family has in hftk."""
        gated = "hftk-gated" if config.gated_feed_forward else "hftk"
        return self.family.namings.get(gated, self.family.namings["hftk"])

    def facts(self) -> dict[str, str]:
        """What no weight shows, each with where it comes from."""
        told = {
            name: f"{self.config.get(name)} ({self.config_file if name in self.raw_config else 'a default'})"
            for name in self.family.facts
        }
        return {**told, **{name: f"{value} (always)" for name, value in self.family.stated.items()}}


def identify(
    weights: Weights, names: str | None, config: str | Path | None, arch: str | None, stay: bool = False
) -> Source:
    """
    Recognises weights.

    Args:
        weights ([`Weights`]):
            The source.
        names (`str`, *optional*):
            Whose names it has; by default those that fit most tensors.
        config (`str` or `Path`, *optional*):
            By default what lies beside the weights.
        arch (`str`, *optional*):
            The class to convert to, which decides what weights of hftk's become.
        stay (`bool`, defaults to `False`):
            Weights of hftk's stay hftk's, and become another family's no more.

    Raises:
        UsageError: nothing fits, or there is no configuration.
    """
    given, file = _config(weights, None if config is None else Path(config))
    folder = weights.source.parent.parent if weights.container == "SavedModel" else weights.source.parent
    keras = HFTK.namings["keras"]
    in_keras = any(keras.to_torch(keras.bare(name)) for name in weights.tensors)
    if given.get("registered_name") == CLASS or (given.get("model_type") == "hftk" and (in_keras or stay)):
        family, naming_name, naming = HFTK, "keras" if in_keras else "hftk", keras if in_keras else None
        raw = _read(keras, given, file, naming_name)
    elif given.get("model_type") == "hftk":
        family, raw = _family_of_hftk(given, arch)
        naming = family.namings["hftk-gated"] if raw.get("feed_forward_proj", "").startswith("gated") else None
        naming_name, naming = "hftk", naming or family.namings["hftk"]
    else:
        family, naming_name, naming = _best_naming(weights, names, given.get("model_type"))
        raw = _read(naming, given, file, naming_name) if naming else given
    return Source(family, naming_name, naming, raw, torch_config(family, raw), file, folder)


def _read(naming: Naming, given: Config, file: str, naming_name: str) -> Config:
    try:
        return naming.read_config(given)
    except (KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{file}: no configuration of {naming_name} ({error!r})") from error


def _config(weights: Weights, file: Path | None) -> tuple[Config, str]:
    if file is None and weights.config:
        return weights.config, f"{weights.source.name}"
    beside = weights.source.parent.parent if weights.container == "SavedModel" else weights.source.parent
    files = [beside / name for name in CONFIGS] if file is None else [file]
    for candidate in files:
        if candidate.is_file():
            if candidate.stat().st_size > MAX_CONFIG:
                raise UsageError(f"{candidate}: too large for a configuration")
            return parse_json(candidate.read_bytes(), candidate), candidate.name
    raise UsageError(f"{files[0]}: no such file; name the configuration of these weights with --config")


def _family_of_hftk(given: Config, arch: str | None) -> tuple[Family, Config]:
    """What hftk's weights can become: the family of the class that was asked for, or the first that does the same."""
    config = hftk.HftkConfig(**given)
    reasons = []
    for family in FAMILIES.values():
        if arch is not None and torch_class(family, arch) is None:
            continue
        if arch is None and not set(given.get("architectures") or []) <= set(family.hftk_classes.values()):
            continue
        try:
            return family, family.from_hftk(config)
        except UsageError as error:
            reasons.append(str(error).removeprefix("config: "))
    if arch is not None and not reasons:
        raise UsageError(f"--arch {arch}: no class of {', '.join(FAMILIES)}")
    raise UsageError(
        f"config: no family computes what this model does: {'; '.join(reasons) or 'its class has no equal'}"
    )


def _best_naming(weights: Weights, names: str | None, model_type: Any) -> tuple[Family, str, Naming | None]:
    if model_type is not None and model_type not in FAMILIES:
        raise UsageError(f"config: model_type {model_type!r:.100} has no table; there is one for {', '.join(FAMILIES)}")
    families = [FAMILIES[model_type]] if model_type is not None else list(FAMILIES.values())
    best: tuple[int, Family, str, Naming | None] | None = None
    for family in families:
        candidates: dict[str, Naming | None] = {"torch": None, **family.namings}
        for name, naming in candidates.items():
            if (names is None and not name.startswith("hftk")) or names == name:
                matched = _matched(weights, family, naming)
                if matched and (best is None or matched > best[0]):
                    best = matched, family, name, naming
    if best is None:
        known = sorted(
            {name for family in families for name in family.namings if not name.startswith("hftk")} | {"torch"}
        )
        example = next(iter(weights.tensors), "nothing")
        raise UsageError(f"{weights.source}: no table knows names like {example}; --from is one of {', '.join(known)}")
    return best[1:]


def _matched(weights: Weights, family: Family, naming: Naming | None) -> int:
    """How many tensors have a rule. torch's names have one wherever another program's lead to them."""
    named = [renamed[0] for renamed in torch_names(weights, family, naming).values() if renamed]
    if naming is not None:
        return len(named)
    return sum(any(table.from_torch(name) for table in family.namings.values()) for name in named)
