"""The rooms that a stranger looks into first: each lists what it has, and takes no longer to import than it needs."""

import subprocess
import sys
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = {
    "losses": {"PixelLoss", "PixelSums", "discriminator_loss", "gradient_penalty_of", "kl_to_standard_normal"},
    "metrics": {"ActiveUnits", "EvaluationLoss", "FrechetDistance", "Shares"},
    "decoding": {"Decoded", "Rules", "beam_search", "greedy", "sample", "stream"},
    "drawing": {"image_grid", "image_wall", "mask_rows", "overlay", "palette"},
    "optim": {"Newton", "build_optimizer", "initialize", "parameter_groups"},
    "pretrained": {"LoadReport", "list_weights"},
}


@pytest.mark.parametrize("room", [*NAMES, "blocks"])
def test_a_room_lists_what_it_has(room: str) -> None:
    module = import_module(f"zoo.{room}")
    # constants and acronyms, then classes, then functions, as ruff sorts them
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    assert NAMES.get(room, set()) <= set(module.__all__)
    values = {name: getattr(module, name) for name in module.__all__}
    for name, value in values.items():
        if isclass(value) or isfunction(value):  # the others are choices of words
            assert value.__module__.startswith(f"zoo.{room}."), name
            assert value.__doc__, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "left_alone"),
    [
        ("losses", {"lightning", "torchmetrics", "torchvision", "matplotlib"}),
        ("metrics", {"lightning"}),
        ("drawing", {"lightning", "torchmetrics", "torchvision", "matplotlib"}),
    ],
)
def test_importing_a_room_is_cheap(room: str, left_alone: set[str]) -> None:
    code = f"import sys, zoo.{room}; print(sorted({left_alone} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
