"""Strings of symbols to copy or to reverse: what a net has read is to be written by a net that goes on."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_integer
from datamodules.examples import Examples
from datamodules.samplers import SimilarLengthSampler

PADDING, END, ANSWER = 0, 1, 2  # indices in the vocabulary
_SPECIAL = ("<pad>", "<end>", ":")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class SymbolsDataModule(DataModule):
    """Random strings that are to be copied, or written backwards, by a language model: ``c a b : b a c <end>``.

    x are the tokens before each place, y those at it, int64 ``(B, T)``, padded at the end with ``<pad>``. Of y only the answer
    counts, from the colon on; what comes before it is random and is padding too. So the task is many-to-many after reading: what
    the net writes, it has from the state at the colon alone. That state has a fixed size, and so a longest string (Sutskever et
    al. 2014, arXiv:1409.3215); ``test_lengths`` asks how far it goes beyond those that were trained.

    Args:
        task: "copy" or "reverse".
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
        task: Literal["copy", "reverse"] = "copy",
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
        if task not in ("copy", "reverse"):
            raise ValueError(f'task must be "copy" or "reverse", got {task!r}')
        check_integer("symbols", symbols, 2, len(_LETTERS))
        check_integer("count", count, 1)
        check_integer("data_seed", data_seed, 0)
        self.task = task
        self.symbols = symbols
        self.count = count
        self.data_seed = data_seed
        self.lengths = _range("lengths", lengths)
        self.test_lengths = self.lengths if test_lengths is None else _range("test_lengths", test_lengths)
        self.vocabulary: dict[str, Any] = {
            "kind": "symbols",
            "tokens": [*_SPECIAL, *_LETTERS[:symbols]],
            "padding": PADDING,
            "end": END,
            "tokenizer": None,
        }

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(T,)``, the length of the longest training string with its answer."""
        return (2 * self.lengths[1] + 1,)

    @property
    def vocab_size(self) -> int:
        """Size V of the vocabulary."""
        return len(self.vocabulary["tokens"])

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        rng = np.random.default_rng((self.data_seed, part == "test"))
        count, (least, most) = (
            (self.count, self.lengths) if part == "train" else (-(-self.count // 5), self.test_lengths)
        )
        lengths = rng.integers(least, most + 1, count)
        letters = rng.integers(len(_SPECIAL), self.vocab_size, (count, most))
        texts = np.full((count, 2 * most + 2), PADDING)
        y = np.full((count, 2 * most + 1), PADDING)
        for text, target, n, shown in zip(texts, y, lengths.tolist(), letters, strict=True):
            answer = [*(shown[:n] if self.task == "copy" else shown[:n][::-1]), END]
            text[: 2 * n + 2] = [*shown[:n], ANSWER, *answer]
            target[n : 2 * n + 1] = answer
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
