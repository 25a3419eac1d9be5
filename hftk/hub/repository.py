"""A folder or a repository of the Hub: the same to whoever reads it."""

from pathlib import Path

from httpx2 import RequestError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from hftk.errors import UsageError


def folder_of(name: str, revision: str | None = None) -> Path:
    """
    Where a checkpoint lies on this machine, fetched from the Hub if need be.

    Args:
        name (`str`): a folder or a Hub id.
        revision (`str`, *optional*): of a repository, a branch or a commit.

    Raises:
        UsageError: neither is there, or not for this user.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RequestError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{name}: no such folder, and no repository that you may read: {said}") from error
