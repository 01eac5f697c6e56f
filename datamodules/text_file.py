"""Texts to learn to continue: your own files, or a text in memory."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_integer, check_share
from datamodules.examples import Examples
from datamodules.samplers import TrainSampler
from datamodules.text_windows import Order, TextBlock
from datamodules.texts import Tokenization, check_tokenizer, encode, read_texts, size_of, vocabulary_of


class TextDataModule(DataModule):
    """A text in memory, in which the next token is predicted at each place.

    The text is cut into three blocks: the training part, then the validation part, then the test part. So none of them has a
    window of another. A batch is ``(x, y)`` or ``(x, y, weight)``, see :class:`~datamodules.text_windows.TextBlock`: y are the
    tokens of x one place further. In evaluation, each token but the first of a part is predicted once.

    With ``order="shuffled"``, windows are independent examples, x int64 ``(B, T)``, in another random order in each epoch. With
    ``order="lanes"``, x is a :class:`~datamodules.Segment`: the part is cut into lanes, one for each row of the global batch, and
    a row continues that of the batch before, so that a recurrent net can carry its state on (truncated backpropagation through
    time). Both are pure functions of (run seed, epoch, position in the global batch), see :class:`~datamodules.DataModule`.

    The characters of ``tokenizer="characters"`` are those of the whole text: otherwise, one that the training part lacks would
    make the rest unreadable. Training learns of it only that it exists, since it never is a target there. What BPE joins is learned
    from the training part alone, and no text is unreadable for it, as for bytes.

    Args:
        text: The text.
        tokenizer: What a token is: "characters", "bytes" (of UTF-8), or "bpe", byte pair encoding (Sennrich et al. 2016,
            arXiv:1508.07909), which needs the library tokenizers (the extra ``text``).
        vocab_size: Most tokens of BPE, >= 258 (default 1000); None for other tokenizers.
        context: Number T of tokens in a window, >= 1.
        order: Whether windows are independent, or continue each other.
        batch_size: Number of windows in a batch of each process. For lanes, it is the number of lanes: the loss of evaluation
            depends on it a little, as each lane starts without a past.
        num_workers: See :class:`~datamodules.DataModule`.
        val_fraction: Share of the text before the test part that validates, in [0, 1).
        test_fraction: Share of the text that tests, in [0, 1).
        drop_last: Whether an epoch leaves out a few training tokens, other ones in each epoch, so that all batches have the same
            shape. See :class:`~datamodules.DataModule`.

    Attributes:
        vocabulary: The vocabulary as plain data, which a model keeps: "kind", the tokenizer; "tokens", None for bytes; "padding"
            and "end", None here; "tokenizer", that of the library tokenizers as JSON, for BPE.
        fingerprint: See :class:`~datamodules.DataModule`.

    Raises:
        ValueError: An argument is out of its range, or the text is too short.
        TypeError: An argument has another type.
        ModuleNotFoundError: The library tokenizers is needed and is not installed.

    Example:
        >>> data = TextDataModule("to be or not to be, that is the question " * 20, context=8, batch_size=4)
        >>> data.setup("fit")
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, bool((x[:, 1:] == y[:, :-1]).all()), data.vocab_size
        (torch.Size([4, 8]), True, 14)
    """

    kind = "text"

    def __init__(
        self,
        text: str,
        tokenizer: Tokenization = "characters",
        vocab_size: int | None = None,
        context: int = 64,
        order: Order = "shuffled",
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, drop_last=drop_last)
        check_tokenizer(tokenizer, vocab_size)
        check_integer("context", context, 1)
        if order not in ("shuffled", "lanes"):
            raise ValueError(f'order must be "shuffled" or "lanes", got {order!r}')
        check_share("test_fraction", test_fraction, "the text")
        self.context = context
        self.order: Order = order
        self.test_fraction = test_fraction
        train, val, test = _cut(text, val_fraction, test_fraction)
        self.vocabulary: Mapping[str, Any] = vocabulary_of(tokenizer, [text], [train], vocab_size)
        self._tokens = dict(zip(("train", "val", "test"), encode((train, val, test), self.vocabulary), strict=True))
        if (count := len(self._tokens["train"])) <= context:
            raise ValueError(
                f"the training part of the text has {count} tokens, fewer than one window of context={context} and the token after "
                f"it: give a longer text, or a smaller context"
            )
        for name, share in (("val", val_fraction), ("test", test_fraction)):
            if share and len(self._tokens[name]) < 2:
                raise ValueError(
                    f"the {name} part of the text has {len(self._tokens[name])} token and needs 2 or more: give a longer text, or "
                    f"a larger {name}_fraction, or 0 for none"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(T,)``, the length of a window."""
        return (self.context,)

    @property
    def vocab_size(self) -> int:
        """Number of tokens V of the vocabulary."""
        return size_of(self.vocabulary)

    @override
    def use_batch_sizes(self, of_epoch: Callable[[int], int] | None) -> None:
        if of_epoch is not None and self.order == "lanes":
            raise ValueError(
                "order='lanes' cuts a text into as many lanes as a batch has rows, so batches cannot grow: take order='shuffled'"
            )
        super().use_batch_sizes(of_epoch)

    @property
    @override
    def has_test(self) -> bool:
        return self.test_fraction > 0

    @property
    @override
    def data_identity(self) -> str | None:
        if self.fingerprint is None:
            return None
        train, val = (len(self._tokens[part]) for part in ("train", "val"))
        return f"fingerprint {self.fingerprint} ({train} train / {val} val tokens, windows of {self.context}, {self.order})"

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        if part == "test" and not self.test_fraction:
            raise ValueError("there is no test part: give test_fraction > 0")
        parts = ("train", "val") if part == "train" else ("test",)
        tokens = torch.cat([self._tokens[name] for name in parts])
        return TextBlock(tokens, self.context, drop_last=self.drop_last, vocabulary=self.vocabulary)

    @override
    def validation_mask(self, examples: Examples) -> Tensor:
        """Return the mask of the tokens that validate, the last ones of the training part: ``(N,)``."""
        count = len(self._tokens["train"])
        return torch.arange(count + len(self._tokens["val"])) >= count

    @override
    def make_sampler(
        self, dataset: Examples, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int
    ) -> Sampler[Any]:
        place = {"seed": seed, "epoch": epoch, "start": start, "num_replicas": num_replicas, "rank": rank}
        if self.order == "shuffled":
            return super().make_sampler(dataset, **place)
        return LaneSampler(dataset, self.batch_size, drop_last=self.drop_last, **place)

    @override
    def _part(self, part: str) -> Examples:
        block = super()._part(part)
        if self.order == "lanes" and isinstance(block, TextBlock):
            return block.in_lanes(self.batch_size * self._replica_kwargs()["num_replicas"])
        return block


