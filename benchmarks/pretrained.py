"""How long a model with weights from a file takes to build, beside building it and loading a state dict into it."""

import tempfile
from functools import partial
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file, save_file

import zoo
from benchmarks.harness import Row, alternate, clock, ratio, spread

DEVICES = ("cpu",)
ROUNDS = 7
CASES = {"vgg16": 0.02, "resnet50": 0.25}


def ours(name: str, path: Path) -> float:
    """Seconds of ``create_model`` with weights."""
    started = clock()
    zoo.create_model(name, weights=path)
    return clock() - started


def stock(name: str, path: Path) -> float:
    """Seconds of the usual way, reading the same file by the same library."""
    started = clock()
    net = torchvision.models.get_model(name)
    net.load_state_dict(load_file(path))
    return clock() - started


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = []
    for name, limit in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.safetensors")
            torch.manual_seed(0)
            save_file(torchvision.models.get_model(name).state_dict(), path)
            times = alternate({"ours": partial(ours, name, path), "stock": partial(stock, name, path)}, ROUNDS)
        share = ratio(times["ours"], times["stock"])
        rows.append(
            Row(
                f"{name} with weights from a file, built",
                f"{1e3 * spread(times['ours']).median:.0f} ms",
                f"{1e3 * spread(times['stock']).median:.0f} ms to construct torchvision's and load_state_dict",
                f"{share:.4f}x",
                f"<= {limit}x",
                share.median <= limit,
            )
        )
    return rows
