"""Your own texts with a class each: a CSV file with a column of texts and a column of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_integer, check_share
from datamodules.csv_target import classes_in, targets_in
from datamodules.examples import Examples
from datamodules.samplers import SimilarLengthSampler
from datamodules.sheet import Sheet
from datamodules.splits import held_out
from datamodules.texts import Tokenization, check_tokenizer, encode, size_of, vocabulary_of
from datamodules.written import MISSING, Form


class TextTableDataModule(DataModule):
    """A CSV file with a header, a text and a class in each row: a text is read as tokens, and its class is predicted.

    Batches are ``(x, y)``: x int64 tokens ``(B, T)``, padded with the last token of the vocabulary up to the longest text of the
    batch, y int64 ``(B,)``.

    Characters, and what BPE joins, are known as in :class:`~datamodules.TextDataModule`: the characters are those of all rows, the
    pairs those of the training rows.

    Args:
        path: The file; its first line names the columns.
        text: Name of the column of texts; every row must have one. Spaces around it are left out.
        target: Name of the column of classes; every row must have one.
        test: Another file with these columns as the test part; without it, ``test_fraction`` of the rows is split off, stratified
            by class, always with seed 0.
        tokenizer: What a token is: "characters", "bytes" (of UTF-8), or "bpe", see :class:`~datamodules.TextDataModule`.
        vocab_size: Most tokens of BPE, >= 258 (default 1000); None for other tokenizers.
        max_length: Most tokens of a text, >= 1; of a longer one the first are read, and a warning says how many are cut.
        missing: Texts of the column of classes that stand for none.
        delimiter: Character between values; "\\t" for tabs.
        encoding: Encoding of the file, by Python's name.
        test_fraction: Share of all rows for the test part where there is no other file, in [0, 1).
        similar_lengths: Whether training batches are of texts of similar length, so that there is little padding (see
            :class:`~datamodules.SimilarLengthSampler`).
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`.

    Attributes:
        vocabulary: See :class:`~datamodules.TextDataModule`; "padding" is the index of the last token.
        class_counts, fingerprint: See :class:`~datamodules.DataModule`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read or learned from; the message names line and column.
        ModuleNotFoundError: The library tokenizers is needed and is not installed.

    Example:
        >>> from pathlib import Path
        >>> rows = ["review,stars", *["what a film,5", '"slow, and far too long",1'] * 10]
        >>> _ = Path("reviews.csv").write_text("\\n".join(rows))
        >>> data = TextTableDataModule("reviews.csv", text="review", target="stars")
        >>> data.class_names, data.input_shape, data.vocab_size
        (['1', '5'], (22,), 17)
    """

    kind = "classification"

    def __init__(
        self,
        path: str,
        text: str = "text",
        target: str = "label",
        test: str | None = None,
        tokenizer: Tokenization = "characters",
        vocab_size: int | None = None,
        max_length: int = 256,
        missing: Sequence[str] = MISSING,
        delimiter: str = ",",
        encoding: str = "utf-8",
        test_fraction: float = 0.2,
        similar_lengths: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed, drop_last)
        check_tokenizer(tokenizer, vocab_size)
        check_integer("max_length", max_length, 1)
        check_share("test_fraction", test_fraction, "all rows")
        if text == target:
            raise ValueError(f"text and target must be different columns, got {text!r} for both")
        self.test_fraction = test_fraction
        self.similar_lengths = similar_lengths
        self._path = str(path)
        self._form, self._text, self._max_length = Form(delimiter, encoding, missing), text, max_length
        whole, *other = [
            Sheet.read(Path(p), self._form, [text, target], only=[text, target]) for p in (path, test) if p is not None
        ]
        texts = [_texts_in(sheet, text) for sheet in (whole, *other)]
        self.class_names = classes_in(whole, target)
        y = [torch.from_numpy(targets_in(sheet, target, self.class_names)) for sheet in (whole, *other)]
        tests = torch.zeros(len(y[0]), dtype=torch.bool)
        if not other:
            tests = held_out("test_fraction", test_fraction, len(y[0]), 0, y[0])
        rest = ~tests
        validates = self.hold_out(int(rest.sum()), y[0][rest])
        trains = rest.masked_scatter(rest, ~validates)
        train = [each for each, is_one in zip(texts[0], trains.tolist(), strict=True) if is_one]
        self.vocabulary = vocabulary_of(
            tokenizer, [each for part in texts for each in part], train, vocab_size, padded=True
        )
        tokens = [encode(part, self.vocabulary) for part in texts]
        lengths = [len(each) for part in tokens for each in part]
        if cut := sum(length > max_length for length in lengths):
            rank_zero_warn(
                f"{cut} of {len(lengths)} texts have more than max_length={max_length} tokens, up to {max(lengths)}, and are cut"
            )
        longest = min(max(lengths), max_length)
        self.input_shape = (longest,)
        parts = [
            TokenRows(_padded(part, longest, self.padding), labels) for part, labels in zip(tokens, y, strict=True)
        ]
        self._rows = {"train": parts[0].subset(rest), "test": parts[1] if other else parts[0].subset(tests)}

    @property
    def vocab_size(self) -> int:
        """Number of tokens V of the vocabulary, with that for padding."""
        return size_of(self.vocabulary)

    @property
    def padding(self) -> int:
        """Index of the token that pads texts at their end."""
        return int(self.vocabulary["padding"])

    @property
    @override
    def has_test(self) -> bool:
        return len(self._rows["test"]) > 0

    @property
    @override
    def input_file(self) -> str | None:
        return self._path

    @property
    def preparation(self) -> dict[str, Any]:
        """How a file becomes texts (see :func:`read_column`), and their largest length, as plain data for a model to save."""
        return {**self._form.plain(), "text": self._text, "max_length": self._max_length}

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        if not len(self._rows[part]):
            raise ValueError("there is no test part: give test_fraction > 0, or another file as test")
        return self._rows[part]

    @override
    def make_sampler(
        self, dataset: Examples, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int
    ) -> Sampler[Any]:
        place = {"seed": seed, "epoch": epoch, "start": start, "num_replicas": num_replicas, "rank": rank}
        if not self.similar_lengths:
            return super().make_sampler(dataset, **place)
        lengths = (dataset.x != self.padding).sum(dim=1)
        return SimilarLengthSampler(lengths, self.batch_size, drop_last=self.drop_last, **place)

    @override
    def collate(self, batch: Any) -> Any:
        """Cut the padding to the longest text of the batch."""
        x, *rest = batch
        return x[:, : int((x != self.padding).sum(dim=1).max())], *rest


def read_column(path: str | Path, preparation: Mapping[str, Any]) -> list[str]:
    """Return the texts of a CSV file, which needs no target.

    Args:
        path: The file, as for :class:`TextTableDataModule`.
        preparation: How it is written, and the column of texts, from that datamodule or from a trained model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read; the message names line and column.
    """
    name = preparation["text"]
    sheet = Sheet.read(Path(path), Form.of(preparation), [name], only=[name])
    sheet.index(name)  # raises where there is none
    return _texts_in(sheet, name)


class TokenRows(Examples):
    """Texts as tokens of a small type ``(N, T)``, padded; a batch has them as int64."""

    @override
    def inputs(self, index: Tensor) -> Tensor:
        return self.x[index].long()


def _texts_in(sheet: Sheet, name: str) -> list[str]:
    words = sheet.words(name)
    empty = words.are_in([""])
    if empty.any():
        raise ValueError(
            f"{sheet.at(int(empty.argmax()), name)}: the text is empty in {np.count_nonzero(empty)} of {len(sheet)} rows: fill it "
            "in, or remove these rows"
        )
    return [words.texts[i] for i in words.index.tolist()]


def _padded(texts: Sequence[Tensor], length: int, padding: int) -> Tensor:
    """Return the first tokens of each text in a row, and padding after their end: ``(N, length)``."""
    rows = torch.full((len(texts), length), padding, dtype=texts[0].dtype)
    for row, tokens in zip(rows, texts, strict=True):
        row[: len(tokens)] = tokens[:length]
    return rows
