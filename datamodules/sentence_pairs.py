"""Your own texts with their translations: a file with two columns, or two files line by line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from datamodules.pairs import Pairs, TextPairDataModule
from datamodules.texts import read_texts

_SHOWN = 40  # characters of a line that a message shows


class SentencePairsDataModule(TextPairDataModule):
    """Your own texts, each with its translation: sentences of two languages, questions and answers, spellings and sounds.

    A line of the file is a source, a tab, and its target, without a header; or two files have the source and the target of a pair
    on the same line. Spaces around a text are left out. Quotes mean nothing here, unlike in CSV files.

    For parts, batches and vocabularies see :class:`~datamodules.TextPairDataModule`.

    Args:
        path: The file; or a list of two files, of sources and of targets.
        val: Other pairs, in the same form, as the validation part; without them, ``val_fraction`` of the sources is split off.
        test: Other pairs, in the same form, as the test part; without them, ``test_fraction`` of the sources is split off.
        encoding: Encoding of all files, by Python's name.
        **texts: Arguments of :class:`~datamodules.TextPairDataModule`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read; the message names the line, and with two files of different length both.

    Example:
        >>> from pathlib import Path
        >>> numbers = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}
        >>> _ = Path("numbers.tsv").write_text("".join(f"{english}\\t{german}\\n" for english, german in numbers.items()))
        >>> data = SentencePairsDataModule("numbers.tsv", test_fraction=0.25, val_fraction=0.25)
        >>> data.input_shape, data.source_vocab_size, data.vocab_size
        ((6, 5), 11, 11)
    """

    def __init__(
        self,
        path: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        encoding: str = "utf-8",
        **texts: Any,
    ) -> None:
        super().__init__(**texts)
        self._files = {
            name: given for name, given in (("train", path), ("val", val), ("test", test)) if given is not None
        }
        self._encoding = encoding
        self._loaded  # noqa: B018 (read the files now, so that they are refused before anything else is done)

    @property
    @override
    def input_file(self) -> str | None:
        path = self._files["train"]
        return path if isinstance(path, str) else path[0]

    @property
    def preparation(self) -> dict[str, Any]:
        """How a file becomes texts, as plain data for a model to save: their encoding, and whether only a first column is read."""
        return {"encoding": self._encoding, "first_column": isinstance(self._files["train"], str)}

    @override
    def texts(self) -> dict[str, Pairs]:
        parts = {name: read_pairs(files, self._encoding) for name, files in self._files.items()}
        known = set(parts["train"][0])
        for name in parts.keys() - {"train"}:
            if same := sum(source in known for source in parts[name][0]):
                rank_zero_warn(
                    f"{same} of the {len(parts[name][0])} sources of the {name} part are in the training part, too: it does not "
                    "measure what is learned of them"
                )
        return parts


def read_pairs(files: str | Sequence[str], encoding: str = "utf-8") -> Pairs:
    """Return the sources and the targets of a file with two columns, or of two files.

    Args:
        files: See the argument ``path`` of :class:`SentencePairsDataModule`.
        encoding: Encoding of the files, by Python's name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read; the message names the line.
    """
    if isinstance(files, str):
        return _columns(files, encoding)
    if len(files) != 2:
        raise ValueError(
            f"pairs are in one file with two columns, or in two files, got {len(files)} files: {list(files)}"
        )
    return paired(files, [read_texts(str(Path(name).expanduser()), encoding) for name in files])


def paired(names: Sequence[str], texts: Sequence[str]) -> Pairs:
    """Return the lines of two texts as pairs.

    Args:
        names: Names of the two files, for messages.
        texts: What they hold.

    Raises:
        ValueError: They have different numbers of lines, or a line is empty.
    """
    sides = [_lines(text) for text in texts]
    if len(sides[0]) != len(sides[1]):
        (one, other), (name, another) = map(len, sides), names
        raise ValueError(
            f"{name} has {one} lines, but {another} has {other}: the source and the target of a pair must be on the same line"
        )
    for name, lines in zip(names, sides, strict=True):
        _refuse_empty(name, "text", lines)
    return sides[0], sides[1]


def _columns(name: str, encoding: str) -> Pairs:
    lines = [line.split("\t") for line in _lines(read_texts(str(Path(name).expanduser()), encoding))]
    for i, columns in enumerate(lines, start=1):
        if len(columns) != 2:
            raise ValueError(f"{name}, line {i}: {_count_of(columns)}")
    sources, targets = ([columns[side].strip() for columns in lines] for side in (0, 1))
    _refuse_empty(name, "source", sources)
    _refuse_empty(name, "target", targets)
    return sources, targets


def _count_of(columns: Sequence[str]) -> str:
    wanted = "a line must be a source, a tab, and its target"
    if len(columns) > 2:
        return f"{len(columns)} columns, but {wanted}: remove the others (cut -f 1,2 keeps the first two)"
    line = columns[0]
    if not line.strip():
        return f"the line is empty, but {wanted}: remove it"
    shown = line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."
    return f"one column, {shown!r}, but {wanted}: separate them by a tab, or give two files, [sources, targets]"


def _refuse_empty(name: str, what: str, texts: Sequence[str]) -> None:
    if "" in texts:
        line, count = list(texts).index("") + 1, list(texts).count("")
        raise ValueError(
            f"{name}, line {line}: the {what} is empty in {count} of {len(texts)} lines: fill it in, or remove these pairs"
        )


def _lines(text: str) -> list[str]:
    """Return the lines of a text without the spaces around them, and without empty ones at its end.

    Only a line feed ends a line, not other marks such as U+2028.
    """
    lines = [line.strip(" ") for line in text.split("\n")]
    while lines and not lines[-1]:
        del lines[-1]
    return lines