class LaneSampler(TrainSampler):
    """All windows of lanes in their order, from the first to the last."""

    @override
    def order(self) -> Tensor:
        return torch.arange(len(self.dataset))  # type: ignore[arg-type]


class TextFileDataModule(TextDataModule):
    """Your own text, of one file or of several.

    Args:
        path: The file; or a list of files, which are read one after another as one text.
        encoding: Encoding of the files, by Python's name. A byte order mark is left out, and lines end with a line feed, whatever
            the files have.
        **text: Arguments of :class:`TextDataModule`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is empty, or not a text in this encoding; the message names the byte.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("poem.txt").write_text("Twinkle, twinkle, little star,\\n" * 30)
        >>> TextFileDataModule("poem.txt", context=16).vocab_size
        14
    """

    def __init__(self, path: str | list[str], encoding: str = "utf-8", **text: Any) -> None:
        super().__init__(read_texts(path, encoding), **text)
        self._path = path if isinstance(path, str) else path[0]

    @property
    @override
    def input_file(self) -> str | None:
        return self._path


def _cut(text: str, val_fraction: float, test_fraction: float) -> tuple[str, str, str]:
    """Return the training, the validation and the test part, which follow each other."""
    if not text:
        raise ValueError("the text is empty: give one to learn from")
    rest = len(text) - math.ceil(test_fraction * len(text))
    train = rest - math.ceil(val_fraction * rest)
    return text[:train], text[train:rest], text[rest:]
