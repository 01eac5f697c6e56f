"""The column of a CSV file that is to be predicted: classes by their names, or numbers."""

import numpy as np

from datamodules.sheet import Sheet


def classes_in(sheet: Sheet, name: str) -> list[str]:
    """Return the classes in a column: its different texts, sorted, as numbers where all are numbers.

    Raises:
        ValueError: A value is missing or is an amount, or there is only one class.
    """
    words = sheet.words(name)
    _check_present(sheet, name, words.are_in(sheet.form.missing))
    names = {text: sheet.form.canonical(text) for text in words.texts}
    numbers = {name: sheet.form.number(text) for text, name in names.items()}
    classes = sorted(numbers)
    if all(value is not None for value in numbers.values()):
        classes.sort(key=lambda name: numbers[name] or 0)
        amount = next((text for text, name in names.items() if not _is_whole(numbers[name])), None)
        if amount is not None:
            raise ValueError(
                f'{sheet.at(words.first_row(amount), name)}: {amount!r} is an amount, not a class: give kind="regression"'
            )
    if len(classes) < 2:
        raise ValueError(
            f"{sheet.path}: the target {name!r} has only one class, {classes[0]!r}: two or more are needed"
        )
    return classes


def targets_in(sheet: Sheet, name: str, classes: list[str] | None) -> np.ndarray:
    """Return the values of a column, ``(N,)``: int64 indices in ``classes``, or without these numbers, float64.

    Raises:
        ValueError: A value is missing, is none of the classes, or is no number.
    """
    if classes is None:
        values, odd = sheet.numbers(name)
        absent = np.isnan(values)
        absent[odd] = False
        _check_present(sheet, name, absent)
        return sheet.checked_numbers(name, missing=False)
    words = sheet.words(name)
    _check_present(sheet, name, words.are_in(sheet.form.missing))
    index = {each: i for i, each in enumerate(classes)}
    place = {text: index.get(sheet.form.canonical(text)) for text in words.texts}
    unknown = next((text for text, at in place.items() if at is None), None)
    if unknown is not None:
        raise ValueError(f"{sheet.at(words.first_row(unknown), name)}: class {unknown!r} is not one of {classes}")
    return np.array([*place.values()], np.int64)[words.index]


def _check_present(sheet: Sheet, name: str, absent: np.ndarray) -> None:
    if absent.any():
        raise ValueError(
            f"{sheet.at(int(absent.argmax()), name)}: the target is missing in {np.count_nonzero(absent)} of {len(sheet)} rows: "
            "fill it in, or remove these rows"
        )


def _is_whole(value: float | None) -> bool:
    return value is not None and value.is_integer()
