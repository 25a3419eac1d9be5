import re
import shlex
from pathlib import Path

import pytest

from hftk.compare import planned_runs, read_vary
from hftk.errors import UsageError
from hftk.finetune_recipe import load_finetune_recipe
from hftk.recipe import PretrainRecipe, load_recipe
from hftk.recipe_files import copy_recipe, find_recipe, list_recipes, recipes_folder


def test_the_folder_beside_the_package_is_found():
    assert recipes_folder() == Path(__file__).parents[1] / "recipes"


def test_each_recipe_is_listed_with_its_first_comment_and_found_by_its_name():
    for name, comment in list_recipes():
        path = find_recipe(name)
        assert path == recipes_folder() / f"{name}.yaml" == find_recipe(f"{name}.yaml")
        assert comment and path.read_text(encoding="utf-8").startswith(f"# {comment}\n")


@pytest.mark.parametrize("name", [name for name, _ in list_recipes() if not name.startswith("accelerate/")])
def test_each_recipe_loads_and_so_does_each_command_in_its_head(name):
    head = re.sub(r"\\\n# *", "", find_recipe(name).read_text(encoding="utf-8"))
    commands = re.findall(r"^#   hftk (pretrain|finetune|compare) (\S+)(.*)$", head, re.M)
    assert name in [recipe for _, recipe, _ in commands]
    for command, recipe, overrides in commands:
        path = find_recipe(recipe)
        if command == "pretrain":
            load_recipe(path, shlex.split(overrides), PretrainRecipe)
        elif command == "compare":
            plan_comparison(recipe, overrides)
        else:
            load_finetune_recipe(path, shlex.split(overrides))


def test_the_commands_of_the_notes_can_be_run():
    page = Path(__file__).parents[1].joinpath("docs", "notes.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    hftk compare (\S+)((?:(?!KEY=).)*)$", re.sub(r"\\\n *", "", page), re.M)
    assert len(commands) == page.count("    hftk compare ") - 1 > 2  # all but the pattern of the others
    for recipe, arguments in commands:
        plan_comparison(recipe, arguments)
    assert all(
        (Path(__file__).parents[1] / "docs" / picture).exists() for picture in re.findall(r"\]\((.+png)\)", page)
    )


def plan_comparison(recipe: str, arguments: str) -> None:
    """Reads what `hftk compare` would run."""
    words = shlex.split(arguments)
    vary = words.index("--vary")
    planned_runs(find_recipe(recipe), read_vary([words[vary + 1]]), words[:vary] + words[vary + 2 :])


def test_a_file_comes_before_a_carried_recipe(tmp_path, monkeypatch):
    name, _ = list_recipes()[0]
    mine = tmp_path / f"{name}.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("output: mine\n")
    monkeypatch.chdir(tmp_path)
    assert find_recipe(f"{name}.yaml").samefile(mine)


def test_an_unknown_name_is_told_with_the_nearest():
    name, _ = list_recipes()[0]
    with pytest.raises(UsageError, match=f"no such recipe; did you mean '{name}'"):
        find_recipe(f"{name}g")
    with pytest.raises(UsageError, match="`hftk recipes ls`"):
        find_recipe("qqqqqqqqqq")


def test_a_copy_is_the_same_and_nothing_is_overwritten(tmp_path):
    name, _ = list_recipes()[0]
    copy = tmp_path / "copy.yaml"
    copy_recipe(name, str(copy))
    assert copy.read_bytes() == find_recipe(name).read_bytes()
    copy.write_text("mine")
    with pytest.raises(UsageError, match="copy.yaml exists"):
        copy_recipe(name, str(copy))
    assert copy.read_text() == "mine"
    with pytest.raises(UsageError, match="there is no folder"):
        copy_recipe(name, str(tmp_path / "nowhere" / "copy.yaml"))
