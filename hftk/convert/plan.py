"""Which tensor becomes which, decided before any is read."""

import re
from dataclasses import dataclass, field
from fnmatch import fnmatch

import numpy as np

from hftk.convert.expected import Expected
from hftk.convert.family import Family
from hftk.convert.rules import SAME, Config, Naming, Transform
from hftk.convert.weights import Weights
from hftk.errors import UsageError


@dataclass(frozen=True)
class Step:
    """
    One tensor of the target.

    Args:
        target, torch (`str`):
            Its name there, and that of torch's class.
        sources (`tuple[str, ...]`):
            Names in the source. Several are tied and must be equal; none: it is computed.
        to_torch, from_torch (`Transform`):
            What happens on the way from the source to torch, and from there to the target.
        shape (`tuple[int, ...]`):
            In the target.
        dtype (`str`):
            In the target.
    """

    target: str
    torch: str
    sources: tuple[str, ...]
    to_torch: Transform
    from_torch: Transform
    shape: tuple[int, ...]
    dtype: str

    def forward(self, array: np.ndarray, config: Config) -> np.ndarray:
        """From the source to the target."""
        return self.from_torch.from_torch(self.to_torch.to_torch(array, config), config)

    def backward(self, array: np.ndarray, config: Config) -> np.ndarray:
        """From the target to the source."""
        return self.to_torch.from_torch(self.from_torch.to_torch(array, config), config)

    @property
    def drops(self) -> str:
        return self.from_torch.drops

    @property
    def transform(self) -> str:
        """In words."""
        if self.to_torch == self.from_torch:
            return ""
        return ", then ".join(part for part in (self.to_torch.name, self.from_torch.back) if part)


@dataclass
class Plan:
    """
    Args:
        steps (`list[Step]`):
            In the order of the target's model.
        unused (`list[str]`):
            Tensors of the source without a place in the target.
        missing (`list[str]`):
            Tensors of the target without a source.
        skipped (`dict[str, str]`):
            Tensors of the source that need no place, with the reason.
        defaults (`list[str]`):
            Tensors of the target that the class fills itself.
        checks (`dict[str, str]`):
            Tensors of the source that are not stored in the target, which computes them: torch's name of each.
    """

    steps: list[Step] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    defaults: list[str] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)

    def allow(self, patterns: list[str]) -> None:
        """Takes names that match off the lists of what stands against converting."""
        for name in [name for name in self.unused if _any_match(name, patterns)]:
            self.unused.remove(name)
            self.skipped[name] = "allowed by name"
        for name in [name for name in self.missing if _any_match(name, patterns)]:
            self.missing.remove(name)
            self.defaults.append(name)


def _any_match(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


# How torch's norms were called once; transformers still reads it.
OLD_NAMES = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))


def torch_names(weights: Weights, family: Family, naming: Naming | None) -> dict[str, tuple[str, Transform] | None]:
    """
    For each tensor of a source torch's name, that of the class with a head, and what happens on the way.

    Args:
        weights ([`Weights`]):
            The source.
        family ([`Family`]):
            Its family.
        naming (`Naming`, *optional*):
            Whose names it has; `None` for torch's.

    Returns:
        `dict`: `None` for a tensor without a rule.
    """
    if naming is not None:
        # A checkpoint may keep a variable's own name beside its key, which is a path through objects.
        return {
            name: naming.to_torch(naming.bare(name)) or naming.to_torch(naming.bare(tensor.full_name))
            for name, tensor in weights.tensors.items()
        }
    prefix = "" if any(name.startswith(family.prefix) for name in weights.tensors) else family.prefix
    found: dict[str, tuple[str, Transform] | None] = {}
    for name in weights.tensors:
        modern = name
        for pattern, replacement in OLD_NAMES:
            modern = re.sub(pattern, replacement, modern)
        found[name] = (prefix + modern, SAME)
    return found


