"""The drawn shapes: exact masks, and the same images everywhere."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import ShapesDataModule, shapes
from datamodules.shapes import _inside


def set_up(**kwargs: Any) -> ShapesDataModule:
    data = ShapesDataModule(**{"count": 60, "size": 32, "noise": 0.0, **kwargs})
    data.setup()
    return data


def test_sizes_shapes_and_types() -> None:
    data = set_up()
    assert {name: len(part) for name, part in data._parts.items()} == {"train": 54, "val": 6, "test": 250}
    x, y = data._parts["train"].x, data._parts["train"].y
    assert (x.dtype, x.shape[1:], y.dtype, y.shape[1:]) == (torch.uint8, (3, 32, 32), torch.uint8, (32, 32))
    assert (data.kind, data.num_classes, data.input_shape) == ("segmentation", 5, (3, 32, 32))
    assert y.unique().tolist() == [0, 1, 2, 3, 4]
    assert data.class_counts == y.flatten().bincount().tolist()
    torch.testing.assert_close(data.mean, (x.double() / 255).mean((0, 2, 3)).float())


@pytest.mark.parametrize(
    ("kind", "area"),
    [(1, math.pi * 0.8), (2, 1.6**2), (3, 3 * math.sqrt(3) / 4 * 1.15**2), (4, 2 * 2.2 * 0.56 - 0.56**2)],
)
def test_a_shape_has_the_area_of_its_formula_at_any_angle(kind: int, area: float) -> None:
    angle, n = np.array([0.0, 0.7, 2.0]), np.ones(3)
    inside = _inside(np.full(3, kind), np.full((3, 2), 100.0), 60 * n, angle, 200)
    assert inside.sum((1, 2)) / 60**2 == pytest.approx([area] * 3, rel=0.02)


def test_masks_are_exact_without_noise() -> None:
    """Within a region between colors the class is one: an edge of the mask is an edge of the image, and nowhere else."""
    part = set_up(count=300)._parts["train"]
    x, y = part.x.int(), part.y.int()
    for axis in (1, 2):
        step = (x.diff(dim=axis + 1) != 0).any(1)
        edge = y.diff(dim=axis) != 0
        assert not (edge & ~step).any()  # another class is another color
        assert (step & ~edge).float().mean() < 0.01  # two shapes of one class that touch
    gray = (x.amax(1) - x.amin(1)) < 30
    assert gray[y == 0].all()
    assert not gray[y > 0].any()


def test_noise_changes_the_colors_only() -> None:
    clean, noisy = (set_up(noise=noise)._parts["train"] for noise in (0.0, 0.1))
    assert torch.equal(clean.y, noisy.y)
    middle = (clean.x > 64) & (clean.x < 192)  # where nothing is cut off
    spread = (noisy.x.float() - clean.x.float())[middle].std() / 255
    assert spread.item() == pytest.approx(0.1, rel=0.02)


def test_the_images_depend_on_their_own_seed_only() -> None:
    torch.manual_seed(1)
    one, same, other, more = set_up(), set_up(), set_up(data_seed=1), set_up(count=61)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    tests = [data._parts["test"].x for data in (one, same, other, more)]
    assert torch.equal(tests[0], tests[1])
    assert torch.equal(tests[0], tests[3])
    assert not torch.equal(tests[0], tests[2])
    train = {image.numpy().tobytes() for image in set_up(count=len(tests[0]))._parts["train"].x}
    assert not train & {image.numpy().tobytes() for image in tests[0]}


def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for at_once in (1, 7, 64, 1000):
        monkeypatch.setattr(shapes, "_AT_ONCE", at_once)
        drawn.append(shapes.draw(150, 16, 4, 0.1, np.random.default_rng(2)))
    for other in drawn[1:]:
        assert torch.equal(drawn[0].x, other.x)
        assert torch.equal(drawn[0].y, other.y)


def test_the_images_are_those_of_all_versions() -> None:
    """Numbers of the recipes for segmentation depend on them."""
    assert set_up().fingerprint == "a8ffa07fb9f7d3d8"
    data = set_up(noise=0.1, shapes=5, data_seed=3, size=16)
    assert data.fingerprint == "1c3566a99c33bd6a"


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be an integer >= 1, got 0"),
        ({"size": 4}, ValueError, "size must be an integer >= 8, got 4"),
        ({"shapes": 1}, ValueError, "shapes must be an integer >= 2, got 1"),
        ({"noise": -0.1}, ValueError, "noise must be a standard deviation >= 0, got -0.1"),
        ({"data_seed": "x"}, TypeError, "data_seed must be an integer"),
        ({"resized_crop": 2}, ValueError, r"resized_crop must be a share in \[0, 1\] \(0: off\), got 2"),
        ({"color_jitter": -1}, ValueError, r"color_jitter must be a share"),
    ],
)
def test_what_is_refused(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ShapesDataModule(**kwargs)
