"""Torchvision's weights: by the names it gives them, from where it keeps them."""

import functools
import hashlib
import os
import re
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.pretrained.files import read_checkpoint

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# Builders that feed pretrained nets with (x - 0.5) / 0.5, whatever the transforms of the weights say (``transform_input``)
TRANSFORM_INPUT = ("googlenet", "inception_v3")
HASH = re.compile(r"-([0-9a-f]{8,})\.\w+$")  # of a file, in its name
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")


def members(model: str | None) -> dict[str, "WeightsEnum"]:
    """Torchvision's weights for a whole classifier of that name, by their own names."""
    import torchvision.models

    try:
        found = torchvision.models.get_model_weights(model or "")
    except ValueError:
        return {}
    return {name: entry for name, entry in found.__members__.items() if entry.meta.get("categories")}


def read(entry: "WeightsEnum") -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Tensors of the net by name, ``mean`` and ``std``, class names and input shape; downloaded if need be.

    Raises:
        ConnectionError: the download cannot be reached.
        ValueError: the file does not match the hash in its name.
    """
    path = _download(entry.url)
    state = {new_name(key): t for key, t in read_checkpoint(path, mmap=True).items()}
    mean, std, size = preprocessing(entry)
    buffers = {"mean": torch.tensor(mean), "std": torch.tensor(std)}
    return state, buffers, {"class_names": list(entry.meta["categories"]), "input_shape": [len(mean), size, size]}


def preprocessing(entry: "WeightsEnum") -> tuple[list[float], list[float], int]:
    """Mean and standard deviation that the net's input is standardized with, and the side of the images in pixels."""
    preset: Any = entry.transforms()
    if entry.url.rpartition("/")[2].startswith(TRANSFORM_INPUT):
        return [0.5] * len(preset.mean), [0.5] * len(preset.mean), preset.crop_size[0]
    return list(preset.mean), list(preset.std), preset.crop_size[0]


def new_name(key: str) -> str:
    """DenseNet's files are older than the rule that a module's name has no dot."""
    return _OLD_DENSENET.sub(r"\1\2", key)


def _download(url: str) -> Path:
    """The file in torch's usual cache, its hash checked."""
    path = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
    expected = HASH.search(path.name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except urllib.error.URLError as error:
            raise ConnectionError(
                f"cannot download {url} ({error.reason}): fetch it where there is a network and put it at {path}, or give "
                "weights that are here: a folder, a file or a bundled name"
            ) from error
    status = path.stat()
    found = _sha256(path, status.st_size, status.st_mtime_ns)
    if expected is not None and not found.startswith(expected[1]):
        raise ValueError(
            f"{path} is damaged: its sha256 begins with {found[: len(expected[1])]}, expected {expected[1]} as in its name: "
            "delete it, and it is downloaded anew"
        )
    return path


@functools.cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """The hash of a file, computed once while it stays as it is."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
