"""Your own CSV files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from datamodules.arrays import Kind, TableDataModule
from datamodules.examples import Examples
from datamodules.sheet import MISSING, Column, Sheet, encode_rows, encode_sheet, like_number, number


class CSVDataModule(TableDataModule):
    """A CSV file with a header: one column is the target, the others are features.

    A column whose values are all numbers is one feature; missing values are replaced by the mean of the training rows. Any other
    column is categorical: one feature for each category in the training rows; a missing or new value is 0 in all of them. A column
    that is mostly numbers is refused, since some value in it is likely wrong. The file is read when the datamodule is built.

    Args:
        path: The file; its first line names the columns.
        target: Name of the column to predict; every row must have a value.
        kind: Whether a class (the different texts of the column) or a number is predicted.
        test: Another file with the same columns, in any order, as the test part; without it, ``test_fraction`` is split off.
        drop: Columns to leave out: identifiers, and what is known only after the target.
        categorical: Columns that are categories although they look like numbers, such as postal codes.
        missing: Texts that stand for a missing value.
        delimiter: Character between values; "\\t" for tabs.
        encoding: Encoding of the text, by Python's name.
        max_categories: Most categories of a column; one with more is likely an identifier, and is refused.
        **table: Arguments of :class:`~datamodules.TableDataModule`.

    Attributes:
        columns: Encoding of each feature column.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read or learned from; the message names line and column.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("houses.csv").write_text("\\n".join(["rooms,garden,price"] + ["3,yes,210", "4,no,190"] * 10))
        >>> CSVDataModule("houses.csv", target="price", kind="regression").input_shape  # rooms, garden=no, garden=yes
        (3,)
    """

    def __init__(
        self,
        path: str,
        target: str,
        kind: Kind = "classification",
        test: str | None = None,
        drop: Sequence[str] = (),
        categorical: Sequence[str] = (),
        missing: Sequence[str] = MISSING,
        delimiter: str = ",",
        encoding: str = "utf-8",
        max_categories: int = 50,
        **table: Any,
    ) -> None:
        super().__init__(**table)
        if kind not in ("classification", "regression"):
            raise ValueError(f'kind must be "classification" or "regression", got {kind!r}')
        if isinstance(delimiter, str) and delimiter == "\\t":  # as typed in a shell
            delimiter = "\t"
        if not isinstance(delimiter, str) or len(delimiter) != 1:
            raise ValueError(f"delimiter must be one character, got {delimiter!r}")
        self.kind = kind
        self.target = target
        self.missing = frozenset(missing)
        self._form = {"delimiter": delimiter, "encoding": encoding}
        whole = Sheet.read(Path(path), **self._form)
        for name in (target, *drop, *categorical):
            whole.column(name)  # raises where there is none
        names = [name for name in whole.header if name != target and name not in drop]
        if not names:
            raise ValueError(
                f"{path} has no feature column beside the target {target!r}: its columns are {whole.header}"
            )
        if kind == "regression":
            self.target_names = [target]
        else:
            self.class_names = self._classes(whole)
        y = self._targets(whole)
        trains = self._training_rows(torch.from_numpy(y), test is not None).numpy()
        self.columns = [self._fit_column(whole, name, trains, name in categorical, max_categories) for name in names]
        self.feature_names = [feature for column in self.columns for feature in column.features]
        self._whole = self._encoded(whole), y
        self._test: tuple[np.ndarray, np.ndarray] | None = None
        if test is not None:
            sheet = Sheet.read(Path(test), **self._form)
            self._test = self._encoded(sheet), self._targets(sheet)

    @override
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        return self._whole

    @override
    def test_table(self) -> tuple[np.ndarray, np.ndarray] | None:
        return self._test

    @property
    @override
    def preparation(self) -> dict[str, Any]:
        columns = [asdict(column) for column in self.columns]
        return super().preparation | {"columns": columns, "missing": sorted(self.missing)} | self._form

    def encode(self, path: str) -> Tensor:
        """Return the features ``(N, D)``, float64, of another file with these columns; it needs no target."""
        return encode_rows(path, self.preparation)

    def _training_rows(self, y: Tensor, has_test: bool) -> Tensor:
        rows = Examples(y, y)  # only targets matter for the split
        trains = torch.ones(len(y), dtype=torch.bool) if has_test else ~self.test_rows(rows)
        trains[trains.clone()] = ~self.validation_mask(rows.subset(trains))
        return trains

    def _encoded(self, sheet: Sheet) -> np.ndarray:
        return encode_sheet(sheet, self.columns, self.missing)

    def _present(self, sheet: Sheet) -> list[str]:
        """Return the texts of the target.

        Raises:
            ValueError: A row has none.
        """
        texts = sheet.column(self.target)
        absent = [at for at, text in enumerate(texts) if text in self.missing]
        if absent:
            raise ValueError(
                f"{sheet.at(absent[0], self.target)}: the target is missing in {len(absent)} of {len(texts)} rows: fill it in, or "
                f"remove these rows"
            )
        return texts

    def _classes(self, sheet: Sheet) -> list[str]:
        texts = self._present(sheet)
        classes = sorted(set(texts))
        numbers = [number(text) for text in classes]
        if all(value is not None for value in numbers):
            classes = sorted(classes, key=float)
            at = next((i for i, text in enumerate(texts) if not float(text).is_integer()), None)
            if at is not None:
                raise ValueError(
                    f'{sheet.at(at, self.target)}: {texts[at]!r} is an amount, not a class: give kind="regression"'
                )
        if len(classes) < 2:
            raise ValueError(
                f"{sheet.path}: the target {self.target!r} has only one class, {classes[0]!r}: two or more are needed"
            )
        return classes

    def _targets(self, sheet: Sheet) -> np.ndarray:
        texts = self._present(sheet)
        if self.kind == "regression":
            return np.array([sheet.number(at, self.target, text) for at, text in enumerate(texts)])
        place = {name: i for i, name in enumerate(self.class_names or [])}
        unknown = next((at for at, text in enumerate(texts) if text not in place), None)
        if unknown is not None:
            raise ValueError(
                f"{sheet.at(unknown, self.target)}: class {texts[unknown]!r} is not one of {self.class_names}"
            )
        return np.array([place[text] for text in texts])

    def _fit_column(self, sheet: Sheet, name: str, trains: np.ndarray, categorical: bool, most: int) -> Column:
        """Return the encoding of a column, from its training rows."""
        texts = sheet.column(name)
        present = [at for at, text in enumerate(texts) if text not in self.missing]
        known = [texts[at] for at in present if trains[at]]
        if not known:
            raise ValueError(f"{sheet.path}: column {name!r} has no value in any training row: drop it, drop: [{name}]")
        odd = [at for at in present if number(texts[at]) is None]
        if not odd and not categorical:
            return Column(
                name, fill=float(np.mean([sheet.number(at, name, texts[at]) for at in present if trains[at]]))
            )
        if not categorical and 2 * sum(like_number(texts[at]) for at in present) > len(present):
            sheet.number(odd[0], name, texts[odd[0]], f", or list {name!r} in categorical, or the text in missing")
        categories = sorted(set(known))
        if len(categories) > most:
            raise ValueError(
                f"{sheet.path}: column {name!r} has {len(categories)} different texts, more than max_categories={most}: "
                f"drop it if it is an identifier, or allow more"
            )
        return Column(name, categories=categories)
