"""Sources of weights: torchvision by name, bundled weights, folders, files, the Hugging Face hub."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.pretrained import bundled, hub, language, vision
from zoo.pretrained.files import check_state_dict, read_checkpoint, read_tensors, warn_unchecked
from zoo.pretrained.folder import CONFIG, read_folder
from zoo.pretrained.schema import check_description
from zoo.spelling import suggest

LANGUAGE_MODEL = "transformer_lm"  # registered name of the net that zoo.pretrained.language reads
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
        complete: Whether the hyperparameters tell all that the net computes with, so that no other value may take their place.
        preprocessing: How the images were prepared that published weights were trained on: mean, std, size, interpolation, crop.
    """

    origin: str
    net: dict[str, Tensor]
    rest: dict[str, Tensor] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    hparams: dict[str, Any] | None = None
    preprocessing: dict[str, Any] | None = None
    complete: bool = False


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
        found = Weights(f"torchvision's {entry}", *vision.read(entry))
        found.preprocessing = vision.described(entry)
        return found
    folder = local_folder(weights)
    if folder is not None:
        return _from_folder(folder, f"{weights!r}")
    path = Path(weights).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.suffix in FILES or "/" in weights or os.sep in weights:
        raise FileNotFoundError(
            f"there is no file or folder {weights}: give a path from {Path.cwd()}, or an absolute one"
        )
    names = list_weights(model)
    has, by_name = ("there are no weights", "there are") if model is None else (f"{model} has no weights", "it has")
    raise ValueError(
        f"{has} {weights!r}{suggest(weights, names)}; by name {by_name} {', '.join(names) or 'none'}; else give a folder that "
        f"save_pretrained wrote, a file ({', '.join(FILES)}) or 'owner/name' on the Hugging Face hub"
    )


def torchvision_name(weights: str, model: str | None) -> str | None:
    """Return torchvision's name of weights for a model; None if it has none of that name."""
    name = "DEFAULT" if weights in ("imagenet", "pretrained") else weights.upper()
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


@dataclass
class Saved:
    """A whole model as a file holds it.

    Attributes:
        path: The checkpoint, or the config of the folder.
        model: Registered name.
        hparams: Its hyperparameters, not checked against its class.
        description: What else is said of it, checked.
        state: Its state dict.
    """

    path: Path
    model: str
    hparams: dict[str, Any]
    description: dict[str, Any]
    state: dict[str, Tensor]


def read_saved(path: Path, average: bool | None, verify: bool) -> Saved:
    """Read a checkpoint of a zoo task, or a folder that ``save_pretrained`` wrote; see :func:`zoo.load`."""
    if (folder := local_folder(str(path))) is not None:
        description, state = read_folder(folder, verify)
        path, hparams, ema = folder / CONFIG, description["hparams"], None
    else:
        if path.name == str(path) and path.suffix not in FILES and not path.exists():
            raise FileNotFoundError(
                f"there is no checkpoint or folder {path}{suggest(path.name, bundled.names())}; by name there are "
                f"{', '.join(bundled.names())}"
            )
        checkpoint = read_checkpoint(path, mmap=not verify, verify=verify)
        parts: list[Any] = [checkpoint.get(key) for key in ("zoo", "state_dict", "hyper_parameters")]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"{path} is no lightning-zoo checkpoint: load it with the class it was made by")
        description, state, hparams = parts
        ema = checkpoint.get("ema")
        if ema is not None and average is not None:
            if not isinstance(ema, dict) or not {"evaluate", "other"} <= ema.keys():
                raise ValueError(f"{path} is damaged: its entry 'ema' holds no average of the weights")
            state = state if average == ema["evaluate"] else ema["other"]
        state = check_state_dict(state, path)
        check_description(description, path)
    if average and ema is None:
        raise ValueError(
            f"{path} holds no average of the weights: it is of a run without callbacks.EMA, or no checkpoint"
        )
    if (model := description.get("model")) is None:
        raise ValueError(
            f"the net of {path}, a {hparams['net']}, was given from outside, and no file holds a net: build it again and give "
            "it, zoo.ClassificationTask.load_from_checkpoint(path, net=net) if that was the class"
            if "net" in hparams
            else f"{path} was made by a class that is not registered: use TheClass.load_from_checkpoint, or zoo.register it"
        )
    return Saved(path, model, hparams, description, state)


def model_of_layout(text: str) -> str | None:
    """Return the registered model of a folder or repository in another library's layout; None for anything else."""
    folder = local_folder(text)
    return LANGUAGE_MODEL if folder is not None and language.is_layout(folder) else None


def _from_folder(folder: Path, origin: str) -> Weights:
    if language.is_layout(folder):
        net, hparams, vocabulary = language.read_layout(folder)
        data = {} if vocabulary is None else {"vocabulary": vocabulary}
        return Weights(origin, net, {}, data, LANGUAGE_MODEL, hparams, complete=True)
    config, state = read_folder(folder)
    return Weights(origin, *_split(state), config, config["model"], config["hparams"])


def _from_file(path: Path) -> Weights:
    if path.suffix == ".safetensors":
        tensors = read_tensors(path)
        warn_unchecked(path, "the format has no checksums; a folder that save_pretrained wrote has one")
        net, rest = _split(tensors)
        return Weights(str(path), language.renamed(net), rest)
    content = read_checkpoint(path, mmap=path.suffix != ".ckpt")
    description, hparams = content.get("zoo"), content.get("hyper_parameters")
    if isinstance(description, dict) and isinstance(hparams, dict):
        state = check_state_dict(content.get("state_dict"), path)
        check_description(description, path)
        return Weights(str(path), *_split(state), description, description.get("model"), hparams)
    for key in ("state_dict", "model"):  # Lightning's and torchvision's checkpoints
        if isinstance(content.get(key), dict):
            content = content[key]
    net, rest = _split(check_state_dict(content, path))
    return Weights(str(path), language.renamed(net), rest)


def _split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict into the tensors of the net and the rest; without ``mean`` and ``std`` all are of a net."""
    if not {"mean", "std"} <= state.keys():
        return state, {}
    net = {k.removeprefix("net."): t for k, t in state.items() if k.startswith("net.")}
    return net, {k: t for k, t in state.items() if not k.startswith("net.")}
