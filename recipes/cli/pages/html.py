"""Pieces of a page: escaped text, tables, and the frame with its style, script and policy. Imports no torch."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from recipes.cli.pages.look import SCRIPT, STYLE

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def text(value: object) -> str:
    """Return any text as HTML that shows it, in an element or in a quoted attribute.

    Example:
        >>> text('<script>"')
        '&lt;script&gt;&quot;'
    """
    return html.escape(_CONTROL.sub("\ufffd", str(value)))


def element(tag: str, content: str, **attributes: str) -> str:
    """Return an element around HTML; ``class_`` is the attribute ``class``, ``data_sort`` is ``data-sort``."""
    given = "".join(f' {name.strip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items())
    return f"<{tag}{given}>{content}</{tag}>"


def section(title: str, content: str, name: str) -> str:
    """Return a section with a heading; nothing without content."""
    return f'<section id="{name}"><h2>{text(title)}</h2>\n{content}</section>\n' if content else ""


def fold(title: str, content: str, name: str) -> str:
    """Return content that is shown on a click. ``name`` keeps it open when the page is renewed."""
    return (
        f'<details data-name="{text(name)}"><summary>{text(title)}</summary>\n{content}</details>\n' if content else ""
    )


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and of HTML."""
    cells = "".join(f"<tr><th>{text(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f'<div class="wide"><table class="facts">{cells}</table></div>\n' if cells else ""


def table(head: Sequence[object], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    """Return a table of texts and numbers; numbers are aligned to the right."""
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>\n" for row in rows)
    first = "".join(f"<th>{text(name)}</th>" for name in head)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>\n'
    )


def _cell(value: object) -> str:
    number = isinstance(value, int | float) or (isinstance(value, str) and _is_number(value))
    return f'<td class="number">{text(value)}</td>' if number else f"<td>{text(value)}</td>"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def data(content: Any) -> str:
    """Return plain data as JSON that no HTML ends: "<" is written as an escape."""
    dumped = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    return f'<script type="application/json">{dumped}</script>'


def policy(served: bool) -> str:
    """Return the content security policy: our style and script alone; a page that is served may ask its server."""
    images, connections = ("'self' data:", "'self'") if served else ("data:", "'none'")
    return (
        f"default-src 'none'; img-src {images}; connect-src {connections}; style-src {_digest(STYLE)}; "
        f"script-src {_digest(SCRIPT)}; base-uri 'none'; form-action 'none'"
    )


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def page(title: str, main: str, address: str = "", version: str = "") -> str:
    """Return a whole page.

    Args:
        title: Title of the window.
        main: Its HTML.
        address: Where a served page asks whether it has changed; "" for a page in a file.
        version: What it is answered while it has not.
    """
    live = f' data-address="{text(address)}" data-version="{text(version)}"' if address else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(bool(address))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body{live}>
<main>
{main}</main>
<p id="lost" hidden>not served any more: zoo web has ended, or the run was removed</p>
<script>{SCRIPT}</script>
</body>
</html>
"""
