"""A block of text as examples: windows in any order, or lanes that go on from batch to batch."""

import copy
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from datamodules.examples import Examples
from datamodules.internals import map_leaves
from datamodules.samplers import TrainingEpoch, generator_for
from datamodules.splits import digest

Order = Literal["shuffled", "lanes"]


class Segment(NamedTuple):
    """Text that goes on from batch to batch: row b continues row b of the batch before, unless it starts.

    Shape:
        tokens: int64 ``(B, T)``; starts: bool ``(B,)``.
    """

    tokens: Tensor
    starts: Tensor


class TextBlock(Examples):
    """A block of text of N tokens, in which each token but the first is a target: the next one after those that are read.

    An example is a window: T tokens and, as targets, the T tokens one place further.

    - "shuffled": x is ``(B, T)``. Window i is the i-th of those that lie one after another.
    - "lanes": the block is cut into lanes of equal length, each of them into windows. x is a :class:`Segment`. Example
      ``s * lanes + b`` is the s-th window of lane b, so that examples in their order, ``lanes`` of them a batch, go through all
      lanes side by side; and of W processes, rank r has the lanes ``r::W``.

    In training, where incomplete batches are dropped, all windows are full; the few tokens that are left out at both ends differ
    by epoch. Otherwise each target counts once: where windows or lanes cannot have equal length, a batch has a weight ``(B, T)``,
    0 for a target that another window has.

    Args:
        tokens: Tokens ``(N,)``, of any integer type.
        context: Length T of a window.
        order: See above.
        lanes: Number of lanes, those of all processes.
        drop_last: Whether training leaves tokens out, so that all batches have the same shape.
        vocabulary: What the tokens mean, as plain data, for the fingerprint.

    Raises:
        ValueError: There are too few tokens for training: fewer than one full window, or one for each lane.
    """

    def __init__(
        self,
        tokens: Tensor,
        context: int,
        order: Order = "shuffled",
        lanes: int = 1,
        drop_last: bool = True,
        vocabulary: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokens = tokens
        self.context = context
        self.order = order
        self.lanes = lanes
        self.drop_last = drop_last
        self.vocabulary = vocabulary
        self.targets = max(len(tokens) - 1, 0)

    @property
    def x(self) -> Tensor:
        """All tokens that are read."""
        return self.tokens[:-1]

    @property
    def y(self) -> Tensor:
        """All targets, the token after each of ``x``."""
        return self.tokens[1:]

    def in_lanes(self, lanes: int) -> Self:
        """Return the block in the order "lanes", cut into another number of them."""
        block = copy.copy(self)
        block.order, block.lanes = "lanes", lanes
        return block

    @override
    def for_training(self, epoch: TrainingEpoch) -> Self:
        rows = self.lanes if self.order == "lanes" else 1
        if self.drop_last and self.targets < rows * self.context:
            each, less = "", ""
            if self.order == "lanes":
                each, less = f"{rows} lanes (batch_size x processes), each of ", "batch_size or "
            raise ValueError(
                f"the training part has {len(self.tokens)} tokens, too few for {each}one window of context={self.context}, and the "
                f"token after it ({rows * self.context + 1}): give a longer text, or a smaller {less}context"
            )
        return super().for_training(epoch)

    @property
    def _drops(self) -> bool:
        return self.training is not None and self.drop_last

    @override
    def __len__(self) -> int:
        """Return the number of windows."""
        n, length = self.targets, self.context
        if self.order == "lanes":
            each = n // (self.lanes * length) if self._drops else math.ceil(math.ceil(n / self.lanes) / length)
            return each * self.lanes
        return max(1, n // length - 1) if self._drops else math.ceil(n / length)

    def _offset(self) -> int:
        """Return the number of tokens that are left out before the first window, a function of run seed and epoch."""
        if self.training is None or not self._drops:
            return 0
        most = self.targets - len(self) * self.context
        return int(torch.randint(most + 1, (), generator=generator_for(self.training.seed, self.training.epoch, 6)))

    @override
    def batch(self, index: Tensor) -> tuple[Any, ...]:
        return self._shuffled(index) if self.order == "shuffled" else self._side_by_side(index)

    def _shuffled(self, index: Tensor) -> tuple[Any, ...]:
        length = min(self.context, self.targets)
        first = self._offset() + index * self.context
        place = first.clamp(max=self.targets - length)  # the last window ends with the block
        x, y = self._read(place, length)
        if torch.equal(place, first):
            return x, y
        return x, y, (place[:, None] + torch.arange(length) >= first[:, None]).float()

    def _side_by_side(self, index: Tensor) -> tuple[Any, ...]:
        starts, sizes = self._lanes()
        segment, lane = index // self.lanes, index % self.lanes
        done = segment * self.context
        length = min(self.context, int(sizes.max() - done.min()))
        x, y = self._read(starts[lane] + done, length)
        segments = Segment(x, segment == 0)
        counts = done[:, None] + torch.arange(length) < sizes[lane][:, None]
        return (segments, y) if bool(counts.all()) else (segments, y, counts.float())

    def _lanes(self) -> tuple[Tensor, Tensor]:
        """Return where each lane starts, and its number of targets: ``(lanes,)`` each."""
        lane = torch.arange(self.lanes)
        if self._drops:
            size = len(self) // self.lanes * self.context
            return self._offset() + lane * size, torch.full_like(lane, size)
        size, longer = divmod(self.targets, self.lanes)
        extra = lane - (self.lanes - longer)  # the last lanes are longer by 1, so that the others can go a step too far
        return lane * size + extra.clamp(min=0), size + (extra >= 0).long()

    def _read(self, place: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return the tokens from each place ``(B,)`` on, and those one further: ``(B, T)`` each."""
        at = (place[:, None] + torch.arange(length + 1)).clamp(max=self.targets)  # (B, T + 1)
        tokens = self.tokens[at].long()
        return tokens[:, :-1], tokens[:, 1:]

    @override
    def __getitem__(self, index: int | list[int]) -> tuple[Any, ...]:
        if isinstance(index, list):
            return self.__getitems__(index)
        return map_leaves(lambda part: part[0], self.__getitems__([index]))

    @override
    def __getitems__(self, indices: list[int]) -> tuple[Any, ...]:
        index = torch.tensor(indices)
        x, y, *weight = self.batch(index.clamp(min=0))
        if min(indices) >= 0:
            return (x, y, *weight)
        counts = (index >= 0).float()[:, None].expand_as(y)
        return x, y, counts * weight[0] if weight else counts.contiguous()

    @override
    def subset(self, chosen: Tensor) -> "TextBlock":
        """Return the block of the tokens where the mask ``(N,)`` is True; they must lie together."""
        block = copy.copy(self)
        block.tokens, block.targets = (tokens := self.tokens[chosen]), max(len(tokens) - 1, 0)
        return block

    @override
    def fingerprint(self, validates: Tensor) -> str:
        """Return 16 hexadecimal digits that identify the tokens, their meaning, and which of them validate: ``(N,)``."""
        return digest(self.tokens, validates, json.dumps(self.vocabulary, sort_keys=True))
