"""The recipes that hftk carries: in a checkout beside the package, in an installed hftk inside it."""

import difflib
import re
from importlib.resources import files
from pathlib import Path

from hftk.errors import UsageError


def recipes_folder() -> Path:
    """The folder of the recipes that came with this hftk."""
    package = Path(str(files("hftk")))
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def list_recipes() -> list[tuple[str, str]]:
    """The name of each recipe, as `pretrain/debug`, with its file's first comment line."""
    folder = recipes_folder()
    return [(_name(path, folder), _first_comment(path)) for path in sorted(folder.rglob("*.yaml"))]


def find_recipe(name: str) -> Path:
    """
    The file that is meant by the name of a file or of a recipe that hftk carries.

    Args:
        name (`str`):
            `my/recipe.yaml`, or `pretrain/debug`, or `pretrain/debug.yaml`; or `owner/name` or `owner/name@revision`, a
            repository that `hftk push` filled, whose recipe is fetched. A file comes first.

    Raises:
        UsageError: If there is none of these.
    """
    if Path(name).is_file():
        return Path(name)
    carried = recipes_folder() / f"{name.removesuffix('.yaml')}.yaml"
    if carried.is_file():
        return carried
    fetched = _recipe_of_repository(name)
    if fetched is not None:
        return fetched
    nearest = difflib.get_close_matches(name, [carried for carried, _ in list_recipes()], n=1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else "`hftk recipes ls` lists the recipes that hftk carries"
    raise UsageError(f"{name}: no such file and no such recipe; {hint}")


def _recipe_of_repository(name: str) -> Path | None:
    """The `recipe.yaml` of a repository; None if there is no such repository, or it has none, or no network."""
    repo, _, revision = name.partition("@")
    kinds = {path.name for path in recipes_folder().iterdir()}
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or repo.partition("/")[0] in kinds:
        return None
    from httpx2 import RequestError
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, "recipe.yaml", revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RequestError):
        return None


def copy_recipe(name: str, destination: str) -> None:
    """
    Copies a recipe, to be changed.

    Args:
        name (`str`):
            As for [`find_recipe`].
        destination (`str`):
            A file that does not exist.

    Raises:
        UsageError: If there is no such recipe, or the destination exists or cannot be written.
    """
    text = find_recipe(name).read_bytes()
    try:
        with open(destination, "xb") as copy:
            copy.write(text)
    except FileExistsError as error:
        raise UsageError(f"{destination} exists; choose another name") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{destination}: there is no folder {Path(destination).parent}; create it first") from error


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
