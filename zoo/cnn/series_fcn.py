"""FCN for series: Wang, Yan and Oates 2016, "Time Series Classification from Scratch with Deep Neural Networks: A Strong Baseline",
arXiv:1611.06455.

Deviations from the paper: the convolutions have no bias, which the batch norm after them would take away again.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.blocks import Classifier, real_steps, split_series
from zoo.model import Reads
from zoo.registry import register
from zoo.tasks import ClassificationArguments, ClassificationTask

EXAMPLE_STEPS = 16  # of an example where no data told theirs


class SeriesBlock(nn.Module):
    """A convolution along time, batch norm, ReLU. What is beyond the end of a series is 0, as around it, and in no statistic.

    Shape:
        ``(B, in_channels, T)``, the steps before the ends bool ``(B, T)`` or None, in training where they are, int64 ``(N,)`` for
        each axis -> ``(B, width, T)``.
    """

    def __init__(self, in_channels: int, width: int, kernel_size: int) -> None:
        super().__init__()
        self.padding = ((kernel_size - 1) // 2, kernel_size // 2)
        self.conv = nn.Conv1d(in_channels, width, kernel_size, bias=False)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x: Tensor, real: Tensor | None, places: tuple[Tensor, ...] = ()) -> Tensor:
        x = self.conv(F.pad(x, self.padding))
        if real is None:
            return self.bn(x).relu()
        if not self.bn.training:
            return self.bn(x).relu().masked_fill(~real[:, None], 0)
        steps = x.transpose(1, 2)  # (B, W, T) -> (B, T, W)
        y = torch.zeros_like(steps)
        y[places] = self.bn(steps[places]).relu()
        return y.transpose(1, 2)


class SeriesFCN(Classifier):
    """Three convolutions along time, and the mean over the steps (fig. 1b).

    Steps beyond the end of a series change nothing: outputs, statistics and gradients are those of the series by itself.

    Args:
        num_classes: Number of classes K.
        input_size: Number of values D of a step.
        width: Channels W of the first and the last convolution, 128 in the paper; the middle one has twice as many.
        kernel_sizes: Number of steps that each convolution sees, >= 1; 8, 5, 3 in the paper.

    Shape:
        ``(B, T, D)`` or a :class:`zoo.Series` -> logits ``(B, K)``.

    Raises:
        ValueError: An argument out of its range, or series of another shape.
    """

    def __init__(
        self, num_classes: int = 10, input_size: int = 1, width: int = 128, kernel_sizes: Sequence[int] = (8, 5, 3)
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        if len(kernel_sizes) != 3 or min(kernel_sizes) < 1:
            raise ValueError(f"kernel_sizes must be three numbers of steps, 1 or more, got {list(kernel_sizes)}")
        self.input_size, self.num_features = input_size, width
        sizes = (input_size, width, 2 * width, width)
        self.blocks = nn.ModuleList(map(SeriesBlock, sizes, sizes[1:], kernel_sizes))
        self.fc = nn.Linear(width, num_classes)

    def features(self, x: Any) -> list[Tensor]:
        """Return the maps after each convolution, ``(B, W, T)``, ``(B, 2 W, T)``, ``(B, W, T)``."""
        values, lengths = split_series(x)
        if values.ndim != 3 or values.shape[2] != self.input_size:
            raise ValueError(f"SeriesFCN takes series of shape (B, T, {self.input_size}), got {tuple(values.shape)}")
        real = None if lengths is None else real_steps(lengths, values.shape[1])
        y = values if real is None else values.masked_fill(~real[..., None], 0)
        maps = [y.transpose(1, 2)]  # (B, T, D) -> (B, D, T)
        places: tuple[Tensor, ...] = ()
        if real is not None and any(part.training for part in self.blocks.modules()):
            places = real.nonzero(as_tuple=True)  # once: until a GPU knows how many there are, it is waited for
        for block in self.blocks:
            maps.append(block(maps[-1], real, places))
        return maps[1:]

    def forward(self, x: Any) -> Tensor:
        lengths = split_series(x)[1]
        y = self.features(x)[-1]
        return self.fc(y.mean(dim=2) if lengths is None else y.sum(dim=2) / lengths[:, None])


class SeriesFCNClassifier(ClassificationTask):
    """A :class:`SeriesFCN` trained as a classifier. Arguments: those of the net, then ``**task``."""

    standardize_axis = -1
    padding = 0  # what is beyond the end of a series

    def __init__(
        self,
        num_classes: int = 10,
        input_size: int = 1,
        width: int = 128,
        kernel_sizes: Sequence[int] = (8, 5, 3),
        **task: Unpack[ClassificationArguments],
    ) -> None:
        kernel_sizes = list(kernel_sizes)  # a hyperparameter is as JSON gives it back
        net = SeriesFCN(num_classes=num_classes, input_size=input_size, width=width, kernel_sizes=kernel_sizes)
        super().__init__(net, num_classes, **task)

    @property
    def reads(self) -> Reads:
        return "series"

    @property
    def example_shape(self) -> tuple[int, ...]:
        return self.input_shape or (EXAMPLE_STEPS, self.hparams["input_size"])


register("fcn_series", SeriesFCNClassifier)
