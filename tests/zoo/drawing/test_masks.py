"""Masks over images: a color for each class, stripes over ignored pixels."""

import pytest
import torch

from zoo.drawing import mask_rows, overlay, palette
from zoo.drawing.masks import blend
from zoo.drawing.tiles import GAP, HEADER


def test_each_pixel_has_its_class_color() -> None:
    mask = torch.tensor([[0, 1, 2], [2, 255, -1]])
    shown = blend(torch.full((3, 2, 3), 0.5), mask, 3)
    assert shown.shape == (3, 2, 3)
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 0)):
        wanted = 127.5 + 0.6 * (palette(3, background=True)[mask[row, column]].float() - 127.5)
        assert (shown[:, row, column].float() - wanted).abs().max() <= 1
    gray = shown[:, 1, 1:]
    assert torch.equal(gray[0], gray[1])
    assert torch.equal(gray[0], gray[2])


def test_ignored_pixels_are_striped() -> None:
    shown = blend(torch.rand(1, 16, 16), torch.full((16, 16), 255), 2)[0].long()
    assert (shown < 60).sum() > 80
    assert (shown > 200).sum() > 80


def test_an_overlay_has_the_image_at_its_top_and_a_legend_of_its_classes() -> None:
    image, mask = torch.rand(3, 100, 120), torch.zeros(100, 120, dtype=torch.uint8)
    mask[20:40, 30:60] = 2
    names = ["ground", "cat", "dog"]
    shown = overlay(image, mask, names)
    assert torch.equal(shown[:, :100, :120], blend(image, mask, 3))
    legend = {tuple(color) for color in shown[:, 100:].flatten(1).T.tolist()}
    colors = [tuple(color) for color in palette(3, background=True).tolist()]
    assert [color in legend for color in colors] == [True, False, True]
    mask[0, 0] = 255
    more = overlay(image, mask, names)
    assert (more[:, 100:].amax(0) == 0).sum() > (shown[:, 100:, :120].amax(0) == 0).sum()  # its black stripes


def test_small_images_are_enlarged() -> None:
    image, mask = torch.rand(1, 10, 12), torch.randint(3, (10, 12))
    shown = overlay(image, mask, ["a", "b", "c"])
    assert torch.equal(shown[:, 3:70:7, 3:84:7], blend(image, mask, 3))


@pytest.mark.parametrize(("side", "shown"), [(48, 96), (100, 100), (512, 256)])
def test_rows_show_image_truth_and_prediction(side: int, shown: int) -> None:
    x = torch.rand(2, 3, side, side)
    true, predicted = torch.zeros(2, side, side).long(), torch.ones(2, side, side).long()
    true[1] = 255
    picture = mask_rows(x, true, predicted, ["a", "b"])
    assert picture.dtype == torch.uint8
    pitch = shown + GAP

    def tile(row: int, column: int) -> torch.Tensor:
        top, left = HEADER + row * pitch, GAP + column * pitch
        return picture[:, top : top + shown, left : left + shown]

    if side <= shown:
        scale = shown // side
        wanted = (x[1] * 255).round().byte()
        assert torch.equal(tile(1, 0)[:, ::scale, ::scale], wanted)
        assert torch.equal(tile(0, 1)[:, ::scale, ::scale], blend(x[0], true[0], 2))
    assert tile(0, 2).float().mean((1, 2)).argmax() == palette(2, background=True)[1].argmax()
    assert tile(1, 1).float().std() > 80  # stripes
    assert (picture[:, -1] == 255).all()
    assert mask_rows(x[:, :2], true, predicted, ["a", "b"]).shape == picture.shape


def test_five_or_more_examples_are_two_in_a_row() -> None:
    x, mask = torch.rand(5, 3, 100, 100), torch.zeros(5, 100, 100).long()
    picture = mask_rows(x, mask, mask, ["a", "b"])
    pitch = 100 + GAP
    for i in range(5):
        top, left = HEADER + i % 3 * pitch, GAP + i // 3 * (3 * pitch + GAP)
        assert torch.equal(picture[:, top : top + 100, left : left + 100], (x[i] * 255).round().byte())
    empty = picture[:, HEADER + 2 * pitch :, GAP + 3 * pitch + GAP :]
    assert (empty[:, :100] == 255).all()
