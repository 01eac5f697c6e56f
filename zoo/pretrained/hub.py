"""The Hugging Face hub: a ``save_pretrained`` folder up and down; the library checks what it downloads."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.pretrained.bundled import names
from zoo.pretrained.folder import CARD, CONFIG, WEIGHTS


def download(repository: str) -> Path:
    """Return the local copy of a repository, updated from the hub; the last copy where the hub cannot be reached.

    Raises:
        FileNotFoundError: the hub has no such repository, or it is not open to everybody.
        ConnectionError: the hub cannot be reached, and there is no copy.
    """
    from huggingface_hub import snapshot_download

    here = f"there is no local folder of that name; give a folder or file that is here, or a bundled name ({', '.join(names())})"
    with _as_ours(repository, here):
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, WEIGHTS, CARD]))


def upload(save: Callable[[Path], Any], repository: str, private: bool) -> str:
    """Upload the folder that ``save`` writes, and return the repository's address; see :meth:`zoo.model.Model.push_to_hub`."""
    from huggingface_hub import HfApi

    hub = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        with _as_ours(repository, "log in with hf auth login, or keep the model here with save_pretrained"):
            address = hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by lightning-zoo")
        return str(address)


@contextmanager
def _as_ours(repository: str, cure: str) -> Iterator[None]:
    """Translate the library's errors: which repository, and the cure."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.errors import HTTPError as LostConnection  # type: ignore[attr-defined] # of its HTTP library

    try:
        yield
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"the Hugging Face hub has no repository {repository!r}, or only for those who log in (hf auth login): {cure}"
        ) from error
    except HFValidationError as error:
        raise ValueError(f"{repository!r} is no name of a repository: {error}") from error
    except (OSError, LostConnection) as error:
        raise ConnectionError(
            f"the Hugging Face hub cannot be reached for {repository!r} ({type(error).__name__}: "
            f"{(str(error) or repr(error)).splitlines()[0]}): {cure}"
        ) from error
