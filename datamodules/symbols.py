"""Strings of symbols to copy, to reverse or to sort: what a net has read is to be written by a net that goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_integer
from datamodules.examples import Examples
from datamodules.pairs import PairDataModule, PairRows
from datamodules.samplers import SimilarLengthSampler

SymbolTask = Literal["copy", "reverse", "sort"]
PADDING, END, ANSWER = 0, 1, 2  # indices in the vocabulary
_SPECIAL = ("<pad>", "<end>", ":")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass
class Strings:
    """Random strings, and what is to be written of each.

    Args:
        task, symbols, lengths, test_lengths, count, data_seed: See :class:`SymbolsDataModule`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.
    """

    task: SymbolTask
    symbols: int
    lengths: Sequence[int]
    test_lengths: Sequence[int] | None
    count: int
    data_seed: int

    def __post_init__(self) -> None:
        if self.task not in get_args(SymbolTask):
            raise ValueError(f'task must be "copy", "reverse" or "sort", got {self.task!r}')
        check_integer("symbols", self.symbols, 2, len(_LETTERS))
        check_integer("count", self.count, 1)
        check_integer("data_seed", self.data_seed, 0)
        self.lengths = _range("lengths", self.lengths)
        self.test_lengths = self.lengths if self.test_lengths is None else _range("test_lengths", self.test_lengths)

    def span(self, part: Literal["train", "test"]) -> Sequence[int]:
        """Return the smallest and the largest number of letters of a part."""
        spans = {"train": self.lengths, "test": self.test_lengths or self.lengths}
        return spans[part]

    def draw(self, part: Literal["train", "test"]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the letters 0..symbols - 1 of each string of a part, and those of its answer: ``(n,)`` each."""
        rng = np.random.default_rng((self.data_seed, part == "test"))
        count = self.count if part == "train" else -(-self.count // 5)
        least, most = self.span(part)
        lengths = rng.integers(least, most + 1, count).tolist()
        letters = rng.integers(0, self.symbols, (count, most))
        answers: dict[str, Callable[[np.ndarray], np.ndarray]] = {"copy": np.copy, "reverse": np.flip, "sort": np.sort}
        return [(shown[:n], answers[self.task](shown[:n])) for shown, n in zip(letters, lengths, strict=True)]


def _vocabulary(special: Sequence[str], symbols: int) -> dict[str, Any]:
    tokens = [*special, *_LETTERS[:symbols]]
    return {"kind": "symbols", "tokens": tokens, "padding": PADDING, "end": END, "tokenizer": None}


class SymbolsDataModule(DataModule):
    """Random strings that are to be copied, reversed or sorted by a language model: ``c a b : b a c <end>``.

    x are the tokens before each place, y those at it, int64 ``(B, T)``, padded at the end with ``<pad>``. Of y only the answer
    counts, from the colon on; what comes before it is random and is padding too. So the task is many-to-many after reading: what
    the net writes, it has from the state at the colon alone. That state has a fixed size, and so a longest string (Sutskever et
    al. 2014, arXiv:1409.3215); ``test_lengths`` asks how far it goes beyond those that were trained. As pairs of a source and a
    target they are :class:`SymbolPairsDataModule`.

    Args:
        task: "copy", "reverse", or "sort" by the alphabet.
        symbols: Number of different letters, 2..26.
        lengths: Smallest and largest number of letters of a string, >= 1; each length is equally frequent.
        test_lengths: The same for the test part; None: as for training.
        count: Number of training strings, of which ``val_fraction`` validates; a fifth as many test.
        data_seed: Seed of the data, which do not depend on the run's seed.
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`.

    Attributes:
        vocabulary: The vocabulary as plain data, which a model keeps: its kind, "symbols", the tokens, and the indices of padding
            and end.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.

    Example:
        >>> data = SymbolsDataModule("reverse", symbols=3, lengths=(2, 2), count=9)
        >>> x, y = data.examples("train")[0]
        >>> [" ".join(data.vocabulary["tokens"][token] for token in part) for part in (x, y)]
        ['c b : b c', '<pad> <pad> b c <end>']
    """

    kind = "text"

    def __init__(
        self,
        task: SymbolTask = "copy",
        symbols: int = 8,
        lengths: Sequence[int] = (1, 10),
        test_lengths: Sequence[int] | None = None,
        count: int = 10000,
        data_seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed, drop_last)
        self.strings = Strings(task, symbols, lengths, test_lengths, count, data_seed)
        self.vocabulary: dict[str, Any] = _vocabulary(_SPECIAL, symbols)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(T,)``, the length of the longest training string with its answer."""
        return (2 * self.strings.lengths[1] + 1,)

    @property
    def vocab_size(self) -> int:
        """Size V of the vocabulary."""
        return len(self.vocabulary["tokens"])

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        strings, most = self.strings.draw(part), self.strings.span(part)[1]
        texts = np.full((len(strings), 2 * most + 2), PADDING)
        y = np.full((len(strings), 2 * most + 1), PADDING)
        for text, target, (shown, answer) in zip(texts, y, strings, strict=True):
            n, ended = len(shown), [*(answer + len(_SPECIAL)), END]
            text[: 2 * n + 2] = [*(shown + len(_SPECIAL)), ANSWER, *ended]
            target[n : 2 * n + 1] = ended
        x = texts[:, :-1]
        x[x == END] = PADDING  # a net reads nothing after the end
        return Examples(torch.from_numpy(x.copy()), torch.from_numpy(y))

    @override
    def make_sampler(
        self, dataset: Examples, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int
    ) -> Sampler[Any]:
        place = {"seed": seed, "epoch": epoch, "start": start, "num_replicas": num_replicas, "rank": rank}
        return SimilarLengthSampler(_ends(dataset.y), self.batch_size, drop_last=self.drop_last, **place)

    @override
    def collate(self, batch: Any) -> Any:
        x, y, *weight = batch
        longest = int(_ends(y).max())
        return (x[:, :longest], y[:, :longest], *weight)


class SymbolPairsDataModule(PairDataModule):
    """The strings of :class:`SymbolsDataModule` as sources, and their copies, reversed or sorted strings as targets.

    Both vocabularies are ``<pad>``, ``<end>`` and the letters. Batches: see :class:`~datamodules.PairDataModule`.

    Args:
        task, symbols, lengths, test_lengths, count, data_seed: See :class:`SymbolsDataModule`.
        **pairs: Arguments of :class:`~datamodules.PairDataModule`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument has another type.

    Example:
        >>> data = SymbolPairsDataModule("sort", symbols=4, lengths=(4, 4), count=9)
        >>> x, y = data.examples("train")[0]
        >>> [" ".join(data.vocabulary["tokens"][token] for token in part) for part in (x.source, x.target, y)]
        ['d c c b <end>', '<end> b c c d', 'b c c d <end>']
    """

    def __init__(
        self,
        task: SymbolTask = "copy",
        symbols: int = 8,
        lengths: Sequence[int] = (1, 10),
        test_lengths: Sequence[int] | None = None,
        count: int = 10000,
        data_seed: int = 0,
        **pairs: Any,
    ) -> None:
        super().__init__(**pairs)
        self.strings = Strings(task, symbols, lengths, test_lengths, count, data_seed)
        self.vocabulary = self.source_vocabulary = _vocabulary(_SPECIAL[:ANSWER], symbols)

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """``(S, T)``, the numbers of tokens of the longest string of all parts, and of its answer, with their ends."""
        longest = 1 + max(self.strings.span(part)[1] for part in ("train", "test"))
        return (longest, longest)

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        strings, most = self.strings.draw(part), self.strings.span(part)[1]
        sides = np.full((2, len(strings), most + 1), PADDING)
        for i, pair in enumerate(strings):
            for side, letters in zip(sides, pair, strict=True):
                side[i, : len(letters) + 1] = [*(letters + ANSWER), END]
        source, target = torch.from_numpy(sides)
        return PairRows(source, target, self.source_vocabulary, self.vocabulary)


def _ends(y: Tensor) -> Tensor:
    """Return the number of places up to the last target of each row: ``(N, T)`` -> ``(N,)``."""
    return ((y != PADDING) * torch.arange(1, y.shape[1] + 1)).amax(dim=1)


def _range(name: str, lengths: Sequence[int]) -> tuple[int, int]:
    """Return a smallest and a largest number."""
    if len(lengths) != 2:
        raise ValueError(f"{name} must be a smallest and a largest number of letters, got {lengths}")
    least, most = lengths
    check_integer(f"the smallest of {name}", least, 1)
    check_integer(f"the largest of {name}", most, least)
    return least, most
