"""Download of datasets from the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from ..utils.errors import UserError
from ..utils.optional import require_package
from .metadata import DatasetMetadata, read_metadata

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def download_dataset(repo: str, output: str | Path, *, revision: str | None = None) -> DatasetMetadata:
    """Download a dataset into a folder; existing files are not fetched again.

    Args:
        repo: `owner/name`.
        output: Folder.
        revision: Branch, tag or commit; LeRobot tags the versions of its format, such as `v2.1`.

    Raises:
        UserError: There is no network, no such dataset, or it needs a login.
    """
    if not _REPO.fullmatch(repo):
        raise UserError(f"'{repo}' is no dataset of the hub; write owner/name, for example lerobot/pusht.")
    hub = require_package("huggingface_hub", extra="vla", purpose="Downloads of datasets")
    errors = require_package("huggingface_hub.errors", extra="vla")
    try:
        hub.snapshot_download(repo, repo_type="dataset", local_dir=str(output), revision=revision)
    except errors.RepositoryNotFoundError:
        raise UserError(f"The hub has no dataset '{repo}', or it needs a login: run `hf auth login`.") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"Dataset '{repo}' has no revision '{revision}'; leave it out for the newest.") from None
    except Exception as error:  # noqa: BLE001 - hub, HTTP and socket errors have no common base; nothing came in any case
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        raise UserError(
            f"'{repo}' can't be downloaded ({reason}); check the network, or copy the dataset to '{output}' from a "
            "machine that has one."
        ) from None
    return read_metadata(output)
