"""Names in any script: no boxes and no warnings, whether or not the machine has a font for them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager, get_font, ttfFontProperty
from torch import Tensor

from zoo.drawing import codes, decision_regions, figures, fonts, heatmap, image_grid, images, mask_rows, masks, overlay

NAMES = ["猫", "犬と猫", "Ж", "Grün_$x_{1$", "_hidden", "مرحبا", "🦊\u200d\ufe0f", "a\tb\u3000c", "bad\udcff"]


@pytest.fixture(autouse=True)
def _no_memory() -> Iterator[None]:
    """Forget what fonts there are."""
    for function in (fonts._family_of, fonts._blocks):
        function.cache_clear()
    yield
    for function in (fonts._family_of, fonts._blocks):
        function.cache_clear()


@pytest.fixture
def square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A font that is installed during the test: it has 猫 and 犬, as black squares."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("猫"): "square", ord("犬"): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Zoo Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "square.ttf")
    entry = ttfFontProperty(get_font(tmp_path / "square.ttf"))
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist, entry])
    return "Zoo Square"


@pytest.fixture
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose fonts have neither Chinese nor Japanese nor emoji."""
    kept = [entry for entry in fontManager.ttflist if entry.name in ("DejaVu Sans", "Last Resort High-Efficiency")]
    monkeypatch.setattr(fontManager, "ttflist", kept)


def test_what_no_font_has_is_escaped(only_dejavu: None) -> None:
    shown = [fonts.drawable(name) for name in NAMES]
    assert shown == [
        r"\u732b",
        r"\u72ac\u3068\u732b",
        "Ж",
        "Grün_$x_{1$",
        "_hidden",
        "مرحبا",
        r"\U0001f98a",
        "a b c",
        r"bad\udcff",
    ]
    assert fonts.family(shown) == ["sans-serif"]


def test_a_font_of_the_machine_draws_what_the_default_one_has_not(square: str) -> None:
    assert fonts.drawable("ein 猫") == "ein 猫"
    assert fonts.family(["ein 猫"]) == ["sans-serif", square]
    x, names = torch.ones(1, 1, 64, 64), ["猫", "犬"]
    ink = (image_grid(x, names[:1], names[1:]).float().mean(dim=0)[-26:, 30:60] < 150).sum()
    assert ink > 80  # two squares of about 10 by 10 pixels, one above the other


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts of the figures that are drawn."""
    from matplotlib.text import Text

    kept: list[str] = []
    original = figures.to_image

    def keep(figure: Any) -> Tensor:
        image = original(figure)
        kept.extend(text.get_text() for text in figure.findobj(Text))
        return image

    for module in (figures, images, masks):
        monkeypatch.setattr(module, "to_image", keep)
    return kept


def test_every_picture_with_names_draws_them_without_a_warning(texts: list[str], only_dejavu: None) -> None:
    k = len(NAMES)
    x, y = torch.rand(k, 1, 16, 16), torch.arange(k)
    points, mask = torch.rand(k, 2), y[:, None, None].expand(k, 16, 16)
    for draw in (
        lambda: image_grid(x, NAMES, NAMES),
        lambda: heatmap(torch.eye(k), NAMES, NAMES, ("true", "predicted"), "title"),
        lambda: decision_regions(points, y, y > 0, lambda p: torch.full((len(p), k), 1 / k), NAMES),
        lambda: codes(points, y, NAMES),
        lambda: mask_rows(x, mask, mask, NAMES),
        lambda: overlay(torch.rand(1, 30 * k, 30 * k), y.repeat_interleave(30).expand(30 * k, -1), NAMES),
    ):
        texts.clear()
        draw()  # warnings are errors
        for name in map(fonts.drawable, NAMES):
            assert any(re.fullmatch(re.escape(name[:8]) + ".*", text) for text in texts), (name, texts)


def test_a_wide_character_counts_twice() -> None:
    assert fonts.length("ab猫") == 4
    assert figures.shortened("猫猫猫", 6) == "猫猫猫"
    assert figures.shortened("猫猫猫", 5) == "猫猫…"
    assert figures.shortened("猫猫猫", 4) == "猫…"
    assert figures.shortened("letters", 4) == "let…"


def test_names_that_look_the_same_when_drawn_are_still_wrong(texts: list[str]) -> None:
    image_grid(torch.rand(1, 1, 8, 8), ["a\tb"], ["a b"])
    assert "1 of 1 wrong" in " ".join(texts)
