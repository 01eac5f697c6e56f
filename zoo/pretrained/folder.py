"""A model as a folder: ``config.json`` (plain data), ``model.safetensors`` (its state dict), ``README.md`` (the model card)."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.pretrained.files import read_tensors, sha256, warn_unchecked
from zoo.pretrained.schema import check_description, read_json
from zoo.writing import replacing

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_READABLE = 128  # characters that a card lists


def save_folder(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a folder, see :meth:`zoo.model.Model.save_pretrained`.

    All files are complete before the first of an earlier folder is replaced. Its config goes first and the new one comes last, so
    that a config never stands beside tensors that are not its own, whenever the process is killed.

    Args:
        folder: Created if it does not exist.
        config: Plain data: registered name and hyperparameters of the model, description of its data.
        state: State dict of the model.
        facts: For the card: "class", "net", "source", "parameters", what it "reads" and "makes", and the "vocabularies" by name.

    Returns:
        The folder.

    Raises:
        TypeError: The config holds something else than plain data, or the state dict something else than tensors.
        ValueError: The config holds nan.
    """
    _check_plain(config)
    check_description(config, folder / CONFIG)
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the state dict holds tensors only, got a {type(value).__name__} for {key!r}: keep it as a buffer, or rebuild it "
                "in the constructor"
            )
    folder.mkdir(parents=True, exist_ok=True)
    # each name of a shared tensor has a copy of its own: safetensors refuses shared memory
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    with (
        replacing(folder / CONFIG) as config_path,
        replacing(folder / CARD) as card_path,
        replacing(folder / WEIGHTS) as weights_path,
    ):
        save_file(tensors, weights_path, metadata={"format": "pt"})
        card_path.write_text(_card(config, tensors, facts), encoding="utf-8")
        config_path.write_text(
            json.dumps({**config, "sha256": sha256(weights_path)}, indent=2) + "\n", encoding="utf-8"
        )
        (folder / CONFIG).unlink(missing_ok=True)
    return folder


def read_folder(folder: Path, verify: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config and the state dict of a folder.

    Folders of version 0.1.0 held the net's tensors without the prefix ``net.``, the task's buffers in the config, and no hash.

    Args:
        folder: The folder.
        verify: Whether the tensors are compared with their hash in the config, which reads them once.

    Raises:
        FileNotFoundError: A file of the folder is missing.
        ValueError: A file is damaged.
    """
    if (folder / f".{CONFIG}.tmp").is_file() and not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: writing it was cut off, save the model again")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            best = folder / "checkpoints" / "best.ckpt"
            cure = f"of a run folder give {best}" if best.is_file() else "give another folder, or a checkpoint file"
            raise FileNotFoundError(f"{folder} has no {name}, so it is no folder that save_pretrained wrote: {cure}")
    path = folder / CONFIG
    try:
        config = read_json(path)
        if missing := [name for name in ("model", "hparams") if config.get(name) is None]:
            raise ValueError(f"it has no {missing[0]!r}")
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged, or not of lightning-zoo ({error}): give the file {WEIGHTS} alone as weights="
        ) from error
    check_description(config, path)
    old = config.pop("buffers", None)
    buffers = {k: torch.tensor(v, dtype=torch.float32) for k, v in (old or {}).items()}
    expected = config.get("sha256") if verify else None
    state = read_tensors(folder / WEIGHTS, expected)
    if verify and expected is None:
        warn_unchecked(folder / WEIGHTS, f"{CONFIG} has no sha256 of it; save_pretrained writes one")
    if old is not None:
        state = {**{f"net.{k}": v for k, v in state.items()}, **buffers}
    return config, state


def _check_plain(value: Any, name: str = "") -> None:
    """Check that JSON gives a value back as it is (a tuple as a list), and that :func:`read_folder` takes it.

    Raises:
        TypeError: A value of another type, or a key that is no text.
        ValueError: A number that JSON does not have.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{name} holds plain data, its keys must be text, got {key!r}: write {str(key)!r}")
            _check_plain(part, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            _check_plain(part, f"{name}[{i}]")
    elif isinstance(value, float) and math.isnan(value) and not name.startswith("training."):
        raise ValueError(f"{name} is nan, which no file holds: give a number, or None")
    elif not (value is None or isinstance(value, str | int | float)):
        raise TypeError(
            f"{name} holds plain data (text, numbers, lists and dicts of them), got a {type(value).__name__}: {value!r}; hand the "
            "constructor something that names or describes it"
        )


def _card(config: Mapping[str, Any], state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    hparams = "\n".join(f"| {k} | `{v}` |" for k, v in config["hparams"].items())
    training = "".join(f"- {k.capitalize()}:{_shown(v)}\n" for k, v in config.get("training", {}).items())
    return f"""---
library_name: lightning-zoo
tags: [pytorch, lightning]
---
# {config["model"]}

{facts["source"]}

- Class: `{facts["class"]}`, net `{facts["net"]}`
- Parameters: {facts["parameters"]:,}
{_data(config, state, facts)}
- Written by lightning-zoo {config["zoo_version"]}, torch {torch.__version__}
{training}
```python
import zoo

model = zoo.load("path/to/this/folder")
```

| hyperparameter | value |
|---|---|
{hparams}
"""


def _data(config: Mapping[str, Any], state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """What a model reads and what it makes, a line each."""
    shape = config.get("input_shape")
    mean, std = (state[name].tolist() if name in state else None for name in ("mean", "std"))
    if facts["reads"] == "text":  # tokens are not standardized
        lines = [f"- Input: text, shape {shape} in tokens"]
    else:
        lines = [
            f"- Input: shape {shape}, standardized by the model itself with mean {mean} and\n  standard deviation {std}"
        ]
    lines += [f"- {name.capitalize().replace('_', ' ')}: {_tokens(of)}" for name, of in facts["vocabularies"].items()]
    names = config.get("class_names")
    if facts["makes"] in ("label", "mask") or (names and facts["makes"] != "text"):
        lines.append(f"- Classes: {', '.join(names) if names else 'not named'}")
    return "\n".join(lines)


def _tokens(vocabulary: Any) -> str:
    """The tokens of a vocabulary: how many, of which kind, and those that are not too many to be read."""
    text = f"{vocabulary.size} {'tokens of bpe' if vocabulary.kind == 'bpe' else vocabulary.kind}"
    special = {"padding": vocabulary.padding, "end": vocabulary.end}
    if named := [name for name, index in special.items() if index is not None]:
        text += f", those for {' and '.join(named)} among them"
    if vocabulary.kind == "characters" and vocabulary.size <= _READABLE:
        letters = (token for i, token in enumerate(vocabulary.tokens) if i not in special.values())
        shown = json.dumps("".join(letters), ensure_ascii=False)[1:-1].replace('\\"', '"')
        return f"{text}: {_code(shown)}"
    return text


def _code(text: str) -> str:
    """A text as code of Markdown, between more backticks than it has in a row."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in (text[:1], text[-1:]) or text[:1] == text[-1:] == " " else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _shown(value: Any) -> str:
    """What follows the name and the colon of a fact of the training: a value as code, a dict as words, lines as a block."""
    if isinstance(value, dict):
        return " " + ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, str) and "\n" in value:
        return "".join(f"\n{f'  {line}'.rstrip()}" for line in ["", "```text", *value.strip("\n").split("\n"), "```"])
    return f" `{value}`"
