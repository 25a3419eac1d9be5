"""Imports point one way, and whatever is imported is declared."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "hftk").rglob("*.py"))

# A module imports what stands above it, and what stands in its own line; training, convert and hub only themselves.
ORDER = [
    {"model"},
    {"data"},
    {"tasks"},
    {"report"},
    {"training", "convert", "hub"},
    {"recipe", "recipe_keys", "recipe_files", "finetune_recipe"},
    {"pretrain", "splits", "finetune", "forgetting", "evaluate", "predict", "plan", "prepare"},
    {"compare", "quickstart"},
    {"cli"},
    {"__main__"},
]
RANK = {module: rank for rank, modules in enumerate(ORDER) for module in modules}
MODEL_MAY_IMPORT = {"torch", "transformers", "numpy", *sys.stdlib_module_names}


def imports(path: Path) -> set[tuple[str, ...]]:
    """All that a file imports, inside functions too, as absolute dotted names in parts."""
    package = path.relative_to(ROOT).parts[:-1]
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            source = start + tuple(node.module.split(".") if node.module else ())
            names |= {(*source, alias.name) for alias in node.names}
    return names


def module_of(path: Path) -> str:
    """`hftk/data/packing.py` belongs to `data`, `hftk/cli.py` is `cli`."""
    return path.relative_to(ROOT / "hftk").with_suffix("").parts[0]


def hftk_imports(path: Path) -> set[str]:
    return {parts[1] for parts in imports(path) if parts[0] == "hftk" and len(parts) > 1}


def test_relative_imports_are_resolved():
    modeling = imports(ROOT / "hftk/model/modeling_hftk.py")
    assert ("hftk", "model", "configuration_hftk", "HftkConfig") in modeling


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path):
    module = module_of(path)
    if module in ("__init__", "errors"):
        assert hftk_imports(path) <= {"model"}
        return
    assert module in RANK, f"{path}: place '{module}' in ORDER"
    for imported in hftk_imports(path) & RANK.keys() - {module}:
        beside = RANK[imported] == RANK[module] and module not in ("training", "convert", "hub")
        assert RANK[imported] < RANK[module] or beside, f"{module} imports {imported}"


@pytest.mark.parametrize("path", sorted((ROOT / "hftk/model").glob("*.py")), ids=lambda path: path.name)
def test_model_travels_with_transformers_and_what_that_needs(path: Path):
    for parts in imports(path):
        assert parts[0] in MODEL_MAY_IMPORT or parts[:2] == ("hftk", "model"), ".".join(parts)


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    declared = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}
    distributions = packages_distributions()
    for path in FILES:
        for package in {parts[0] for parts in imports(path)} - {"hftk", *sys.stdlib_module_names}:
            names = {name.lower() for name in distributions.get(package, [package])}
            assert names & declared, f"{path}: {package} is not in pyproject.toml"
