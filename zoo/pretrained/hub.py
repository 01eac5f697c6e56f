"""The Hugging Face hub: upload and download of folders that ``save_pretrained`` writes."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.pretrained.bundled import names
from zoo.pretrained.folder import CARD, CONFIG, WEIGHTS
from zoo.pretrained.language import INDEX, TOKENIZER

LANGUAGE = (TOKENIZER, INDEX, "model-*.safetensors")  # what language models have beside


def download(repository: str) -> Path:
    """Return the local copy of a repository, updated from the hub; if the hub cannot be reached, the last copy.

    Raises:
        FileNotFoundError: The hub has no such repository, or it is private.
        ConnectionError: The hub cannot be reached, and there is no local copy.
    """
    from huggingface_hub import snapshot_download

    cure = (
        f"there is no local folder of that name; give a local folder or file, or a bundled name ({', '.join(names())})"
    )
    with translated_errors(repository, cure):
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, WEIGHTS, CARD, *LANGUAGE]))


def upload(save: Callable[[Path], Any], repository: str, private: bool) -> str:
    """Upload a folder, and return the address of the repository; see :meth:`zoo.model.Model.push_to_hub`.

    Args:
        save: Writes the folder.
        repository: "owner/name".
        private: Whether a repository that is created now is private.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        with translated_errors(repository, "log in with hf auth login, or keep the model here with save_pretrained"):
            address = hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by lightning-zoo")
        return str(address)


@contextmanager
def translated_errors(repository: str, cure: str) -> Iterator[None]:
    """Replace the errors of the library by standard ones that name the repository and the cure."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.errors import HTTPError as LostConnection  # type: ignore[attr-defined] # re-exported from its HTTP library

    try:
        yield
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"the Hugging Face hub has no repository {repository!r}, or it is private (hf auth login): {cure}"
        ) from error
    except HFValidationError as error:
        raise ValueError(
            f"{repository!r} is no name of a repository ({error}): give 'owner/name' of letters, digits, '-', '_' and '.'"
        ) from error
    except (OSError, LostConnection) as error:
        raise ConnectionError(
            f"the Hugging Face hub cannot be reached for {repository!r} ({type(error).__name__}: "
            f"{(str(error) or repr(error)).splitlines()[0]}): {cure}"
        ) from error
