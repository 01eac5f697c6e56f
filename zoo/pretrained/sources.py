"""Sources of weights: torchvision by name, bundled weights, folders, files, the Hugging Face hub."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.pretrained import bundled, hub, vision
from zoo.pretrained.files import check_state_dict, read_checkpoint, read_tensors, warn_unchecked
from zoo.pretrained.folder import read_folder
from zoo.spelling import suggest

FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


@dataclass
class Weights:
    """Weights, and what is known about them.

    Attributes:
        origin: Their source, for messages.
        net: Tensors of the net by name.
        rest: Other tensors of the state dict that they were saved in: ``mean``, ``std``, other parts.
        data: Description of the training data, see :meth:`zoo.model.Model.data_description`.
        model, hparams: Registered name and hyperparameters of the saved model.
    """

    origin: str
    net: dict[str, Tensor]
    rest: dict[str, Tensor] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    hparams: dict[str, Any] | None = None


def list_weights(model: str | None) -> list[str]:
    """Return the names of the weights of a registered model: torchvision's ("imagenet" is its default), and bundled ones.

    Example:
        >>> list_weights("resnet18")
        ['imagenet', 'IMAGENET1K_V1']
    """
    names = list(vision.members(model))
    return [*(["imagenet"] if names else []), *(n for n in names if n != "DEFAULT"), *bundled.names(model)]


def find(weights: str, model: str | None) -> Weights:
    """Return weights, downloading them if necessary.

    Args:
        weights: See :func:`zoo.create_model`.
        model: Registered name of the model that they are for.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: See :func:`zoo.create.use_weights`.
    """
    weights = str(weights)
    published = torchvision_name(weights, model)
    if published is not None:
        entry = vision.members(model)[published]
        return Weights(f"torchvision's {entry}", *vision.read(entry))
    folder = local_folder(weights)
    if folder is not None:
        return _from_folder(folder, f"{weights!r}")
    path = Path(weights).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.suffix in FILES or os.sep in weights:
        raise FileNotFoundError(
            f"there is no file or folder {weights}: give a path from {Path.cwd()}, or an absolute one"
        )
    names = list_weights(model)
    raise ValueError(
        f"{model or 'an unregistered model'} has no weights {weights!r}{suggest(weights, names)}; by name it has "
        f"{', '.join(names) or 'none'}; else give a folder that save_pretrained wrote, a file ({', '.join(FILES)}) or 'owner/name' "
        "on the Hugging Face hub"
    )


def torchvision_name(weights: str, model: str | None) -> str | None:
    """Return torchvision's name of weights for a model; None if it has none of that name."""
    name = {"imagenet": "DEFAULT"}.get(weights, weights.upper())
    return name if name in vision.members(model) else None


def local_folder(text: str) -> Path | None:
    """Return the folder of a bundled name, a folder itself, or a repository of the hub, downloaded; None for anything else."""
    if text in bundled.names():
        return bundled.HERE / text
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.suffix in FILES or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text):
        return None
    return hub.download(text)


def _from_folder(folder: Path, origin: str) -> Weights:
    config, state = read_folder(folder)
    return Weights(origin, *_split(state), config, config["model"], config["hparams"])


def _from_file(path: Path) -> Weights:
    if path.suffix == ".safetensors":
        tensors = read_tensors(path)
        warn_unchecked(path, "the format has no checksums; a folder that save_pretrained wrote has one")
        return Weights(str(path), *_split(tensors))
    content = read_checkpoint(path, mmap=path.suffix != ".ckpt")
    description, hparams = content.get("zoo"), content.get("hyper_parameters")
    if isinstance(description, dict) and isinstance(hparams, dict):
        state = check_state_dict(content.get("state_dict"), path)
        return Weights(str(path), *_split(state), description, description.get("model"), hparams)
    for key in ("state_dict", "model"):  # Lightning's and torchvision's checkpoints
        if isinstance(content.get(key), dict):
            content = content[key]
    return Weights(str(path), *_split(check_state_dict(content, path)))


def _split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict into the tensors of the net and the rest; without ``mean`` and ``std`` all are of a net."""
    if not {"mean", "std"} <= state.keys():
        return state, {}
    net = {k.removeprefix("net."): t for k, t in state.items() if k.startswith("net.")}
    return net, {k: t for k, t in state.items() if not k.startswith("net.")}
