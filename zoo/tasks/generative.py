"""What tasks share whose net makes examples: reconstructions, samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.tasks.base import Task
from zoo.tasks.portable import check_num_classes

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

    net: Any

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

    @property
    def conditional(self) -> bool:
        """Whether the net is told the class."""
        return bool(getattr(self.net, "conditional", False))

    def classes(self, count: int, y: Tensor | int | None = None) -> Tensor | None:
        """The class of each of ``count`` examples to make: the one given, those given, or one after the other.

        Raises:
            ValueError: a class that there is not, or a net that is not told classes.
        """
        if not self.conditional:
            if y is not None:
                raise ValueError(f"{type(self.net).__name__} is told no class (conditional=False), got y={y}")
            return None
        number = self.net.num_classes
        told = torch.as_tensor(torch.arange(count) % number if y is None else y, device=self.mean.device).long()
        if told.ndim > 1 or (told.ndim == 1 and len(told) != count) or not ((told >= 0) & (told < number)).all():
            raise ValueError(f"y must be one class in 0..{number - 1}, or {count} of them, got {y}")
        return told.expand(count)


class CodingTask(GenerativeTask):
    """A task whose net codes an example by a few numbers, and makes one of them: autoencoders of all kinds.

    Args:
        net: has ``encode(x)``, ``decode(z)``, ``latent_dim`` and ``input_shape``; with ``conditional`` and ``num_classes`` both
            take labels y ``(B,)`` as well.
        task: arguments of :class:`GenerativeTask`.
    """

    def labels(self, y: Tensor | None) -> tuple[Tensor, ...]:
        """What the net wants to be told beside x or z: the classes, if it is conditional.

        Raises:
            ValueError: a conditional net, and no classes.
        """
        if not self.conditional:
            return ()
        if y is None:
            raise ValueError(f"{type(self.net).__name__} is conditional: give the class y of each example")
        return (y,)

    def setup(self, stage: str) -> None:
        """Refuse data of other classes than the net is told."""
        super().setup(stage)
        if stage == "fit" and self.conditional:
            check_num_classes(self.net.num_classes, getattr(self.trainer, "datamodule", None))

    def codes(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The codes of examples, ``(B, ...)`` -> ``(B, latent_dim)``."""
        return self.net.encode(self.standardize(x), *self.labels(y))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The reconstruction, in units of the data."""
        return self.to_data(self.net.decode(self.codes(x, y), *self.labels(y)))

    def forward_args(self, batch: Any) -> tuple[Any, ...]:
        """The input, and the class where the net is told it."""
        return (batch[0], batch[1]) if self.conditional else (batch[0],)

    def output_for(self, x: Tensor) -> Any:
        """The reconstruction; of the first class where the net is told one."""
        return self(x, torch.zeros(len(x), dtype=torch.long, device=x.device))

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The example's own."""
        return shape

    # For users: in evaluation mode, without gradients -------------------------------------------------------------

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The codes of examples, ``(B, ...)`` -> ``(B, latent_dim)``; of a variational autoencoder their means."""
        with at_rest(self):
            return self.codes(x, self._known(y, len(x)))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The examples that codes stand for, ``(B, latent_dim)`` -> ``(B, *input_shape)`` in units of the data."""
        with at_rest(self):
            return self.to_data(self.net.decode(z, *self.labels(self._known(y, len(z)))))

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Examples, coded and decoded: ``(B, ...)`` -> the same shape."""
        with at_rest(self):
            return self(x, self._known(y, len(x)))

    def _known(self, y: Tensor | None, count: int) -> Tensor | None:
        return self.classes(count, y) if self.conditional and y is not None else None

    def interpolate(self, x0: Tensor, x1: Tensor, steps: int = 8, y: Tensor | None = None) -> Tensor:
        """From one example to another, along the straight line between their codes.

        Shape:
            ``(B, ...)`` and ``(B, ...)`` -> ``(B, steps, ...)``, the first and the last being the reconstructions.

        Raises:
            ValueError: fewer than two steps.
        """
        if steps < 2:
            raise ValueError(f"steps must be 2 or more, got {steps}")
        z0, z1 = self.encode(x0, y), self.encode(x1, y)
        share = torch.linspace(0, 1, steps, device=z0.device, dtype=z0.dtype)[:, None]  # (steps, 1)
        z = torch.lerp(z0[:, None], z1[:, None], share)  # (B, steps, latent_dim)
        told = None if y is None else y.repeat_interleave(steps)
        return self.decode(z.flatten(0, 1), told).unflatten(0, (-1, steps))

    def latent_plane(self, across: Tensor, up: Tensor, y: Tensor | None = None) -> Tensor:
        """What codes of two numbers stand for, row by row from the top, as one looks at a plane.

        Args:
            across: values of the first number, from left to right ``(W,)``.
            up: values of the second, from the bottom to the top ``(H,)``.
            y: the classes of all places, ``(H W,)``, where the net is told them.

        Returns:
            ``(H W, *input_shape)``.

        Raises:
            ValueError: codes of another length.
        """
        if self.net.latent_dim != 2:
            raise ValueError(f"codes of {self.net.latent_dim} numbers are no plane: a latent grid wants latent_dim=2")
        rows, columns = torch.meshgrid(up.flip(0), across, indexing="ij")
        return self.decode(torch.stack([columns, rows], dim=-1).flatten(0, 1), y)


@contextmanager
def at_rest(module: torch.nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients; every part's own mode is put back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
