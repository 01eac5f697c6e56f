"""``zoo.load``: a model from a file or folder, without naming its class and without running anything the file holds."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.pretrained.folder import read_folder
from zoo.pretrained.report import load_weights
from zoo.registry import create_model
from zoo.tasks import Task


def load(path: str | Path, strict: bool = True, **overrides: Any) -> Task:
    """Rebuild a model from a Lightning checkpoint (``.ckpt``) of a zoo task or from a ``save_pretrained`` folder.

    The file names a registered model and holds tensors and plain data; nothing it asks for is imported or unpickled.

    Args:
        path: the checkpoint file or the folder.
        strict: refuse weights that do not fit; ``False`` takes what fits. ``model.load_report`` tells what became of each tensor.
        overrides: hyperparameters that win over the file's, e.g. ``num_classes=7`` with ``strict=False`` for a new head.

    Returns:
        The module on the CPU, in training mode.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: the file is damaged, holds objects other than tensors and plain data, is no zoo checkpoint, names an unknown
            model or an optimizer to import, or (``strict``) its weights do not fit.
    """
    path = Path(path)
    told: Any
    state: Any
    if path.is_dir():
        told, state = read_folder(path)
        hparams = told["hparams"]
    else:
        checkpoint = read_checkpoint(path)
        told, state, hparams = checkpoint.get("zoo"), checkpoint.get("state_dict"), checkpoint.get("hyper_parameters")
        if told is None or state is None or hparams is None:
            raise ValueError(f"{path} is no lightning-zoo checkpoint: load it with the class it was made by")
    if told.get("model") is None:
        raise ValueError(
            f"{path} was made by a class that is not registered: use TheClass.load_from_checkpoint, or zoo.register it"
        )
    optimizer = str(hparams.get("optimizer", ""))
    if "." in optimizer and "optimizer" not in overrides:
        raise ValueError(
            f"{path} asks for the optimizer {optimizer!r} to be imported, which load never does: pass optimizer=..."
        )
    module, state = _build(told, {**hparams, **overrides}, dict(state), strict, changed=overrides.keys())
    module.load_report = load_weights(module, state, strict=strict, assign=strict)
    module._standardized = True
    return module.freeze(told.get("frozen", 0))


def _build(
    told: dict[str, Any], hparams: dict[str, Any], state: dict[str, Tensor], strict: bool, changed: Any
) -> tuple[Task, dict[str, Tensor]]:
    """The module without its weights, and the state dict that fits its own buffers."""
    if "in_channels" in changed:  # one number for whatever channels come
        for name in ("mean", "std"):
            state[name] = state[name].mean().view(1)
    if "num_classes" in changed:
        state.pop("class_weight", None)
    # strict: nothing of the fresh values stays, so none is drawn; not strict: what is not loaded keeps them
    with torch.device("meta" if strict else "cpu"):
        module = create_model(told["model"], **hparams)
        module.mean, module.std = torch.zeros_like(state["mean"]), torch.ones_like(state["std"])
    module.describe_data({**told, "class_names": None if "num_classes" in changed else told.get("class_names")})
    if "class_weight" not in state and (weight := getattr(module, "class_weight", None)) is not None:
        state["class_weight"] = torch.ones(weight.shape)
    return module, state


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint file's content: tensors and plain data, or an error.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    _check_sums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: they are refused in plain words below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            wanted = str(error).partition("GLOBAL ")[2].split(" ")[0] or "code"
            raise ValueError(f"{path} asks to run or import {wanted}: refused, nothing of it was run") from error
        raise ValueError(f"{path} is damaged or no checkpoint at all") from error
    except Exception as error:  # garbage makes the unpickler stumble in any way there is
        raise ValueError(f"{path} is damaged or cut off, or no checkpoint at all") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")  # noqa: TRY004
    return content


def _check_sums(path: Path) -> None:
    """Compare the checksums of a checkpoint, which torch itself does not: a flipped bit would load without a word."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        if zipfile.is_zipfile(path):
            raise ValueError(f"{path} is damaged: {error}") from error
        return  # an older format, or no checkpoint at all: the reader will tell
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged} does not match its checksum")
