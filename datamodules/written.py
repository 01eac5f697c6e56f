"""Numbers and dates as people write them: 1,234.50 or 1.234,50, 9.50 EUR, 05.01.2024."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, time
from functools import cached_property
from typing import Any

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")
DATE_PARTS = ("year", "month", "day", "weekday", "hour")
_BLANK = " \u00a0\u2009\u202f"  # with those that do not break a line
_SAME = (_BLANK, "'\u2019")  # thousands separators that are the same
_MINUS = str.maketrans("\u2212", "-")
_BODY = re.compile(rf"([+-]?)\s*([^\W\d_]+\s|\W??)\s*([+-]?\d[\d.,'\u2019{_BLANK}]*(?<=\d))\s*([^\d\s].*)?")
_SUFFIX = re.compile(r"[^\W\d_%][^\d]{0,15}|[%\u2030\u00b0][^\d]{0,3}")
# How a number may be written, and the options that read it, "decimal" or "decimal thousands"; the first that fits counts.
_WRITTEN = [
    (r"\d{1,3}(?:,\d{3})+\.\d+|\d{1,3}(?:,\d{3}){2,}", (". ,",)),
    (r"\d{1,3},\d{3}", (",", ". ,")),
    (r"\d+,\d+", (",",)),
    (r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}", (", .",)),
    (r"\d+\.\d+", (".",)),
    (rf"\d{{1,3}}(?:[{_BLANK}]\d{{3}})+(?:\.\d+)?", (".  ",)),
    (rf"\d{{1,3}}(?:[{_BLANK}]\d{{3}})+,\d+", (",  ",)),
    (r"\d{1,3}(?:['\u2019]\d{3})+(?:\.\d+)?", (". '",)),
    (r"\d{1,3}(?:['\u2019]\d{3})+,\d+", (", '",)),
    (r"\d+", ()),
]
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?")
_TIME = re.compile(r"\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?")
_DAYS = (  # ways of writing a day that are suggested
    *(
        "%d.%m.%Y",
        "%d.%m.%y",
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d/%m/%y",
        "%m/%d/%y",
        "%d-%m-%Y",
        "%m-%d-%Y",
        "%d-%m-%y",
        "%m-%d-%y",
    ),
    *("%Y/%m/%d", "%Y.%m.%d", "%d %B %Y", "%d %b %Y", "%d. %B %Y", "%d. %b %Y", "%d-%b-%Y"),
)
_CLOCKS = (
    "",
    " %H:%M",
    " %H:%M:%S",
    "T%H:%M",
    "T%H:%M:%S",
    ", %H:%M",
    ", %H:%M:%S",
    " %I:%M %p",
    " %I:%M:%S %p",
)  # after it
_OTHER_DATE = re.compile(
    r"(?:\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d\d)|\d{4}([./])\d{1,2}\2\d{1,2}|\d{1,2}[. -]{1,2}[^\W\d_]{3,9}\.?[ -]\d{4})"
    r"(?:[T ,]+\d{1,2}:\d\d.*)?"
)


@dataclass
class Form:
    """How the values of a CSV file are written.

    Args:
        delimiter: Character between values.
        encoding: Encoding of the text, by Python's name.
        missing: Texts that stand for a missing value.
        decimal: Character before the decimals.
        thousands: Character between groups of three digits; None for none.
        units: Texts to leave out before or after a number, such as "EUR" or "%".
        date_format: Format of dates, as in ``datetime.strptime``, beside ISO 8601.

    Raises:
        ValueError: A character is no single one, or means two things.
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    missing: Collection[str] = MISSING
    decimal: str = "."
    thousands: str | None = None
    units: Sequence[str] = ()
    date_format: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter == "\\t":  # as typed in a shell
            self.delimiter = "\t"
        for name, value in (("delimiter", self.delimiter), ("decimal", self.decimal), ("thousands", self.thousands)):
            if value is None and name == "thousands":
                continue
            if not isinstance(value, str) or len(value) != 1 or (name != "delimiter" and value.isalnum()):
                raise ValueError(f"{name} must be one character, got {value!r}")
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands must be different characters, got {self.decimal!r} for both")
        if isinstance(self.units, str) or not all(isinstance(unit, str) and unit.strip() for unit in self.units):
            raise ValueError(f'units must be a list of texts, such as ["EUR", "%"], got {self.units!r}')
        self.missing = frozenset(self.missing)
        self.units = sorted({unit.strip() for unit in self.units}, key=len, reverse=True)  # "km/h" before "h"

    @classmethod
    def of(cls, preparation: Mapping[str, Any]) -> "Form":
        """Return the form in a ``preparation``."""
        return cls(**{f.name: preparation[f.name] for f in fields(cls) if f.name in preparation})

    def plain(self) -> dict[str, Any]:
        """Return the form as plain data, for :meth:`of`."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"missing": sorted(self.missing)}

    @property
    def as_python(self) -> bool:
        """Whether numbers are written as Python reads them."""
        return self.decimal == "." and self.thousands is None and not self.units

    @cached_property
    def _apart(self) -> str:
        """Pattern of what stands between groups of three digits."""
        between = self.thousands or ""
        return next((f"[{same}]" for same in _SAME if between in same), re.escape(between))

    def clean(self, text: str) -> str:
        """Return the text of a number as Python reads it; another text comes out as another text."""
        text = text.translate(_MINUS)
        for unit in self.units:
            if text.endswith(unit):
                text = text.removesuffix(unit).rstrip()
                break
            sign = text[:1] if text[:1] in ("+", "-") else ""
            if text.removeprefix(sign).startswith(unit):
                text = sign + text.removeprefix(sign).removeprefix(unit).lstrip()
                break
        if self.thousands is not None:
            whole, decimal, rest = text.partition(self.decimal)
            if re.fullmatch(rf"[+-]?\d{{1,3}}(?:{self._apart}\d{{3}})+", whole):
                text = re.sub(self._apart, "", whole) + decimal + rest
            elif re.search(self._apart, text):
                return f"{text}!"  # not in groups of three: no number
        if self.decimal != ".":
            text = f"{text}!" if "." in text else text.replace(self.decimal, ".")
        return text

    def number(self, text: str) -> float | None:
        """Return a text as a number, None if it is not one; unlike in Python, ``1_000`` is not."""
        return _float(text if self.as_python and text.isascii() else self.clean(text))

    def canonical(self, text: str) -> str:
        """Return the text of a category or class, the same for equal numbers: "1" for "1.0"; "01" is not "1"."""
        clean = self.clean(text)
        value = _float(clean)
        if value is None or abs(value) == float("inf") or value != value:
            return text
        if whole := re.fullmatch(r"([+-]?)(\d+)(?:\.0*)?", clean):  # of any length, with leading zeros
            return f"{'-' * (whole[1] == '-' and value != 0)}{whole[2]}"
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)

    def moment(self, text: str) -> datetime | None:
        """Return a date, or a time of day of the year 1, as a moment without a zone; None if it is none."""
        try:
            if _ISO_DATE.fullmatch(text):
                moment = datetime.fromisoformat(text)
                return moment if moment.tzinfo is None else moment.replace(tzinfo=None)
            if _TIME.fullmatch(text):
                return datetime.combine(datetime.min, time.fromisoformat(text if text[2] == ":" else f"0{text}"))
            return None if self.date_format is None else datetime.strptime(text, self.date_format).replace(tzinfo=None)
        except ValueError:
            return None

    def hint(self, counts: Mapping[str, int]) -> str | None:
        """Return the options that read texts as numbers where most look like numbers, "" if there are none; else None.

        Args:
            counts: Values of a column, none missing, and how many rows have each.
        """
        seen = {text: ((), "") if self.number(text) is not None else _written(text) for text in counts}
        looks = {text: each for text, each in seen.items() if each is not None}
        units = sorted({unit for _, unit in looks.values()} - {""})
        if len(units) > 1 and not all(map(_is_money, units)):  # 3rd, 4th, 5th: no amounts
            looks, units = {text: each for text, each in looks.items() if not each[1]}, []
        if 2 * sum(counts[text] for text in looks) <= sum(counts.values()):
            return None
        ways = [ways for ways, _ in looks.values() if any(ways)]
        sure = [each for each in ways if len(each) == 1]
        best = max(sure, key=lambda each: len(each[0])) if sure else next(iter(ways), ())
        options = [" or ".join(filter(None, (self._options(way) for way in best)))]
        if units:
            options.append(
                f"units=[{units[0]!r}]" if len(units) == 1 else f"all values one unit, not {' and '.join(units)}"
            )
        return " and ".join(filter(None, options))

    def _options(self, way: str) -> str:
        """Return the options for a way of writing (see ``_WRITTEN``) that differ from the form's."""
        decimal, thousands = way[0], way[2:]
        options = [f"decimal={decimal!r}"] if decimal != self.decimal else []
        return ", ".join([*options, f"thousands={thousands!r}"] if thousands not in ("", self.thousands) else options)

    def date_hint(self, counts: Mapping[str, int]) -> str | None:
        """Return the option that reads texts which look like dates (see :meth:`hint`); None if most do not."""
        dates = {text: count for text, count in counts.items() if _OTHER_DATE.fullmatch(text)}
        if 2 * sum(dates.values()) <= sum(counts.values()):
            return None
        forms = [Form(date_format=day + clock) for day in _DAYS for clock in _CLOCKS]
        fits = [form.date_format for form in forms if all(map(form.moment, dates))]
        return " or ".join(f"date_format={each!r}" for each in fits) or "date_format, as in Python's strptime"


def parts_of(moment: datetime) -> tuple[float, ...]:
    """Return the numbers of ``DATE_PARTS``; Monday is 0, and the hour has decimals."""
    hour = moment.hour + moment.minute / 60 + (moment.second + moment.microsecond / 1e6) / 3600
    return moment.year, moment.month, moment.day, moment.weekday(), hour


def _float(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _written(text: str) -> tuple[tuple[str, ...], str] | None:
    """Return the ways in which a text may be a number (see ``_WRITTEN``), and its unit; None if it is none."""
    if (match := _BODY.fullmatch(text.translate(_MINUS))) is None:
        return None
    before, body, after = match[2].strip(), match[3].lstrip("+-"), (match[4] or "").strip()
    if (before and (after or not _is_money(before))) or (after and not (_is_money(after) or _SUFFIX.fullmatch(after))):
        return None
    ways = next((ways for pattern, ways in _WRITTEN if re.fullmatch(pattern, body)), None)
    return None if ways is None else (ways, before or after)


def _is_money(unit: str) -> bool:
    return re.fullmatch("[A-Z]{3}", unit) is not None or any(unicodedata.category(c) == "Sc" for c in unit)
