"""Folders to and from the Hugging Face Hub, through `huggingface_hub` and the login that it keeps itself."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

LOGIN = "log in once with `hf auth login`, or set HF_TOKEN"


def _api() -> HfApi:
    """HF_ENDPOINT names a server of one's own. No token is ever passed, kept or printed here."""
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="badhands")


def push_folder(folder: Path, repo: str, kind: str, *, private: bool = True, message: str) -> str:
    """Send all files of `folder` to a repo, made if missing (private unless asked otherwise); returns its address.

    Args:
        kind: model or dataset.

    Raises:
        ValueError: not logged in, no right to write there, or no connection.
    """
    api = _api()
    try:
        made = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, repo_type=kind, folder_path=folder, commit_message=message)
        return str(made)
    except LocalTokenNotFoundError:
        raise ValueError(f"the Hub wants to know who you are: {LOGIN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise ValueError(
                f"the Hub does not let you write to {repo} ({status}): {LOGIN}, or name your own"
            ) from None
        raise ValueError(f"{repo} could not be written ({_first(error)}): try again") from None


def pull_folder(repo: str, kind: str, *, revision: str | None = None, patterns: list[str] | None = None) -> Path:
    """A local folder with the repo's files, from the cache where they are known.

    Raises:
        ValueError: there is no such repo or revision, or no connection.
    """
    options: dict[str, Any] = {"revision": revision, "allow_patterns": patterns}
    try:
        return Path(_api().snapshot_download(repo, repo_type=kind, **options))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ValueError(
            f"{kind} {repo} cannot be had from the Hub ({_first(error)}): check its name; a private one needs a login "
            f"({LOGIN})"
        ) from None


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
