"""Dates as people write them, to be written as ISO 8601 does; they come with the package."""

import gzip
from pathlib import Path

from typing_extensions import override

from datamodules.pairs import Pairs, TextPairDataModule

FILE = Path(__file__).parent / "bundled" / "dates.tsv.gz"


class DatesDataModule(TextPairDataModule):
    """Dates of 1950 to 2049 as they are written in twelve locales, and in ISO 8601: "March 3, 2021", "2021-03-03".

    There are 16,000 pairs to train, 1,000 to validate and 1,000 to test, each with a date of its own: no date of the test part is
    in training, but all its years, locales and forms are. A form is one of 45: "3 March 2021", "Mar 3, 2021", "mercredi 3 mars
    2021", "3. März 2021", "03.03.21", "2021. 03. 03.", "2021年3月3日水曜日" ... None is ambiguous: of all dates of these years,
    no two are ever written alike.

    ``bundled/dates.md`` in the folder of this file says where the forms were taken from; ``bundled/make_dates.py`` wrote the file.

    Args:
        **texts: Arguments of :class:`~datamodules.TextPairDataModule`. Both fractions have no effect, as all parts are given.

    Example:
        >>> data = DatesDataModule()
        >>> data.setup()
        >>> data.data_identity, data.input_shape, data.source_vocab_size, data.vocab_size
        ('fingerprint c16f09aa4818790e (16000 train / 1000 val)', (39, 11), 78, 13)
    """

    @override
    def texts(self) -> dict[str, Pairs]:
        parts: dict[str, tuple[list[str], list[str]]] = {name: ([], []) for name in ("train", "val", "test")}
        for part, _, written, iso in read_rows():
            for side, text in zip(parts[part], (written, iso), strict=True):
                side.append(text)
        return dict(parts)


def read_rows() -> list[tuple[str, str, str, str]]:
    """Return part, locale, written date and ISO date of each pair."""
    lines = gzip.decompress(FILE.read_bytes()).decode().splitlines()
    return [(part, locale, written, iso) for part, locale, written, iso in (line.split("\t") for line in lines)]
