"""Texts for ``zoo predict``: words of the command line, the standard input, text files, and columns of CSV files."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cli.errors import UserError

if TYPE_CHECKING:
    from zoo import Model

_FILES = (".txt", ".csv", ".tsv", ".npz", ".md")  # a word that ends so, and has no spaces, is taken for a file


def texts_of(
    words: Sequence[str], model: "Model", written: Mapping[str, str | None]
) -> list[tuple[dict[str, Any], str]]:
    """Return the texts that words stand for, each with where it comes from.

    A word that names a file is that file: of a CSV file the texts of the column that the model was trained on, of any other a
    text a line, without those that are blank. ``-`` is the standard input, a text a line. Any other word is a text. For a
    translator the text of a line ends at the first tab, so that files of pairs can be read, too; unless it was trained on two
    files, whose texts may hold tabs.

    Args:
        words: The words.
        model: The model that reads them.
        written: How files are written, as far as they are not written like that of training.

    Raises:
        UserError: There is no such file, or no text.
        ValueError: A file cannot be read; the message names line or byte.
    """
    translates = "translation" in (getattr(model, "learns", None) or ())
    preparation = {**({"first_column": True} if translates else {}), **(model.preparation or {})}
    found = [text for word in words for text in _texts(word, preparation, written)]
    if not translates:
        return found
    # "text" is what the model writes
    return [({name.replace("text", "source"): part for name, part in origin.items()}, text) for origin, text in found]


def batches_of(
    texts: Sequence[tuple[dict[str, Any], str]], model: "Model", size: int
) -> Iterator[tuple[list[dict[str, Any]], Any]]:
    """Yield where the texts of a batch come from, and the batch, once all are read.

    Raises:
        UserError: The model cannot read a text; the message names its place.
    """
    task: Any = model
    if not hasattr(task, "batch_of"):
        raise UserError(f"{type(model).__name__} does not say how it reads texts: define batch_of(texts)")
    for origin, text in texts:
        try:
            task.batch_of([text])
        except ValueError as error:
            raise UserError(f"{_place(origin)}{error}") from error
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        yield [origin for origin, _ in part], task.batch_of([text for _, text in part])


def _place(origin: Mapping[str, Any]) -> str:
    name, place = origin.get("file"), "line" if "line" in origin else "row"
    return "" if name is None else f"{name}, {place} {origin[place]}: "


def _texts(
    word: str, preparation: Mapping[str, Any], written: Mapping[str, str | None]
) -> Iterator[tuple[dict[str, Any], str]]:
    from datamodules.texts import decoded, read_texts

    encoding, first = str(written.get("encoding") or "utf-8"), bool(preparation.get("first_column"))
    if word == "-":
        yield from _lines(decoded(sys.stdin.buffer.read(), encoding, "the standard input"), "-", first)
    elif os.path.isdir(word):
        raise UserError(f"{word} is a folder: the model reads texts, give text files, or a text in quotes")
    elif os.path.exists(word) and word.lower().endswith((".csv", ".tsv")) and "text" in preparation:
        from datamodules.text_table import read_column

        for row, text in enumerate(read_column(word, {**preparation, **written}), start=1):
            yield {"file": word, "row": row, "text": text}, text
    elif os.path.exists(word):
        of_pairs = preparation.get("encoding") if "first_column" in preparation else None
        yield from _lines(read_texts(word, str(written.get("encoding") or of_pairs or "utf-8")), word, first)
    elif len(word.split()) == 1 and Path(word).suffix.lower() in _FILES:
        raise UserError(f"no such file: {word} (to read this as a text, pipe it into `zoo predict MODEL -`)")
    elif word.strip():
        yield {"text": word}, word
    else:
        raise UserError("the text is empty: give one in quotes, a text file, or - for the standard input")


def _lines(content: str, name: str, first: bool) -> Iterator[tuple[dict[str, Any], str]]:
    lines = [(i, line) for i, line in enumerate(content.split("\n"), start=1) if line.strip()]
    what = "the standard input" if name == "-" else name
    if not lines:
        raise UserError(f"{what} is empty: it must hold a text in a line")
    if first:
        lines = [(i, line.partition("\t")[0].strip(" ")) for i, line in lines]
    for i, line in lines:
        if not line:
            raise UserError(
                f"{what}, line {i}: the source is empty, a line begins with a tab: fill it in, or remove the line"
            )
        yield {"file": name, "line": i, "text": line}, line
