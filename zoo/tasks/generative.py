"""What tasks share whose net makes examples: reconstructions, samples."""

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.tasks.base import Task

Output = Literal["linear", "sigmoid"]


class GenerativeTask(Task):
    """A task whose net ends in examples: what it gives, ``(B, *input_shape)``, becomes data by one of two outputs.

    Args:
        net: see the subclass.
        output: "sigmoid" for what lies in [0, 1], images: the net gives logits; "linear" for any numbers: the net gives them
            standardized, and they come out in units of the data.
        task: arguments of :class:`zoo.Task`.

    Raises:
        ValueError: another output.
    """

    def __init__(self, net: torch.nn.Module, output: Output = "linear", **task: Any) -> None:
        if output not in ("linear", "sigmoid"):
            raise ValueError(f"output must be 'linear' or 'sigmoid', got {output!r}")
        super().__init__(net, **task)

    def to_data(self, raw: Tensor) -> Tensor:
        """What the net gave, in units of the data: ``(B, *input_shape)``."""
        if self.hparams["output"] == "sigmoid":
            return raw.sigmoid()
        shape = (-1, *[1] * (raw.ndim - 2))
        return raw * self.std.view(shape) + self.mean.view(shape)