def make_plan(
    weights: Weights,
    family: Family,
    namings: tuple[Naming | None, Naming | None],
    expected: Expected,
    by_torch: Expected,
    config: Config,
    dtype: str | None = None,
) -> Plan:
    """
    Pairs the tensors of a source with those of a target.

    Args:
        weights ([`Weights`]):
            The source.
        family ([`Family`]):
            Of both.
        namings (`tuple[Naming | None, Naming | None]`):
            The names of the source and of the target; `None` for torch's.
        expected, by_torch ([`Expected`]):
            The target, by its names if it is hftk's, otherwise by torch's; and torch's class.
        config (`dict`):
            torch's configuration.
        dtype (`str`, *optional*):
            What floating point numbers become.

    Raises:
        UsageError: shapes differ.
    """
    source_naming, target_naming = namings
    plan = Plan(skipped=dict(weights.skipped))
    found: dict[str, list[str]] = {}
    transforms: dict[str, Transform] = {}
    for name, renamed in torch_names(weights, family, source_naming).items():
        if renamed is not None:
            torch, transform = renamed
            torch = by_torch.tied.get(torch, torch)
            found.setdefault(torch, []).append(name)
            transforms[torch] = transform
        else:
            plan.unused.append(name)

    placed: dict[str, Step] = {}
    for torch, names in found.items():
        renamed = (torch, SAME) if target_naming is None else target_naming.from_torch(torch)
        key = torch if expected is by_torch else (renamed or ("",))[0]
        if renamed is None or key not in expected.shapes:
            _leave_out(plan, family, by_torch, torch, names)
            continue
        target, from_torch = renamed
        source = weights.tensors[names[0]]
        step = Step(
            target.removeprefix(expected.prefix) if target_naming is None else target,
            torch,
            tuple(names),
            transforms[torch],
            from_torch,
            _shape_after(source.shape, transforms[torch], from_torch, config, names[0]),
            dtype if dtype and np.dtype(_numpy(source.dtype)).kind == "f" else source.dtype,
        )
        wanted = expected.shapes[key]
        if expected is by_torch and target_naming is not None:  # the rule alone knows the target's shape
            wanted = _shape_after(wanted, SAME, from_torch, config, key)
        if step.shape != wanted:
            raise UsageError(
                f"{weights.source}: {names[0]} {list(source.shape)} becomes {step.target} {list(step.shape)}, but "
                f"{expected.class_name} has {list(wanted)} there; does the config belong to these weights?"
            )
        placed[key] = step

    for key, shape in expected.shapes.items():
        if key in placed:
            plan.steps.append(placed[key])
        elif torch := _computed(family, target_naming, expected is by_torch, key):
            target = key if target_naming is None else _renamed(target_naming, torch)
            plan.steps.append(Step(target, torch, (), SAME, SAME, shape, dtype or "float32"))
        elif key in expected.optional:
            plan.defaults.append(key)
        else:
            plan.missing.append(key.removeprefix(expected.prefix))
    return plan


def _renamed(naming: Naming, torch: str) -> str:
    return (naming.from_torch(torch) or (torch,))[0]


def _computed(family: Family, naming: Naming | None, is_torch: bool, key: str) -> str:
    """torch's name of a tensor that follows from the configuration; empty for another."""
    names = {torch: torch if naming is None or is_torch else _renamed(naming, torch) for torch in family.computed}
    return next((torch for torch, name in names.items() if name == key), "")


def _leave_out(plan: Plan, family: Family, expected: Expected, torch: str, names: list[str]) -> None:
    reason = next((reason for pattern, reason in family.left_out if re.fullmatch(pattern, torch)), "")
    if torch in family.computed:
        plan.checks |= dict.fromkeys(names, torch)
        reason = "computed from the config"
    elif expected.ignores(torch):
        reason = f"{expected.class_name} does not want it"
    for name in names:
        if reason:
            plan.skipped[name] = reason
        else:
            plan.unused.append(name)


def _numpy(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else dtype


def _shape_after(
    shape: tuple[int, ...], to_torch: Transform, from_torch: Transform, config: Config, name: str
) -> tuple[int, ...]:
    """The shape that transforms give, tried on zeros that take no memory."""
    zeros = np.broadcast_to(np.zeros((), np.int8), shape)
    try:
        return from_torch.from_torch(to_torch.to_torch(zeros, config), config).shape
    except (ValueError, IndexError) as error:
        raise UsageError(f"{name}: its shape {list(shape)} is not one of this family ({error})") from error
