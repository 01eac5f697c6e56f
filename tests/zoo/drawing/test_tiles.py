"""Tiles of a picture: sizes, pixels and the colors of classes."""

import pytest
import torch
from torch import Tensor

from zoo.drawing import palette
from zoo.drawing.tiles import enlarge, fit, to_uint8


@pytest.mark.parametrize("background", [False, True])
def test_colors_are_fixed_and_apart(background: bool) -> None:
    colors = palette(256, background)
    assert (colors.dtype, colors.shape) == (torch.uint8, (256, 3))
    assert all(torch.equal(palette(count, background), colors[:count]) for count in (0, 1, 5, 30))
    assert len({tuple(color) for color in colors.tolist()}) == 256
    assert torch.pdist(colors[:20].float()).min() > 40


def test_a_background_is_gray_and_the_others_move_up() -> None:
    assert palette(1, background=True).tolist() == [[60, 60, 60]]
    assert torch.equal(palette(40, background=True)[1:], palette(39))


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((8, 8), 8),
        ((10, 12), 7),
        ((28, 28), 3),
        ((63, 63), 2),
        ((64, 64), 1),
        ((300, 300), 1),
        ((8, 100), 2),
        ((1, 784), 1),
    ],
)
def test_small_images_are_enlarged_by_a_whole_number(size: tuple[int, int], scale: int) -> None:
    for x in (torch.rand(2, 3, *size), torch.randint(0, 255, size), torch.rand(1, *size).half()):
        shown = enlarge(x)
        assert shown.shape[-2:] == (scale * size[0], scale * size[1])
        assert shown.dtype == x.dtype
        for i in range(scale):
            assert torch.equal(shown[..., i::scale, scale - 1 - i :: scale], x)


def halves(*shape: int) -> Tensor:
    """Zeros, and ones in the lower half."""
    x = torch.zeros(shape)
    x[..., shape[-2] // 2 :, :] = 1
    return x


@pytest.mark.parametrize(("size", "shown"), [((512, 256), (256, 128)), ((600, 300), (256, 128)), ((300, 2), (256, 2))])
def test_large_images_are_scaled_down(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = fit(halves(1, 3, *size))
    assert image.shape == (1, 3, *shown)
    assert (image[..., 100, :].max() < 1e-6) & (image[..., 156, :].min() > 1 - 1e-6)
    mask = fit(torch.randint(0, 2, (1, 1, *size)) * 255, labels=True)
    assert (mask.shape, mask.dtype) == ((1, 1, *shown), torch.int64)
    assert mask.unique().tolist() == [0, 255]
    assert torch.equal(fit(halves(1, 1, 8, 8).long(), labels=True), enlarge(halves(1, 1, 8, 8).long()))


def test_pixels_are_rounded_and_cut() -> None:
    x = torch.tensor([[-0.5, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.5]])
    shown = to_uint8(x.requires_grad_()[None])
    assert shown.tolist() == 3 * [[[0, 0, 0, 1, 255, 255]]]
    colored = torch.randint(0, 256, (2, 5, 3, 4, 6), dtype=torch.uint8)
    assert torch.equal(to_uint8(colored / 255), colored)
