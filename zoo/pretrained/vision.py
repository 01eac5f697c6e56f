"""The weights of torchvision, by its names for them, in its cache."""

import functools
import os
import re
import urllib.error
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.pretrained.files import read_checkpoint, sha256

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# files whose nets torchvision feeds with (x - 0.5) / 0.5, whatever the transforms of the weights say (``transform_input``)
TRANSFORM_INPUT = ("googlenet", "inception_v3")
HASH = re.compile(r"-([0-9a-f]{8,})\.\w+$")  # hash of a file, in its name
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")


def members(model: str | None) -> dict[str, "WeightsEnum"]:
    """Return torchvision's weights for a classifier of a name, by their own names; empty if it has none."""
    import torchvision.models

    try:
        weights = torchvision.models.get_model_weights(model or "")
    except ValueError:
        return {}
    return {name: entry for name, entry in weights.__members__.items() if entry.meta.get("categories")}


def read(entry: "WeightsEnum") -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read weights, downloading them if necessary.

    Returns:
        Tensors of the net by name; ``mean`` and ``std``; class names and input shape.

    Raises:
        ConnectionError: The file cannot be downloaded.
        ValueError: The file does not match the hash in its name.
    """
    path = _download(entry.url)
    state = {new_name(key): t for key, t in read_checkpoint(path, mmap=True, verify=False).items()}
    mean, std, size = preprocessing(entry)
    buffers = {"mean": torch.tensor(mean), "std": torch.tensor(std)}
    how = described(entry)
    data = {
        "class_names": list(entry.meta["categories"]),
        "input_shape": [len(mean), size, size],
        "preparation": {"center": how["crop"], "interpolation": how["interpolation"]},
    }
    return state, buffers, data


def described(entry: "WeightsEnum") -> dict[str, Any]:
    """Return how the images were prepared that weights were trained on, as plain data."""
    mean, std, size = preprocessing(entry)
    preset: Any = entry.transforms()
    crop, interpolation = min(1.0, size / preset.resize_size[0]), preset.interpolation.value
    return {"mean": mean, "std": std, "size": size, "interpolation": interpolation, "crop": crop}


def preprocessing(entry: "WeightsEnum") -> tuple[list[float], list[float], int]:
    """Return mean and standard deviation for standardizing the input, and the side of the images in pixels."""
    preset: Any = entry.transforms()
    if entry.url.rpartition("/")[2].startswith(TRANSFORM_INPUT):
        return [0.5] * len(preset.mean), [0.5] * len(preset.mean), preset.crop_size[0]
    return list(preset.mean), list(preset.std), preset.crop_size[0]


def new_name(key: str) -> str:
    """Return the current name of a tensor: DenseNet's files are older than the rule that module names have no dot."""
    return _OLD_DENSENET.sub(r"\1\2", key)


def _download(url: str) -> Path:
    """Return the file in torch's cache after checking its hash."""
    path = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
    expected = HASH.search(path.name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException) as error:
            raise ConnectionError(
                f"cannot download {url} ({getattr(error, 'reason', error)}): download it where there is a network and put it at "
                f"{path}, or give local weights: a folder, a file or a bundled name"
            ) from error
    status = path.stat()
    actual = _sha256(path, status.st_size, status.st_mtime_ns)
    if expected is not None and not actual.startswith(expected[1]):
        raise ValueError(
            f"{path} is damaged: its sha256 begins with {actual[: len(expected[1])]}, expected {expected[1]} as in its name: "
            "delete it, and it is downloaded again"
        )
    return path


@functools.cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """Return the hash of a file, computed once while its size and time stay the same."""
    return sha256(path)
