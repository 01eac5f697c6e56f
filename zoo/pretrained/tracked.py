"""Models from Weights & Biases: an artifact, downloaded."""

import re
from pathlib import Path

import torch

PREFIX = "wandb:"
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*/\w[\w.-]*:\w[\w.-]*")


def is_artifact(text: str) -> bool:
    """Return whether a text is the address of an artifact, ``wandb://entity/project/artifact:alias``."""
    return text.startswith((f"{PREFIX}//", f"{PREFIX}/"))  # pathlib takes two slashes for one


def download(text: str) -> Path:
    """Return the local copy of an artifact: its checkpoint, or the folder that ``save_pretrained`` wrote.

    W&B is asked once for the artifact, and for its files that are not here yet, below torch's folder of downloads.

    Args:
        text: ``wandb://entity/project/artifact:alias``; the alias may be a version, "v3".

    Raises:
        ValueError: This is no address of an artifact, or the artifact holds no model.
        ImportError: W&B is not installed.
        FileNotFoundError: There is no such artifact, or it is private.
        ConnectionError: W&B cannot be reached.
    """
    name = text.removeprefix(PREFIX).lstrip("/")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is no artifact of W&B: give wandb://entity/project/artifact:alias")
    try:
        import wandb
    except ImportError:
        raise ImportError(f"{text} needs the package wandb: pip install wandb") from None
    try:
        artifact = wandb.Api().artifact(name)
        # a version never changes, an alias moves: each version has a folder of its own
        place = Path(torch.hub.get_dir(), "wandb", name.partition(":")[0], Path(artifact.version).name)
        folder = Path(artifact.download(root=str(place)))
    except ValueError as error:
        raise FileNotFoundError(f"W&B has no artifact {name}, or it is private (wandb login): {error}") from error
    except (OSError, wandb.Error) as error:
        raise ConnectionError(
            f"W&B cannot be reached for {name}, or refuses it ({type(error).__name__}: {error})"
        ) from error
    if (folder / "config.json").is_file():
        return folder
    files = sorted(folder.glob("*.ckpt"))
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise ValueError(
            f"{text} must hold one checkpoint (.ckpt) or what save_pretrained wrote; its checkpoints: {found}"
        )
    return files[0]
