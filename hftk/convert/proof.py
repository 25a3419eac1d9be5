"""Moves the numbers, and proves it: what was written, taken back tensor by tensor, is the source again, bit for bit."""

import hashlib
from typing import Any

import numpy as np

from hftk.convert.family import Family
from hftk.convert.plan import Plan, Step
from hftk.convert.rules import Config
from hftk.convert.weights import Weights
from hftk.convert.writing import pieces, to_dtype
from hftk.errors import UsageError

TABLE_ATOL = 1e-6  # between tables that programs compute in other orders


def sha256(array: np.ndarray) -> str:
    """Of the numbers, row by row."""
    found = hashlib.sha256()
    for piece in pieces(array):
        found.update(piece.data)
    return found.hexdigest()


class Mover:
    """
    Reads the tensors of a plan from their source, and remembers what it read.

    Args:
        weights ([`Weights`]):
            The source.
        family ([`Family`]):
            Its family.
        config (`dict`):
            torch's configuration.
    """

    def __init__(self, weights: Weights, family: Family, config: Config):
        self.weights, self.family, self.config = weights, family, config
        self.source_hashes: dict[str, str] = {}
        self.hashes: dict[str, str] = {}

    def read(self, step: Step) -> np.ndarray:
        """
        The numbers of the target, as they are stored.

        Raises:
            UsageError: the file is damaged, or tensors that should be equal are not.
        """
        if step.sources:
            array = self.weights.tensors[step.sources[0]].read()
            self.source_hashes[step.target] = sha256(array)
            for other in step.sources[1:]:
                self._check_equal(step, other)
            if step.torch in self.family.computed:
                check_computed(self.weights, self.family, step.torch, array, step.sources[0], self.config)
        else:
            array = self.family.computed[step.torch](self.config)
        stored = to_dtype(step.forward(array, self.config), step.dtype)
        self.hashes[step.target] = sha256(stored)
        return stored

    def _check_equal(self, step: Step, other: str) -> None:
        if sha256(self.weights.tensors[other].read()) != self.source_hashes[step.target]:
            raise UsageError(
                f"{self.weights.source}: {other} and {step.sources[0]} differ, but they are one tensor in "
                f"{self.family.model_type}; if its head is its own, set tie_word_embeddings to false in the config"
            )


def check_computed(weights: Weights, family: Family, torch: str, array: np.ndarray, name: str, config: Config) -> None:
    """Raises `UsageError` if a tensor that the target computes is another one in the source."""
    wanted = family.computed[torch](config)
    difference = float(np.abs(wanted - array).max()) if wanted.shape == array.shape else float("inf")
    if not difference <= TABLE_ATOL:
        raise UsageError(
            f"{weights.source}: {name} is not the table that {family.model_type} computes (off by {difference:.1e}); "
            f"{family.model_type} cannot hold a learned one"
        )


def check_plan_computed(plan: Plan, weights: Weights, family: Family, config: Config) -> None:
    """The same for all that the target does not store."""
    for name, torch in plan.checks.items():
        check_computed(weights, family, torch, weights.tensors[name].read(), name, config)


def prove(plan: Plan, mover: Mover, written: Weights, path_of: Any = str) -> list[dict[str, Any]]:
    """
    Level 1: reads what was written and takes it back.

    Args:
        plan ([`Plan`]):
            What should be there.
        mover ([`Mover`]):
            What was read and written.
        written ([`Weights`]):
            The target, opened again.
        path_of (`Callable[[str], str]`, *optional*):
            From a target's name to that in the file.

    Returns:
        `list[dict]`: a row for each tensor; `round_trip` is `bit-equal`, or says what is not.
    """
    rows = []
    for step in plan.steps:
        name = path_of(step.target)
        row: dict[str, Any] = {
            "target": name,
            "source": list(step.sources) or "computed",
            "transform": step.transform,
            "source_shape": list(mover.weights.tensors[step.sources[0]].shape) if step.sources else None,
            "shape": list(step.shape),
            "dtype": step.dtype,
            "sha256": mover.hashes[step.target],
        }
        row["round_trip"] = _round_trip(step, mover, written, name)
        rows.append(row)
    return rows


def _round_trip(step: Step, mover: Mover, written: Weights, name: str) -> str:
    tensor = written.tensors.get(name)
    if tensor is None:
        return "not in the file"
    if (tensor.shape, tensor.dtype) != (step.shape, step.dtype):
        return f"is {list(tensor.shape)} {tensor.dtype} in the file"
    array = tensor.read()
    if sha256(to_dtype(array, step.dtype)) != mover.hashes[step.target]:
        return "not what was written"
    if not step.sources:
        return "computed"
    source_dtype = mover.weights.tensors[step.sources[0]].dtype
    if source_dtype != step.dtype:
        return f"rounded from {source_dtype}"
    if sha256(step.backward(array, mover.config)) == mover.source_hashes[step.target]:
        return "bit-equal"
    return f"bit-equal but for {step.drops}" if step.drops else "not the source"


def is_proof(round_trip: str) -> bool:
    """Whether a row's `round_trip` is one that stands."""
    return round_trip.startswith(("bit-equal", "computed", "rounded from"))
