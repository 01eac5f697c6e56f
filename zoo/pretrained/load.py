"""``zoo.load``: a model from a file or folder, without naming its class and without running anything the file holds."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.pretrained.files import read_checkpoint
from zoo.pretrained.folder import read_folder
from zoo.pretrained.report import load_weights
from zoo.pretrained.skeleton import skeleton
from zoo.pretrained.sources import local_folder
from zoo.registry import create_model
from zoo.tasks import Task


def load(path: str | Path, strict: bool = True, average: bool | None = None, **overrides: Any) -> Task:
    """Rebuild a model from a Lightning checkpoint (``.ckpt``) of a zoo task, or from what ``save_pretrained`` wrote.

    The file names a registered model and holds tensors and plain data; nothing it asks for is imported or unpickled.

    Args:
        path: the checkpoint file, the folder, the name of a bundled one, or "owner/name" on the Hugging Face hub.
        strict: refuse weights that do not fit; ``False`` takes what fits. ``model.load_report`` tells what became of each tensor.
        average: of a checkpoint of a run with ``callbacks.EMA``, the averaged weights or those that were trained; None takes what
            was evaluated.
        overrides: hyperparameters that win over the file's, e.g. ``num_classes=7`` with ``strict=False`` for a new head.

    Returns:
        The module on the CPU, in training mode.

    Raises:
        FileNotFoundError, ConnectionError: no such file or folder, or the hub cannot be reached.
        ValueError: the file is damaged, holds objects other than tensors and plain data, is no zoo checkpoint, names an unknown
            model or an optimizer to import, or (``strict``) its weights do not fit.
    """
    folder, path = local_folder(str(path)), Path(path)
    told: Any
    state: Any
    averaged = False
    if folder is not None:
        told, state = read_folder(folder)
        hparams = told["hparams"]
    else:
        checkpoint = read_checkpoint(path)
        told, state, hparams = checkpoint.get("zoo"), checkpoint.get("state_dict"), checkpoint.get("hyper_parameters")
        if told is None or state is None or hparams is None:
            raise ValueError(f"{path} is no lightning-zoo checkpoint: load it with the class it was made by")
        if "ema" in checkpoint and average is not None and average != checkpoint["ema"]["evaluate"]:
            state = checkpoint["ema"]["other"]
        averaged = "ema" in checkpoint
    if average and not averaged:
        raise ValueError(
            f"{path} holds no average of the weights: it is of a run without callbacks.EMA, or no checkpoint"
        )
    if told.get("model") is None and "net" in hparams:
        raise ValueError(
            f"the net of {path}, a {hparams['net']}, was given from outside, and no file holds a net: build it again and give "
            "it, zoo.ClassificationTask.load_from_checkpoint(path, net=net) if that was the class"
        )
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
    module.to("cpu")  # where its tensors are; Lightning's ``device`` tells where it was built
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
    with skeleton() if strict else nullcontext():
        module = create_model(told["model"], **hparams)
    module.mean, module.std = torch.zeros_like(state["mean"]), torch.ones_like(state["std"])
    module.describe_data({**told, "class_names": None if "num_classes" in changed else told.get("class_names")})
    state = {**{k: t for k, t in module.named_buffers(recurse=False) if k == "class_weight"}, **state}
    return module, state
