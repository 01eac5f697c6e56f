"""A model as a folder: ``config.json`` (all hyperparameters), ``model.safetensors`` (the net's keys), ``README.md`` (the card)."""

import inspect
import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.pretrained.files import read_tensors
from zoo.registry import name_of
from zoo.tasks import Task

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def save_folder(module: Task, folder: Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write ``module`` as a folder; see :meth:`zoo.Task.save_pretrained`. The config is written last.

    Args:
        module: a registered one.
        folder: made if need be.
        training: how it was trained, plain data, for the card and the config.
    """
    name = name_of(module)
    if "net" in module.hparams:
        raise ValueError(
            f"the net, a {module.hparams['net']}, was given from outside, so nobody could rebuild it from a folder: keep a "
            "checkpoint (trainer.save_checkpoint) for load_from_checkpoint(path, net=net), or register a class that builds it"
        )
    if name is None:
        cls = type(module).__name__
        raise ValueError(
            f"{cls} is not registered, so the folder could not be read again: zoo.register('my_model', {cls})"
        )
    config = {
        "model": name,
        "zoo_version": zoo_version(),
        "hparams": dict(module.hparams),
        **module.data_description(),
        "buffers": {k: b.tolist() for k, b in module.named_buffers(recurse=False)},
        **({} if training is None else {"training": dict(training)}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    # tied tensors are stored once each: safetensors refuses shared memory
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in module.net.state_dict().items()}
    _replace(folder / WEIGHTS, lambda path: save_file(weights, path, metadata={"format": "pt"}))
    _replace(folder / CARD, lambda path: path.write_text(_card(module, config), encoding="utf-8"))
    _replace(folder / CONFIG, lambda path: path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"))
    return folder


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config of a folder and the state dict of the task (net and buffers).

    Raises:
        FileNotFoundError: a file of the folder is missing.
        ValueError: a file is damaged.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            best = folder / "checkpoints" / "best.ckpt"
            cure = f"; for a run folder give {best}" if best.is_file() else ""
            raise FileNotFoundError(f"{folder} has no {name}: it is not a folder that save_pretrained wrote{cure}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        buffers = {k: torch.tensor(v, dtype=torch.float32) for k, v in config["buffers"].items()}
        config["model"], config["hparams"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / CONFIG} is damaged, or not of lightning-zoo (then give {WEIGHTS} alone as weights=): "
            f"{type(error).__name__} {error}"
        ) from error
    weights = read_tensors(folder / WEIGHTS)
    return config, {**{f"net.{k}": v for k, v in weights.items()}, **buffers}


def zoo_version() -> str:
    """The installed version of lightning-zoo."""
    try:
        return version("lightning-zoo")
    except PackageNotFoundError:  # a source tree on the path
        return "unknown"


def _replace(path: Path, write: Any) -> None:
    """Write a file beside ``path`` and move it there, so that a failure leaves the old one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.touch()
        usual = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(usual)  # safetensors leaves its files to their owner alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _card(module: Task, config: dict[str, Any]) -> str:
    """The model card."""
    net = type(module.net)
    source = (inspect.getdoc(inspect.getmodule(net)) or "").split("\n\n")[0].replace("\n", " ")
    hparams = "\n".join(f"| {k} | `{v}` |" for k, v in config["hparams"].items())
    training = "".join(f"- {k.capitalize()}: {_told(v)}\n" for k, v in config.get("training", {}).items())
    classes = ", ".join(config["class_names"]) if config.get("class_names") else "not named"
    return f"""---
library_name: lightning-zoo
tags: [pytorch, lightning]
---
# {config["model"]}

{source}

- Class: `{type(module).__module__}.{type(module).__name__}`, net `{net.__name__}`
- Parameters: {sum(p.numel() for p in module.net.parameters()):,}
- Input: shape {config.get("input_shape")}, standardized by the model itself with mean {config["buffers"].get("mean")} and
  standard deviation {config["buffers"].get("std")}
- Classes: {classes}
- Written by lightning-zoo {config["zoo_version"]}, torch {torch.__version__}
{training}
```python
import zoo

model = zoo.load("path/to/this/folder").eval()
```

| hyperparameter | value |
|---|---|
{hparams}
"""


def _told(value: Any) -> str:
    """A value on the card."""
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else f"`{value}`"
