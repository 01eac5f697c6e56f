"""The recipes of docs/own_data.md train on a user's own data, and their models predict for them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_kit import Zoo
from fakes import masked
from PIL import Image

from datamodules import image_folder

PAGE = (Path(__file__).parents[2] / "docs/own_data.md").read_text()
TRAIN = "--trainer.max_epochs=1"


@pytest.fixture
def recipes(tmp_cwd: Path) -> None:
    for name, text in zip(
        ("houses", "flowers", "cells"), re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL), strict=True
    ):
        Path(f"{name}.yaml").write_text(text)


@pytest.mark.usefixtures("recipes")
def test_a_table(zoo: Zoo) -> None:
    shown = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)[0].splitlines()
    Path("houses.csv").write_text("\n".join(shown + shown[1:] * 15) + "\n")
    result = zoo("fit", "-c", "houses.yaml", TRAIN)
    assert result.code == 0, result.err
    Path("new.csv").write_text("\n".join(line.rpartition(",")[0] for line in shown))
    rows = json.loads(zoo("predict", "runs/houses/version_0", "new.csv", "--json").out)
    assert [row["row"] for row in rows] == [1, 2]
    for args in (("-c", "houses.yaml"), ("--ckpt", "runs/houses/version_0")):  # the datamodule requires a path
        again = zoo("test", *args)
        assert again.code == 0, again.err
        assert re.findall(r"test/rmse +(\S+)", again.out) == re.findall(r"test/rmse +(\S+)", result.out)


@pytest.mark.usefixtures("recipes")
@pytest.mark.parametrize("parts", [("",), ("train", "val"), ("train", "val", "test")])
def test_a_folder_of_images(zoo: Zoo, parts: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for folder in [Path("photos", part, name) for part in parts for name in ("rose", "daisy")]:
        folder.mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    small = ("--model.depth=8", "--model.width=4", "--data.num_workers=0")
    result = zoo("fit", "-c", "flowers.yaml", TRAIN, *small)
    assert result.code == 0, result.err
    assert ("test/acc" in result.out) == (parts != ("train", "val"))  # without a test part there is no test
    rows = json.loads(zoo("predict", "runs/flowers/version_0", "photos", "--json", "--top", "2").out)
    assert len(rows) == 20 * len(parts)
    assert {row["label"] for row in rows} <= {"rose", "daisy"}


@pytest.mark.usefixtures("recipes")
def test_a_run_from_before_drafts_goes_on_with_exact_pixels(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[bool] = set()
    exact = image_folder.decode
    monkeypatch.setattr(image_folder, "decode", lambda *args: read.add(args[5]) or exact(*args))
    rng = np.random.default_rng(0)
    for folder in (Path("photos", name) for name in ("rose", "daisy")):
        folder.mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    small = ("--model.depth=8", "--model.width=4", "--data.num_workers=0")
    assert zoo("fit", "-c", "flowers.yaml", TRAIN, *small).code == 0
    assert read == {True}
    run = Path("runs/flowers/version_0")
    for path in (run / "checkpoints").iterdir():  # as an earlier version left it
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["zoo"]["preparation"].pop("draft") is True
        torch.save(checkpoint, path)
    config = (run / "config.yaml").read_text()
    assert "\n    draft: true\n" in config
    (run / "config.yaml").write_text(config.replace("    draft: true\n", ""))
    for args in (("test", "--ckpt", run), ("fit", "--resume", run, "--trainer.max_epochs=2")):
        read.clear()
        result = zoo(*args)
        assert result.code == 0, result.err
        assert "draft" not in result.out
        assert read == {False}
    assert "\n    draft: false\n" in (run / "config.yaml").read_text()
    assert not torch.load(run / "checkpoints/last.ckpt", weights_only=True)["zoo"]["preparation"].get("draft")


@pytest.mark.usefixtures("recipes")
@pytest.mark.parametrize("parts", [{"": 20}, {"train": 10, "test": 4}])
def test_images_with_masks(zoo: Zoo, parts: dict[str, int]) -> None:
    masked(Path("cells"), parts, values=(0, 255, 128), size=(50, 40))
    small = (
        "--model.encoder_args={width: 4}",
        "--model.encoder_weights=null",
        "--data.size=32",
        "--data.num_workers=0",
    )
    result = zoo("fit", "-c", "cells.yaml", TRAIN, *small)
    assert result.code == 0, result.err
    assert "test/miou" in result.out
    folder = Path("cells", *list(parts)[:1], "images")
    rows = json.loads(zoo("predict", "runs/cells/version_0", folder, "-o", "found", "--json").out)
    assert [row["file"] for row in rows] == sorted(map(str, folder.iterdir()))
    assert list(rows[0]["shares"]) == ["background", "cell", "border"]
    mask = np.asarray(Image.open("found/00_mask.png"))
    assert mask.shape == (40, 50)
    assert set(np.unique(mask)) <= {0, 1, 2}
    assert Path("found/00_overlay.png").is_file()
