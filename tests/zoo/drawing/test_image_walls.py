"""What is drawn of what a model makes: walls of images, points, codes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.drawing import clouds, codes, image_rows, image_wall, images, palette


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn."""
    kept: list[Any] = []
    original = images.to_image

    def keep(figure: Any) -> Tensor:
        kept.append(figure)
        return original(figure)

    monkeypatch.setattr(images, "to_image", keep)
    return kept


def offsets(points: Any) -> Tensor:
    return torch.tensor(points.get_offsets().tolist())


def legend(figure: Any) -> list[str]:
    return [text.get_text() for drawn in figure.legends for text in drawn.get_texts()]


@pytest.mark.parametrize("columns", [None, 2, 5])
def test_a_wall_holds_every_image_and_is_white_elsewhere(columns: int | None) -> None:
    x = torch.randint(0, 255, (5, 3, 70, 80), dtype=torch.uint8)  # no white
    wall = image_wall(x / 255, columns)
    across = columns or 3
    down = -(-5 // across)
    assert wall.shape == (3, 2 + 72 * down, 2 + 82 * across)
    rest = torch.ones(wall.shape[1:], dtype=torch.bool)
    for i, image in enumerate(x):
        top, left = 2 + 72 * (i // across), 2 + 82 * (i % across)
        assert torch.equal(wall[:, top : top + 70, left : left + 80], image)
        rest[top : top + 70, left : left + 80] = False
    assert (wall[:, rest] == 255).all()


def test_rows_stand_one_below_the_other() -> None:
    x = torch.rand(3, 1, 64, 64)
    gray, colored = image_rows([x, 1 - x]), image_rows([x, (1 - x).expand(-1, 3, -1, -1)])
    assert torch.equal(gray, colored)
    assert torch.equal(gray[0, 2:66, 68:132], (x[1, 0] * 255).round().byte())
    assert torch.equal(gray[2, 68:132, 2:66], ((1 - x[0, 0]) * 255).round().byte())


def test_clouds_of_data_and_model(drawn: list[Any]) -> None:
    real, made = torch.randn(5, 2), torch.randn(7, 2)
    assert clouds(real, made).dtype == torch.uint8
    below, above = drawn[0].axes[0].collections
    torch.testing.assert_close(offsets(below), real)
    torch.testing.assert_close(offsets(above), made)
    assert legend(drawn[0]) == ["data", "model"]
    clouds(None, made)
    assert legend(drawn[1]) == ["model"]


@pytest.mark.parametrize("names", [None, ["cat", "$d_{og$", "owl", "a class without examples"]])
def test_codes_have_the_colors_and_names_of_their_classes(names: list[str] | None, drawn: list[Any]) -> None:
    z, y = torch.randn(6, 2), torch.tensor([0, 2, 2, 0, 1, 2])
    codes(z, y, names)
    for k, points in enumerate(drawn[0].axes[0].collections):
        torch.testing.assert_close(offsets(points), z[y == k])
        color = torch.tensor(points.get_facecolor()[0, :3] * 255).round().byte()
        assert torch.equal(color, palette(3)[k])
    assert legend(drawn[0]) == (["0", "1", "2"] if names is None else names[:3])


def test_codes_of_which_a_class_is_missing_keep_its_color_free(drawn: list[Any]) -> None:
    codes(torch.randn(4, 2), torch.tensor([0, 2, 2, 3]))
    colors = [(part.get_facecolor()[0, :3] * 255).round().tolist() for part in drawn[0].axes[0].collections]
    assert colors == palette(4)[[0, 2, 3]].tolist()
    assert legend(drawn[0]) == ["0", "2", "3"]


@pytest.mark.parametrize("y", [torch.rand(6), torch.zeros(6, 2).long()])
def test_codes_without_classes_are_gray(y: Tensor, drawn: list[Any]) -> None:
    z = torch.randn(6, 2)
    codes(z, y, ["cat", "dog"])
    (points,) = drawn[0].axes[0].collections
    torch.testing.assert_close(offsets(points), z)
    assert len(set(points.get_facecolor()[0, :3].tolist())) == 1
    assert not legend(drawn[0])


def test_a_legend_of_more_classes_than_it_can_hold_is_left_out(drawn: list[Any]) -> None:
    for count in (20, 21):
        codes(torch.randn(count, 2), torch.arange(count))
    assert [len(legend(figure)) for figure in drawn] == [20, 0]
