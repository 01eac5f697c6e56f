"""Small recipes, one of each kind that keeps a state of its own, and how two of their runs differ."""

import csv
import re
from pathlib import Path
from typing import Any

import torch

_TRAINER = "trainer: {max_epochs: 3, limit_train_batches: 6, limit_val_batches: 2, log_every_n_steps: 1, callbacks: ["
_NOTED = "{class_path: noted.Noted}"
RECIPES = {
    "cnn": """
seed_everything: 1
model: {class_path: zoo.LeNetClassifier, init_args: {lr: 0.003}}
data: {class_path: datamodules.DigitsDataModule, init_args: {size: 32, batch_size: 16, num_workers: 0}}
"""
    + _TRAINER
    + "{class_path: callbacks.LRSchedule, init_args: {schedule: cosine, warmup: 0.2}}, "
    + _NOTED
    + "]}\n",
    # the states of the lanes are carried from batch to batch
    "lm": """
seed_everything: 2
model: {class_path: zoo.RecurrentLanguageModel, init_args: {cell: gru, width: 16, embedding_dim: 8, dropout: 0.1, lr: 0.01}}
data: {class_path: datamodules.TextFileDataModule, init_args: {path: text.txt, context: 16, order: lanes, batch_size: 4}}
"""
    + _TRAINER
    + _NOTED
    + "]}\n",
    "gan": """
seed_everything: 3
model: {class_path: zoo.GAN, init_args: {latent_dim: 2, widths: [16, 16], loss: non_saturating, optimizer: Adam, lr: 0.001}}
data: {class_path: datamodules.GaussianGridDataModule, init_args: {batch_size: 32}}
"""
    + _TRAINER
    + _NOTED
    + "]}\n",
    # the head alone in the first epoch
    "frozen": """
seed_everything: 4
model: {class_path: zoo.LeNetClassifier, init_args: {lr: 0.003}}
data: {class_path: datamodules.DigitsDataModule, init_args: {size: 32, batch_size: 16, num_workers: 0}}
"""
    + _TRAINER
    + "{class_path: callbacks.LayerFreezing, init_args: {train: head, milestones: {1: all}}}, "
    + "{class_path: callbacks.EMA, init_args: {decay: 0.9}}, "
    + _NOTED
    + "]}\n",
}
# notes the steps that are done, outside of the run's folder
NOTED = """
import os
from lightning.pytorch import Callback

class Noted(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.is_global_zero:
            file = os.open("done.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, f"{trainer.global_step}\\n".encode())
            os.close(file)
"""


def write_recipes(folder: Path) -> None:
    """Write the recipes ``<name>.yaml`` and what they need into a folder."""
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "noted.py").write_text(NOTED)
    (folder / "text.txt").write_text("".join(f"{i} times {i % 7} is {i * (i % 7)}.\n" for i in range(200)))


def state_of_file(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, flat: tensors, numbers and texts by their path in it; paths without the run folder."""
    content = torch.load(path, weights_only=True)
    for key in [*content["callbacks"]]:
        if key.startswith("LearningCurves"):  # a picture
            del content["callbacks"][key]
    return dict(_flat(content))


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return [(path, _within_run(value) if isinstance(value, str) else value)]
    return [leaf for key, entry in items for leaf in _flat(entry, f"{path}/{_within_run(str(key))}")]


def _within_run(text: str) -> str:
    return re.sub(r"\S*/version_\d+/", "", text)


def differing(one: Path, two: Path) -> list[str]:
    """Return what differs in the last checkpoints and in the rows of two runs."""
    a, b = (state_of_file(run / "checkpoints/last.ckpt") for run in (one, two))
    found = sorted(a.keys() ^ b.keys())
    for key in a.keys() & b.keys():
        x, y = a[key], b[key]
        same = torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y
        found += [] if same else [key]
    if not (a and any(key.startswith("/optimizer_states/") for key in a)):
        found.append("nothing is compared")
    return found


def rows_of(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without empty cells."""
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{name: value for name, value in row.items() if value} for row in rows]
