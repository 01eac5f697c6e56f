"""The commands of "Look around" in the README: each works as it stands there, without training, and gives what it says."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from cli_kit import Result, Zoo
from PIL import Image

from datamodules import ShapeCaptionsDataModule, ShapesDataModule

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def commands() -> list[str]:
    """The commands, without their comments."""
    (block,) = re.findall(r"## Look around\n.*?```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def results(zoo: Zoo) -> dict[str, Result]:
    """What each prints, one after another in one folder."""
    done = {}
    for command in commands():
        name, *words = shlex.split(command)
        assert name == "zoo"
        done[" ".join(words[:2])] = result = zoo(*words)
        assert (result.code, result.err) == (0, ""), f"{command}\n{result.err}"
    return done


def test_the_readme_has_them(zoo: Zoo) -> None:
    lines = commands()
    assert lines[0] == "zoo examples"
    assert len(lines) == len(set(lines)) == len(LOOKED_AT) + 1
    assert not any(verb in line for line in lines for verb in ("fit", "finetune", "runs/"))


LOOKED_AT = (
    "predict lenet5_digits",
    "predict unet_shapes",
    "sample dcgan_digits",
    "sample char_lm",
    "predict dates_gru",
    "predict captioner_shapes",
    "predict co2_gru",
)


def test_each_gives_what_it_says(results: dict[str, Result]) -> None:
    assert set(results) == {"examples", *LOOKED_AT}
    three, eight = results["predict lenet5_digits"].out.splitlines()[-2:]
    assert three.split()[1] == "3"
    assert eight.split()[1] == "8"

    true = ShapesDataModule().examples("test").y[0].numpy()
    assert (pixels("masks/shapes1_mask.png") == true).mean() > 0.95
    assert pixels("masks/shapes1_overlay.png").shape[2] == 3

    wall = pixels("digits.png")
    assert wall.std() > 50
    assert "100 images" in results["sample dcgan_digits"].out

    text = results["sample char_lm"].out
    assert text.startswith("It was ")
    words = re.findall(r"[a-z]+", text)
    known = {"the", "and", "of", "to", "a", "in", "was", "her", "had", "she", "it", "he", "not", "that", "as", "be"}
    assert sum(word in known for word in words) > len(words) / 10

    best = results["predict dates_gru"].out.splitlines()[2]
    assert best.split()[-1] == "2021-03-03"
    assert pixels("looks.png").std() > 10

    (true,) = ShapeCaptionsDataModule(size=32).examples("test").texts[:1]
    assert results["predict captioner_shapes"].out.splitlines()[2].endswith(f"  {true}")
    assert pixels("words.png").std() > 10

    with Path("forecast.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["month"] for row in rows] == [f"2002-{month:02}-01" for month in range(1, 13)]
    levels = [float(row["co2"]) for row in rows]
    assert all(365 < level < 380 for level in levels)
    assert levels.index(max(levels)) == 4  # as every year: most in May, least in September or October
    assert levels.index(min(levels)) in (8, 9)
