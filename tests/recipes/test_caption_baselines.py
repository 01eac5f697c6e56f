"""``zoo baselines`` of captions: the methods, and a reader of masks that finds what the captions of drawn shapes tell."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import Zoo
from PIL import Image

from datamodules import CaptionFileDataModule, ShapeCaptionsDataModule
from datamodules.shape_captions import draw
from recipes.cli.studies.baselines import baselines
from recipes.cli.studies.captions import MostFrequent, NearestImage, parts_of
from recipes.cli.studies.shape_reader import MaskReader
from zoo.metrics import AttributesRight


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.shape_captions._TEST", 30)


def test_the_reader_finds_nearly_every_caption() -> None:
    """Also of pairs that it could not have learned; so captions can be decided by the pixels, noise and all."""
    for held_out in (False, True):
        drawn = draw(120, 48, 3, 0.1, held_out, (0, 5))
        written = MaskReader().predict(drawn.x.numpy(), drawn.masks.numpy())
        assert sum(a == b for a, b in zip(written, drawn.captions, strict=True)) >= 118


def test_the_reader_looks_at_colors_and_masks_alone() -> None:
    """Images that are laid by hand: two shapes of one class that touch, a shape in two parts, and one alone."""
    image, mask = np.full((3, 48, 48), 120, np.uint8), np.zeros((48, 48), np.uint8)
    colors = {"red": (214, 48, 40), "blue": (40, 80, 220), "yellow": (235, 210, 40)}

    def lay(color: str, kind: int, rows: slice, columns: slice) -> None:
        image[:, rows, columns] = np.array(colors[color], np.uint8)[:, None, None]
        mask[rows, columns] = kind

    lay("red", 2, slice(4, 20), slice(4, 20))
    assert MaskReader().predict(image[None], mask[None]) == ["a red square"]
    lay("yellow", 2, slice(30, 40), slice(20, 30))
    assert MaskReader().predict(image[None], mask[None]) == ["a red square above a yellow square"]
    lay("blue", 4, slice(33, 36), slice(2, 46))  # hides three rows of the yellow one, which is in two parts
    assert MaskReader().predict(image[None], mask[None]) == ["a red square above a blue cross"]
    lay("blue", 2, slice(10, 26), slice(12, 28))  # over the red one
    assert MaskReader().predict(image[None], mask[None]) == ["a blue square over a red square"]


def test_methods_tell_what_was_seen_in_training() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 3, 8, 8), np.uint8)
    captions = [["a"], ["b", "c"], ["c"], ["d"], ["e"]]
    assert MostFrequent().fit(images, captions).predict(images[:2], None) == ["c", "c"]
    nearest = NearestImage().fit(images, captions)
    noisy = np.clip(images.astype(int) + np.random.default_rng(1).integers(-20, 20, images.shape), 0, 255)
    assert nearest.predict(noisy.astype(np.uint8), None) == ["a", "b", "c", "d", "e"]
    large = np.kron(images, np.ones((1, 1, 8, 8), np.uint8))  # 64 x 64
    assert NearestImage().fit(large, captions).predict(large[::-1].copy(), None) == ["e", "d", "c", "b", "a"]


@pytest.mark.usefixtures("few")
def test_the_table_has_a_row_a_method_and_a_column_an_attribute(zoo: Zoo, tmp_cwd: Path) -> None:
    model = "{class_path: zoo.RecurrentCaptioning, init_args: {encoder: resnet20, encoder_args: {width: 4}, width: 8}}"
    data_section = "{class_path: datamodules.ShapeCaptionsDataModule, init_args: {count: 60}}"
    Path("shapes.yaml").write_text(f"# Shapes.\nmodel: {model}\ndata: {data_section}\n")
    result = zoo("baselines", "-c", "shapes.yaml")
    assert (result.code, result.err) == (0, "")
    assert "shapes: 54 train, 6 val, 30 test images" in result.out
    header = re.search(r"(?m)^method +(.*)$", result.out)
    assert header is not None
    parts = [f"{part}/{name}" for name in ("exact", "color", "shape", "relation") for part in ("val", "test")]
    assert header[1].split() == [*parts, "seconds"]
    lines = re.findall(r"(?m)^(most frequent caption|nearest image|reader of the masks) +(.*)$", result.out)
    assert [name for name, _ in lines] == ["most frequent caption", "nearest image", "reader of the masks"]
    data = ShapeCaptionsDataModule(count=60)
    data.setup()
    nearest = dict(zip(parts, lines[1][1].split(), strict=False))
    flat = {name: part.inputs(torch.arange(len(part))).numpy() for name, part in data._parts.items()}
    small = {name: x.reshape(len(x), 3, 48, 48).astype(float) for name, x in flat.items()}
    shrunk = {
        name: torch.nn.functional.interpolate(torch.from_numpy(x), (32, 32), mode="area").flatten(1)
        for name, x in small.items()
    }
    chosen = torch.cdist(shrunk["test"], shrunk["train"]).argmin(1).tolist()
    written = [data.captions["train"][i] for i in chosen]
    exact = np.mean([a == b for a, b in zip(written, data.captions["test"], strict=True)])
    assert nearest["test/exact"] == f"{exact:.4f}"
    color = AttributesRight(data.attributes["color"])
    color.update(written, data.captions["test"])
    assert nearest["test/color"] == f"{float(color.compute()):.4f}"
    reader = [float(value) for value in lines[2][1].split()[:-1]]
    assert min(reader) > 0.96


def test_captions_of_ones_own_have_several_references(tmp_cwd: Path) -> None:
    rows = ["image,caption"]
    for i in range(20):
        Image.new("RGB", (50, 40), (255, 0, 0) if i % 2 else (0, 0, 255)).save(f"{i}.png")
        rows += [f"{i}.png,a {('blue', 'red')[i % 2]} field of color", f"{i}.png,all is {('blue', 'red')[i % 2]}"]
    Path("captions.csv").write_text("\n".join(rows))
    data = CaptionFileDataModule("captions.csv", size=40, val_fraction=0.25, num_workers=0, flip=True)
    scores: Any = baselines(data)
    names = [f"{part}/{name}" for part in ("val", "test") for name in ("exact", "bleu4", "ciderd")]
    assert {method: [*each] for method, each in scores.items()} == dict.fromkeys(
        ["most frequent caption", "nearest image"], names
    )
    assert [scores["nearest image"][name] for name in names if "ciderd" not in name] == [1.0] * 4
    assert 0 < scores["most frequent caption"]["test/exact"] < 1
    parts = parts_of(data)
    assert parts["train"].captions[0] in (
        ["a blue field of color", "all is blue"],
        ["a red field of color", "all is red"],
    )
    assert parts["train"].images.shape == (12, 3, 32, 32)
    assert parts["train"].masks is None


def test_an_unknown_word_of_a_reference_is_one_word_that_no_baseline_meets(tmp_cwd: Path) -> None:
    for name, numbers in (("train", range(6)), ("val", (6, 7)), ("test", (8,))):
        rows = ["image,caption"]
        for i in numbers:
            Image.new("RGB", (40, 40), (28 * i, 0, 0)).save(f"{i}.png")
            rows.append(f"{i}.png,{'a red' if i < 5 else 'an odd'} field")
        Path(f"{name}.csv").write_text("\n".join(rows))
    with pytest.warns(UserWarning, match="are unknown"):
        data = CaptionFileDataModule("train.csv", val="val.csv", test="test.csv", size=40, num_workers=0, min_count=2)
    parts = parts_of(data)
    assert {name: part.captions[-1] for name, part in parts.items()} == {
        "train": ["<unk> <unk> field"],
        "val": ["\ufffd \ufffd field"],
        "test": ["\ufffd \ufffd field"],
    }
