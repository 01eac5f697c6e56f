"""Write ``dates.tsv.gz``, the pairs of :class:`~datamodules.DatesDataModule`: ``python datamodules/bundled/make_dates.py``.

It needs the library babel, whose formats of dates are those of the Unicode CLDR; ``dates.md`` names the version.
"""

import gzip
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

FILE = Path(__file__).parent / "dates.tsv.gz"
FIRST, LAST = date(1950, 1, 1), date(2049, 12, 31)
COUNTS = {"train": 16000, "val": 1000, "test": 1000}
# Of each locale: formats of CLDR by their names, and patterns. Numbers that others would read in another order, such as 03/04/2021
# and 03-04-2021, are left out; those that begin with the year, and those with points, have one order everywhere.
FORMATS = {
    "en_US": ("medium", "long", "full", "MMMM d y"),
    "en_GB": ("medium", "long", "full", "EEEE d MMMM y"),
    "de": ("short", "medium", "long", "full", "d. MMM y"),
    "es": ("medium", "long", "full", "d MMMM y"),
    "fr": ("medium", "long", "full"),
    "hu": ("short", "medium", "long", "full"),
    "it": ("medium", "long", "full"),
    "ja": ("short", "long", "full"),
    "nl": ("medium", "long", "full"),
    "pl": ("short", "medium", "long", "full"),
    "pt": ("medium", "long", "full", "d MMMM y"),
    "sv": ("short", "medium", "long", "full"),
}


def written(day: date, locale: str, form: str) -> str:
    """Return a date as it is written in a locale, with plain spaces."""
    from babel.dates import format_date

    return " ".join(format_date(day, form, locale=locale).split())


def days() -> list[date]:
    """Return all dates of all years."""
    return [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]


def pairs() -> Iterator[tuple[str, str, str, str]]:
    """Yield part, locale, written date and ISO date; each date once, in an order that compresses well.

    The draws are those of ``random.Random.random``, which Python keeps from version to version.
    """
    draw = random.Random(0).random
    chosen = sorted(days(), key=lambda _: draw())[: sum(COUNTS.values())]
    locales = list(FORMATS)
    rows = []
    for place, day in enumerate(chosen):
        locale = locales[int(draw() * len(locales))]
        number = int(draw() * len(FORMATS[locale]))
        part = "train" if place < COUNTS["train"] else "val" if place < COUNTS["train"] + COUNTS["val"] else "test"
        rows.append((part, locale, number, day))
    for part, locale, number, day in sorted(rows):
        yield part, locale, written(day, locale, FORMATS[locale][number]), day.isoformat()


def table() -> str:
    """Return the lines of the file."""
    return "".join("\t".join(row) + "\n" for row in pairs())


if __name__ == "__main__":
    FILE.write_bytes(gzip.compress(table().encode(), 9, mtime=0))
    print(f"{FILE}: {FILE.stat().st_size} bytes")
