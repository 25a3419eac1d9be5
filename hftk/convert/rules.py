"""
How tensors of two programs correspond: a rule pairs two names and says how the numbers are turned, and is read in both
directions. A family of models is a list of rules; torch's names stand in the middle, between any two programs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

# What may stand in a name. `layer` is a number; Keras writes `_layer`, nothing for the first and _1 for the second.
PLACEHOLDERS = {
    "layer": r"\d+",
    "_layer": r"(?:_[1-9]\d*)?",
    "stack": "encoder|decoder",
    "qkvo": "q|k|v|out",
    "letter": "[qkvo]",
    "feed": "wi|wi_0|wi_1|wo",
    "place": "[012]",
    "part": "query|key|value",
    "leaf": "weight|bias",
}

Config = dict[str, Any]


@dataclass(frozen=True)
class Transform:
    """
    What happens to the numbers.

    Args:
        name, back (`str`):
            For the report, to torch and from it; empty if nothing happens.
        to_torch, from_torch (`Callable[[np.ndarray, Config], np.ndarray]`):
            Both directions, given torch's configuration.
        drops (`str`, *optional*):
            What is lost on the way from torch, so that the other way cannot bring it back.
    """

    name: str
    back: str
    to_torch: Callable[[np.ndarray, Config], np.ndarray]
    from_torch: Callable[[np.ndarray, Config], np.ndarray]
    drops: str = ""


SAME = Transform("", "", lambda x, config: x, lambda x, config: x)
# A kernel of TensorFlow is [in, out], a weight of torch [out, in].
TRANSPOSE = Transform("transposed", "transposed", lambda x, config: x.T, lambda x, config: x.T)
# [vocab] <-> [1, vocab]
ROW = Transform("as a row", "its row", lambda x, config: x[None], lambda x, config: x[0])


@dataclass(frozen=True)
class Rule:
    """
    A pair of names, with placeholders in braces.

    Args:
        theirs (`str`):
            The other program's.
        torch (`str`):
            That of transformers' torch class.
        transform (`Transform`, defaults to `SAME`):
            What happens to the numbers.
    """

    theirs: str
    torch: str
    transform: Transform = SAME

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return _pattern(self.theirs), _pattern(self.torch)


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    seen: set[str] = set()
    pattern = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            pattern += re.escape(part)
        else:
            pattern += f"(?P={part})" if part in seen else f"(?P<{part}>{PLACEHOLDERS[part]})"
            seen.add(part)
    return re.compile(pattern)


def _rename(name: str, pattern: re.Pattern[str], template: str) -> str | None:
    match = pattern.fullmatch(name)
    if match is None:
        return None
    found = match.groupdict()
    if "_layer" in found:
        found["layer"] = found["_layer"][1:] or "0"
    elif "layer" in found:
        found["_layer"] = "" if found["layer"] == "0" else "_" + found["layer"]
    return template.format(**found)


@dataclass(frozen=True)
class Naming:
    """
    The names that one program gives to the tensors of a family.

    Args:
        rules (`tuple[Rule, ...]`):
            Every tensor has one; the first that matches counts.
        around (`tuple[tuple[str, str], ...]`, *optional*):
            Patterns of what some files write around these names, each with what to put in its place.
        skipped (`dict[str, str]`, *optional*):
            Patterns of names that need no rule, with the reason.
        read_config (`Callable[[Config], Config]`, *optional*):
            From the configuration that lies beside such weights to torch's; by default it is torch's.
    """

    rules: tuple[Rule, ...]
    around: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    read_config: Callable[[Config], Config] = dict

    def bare(self, name: str) -> str:
        """The name without what its file wrote around it."""
        for pattern, replacement in self.around:
            name = re.sub(pattern, replacement, name)
        return name

    def to_torch(self, name: str) -> tuple[str, Transform] | None:
        """torch's name for a bare one, and what happens to the numbers on the way; `None` without a rule."""
        for rule in self.rules:
            if renamed := _rename(name, rule.patterns[0], rule.torch):
                return renamed, rule.transform
        return None

    def from_torch(self, name: str) -> tuple[str, Transform] | None:
        """The bare name for one of torch's."""
        for rule in self.rules:
            if renamed := _rename(name, rule.patterns[1], rule.theirs):
                return renamed, rule.transform
        return None

    def why_skipped(self, name: str) -> str:
        """The reason for a bare name that needs no rule; empty if it does need one."""
        return next((reason for pattern, reason in self.skipped if re.fullmatch(pattern, name)), "")


def dense(theirs: str, torch: str) -> list[Rule]:
    """A dense layer of TensorFlow and a linear one of torch, with or without a bias."""
    return [Rule(f"{theirs}/kernel", f"{torch}.weight", TRANSPOSE), Rule(f"{theirs}/bias", f"{torch}.bias")]


def norm(theirs: str, torch: str) -> list[Rule]:
    """A LayerNorm."""
    return [Rule(f"{theirs}/gamma", f"{torch}.weight"), Rule(f"{theirs}/beta", f"{torch}.bias")]


def table(theirs: str, torch: str) -> list[Rule]:
    """A table of embeddings."""
    return [Rule(f"{theirs}/embeddings", f"{torch}.weight")]


# Around the names of transformers' TensorFlow classes: in tf_model.h5 the group and the model, in its shards nothing,
# in a checkpoint the model.
TF_AROUND = (
    (r":0$", ""),
    (r"^(?:\w+/)?tf\w+/", ""),
    (r"^(?:.*/)?((?:model\.)?shared)/(?:embeddings|weight)$", r"\1/embeddings"),
    (r"^final_logits_bias/", ""),
)
