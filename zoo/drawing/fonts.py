"""Fonts for names in any script: matplotlib draws a box, and warns, for each character that its fonts do not have."""

import unicodedata
from collections.abc import Iterable
from functools import cache


def drawable(text: str) -> str:
    r"""Return a text as it can be drawn on this machine, in the fonts of :func:`family`.

    Characters that no font has become their escape, such as ``\u732b``; spaces of all kinds become spaces, and invisible
    characters are left out.
    """
    return "".join(map(_drawable, text))


def family(texts: Iterable[str]) -> list[str]:
    """Return the font families for some texts: the default one, then those that have the characters that it has not."""
    from matplotlib import rcParams

    families = dict.fromkeys(
        _family_of(character) for text in texts for character in text
    )  # a set that keeps the order
    return [*rcParams["font.family"], *(name for name in families if name)]


def length(text: str) -> int:
    """Return how many letters wide a text is: a Chinese, Japanese or Korean character takes the place of two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _drawable(character: str) -> str:
    category = unicodedata.category(character)
    if character.isspace():
        return " "
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":  # marks of direction, joiners, variants of emoji
        return ""
    if category in ("Cc", "Cs") or _family_of(character) is None:  # matplotlib raises an error for a lone surrogate
        return character.encode("unicode_escape").decode()
    return character


@cache
def _family_of(character: str) -> str | None:
    """Return the font family that has a character: "" for the default one, None if no font has it."""
    if _has("", character):
        return ""
    places = (name for name, blocks in _blocks().items() if ord(character) // 256 in blocks)
    return next((name for name in places if _has(name, character)), None)


@cache
def _blocks() -> dict[str, set[int]]:
    """Return by family, those without serifs first, the blocks of 256 characters of which it has some."""
    from matplotlib.font_manager import fontManager, get_font

    blocks: dict[str, set[int]] = {}
    for entry in sorted(fontManager.ttflist, key=lambda entry: ("Sans" not in entry.name, entry.name)):
        # not the fonts of boxes, nor those of colored glyphs, which matplotlib cannot draw
        if not entry.name.startswith((".", "Last Resort")) and "Color" not in entry.name:
            codes = get_font(entry.fname).get_charmap()
            blocks.setdefault(entry.name, set()).update(code // 256 for code in codes)
    return blocks


def _has(name: str, character: str) -> bool:
    """Return whether the font that is used for a family has a character, in normal and in bold weight."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    properties = [FontProperties(family=name or None, weight=weight) for weight in ("normal", "bold")]
    return all(get_font(findfont(font)).get_char_index(ord(character)) for font in properties)
