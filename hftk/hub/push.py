"""`hftk push DIR REPO`: a run's folder to the Hub, so that others load it and can repeat it. Nothing private goes."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from httpx2 import RequestError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Trainer

from hftk.errors import UsageError
from hftk.report.folder import ABOUT, CARD, CODE, CONFIGS, RECIPE, TOKENIZER, WEIGHTS
from hftk.tasks import parsing_scores, subject_scores
from hftk.tasks.task import ADAPTERS, LAST_LAYER

PUBLIC = [*WEIGHTS, *CONFIGS, *TOKENIZER, *CODE, *ABOUT]
# What no library defines; each file stands alone.
METRICS = {"parsing_scores": parsing_scores, "subject_scores": subject_scores}
TEXT = (".json", ".jsonl", ".yaml", ".md", ".py", ".txt", ".jinja")
SECRET = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})\b")

Content = Path | bytes  # a file as it lies there, or what goes up in its place


def push(
    directory: str,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    base: str | None = None,
    token: str | None = None,
) -> str:
    """
    Lists what goes to the Hub and what stays, then sends it as one commit. Files of an earlier push that the folder no
    longer has are deleted there. Repeated after an interruption, it does not send again what had arrived.

    Args:
        directory (`str`):
            What `hftk pretrain` or `hftk finetune` wrote.
        repo (`str`):
            `name` or `owner/name`; is made if there is none.
        private (`bool`, defaults to `False`):
            Make it private.
        revision (`str`, *optional*):
            A branch; is made if there is none. Default: `main`.
        base (`str`, *optional*):
            The repository of the checkpoint that the run started from, if the recipe names a folder.
        token (`str`, *optional*):
            By default that of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: the URL of the commit.

    Raises:
        UsageError: no run there, a part of it that is private, or the Hub refuses; which right is missing, for one.
    """
    folder = Path(directory)
    contents, stays = what_goes(folder, repo, base)
    for path, content in contents.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        print(f"goes  {path}  {size:,} bytes")
    for path in stays:
        print(f"stays {path}")
    api = HfApi(token=token)
    with told(repo):
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations: list[Any] = [CommitOperationAdd(path, content) for path, content in contents.items()]
        for path in api.list_repo_files(repo, revision=revision):
            if path not in contents and any(PurePosixPath(path).match(pattern) for pattern in PUBLIC):
                operations.append(CommitOperationDelete(path))
        commit = api.create_commit(repo, operations, commit_message=f"hftk push {folder.name}", revision=revision)
    print(commit.commit_url)
    return commit.commit_url


def push_metric(name: str, repo: str, private: bool = False) -> str:
    """
    One of our metrics to the Hub, where `evaluate.load(repo)` finds it: a Space with its code.

    Args:
        name (`str`): of [`METRICS`].
        repo (`str`), private (`bool`): as for [`push`].
    """
    file = Path(str(METRICS[name].__file__))
    described = str(METRICS[name].__doc__).strip()
    head = f"---\ntitle: {repo.rpartition('/')[2]}\nsdk: static\ntags:\n- evaluate\n- metric\n---\n"
    card = f'{head}\n{described}\n\n```python\nimport evaluate\n\nmetric = evaluate.load("{repo}")\n```\n'
    api = HfApi()
    with told(repo):
        repo = api.create_repo(repo, repo_type="space", space_sdk="static", private=private, exist_ok=True).repo_id
        contents: dict[str, Content] = {f"{repo.rpartition('/')[2]}.py": file, "README.md": card.encode()}
        for path in contents:
            print(f"goes  {path}")
        operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
        commit = api.create_commit(repo, operations, commit_message=f"hftk push {name}", repo_type="space")
    print(commit.commit_url)
    return commit.commit_url


@contextmanager
def told(repo: str) -> Iterator[None]:
    """Within, what the Hub refuses and what the connection does not carry are `UsageError`s."""
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"{repo}: {error}") from error
    except LocalTokenNotFoundError as error:
        raise UsageError(NO_TOKEN) from error
    except HfHubHTTPError as error:
        raise UsageError(refusal(error, repo)) from error
    except RequestError as error:
        raise UsageError(lost(error, repo)) from error
    except RuntimeError as error:  # an upload, and why it failed as its cause
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise UsageError(refusal(cause, repo)) from error
        if isinstance(cause, RequestError):
            raise UsageError(lost(cause, repo)) from error
        raise


def push_run(trainer: Trainer) -> None:
    """[`push`] for a training that is done, to where its `training.hub_…` keys say."""
    arguments = trainer.args
    private, revision = bool(arguments.hub_private_repo), arguments.hub_revision
    push(arguments.output_dir, trainer.hub_model_id, private, revision, token=arguments.hub_token)


NO_TOKEN = "the Hub does not know who you are; run `hf auth login` with a token that may write"


def refusal(error: HfHubHTTPError, repo: str) -> str:
    """What the Hub refuses, and what to do."""
    status = error.response.status_code
    said = error.response.headers.get("X-Error-Message") or error.server_message or ""
    if status == 401:
        return NO_TOKEN
    if status == 403:
        owner = repo.partition("/")[0]
        return (
            f"{repo}: your token lacks the right to write to repositories of {owner} ({said}); nothing was pushed. "
            f"Take a token with the role write of someone who may, or another name than {owner}"
        )
    if status in (413, 507):
        return f"{repo}: the Hub has no room for this ({said}); what was there before is unchanged"
    return f"{repo}: the Hub answers {status}: {said or ' '.join(str(error).split())}"


def lost(error: RequestError, repo: str) -> str:
    return (
        f"{repo}: the connection was lost ({' '.join(str(error).split()) or type(error).__name__}) and the repository "
        "is as it was; push again, which does not send again what has arrived"
    )


def what_goes(folder: Path, repo: str, base: str | None) -> tuple[dict[str, Content], list[str]]:
    """
    What of a run's folder goes to the Hub, by its path there, and what stays.

    Raises:
        UsageError: no run, or something private in what is to go.
    """
    files = {path.relative_to(folder).as_posix(): path for pattern in PUBLIC for path in sorted(folder.glob(pattern))}
    if RECIPE not in files or CARD not in files:
        raise UsageError(f"{folder}: no {RECIPE} and {CARD} in it; name a folder that hftk pretrain or finetune wrote")
    contents: dict[str, Content] = dict(files)
    recipe_text = files[RECIPE].read_text(encoding="utf-8")
    recipe = yaml.safe_load(recipe_text)
    public = public_names(folder, recipe, repo, base)
    training = recipe.get("training", {})
    for key in [key for key in training if key.startswith(("hub_", "push_to_hub"))]:
        del training[key]  # whoever repeats the run has a Hub of their own
    published = yaml.safe_dump(renamed(recipe, public), sort_keys=False, allow_unicode=True)
    contents[RECIPE] = published.encode()
    card = files[CARD].read_text(encoding="utf-8").replace(recipe_text.strip(), published.strip())
    contents[CARD] = in_text(card, public).encode()
    if ADAPTERS in files:
        contents[ADAPTERS] = in_text(files[ADAPTERS].read_text(encoding="utf-8"), public).encode()
    if LAST_LAYER in files:
        contents[LAST_LAYER] = with_backbone(files[LAST_LAYER], public)
    places = {place for place in [*public, str(folder.absolute()), str(Path.cwd())] if Path(place).is_absolute()}
    refuse_private(contents, folder, places | {str(Path.home())})
    gone = {path.parts[0] for path in map(Path, files)}
    stays = [f"{path.name}{'/' if path.is_dir() else ''}" for path in sorted(folder.iterdir()) if path.name not in gone]
    return contents, stays


def public_names(folder: Path, recipe: dict[str, Any], repo: str, base: str | None) -> dict[str, str]:
    """
    For each place on this machine that a recipe names, what it is called for others: a repository, or a file without
    its folders.

    Raises:
        UsageError: adapters or a last layer over a backbone that nobody else has.
    """
    names = {str(recipe["output"]): repo, str(folder): repo, str(folder.absolute()): repo}
    model = recipe.get("model")
    if isinstance(model, str) and (base or Path(model).is_dir()):
        if base is None and any((folder / part).exists() for part in (ADAPTERS, LAST_LAYER)):
            raise UsageError(
                f"{folder} needs the weights of {model}, which nobody else has: push that first, then name its "
                "repository: --base OWNER/NAME"
            )
        names[model] = base or Path(model).name
    for value in strings(recipe):
        if Path(value).is_absolute() or value.startswith("~"):
            names.setdefault(value, Path(value).name)
    return names


def strings(value: Any) -> list[str]:
    """All strings in nested lists and dictionaries."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [string for part in parts for string in strings(part)]
    return [value] if isinstance(value, str) else []


