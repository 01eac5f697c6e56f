"""Examples, which a datamodule splits, orders and batches."""

import copy
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from datamodules.internals import field_names, leaves, map_leaves
from datamodules.samplers import TrainingEpoch, seed_all
from datamodules.splits import digest


class Series(NamedTuple):
    """Series of different lengths, padded with 0 at the end.

    Args:
        values: Numbers, ``(N, T, D)``: D at each of T times.
        lengths: Number of times of each series before the padding, int64 ``(N,)``, 1..T.
    """

    values: Tensor
    lengths: Tensor


class SentencePair(NamedTuple):
    """Sentences and their translations as tokens, padded at the end.

    Args:
        source: What is read: the tokens of a sentence and its end, int64 ``(N, S)``.
        target: What a decoder reads, which is to write the translation: the token of the end, from which it starts, and the tokens
            of the translation, int64 ``(N, T)``.
    """

    source: Tensor
    target: Tensor


class CaptionedImage(NamedTuple):
    """Images and their captions as tokens, R of each image, padded at the end.

    Args:
        image: Floats in [0, 1], ``(N, C, H, W)``.
        caption: What a decoder reads, which is to write the caption: the token of the end, from which it starts, and the tokens of
            the caption, int64 ``(N, R, T)``. An image with fewer than R captions has rows of padding alone.
    """

    image: Tensor
    caption: Tensor


class Examples(Dataset):
    """Inputs and targets in memory, read a batch at a time (``__getitems__``).

    Inputs or targets of several tensors are a NamedTuple with named fields (``source, target``; :class:`Series`), never a
    plain tuple. A batch is ``(x, y)``, or ``(x, y, weight)`` where an index is -1, which stands for an example that does not
    count: its weight is 0, that of the others 1.

    Examples with random transforms apply them only where ``training`` is set, and call :meth:`seed` for each example before.

    Args:
        x: Inputs.
        y: Targets: int64 labels, or float.

    Shape:
        x: ``(N, ...)``, y: ``(N, ...)``; for a NamedTuple each of its tensors. A batch: ``(B, ...)``, ``(B, ...)``, ``(B,)``.

    Raises:
        TypeError: x or y is neither a tensor nor a NamedTuple.
        ValueError: The tensors of a NamedTuple hold different numbers of examples.

    Example:
        >>> examples = Examples(Series(torch.zeros(4, 9, 1), torch.tensor([9, 3, 5, 2])), torch.tensor([0, 1, 1, 0]))
        >>> x, y = examples.__getitems__([2, 1])
        >>> x.lengths
        tensor([5, 3])
    """

    training: TrainingEpoch | None = None

    def __init__(self, x: Any, y: Any) -> None:
        for name, part in (("x", x), ("y", y)):
            if isinstance(part, Tensor):
                continue
            names = field_names(part)
            if names is None:
                raise TypeError(
                    f"{name} must be a tensor or a NamedTuple of tensors, got {type(part).__name__}: name its parts, as in "
                    "class Pair(NamedTuple): source: Tensor; target: Tensor"
                )
            if len({len(tensor) for tensor in leaves(part)}) != 1:
                raise ValueError(
                    f"all tensors of {name} must hold equally many examples, got "
                    + ", ".join(f"{field} {tuple(tensor.shape)}" for field, tensor in zip(names, part, strict=True))
                )
        self.x = x
        self.y = y

    def seed(self, index: int) -> None:
        """Seed the global generators for one example, by the run seed, the epoch and ``index``."""
        now = TrainingEpoch(0, 0) if self.training is None else self.training
        seed_all(now.seed, now.epoch, index, 4)

    def for_training(self, epoch: TrainingEpoch) -> Self:
        """Return a copy with random transforms; change ``epoch`` in place to start another one."""
        examples = copy.copy(self)
        examples.training = epoch
        return examples

    def for_evaluation(self) -> Self:
        """Return a copy without random transforms."""
        examples = copy.copy(self)
        examples.training = None
        return examples

    def __len__(self) -> int:
        return len(leaves(self.y)[0])

    @override
    def __getitem__(self, index: int | list[int]) -> tuple[Any, ...]:
        if isinstance(index, list):  # a loader whose sampler yields whole batches
            return self.__getitems__(index)
        return map_leaves(lambda part: part[0], self.batch(torch.tensor([index])))

    def __getitems__(self, indices: list[int]) -> tuple[Any, ...]:
        index = torch.tensor(indices)
        if min(indices) >= 0:
            return self.batch(index)
        return (*self.batch(index.clamp(min=0)), (index >= 0).float())

    def batch(self, index: Tensor) -> tuple[Any, ...]:
        """Return the inputs and targets at the indices ``(B,)``."""
        return self.inputs(index), map_leaves(lambda part: part.index_select(0, index), self.y)

    def inputs(self, index: Tensor) -> Any:
        """Return the inputs ``(B, ...)`` at the indices ``(B,)``."""
        return map_leaves(lambda part: part.index_select(0, index), self.x)

    def name_of(self, index: int) -> str:
        """Return a name of an example for messages: its file, or its index."""
        return str(index)

    def subset(self, chosen: Tensor) -> "Examples":
        """Return the examples where the mask ``(N,)`` is True."""
        return type(self)(*(map_leaves(lambda part: part[chosen], both) for both in (self.x, self.y)))

    def fingerprint(self, validates: Tensor) -> str:
        """Return 16 hexadecimal digits that identify these examples with their validation mask."""
        return digest(*parts_of(self.x), *parts_of(self.y), validates)


def parts_of(part: Any) -> list[Any]:
    """Return a tensor, or the fields' names and tensors of a NamedTuple, for :func:`~datamodules.splits.digest`."""
    names = field_names(part)
    return [part] if names is None else [" ".join(names), *leaves(part)]
