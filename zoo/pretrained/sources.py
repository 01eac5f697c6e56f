"""Where weights come from: a name of torchvision's, a bundled name, a folder, a file, the hub."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.pretrained import bundled, vision
from zoo.pretrained.files import read_checkpoint, read_tensors
from zoo.pretrained.folder import read_folder
from zoo.registry import suggest

FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


@dataclass
class Found:
    """Weights, and what is known of them.

    Attributes:
        origin: what to call them in a message.
        net: the net's tensors by name.
        buffers: the task's: ``mean``, ``std`` ...
        data: what the task knew of the data it was trained on, see :meth:`zoo.Task.data_description`.
        model, hparams: of the task they were saved from.
    """

    origin: str
    net: dict[str, Tensor]
    buffers: dict[str, Tensor] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    hparams: dict[str, Any] | None = None


def list_weights(model: str | None) -> list[str]:
    """The weights that a registered model has by name: torchvision's ("imagenet" is its default), and bundled ones.

    Example:
        >>> list_weights("resnet18")
        ['imagenet', 'IMAGENET1K_V1']
    """
    names = list(vision.members(model))
    return [*(["imagenet"] if names else []), *(n for n in names if n != "DEFAULT"), *bundled.names(model)]


def find(weights: str, model: str | None) -> Found:
    """Get weights, downloading them if need be.

    Args:
        weights: see :func:`zoo.create_model`.
        model: registered name of the model they are for.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: see :func:`zoo.pretrained.use_weights`.
    """
    weights = str(weights)
    entry = vision.members(model).get({"imagenet": "DEFAULT"}.get(weights, weights.upper()))
    if entry is not None:
        return Found(f"torchvision's {entry}", *vision.read(entry))
    folder = local_folder(weights)
    if folder is not None:
        return _from_folder(folder, f"{weights!r}")
    path = Path(weights).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.suffix in FILES or os.sep in weights:
        raise FileNotFoundError(f"there is no file or folder {weights}")
    names = list_weights(model)
    raise ValueError(
        f"{model or 'an unregistered model'} has no weights {weights!r}{suggest(weights, names)}; by name it has "
        f"{', '.join(names) or 'none'}; else give a folder that save_pretrained wrote, a file ({', '.join(FILES)}) or a hub's "
        "'owner/name'"
    )


def local_folder(text: str) -> Path | None:
    """The folder of a bundled name, a folder itself, or the hub's repository, downloaded; None if it is none of these."""
    if text in bundled.SHA256:
        return bundled.folder(text)
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.suffix in FILES or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text):
        return None
    from zoo.pretrained import hub

    return hub.download(text)


def _from_folder(folder: Path, origin: str) -> Found:
    config, state = read_folder(folder)
    return _from_task(origin, state, config, config["hparams"])


def _from_task(origin: str, state: dict[str, Tensor], told: dict[str, Any], hparams: dict[str, Any]) -> Found:
    net = {k.removeprefix("net."): t for k, t in state.items() if k.startswith("net.")}
    buffers = {k: t for k, t in state.items() if "." not in k}
    return Found(origin, net, buffers, told, told.get("model"), hparams)


def _from_file(path: Path) -> Found:
    if path.suffix == ".safetensors":
        return Found(str(path), read_tensors(path))
    content = read_checkpoint(path, mmap=path.suffix != ".ckpt")
    if content.get("zoo") is not None and "hyper_parameters" in content:
        return _from_task(str(path), content["state_dict"], content["zoo"], content["hyper_parameters"])
    for key in ("state_dict", "model"):  # Lightning's and torchvision's checkpoints
        if isinstance(content.get(key), dict):
            content = content[key]
    return Found(str(path), only_tensors(content, path))


def only_tensors(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """A state dict, or an error."""
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"{path} holds no state dict (tensors by name): save one with torch.save(net.state_dict(), path)"
        )
    return content
