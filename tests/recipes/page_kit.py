"""Pages, read as a browser reads them."""

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """What a page has: its texts, attributes, pictures, scripts and plain data."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # tag, name, value
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.data: list[Any] = []
        self._inside = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "wbr":
            self.words.append("\x1f")
        is_data = ("type", "application/json") in attrs
        self._inside = "data" if is_data else tag if tag in ("script", "style") else self._inside

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data.append(json.loads(data))
        else:
            {"script": self.scripts, "style": self.styles}.get(self._inside, self.words).append(data)

    @property
    def text(self) -> str:
        """All that is shown, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self.words).replace(" \x1f ", ""))

    def all_of(self, name: str) -> list[str]:
        """The values of an attribute."""
        return [value for _, each, value in self.attributes if each == name]

    @property
    def pictures(self) -> list[bytes]:
        """The PNGs in the page."""
        start = "data:image/png;base64,"
        return [base64.b64decode(src[len(start) :]) for src in self.all_of("src") if src.startswith(start)]

    @property
    def points(self) -> set[tuple[str, int, str]]:
        """The values that the pointer shows: metric, step, value."""
        curves = [curve for figure in self.data for curve in figure["curves"]]
        return {
            (curve["name"], step, value)
            for curve in curves
            for step, value in zip(curve["steps"], curve["texts"], strict=True)
        }


KNOWN = {  # attributes
    *(
        "alt",
        "aria-label",
        "charset",
        "class",
        "content",
        "cx",
        "cy",
        "d",
        "data-address",
        "data-first",
        "data-name",
        "data-sort",
    ),
    *(
        "data-version",
        "hidden",
        "href",
        "http-equiv",
        "id",
        "lang",
        "loading",
        "name",
        "points",
        "r",
        "rel",
        "role",
        "src",
    ),
    *("text-anchor", "title", "type", "viewbox", "x", "x1", "x2", "y", "y1", "y2"),
}


def assert_harmless(page: Page, addresses: str = "data:") -> None:
    """Assert that nothing is loaded from elsewhere, and that no script is there but ours."""
    loading = ("src", "href", "srcset", "action", "formaction", "data", "poster", "background", "xlink:href")
    for tag, name, value in page.attributes:
        assert name in KNOWN, (tag, name, value)
        if name in loading:
            assert re.match(addresses, value), (tag, name, value)
    for style in [*page.styles, *page.all_of("style")]:
        assert "url(" not in style
        assert "@import" not in style
    assert len(page.scripts) == len(page.styles) == 1
    assert not {"iframe", "object", "embed", "base", "form"} & {*page.tags}
    (policy,) = (value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