def renamed(value: Any, names: dict[str, str]) -> Any:
    """The same lists and dictionaries with other strings."""
    if isinstance(value, dict):
        # a run has an output here, not in a repository
        return {
            key: f"runs/{PurePosixPath(names[part]).name}" if key == "output" else renamed(part, names)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def in_text(text: str, names: dict[str, str]) -> str:
    """A text with the places in it renamed, where they stand between quotes."""
    for place, name in names.items():
        for quote in "\"'`":
            text = text.replace(f"{quote}{place}{quote}", f"{quote}{name}{quote}")
    return re.sub(
        r"^base_model: (.+)$", lambda found: f"base_model: {names.get(found[1], found[1])}", text, flags=re.MULTILINE
    )


def with_backbone(file: Path, names: dict[str, str]) -> bytes:
    """A last layer that names the repository of its backbone."""
    with safe_open(file, "pt") as weights:
        metadata = weights.metadata()
    metadata["backbone"] = names.get(metadata["backbone"], metadata["backbone"])
    with tempfile.TemporaryDirectory() as folder:
        save_file(load_file(file), Path(folder, LAST_LAYER), metadata=metadata)
        return Path(folder, LAST_LAYER).read_bytes()


def refuse_private(contents: dict[str, Content], folder: Path, places: set[str]) -> None:
    """Raises `UsageError` for a token, or a place on this machine, in a text that is to go."""
    for path, content in contents.items():
        if not path.endswith(TEXT) or path in TOKENIZER:
            continue  # a vocabulary may hold any word
        text = content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if SECRET.search(line):
                raise UsageError(f"{folder / path}:{number}: this looks like a token; take it out and push again")
            for place in places - {"/"}:
                if re.search(rf"{re.escape(place)}(?![\w-])", line):
                    raise UsageError(f"{folder / path}:{number}: {place} is a place on this machine; take it out")
