"""Download published models from the Hugging Face hub and upload them, through the package `huggingface_hub`.

It reads the environment: HF_HUB_OFFLINE=1 for its cache alone, HF_HOME or HF_HUB_CACHE for the place of the cache,
HF_TOKEN (or `hf auth login`) for uploads and private models, HF_ENDPOINT for another server.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avsmamba.model_zoo.folder import FILES
from avsmamba.utils import UserError, one_line
from avsmamba.version import __version__

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def download(repository: str, revision: str | None = None) -> Path:
    """Return the folder of a model in the hub's cache, downloaded if the cache does not have its newest files.

    Without a connection, and with HF_HUB_OFFLINE=1, it is the folder that the cache has.

    Args:
        repository: `USER/NAME`.
        revision: branch, tag or commit; default: `main`.

    Raises:
        UserError: if huggingface_hub is not installed, the hub has no such model or revision, or it cannot be reached
            and the model is not in the cache.
    """
    hub = require_hub(repository)
    unknown = "no such folder, and no such model on {}, or a private one (then set HF_TOKEN)"
    with _one_line_errors(hub, repository, unknown):
        return Path(
            hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(FILES),
                library_name="avsmamba",
                library_version=__version__,
            )
        )


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a model's four files in one commit; the repository is created if it does not exist.

    Args:
        folder: of `avsmamba publish`.
        repository: `USER/NAME`.
        private: create a private repository. An existing one must be private.

    Returns:
        The address of the model's page.

    Raises:
        UserError: if huggingface_hub is not installed, the hub cannot be reached or refuses, or the repository is
            public although `private`.
    """
    check_repository(repository)
    hub = require_hub(repository)
    api = hub.HfApi(library_name="avsmamba", library_version=__version__)
    with _one_line_errors(hub, repository, "may not be written on {}: set HF_TOKEN, or run hf auth login"):
        page = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(f"{repository}: is public; make it private on its page, or leave --private out")
        files = [hub.CommitOperationAdd(name, folder / name) for name in FILES]
        api.create_commit(repository, files, commit_message=f"avsmamba publish, version {__version__}")
    return str(page)


def check_repository(repository: str) -> None:
    """Raise a UserError unless `repository` is `USER/NAME`."""
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"--push-to-hub: expected USER/NAME, got {repository!r}")


def require_hub(repository: str) -> Any:
    """Return the module `huggingface_hub`.

    Raises:
        UserError: with the installation command, if it is not installed.
    """
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise UserError(f"{repository}: models of the hub require huggingface_hub: pip install avsmamba[hub]") from None
    return huggingface_hub


@contextmanager
def _one_line_errors(hub: Any, repository: str, unknown: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into UserErrors; the classes of its connection errors vary by version.

    `unknown` is the message about an unknown repository, with `{}` for the server.
    """
    server, errors = hub.constants.ENDPOINT, hub.errors
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(f"{repository}: {server} grants access on request: ask for it on the model's page") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{repository}: {unknown.format(server)}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repository}: {server} has no such revision of it") from None
    except Exception as error:
        if hub.constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{repository}: not complete in the cache {hub.constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids "
                "the network"
            ) from None
        if isinstance(error, errors.LocalEntryNotFoundError):
            reason = f"{server} cannot be reached, and the model is not in the cache {hub.constants.HF_HUB_CACHE}"
        else:
            reason = f"{server}: {type(error).__name__}: {one_line(error)}"
        raise UserError(f"{repository}: {reason}") from None
