"""What a class of models wants to load, asked of the class itself: built without memory for its numbers."""

import re
from dataclasses import dataclass
from typing import Any

import torch
import transformers

import hftk
from hftk.convert.family import Family
from hftk.convert.rules import Config
from hftk.errors import UsageError


@dataclass(frozen=True)
class Expected:
    """
    What must be in the file of a model.

    Args:
        class_name (`str`):
            The class.
        shapes (`dict[str, tuple[int, ...]]`):
            By name, in the order of the model. Of tied tensors the one that is stored.
        tied (`dict[str, str]`):
            The others' names, with that of the one that is stored.
        optional (`set[str]`):
            Names that may be missing: the class has a value for them.
        ignored (`tuple[str, ...]`):
            Patterns of names that older files have and the class does not want.
        prefix (`str`):
            What names of the file lack in comparison with these.
    """

    class_name: str
    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str]
    optional: set[str]
    ignored: tuple[str, ...]
    prefix: str

    def ignores(self, name: str) -> bool:
        return any(re.search(pattern, name) for pattern in self.ignored)


def torch_config(family: Family, config: Config) -> Config:
    """The configuration of transformers with all its fields, defaults too. Raises `UsageError` if it is none."""
    try:
        whole = transformers.CONFIG_MAPPING[family.model_type](**config).to_dict()
    except Exception as error:  # what validation raises is of many types
        raise UsageError(f"config: no configuration of {family.model_type} ({' '.join(str(error).split())})") from error
    # T5's class forgets this field, though it depends on it.
    return {**whole, "tie_word_embeddings": config.get("tie_word_embeddings", True)}


def torch_class(family: Family, name: str) -> Any:
    """The class of transformers, or `None` if a name that may come from a stranger is none of this family."""
    found: Any = getattr(transformers, name, None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_model and getattr(found.config_class, "model_type", "") == family.model_type else None


def expected_by_torch(family: Family, class_name: str, config: Config, stored_only: bool = True) -> Expected:
    """
    What a class of transformers loads, by the names of the class with a head.

    Args:
        family ([`Family`]):
            The family.
        class_name (`str`):
            The class.
        config (`dict`):
            torch's configuration.
        stored_only (`bool`, defaults to `True`):
            Leave out what the class computes and does not save.

    Raises:
        UsageError: the class is none of the family.
    """
    model_class: Any = torch_class(family, class_name)
    if model_class is None:
        raise UsageError(
            f"--arch {class_name} is no class of {family.model_type}; try {', '.join(family.hftk_classes)}"
        )
    with torch.device("meta"):
        model = model_class(model_class.config_class(**config))
    names = list(model.state_dict())
    prefix = "" if any(name.startswith(family.prefix) for name in names) else family.prefix
    expected = _expected(model, class_name, prefix, tied_head=config.get("tie_word_embeddings") is not False)
    unsaved = {prefix + name for name in getattr(model, "_keys_to_ignore_on_save", None) or () if stored_only}
    shapes = {name: shape for name, shape in expected.shapes.items() if name not in unsaved}
    return Expected(class_name, shapes, expected.tied, expected.optional, expected.ignored, prefix)


def expected_by_hftk(class_name: str, config: hftk.HftkConfig) -> Expected:
    """What one of hftk's classes loads."""
    with torch.device("meta"):
        model = getattr(hftk, class_name)(config)
    return _expected(model, class_name, "", tied_head=True)


def _expected(model: Any, class_name: str, prefix: str, tied_head: bool) -> Expected:
    tied = {prefix + name: prefix + stored for name, stored in model.all_tied_weights_keys.items()}
    if not tied_head:
        tied.pop("lm_head.weight", None)
    shapes = {prefix + name: tuple(value.shape) for name, value in model.state_dict().items()}
    optional = set(model._keys_to_ignore_on_load_missing or ())
    ignored = tuple(model._keys_to_ignore_on_load_unexpected or ())
    return Expected(
        class_name, {name: shape for name, shape in shapes.items() if name not in tied}, tied, optional, ignored, prefix
    )
