"""Captions below images and heat maps over them, by value: pixels, lines, places of the hottest cell."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.drawing import captioned_images, captions, word_maps
from zoo.drawing.captions import BAR, CELL, LEAST, MOST, blended, wrapped
from zoo.drawing.figures import RIGHT, WRONG
from zoo.drawing.tiles import GAP, HEADER, LINE

RED, WHITE = [198, 40, 40], [255, 255, 255]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, whose texts must lie inside. Nothing may import pyplot, which needs a display."""
    kept: list[Any] = []
    original = captions.to_image

    def keep(figure: Any) -> Tensor:
        kept.append(figure)
        image = original(figure)
        assert image.dtype == torch.uint8
        width, height = figure.canvas.get_width_height()
        assert image.shape == (3, height, width)
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= width, text
            assert box.y1 <= height, text
        return image

    monkeypatch.setattr(captions, "to_image", keep)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    return kept


def lines_of(figure: Any) -> list[tuple[str, str, float, float]]:
    """Text, color, and the middle in pixels from the left and from the top."""
    width, height = figure.canvas.get_width_height()
    places = [(text, *text.get_position()) for text in figure.texts]
    return [(text.get_text(), text.get_color(), x * width, (1 - y) * height) for text, x, y in places]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_captions_stand_below_their_images(channels: int, drawn: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "WIDE", 2 * CELL + 3 * GAP)  # two in a row
    x = torch.randint(0, 256, (6, channels, 16, 24)) / 255
    written = ["a cat", "a dog", "$bi_{rd$", "x", "", "unknown"]
    true: list[Any] = ["a cat", ["two dogs", "a dog"], ["$bi_{rd$ on a tree"], "y", "z", []]
    picture = captioned_images(x, written, true)
    height, width = 128, 192  # 8 times as large: the smaller side has 128 pixels
    rows = [range(2), range(2, 4), range(4, 6)]
    found = lines_of(drawn[0])
    assert found.pop(0)[0] == "written, below it true  ·  3 of 6 wrong"
    wanted = [[written[i] or "(nothing)", *([true[i]] if isinstance(true[i], str) else true[i])] for i in range(6)]
    tops, top = [], HEADER
    for row in rows:
        tops.append(top)
        most = max(len(wanted[i]) for i in row)
        top += height + GAP // 2 + most * LINE + (most - 1) * GAP // 2 + LINE // 2 + GAP
    assert abs(top - picture.shape[1]) <= GAP
    mean = x if channels in (1, 3) else x.mean(dim=1, keepdim=True)
    pixels = (mean * 255).round().byte().expand(-1, 3, -1, -1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    for row, top in zip(rows, tops, strict=True):
        for column, i in enumerate(row):
            left = GAP + column * (CELL + GAP)
            assert torch.equal(picture[:, top : top + height, left : left + width], pixels[i]), i
            bad = i in (2, 3, 4)
            assert picture[:, top - 2, left + 5].tolist() == (RED if bad else WHITE), i
            texts = [found.pop(0) for _ in wanted[i]]
            assert [text for text, *_ in texts] == wanted[i]
            assert [color for _, color, *_ in texts] == [WRONG if bad else RIGHT, *["#888888"] * (len(texts) - 1)]
            assert all(at == pytest.approx(left + width / 2) for *_, at, _ in texts)
            below = [y - top - height for *_, y in texts]
            assert below == pytest.approx([GAP / 2 + LINE / 2 + k * (LINE + GAP / 2) for k in range(len(texts))])
    assert not found


def test_small_and_large_images(drawn: list[Any]) -> None:
    """Cells are as wide as their captions need, images enlarged by a whole number or scaled down."""
    picture = captioned_images(torch.zeros(1, 1, 50, 30), ["a"], ["a"])
    dark = (picture[0] == 0).nonzero()
    size = (dark.amax(0) - dark.amin(0) + 1).tolist()
    assert size == [3 * 50, 3 * 30]  # not 5 times as large, which would be more than MOST
    assert dark.amin(0).tolist() == [HEADER, GAP + (CELL - 3 * 30) // 2]
    large = torch.zeros(1, 3, 600, 300)
    large[:, 0, :300] = 1.0  # the upper half is red
    picture = captioned_images(large, ["a"], ["a"])
    middle = GAP + CELL // 2
    assert picture[:, HEADER + 10, middle].tolist() == [255, 0, 0]
    assert picture[:, HEADER + MOST - 10, middle].tolist() == [0, 0, 0]
    assert picture[:, HEADER + MOST // 2, middle - MOST // 4 - 5].tolist() == WHITE
    assert len(drawn) == 2


def test_lines_are_filled_with_words_and_long_texts_cut_off() -> None:
    assert wrapped("a bb ccc dddd", 6) == ["a bb", "ccc", "dddd"]
    assert wrapped("a bb ccc", 8) == ["a bb ccc"]
    assert wrapped("abcdefghij kl", 4) == ["abcd", "efgh", "ij", "kl"]
    assert wrapped("  a \n\t b ", 9) == ["a b"]
    assert wrapped("", 9) == [""]
    assert wrapped("one two three four five six", 5) == ["one", "two", "three", "four…"]
    assert wrapped("e" * 90, 10)[-1] == "eeeeeeeee…"
    assert wrapped("\u00e9\u00e9 \u00e9", 2) == ["\u00e9\u00e9", "\u00e9"]


def test_a_hot_cell_is_hot_where_it_lies(drawn: list[Any]) -> None:
    """In maps of other sides than the image, each in its place below its word, the image itself at the left."""
    x = torch.rand(2, 3, 40, 64)
    words = [["a", "$red$", "circle"], ["<end>"]]
    cells = [[(0, 0), (1, 4), (2, 2)], [(3, 1)]]
    maps = [torch.zeros(3, 3, 5), torch.zeros(1, 4, 2)]
    for part, hot in zip(maps, cells, strict=True):
        for i, (row, column) in enumerate(hot):
            part[i, row, column] = 0.5
    picture = word_maps(x, words, maps)
    height, width = 3 * 40, 3 * 64  # 4 times would be wider than MOST
    found = lines_of(drawn[0])
    assert [text for text, *_ in found] == ["weight 0", "0.5", *words[0], *words[1]]
    titles = iter(found[2:])
    pixels = (x * 255).round().byte().repeat_interleave(3, 2).repeat_interleave(3, 3)
    for k, (part, hot) in enumerate(zip(maps, cells, strict=True)):
        top = HEADER + LINE + k * (LINE + height + 2 * GAP)
        assert torch.equal(picture[:, top : top + height, GAP : GAP + width], pixels[k])
        for i, (row, column) in enumerate(hot):
            left = GAP + (i + 1) * (width + GAP)
            _, _, at, y = next(titles)
            assert (at, y) == (pytest.approx(left + width / 2), pytest.approx(top - LINE / 2))
            tile = picture[:, top : top + height, left : left + width].float()
            cold = torch.from_numpy(blended(x[k].mean(0), torch.zeros(40, 64))).permute(2, 0, 1)
            cold = cold.repeat_interleave(3, 1).repeat_interleave(3, 2).float()
            change = (tile - cold).abs().sum(0)
            rows, columns = part.shape[1:]
            hottest = change > 0.9 * change.max()
            assert hottest[int((row + 0.5) * height / rows), int((column + 0.5) * width / columns)], (k, i)
            low, high = hottest.nonzero().aminmax(dim=0)
            for one, other, place, side in (
                (low[0], high[0], row, height / rows),
                (low[1], high[1], column, width / columns),
            ):
                assert place * side <= one <= other < (place + 1) * side, (k, i)
            far = torch.ones(height, width, dtype=torch.bool)  # beyond the neighboring cells nothing changes
            far[
                max(0, (row - 1) * height // rows) : (row + 2) * height // rows + 1,
                max(0, (column - 1) * width // columns) : (column + 2) * width // columns + 1,
            ] = False
            assert not change[far].any()
            assert far.any() or rows * columns < 9
    beyond = picture[:, HEADER + LINE + height + GAP + LINE + GAP :, GAP + 2 * (width + GAP) :]
    assert (beyond == 255).all()  # the second image has one word


def test_maps_of_an_image_stand_in_rows_beside_it(drawn: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As many beside each other as a picture is wide; the next image begins below them all."""
    monkeypatch.setattr(captions, "WIDE", 16 * 64)
    words = [[f"w{i}" for i in range(9)], ["a"]]
    maps = [torch.arange(9.0).view(9, 1, 1), torch.full((1, 1, 1), 4.0)]
    picture = word_maps(torch.full((2, 1, 128, 128), 0.5), words, maps)
    titles = [(text, round(x), round(y)) for text, _, x, y in lines_of(drawn[0])[2:]]
    pitch, below = 128 + GAP, 128 + GAP + LINE
    abreast = 6  # and the image: 7 * 138 + 10 pixels, 8 would be more than 16 * 64
    wanted = [
        (f"w{i}", GAP + 64 + (1 + i % abreast) * pitch, HEADER + LINE // 2 + i // abreast * below) for i in range(9)
    ]
    assert titles[:9] == wanted
    assert titles[9] == ("a", GAP + 64 + pitch, HEADER + LINE // 2 + 2 * below + GAP)
    for i, (_, at, y) in enumerate(titles):
        shown = picture[:, y + LINE // 2 + 5, at].tolist()
        heat = torch.full((1, 1), [*range(9), 4][i] / 8)
        assert shown == blended(torch.full((1, 1), 0.5), heat)[0, 0].tolist(), i  # one scale for all of them
    assert picture.shape[1] == HEADER + 3 * below + 2 * GAP


def test_the_scale_of_weights(drawn: list[Any]) -> None:
    picture = word_maps(torch.zeros(1, 1, LEAST, LEAST), [["a"]], [torch.full((1, 2, 2), 0.123)])
    (zero, most) = lines_of(drawn[0])[:2]
    assert (zero[0], most[0]) == ("weight 0", "0.12")
    ramp = picture[:, HEADER // 2, round(most[2]) - 7 - BAR : round(most[2]) - 7].float()
    assert ramp[:, 0].tolist() == blended(torch.full((1, 1), 0.5), torch.zeros(1, 1))[0, 0].tolist()
    assert ramp[:, -1].tolist() == blended(torch.full((1, 1), 0.5), torch.ones(1, 1))[0, 0].tolist()
    light = ramp.sum(0)
    assert (light.diff() >= -2).all()  # ever lighter
    box = drawn[0].texts[0].get_window_extent()
    assert box.x1 < most[2] - 7 - BAR
    word_maps(torch.zeros(1, 1, 8, 8), [["a"]], [torch.zeros(1, 2, 2)])  # nothing is looked at


def test_long_words_are_shortened(drawn: list[Any]) -> None:
    word_maps(torch.zeros(1, 1, 200, 30), [["a" * 80, "b\nc"]], [torch.ones(2, 2, 2)])
    titles = [text for text, *_ in lines_of(drawn[0])[2:]]
    assert titles == ["a" * (2 * 64 // 7 - 1) + "…", "b c"]
    boxes = [text.get_window_extent() for text in drawn[0].texts[2:]]
    assert not boxes[0].overlaps(boxes[1])


def test_what_does_not_fit_together_is_refused() -> None:
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"got 2 images, 1 that were written and 2 true ones"):
        captioned_images(x, ["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"got 0 images"):
        captioned_images(x[:0], [], [])
    with pytest.raises(ValueError, match=r"got 2 images, 2 texts and 1 maps"):
        word_maps(x, [["a"], ["b"]], [torch.ones(1, 2, 2)])
    with pytest.raises(ValueError, match=r"got 0 images"):
        word_maps(x[:0], [], [])
    for bad in (torch.ones(2, 2, 2), torch.ones(1, 4), torch.ones(1, 0, 2)):
        with pytest.raises(ValueError, match=r"the maps of image 2 must .* of its 1 words, \(1, h, w\), got \("):
            word_maps(x, [["a"], ["b"]], [torch.ones(1, 2, 2), bad])
