"""What tasks share whose net makes examples: autoencoders (:class:`CodingTask`) and generators."""

from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from zoo.blocks.modes import evaluating
from zoo.drawing import images
from zoo.model import Makes, check_num_classes
from zoo.tasks.base import Task, TaskArguments

Output = Literal["linear", "sigmoid"]
COLUMNS, SIDE = 16, 16  # of pictures: pairs shown; places of the latent grid a side
_STEPS, _PATHS = 12, 6  # of interpolations: steps of one; their number


class GenerativeTask(Task):
    """A task whose net ends in examples: its output, ``(B, *input_shape)``, becomes data in one of two ways.

    Args:
        net: See the subclass.
        output: "sigmoid" for data in [0, 1], images: the net gives logits; "linear" for any numbers: the net gives them
            standardized, and they come out in units of the data.
        task: Arguments of :class:`zoo.Task`.

    Raises:
        ValueError: Another output.
    """

    net: Any

    def __init__(self, net: torch.nn.Module, output: Output = "linear", **task: Unpack[TaskArguments]) -> None:
        if output not in ("linear", "sigmoid"):
            raise ValueError(f"output must be 'linear' or 'sigmoid', got {output!r}")
        super().__init__(net, **task)

    @property
    def data_kind(self) -> Makes:
        """Kind of the examples: "image" or "row"."""
        return "image" if len(self.net.input_shape) == 3 else "row"

    def to_data(self, raw: Tensor) -> Tensor:
        """Return the net's output in units of the data: ``(B, *input_shape)``."""
        if self.hparams["output"] == "sigmoid":
            return raw.sigmoid()
        shape = (-1, *[1] * (raw.ndim - 2))
        return raw * self.std.view(shape) + self.mean.view(shape)

    @property
    def conditional(self) -> bool:
        """Whether the net takes the class of an example as an input."""
        return bool(getattr(self.net, "conditional", False))

    def classes(self, count: int, y: Tensor | int | None = None) -> Tensor | None:
        """Return the class of each of ``count`` examples to make: the one given, those given, or all classes in turn.

        Raises:
            ValueError: A class that does not exist, or a net that takes no class.
        """
        if not self.conditional:
            if y is not None:
                raise ValueError(f"{type(self.net).__name__} takes no class (conditional=False), got y={y}")
            return None
        number = self.net.num_classes
        classes = torch.as_tensor(torch.arange(count) % number if y is None else y, device=self.mean.device).long()
        wrong = classes.ndim > 1 or (classes.ndim == 1 and len(classes) != count)
        if wrong or not ((classes >= 0) & (classes < number)).all():
            raise ValueError(f"y must be one class in 0..{number - 1}, or {count} of them, got {y}")
        return classes.expand(count)


class CodingTask(GenerativeTask):
    """A task whose net encodes an example as a few numbers, and decodes them: autoencoders of all kinds.

    Args:
        net: Has ``encode(x)``, ``decode(z)``, ``latent_dim`` and ``input_shape``; with ``conditional`` and ``num_classes`` both
            take labels y ``(B,)`` as well.
        task: Arguments of :class:`GenerativeTask`.
    """

    @property
    def makes(self) -> Makes:
        return self.data_kind

    @property
    def predict_options(self) -> tuple[str, ...]:
        return ("label",) if self.conditional else ()

    @property
    def sample_options(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("interpolate", *self.predict_options)

    def labels(self, y: Tensor | None) -> tuple[Tensor, ...]:
        """Return what the net takes beside x or z: the classes, if it is conditional.

        Raises:
            ValueError: A conditional net, and no classes.
        """
        if not self.conditional:
            return ()
        if y is None:
            raise ValueError(f"{type(self.net).__name__} is conditional: give the class y of each example")
        return (y,)

    def setup(self, stage: str) -> None:
        """Refuse data with other classes than the net takes."""
        super().setup(stage)
        if stage == "fit" and self.conditional:
            check_num_classes(self.net.num_classes, getattr(self.trainer, "datamodule", None))

    def codes(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the codes of examples, ``(B, ...)`` -> ``(B, latent_dim)``."""
        return self.net.encode(self.standardize(x), *self.labels(y))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the reconstruction, in units of the data."""
        return self.to_data(self.net.decode(self.codes(x, y), *self.labels(y)))

    def forward_args(self, batch: Any) -> tuple[Any, ...]:
        """Return the input, and the class where the net is conditional."""
        return (batch[0], batch[1]) if self.conditional else (batch[0],)

    def example_inputs(self, batch_size: int = 1) -> tuple[Any, ...]:
        inputs = super().example_inputs(batch_size)
        return (*inputs, torch.zeros(batch_size, dtype=torch.long, device=self.mean.device))[: 1 + self.conditional]

    def example_output(self) -> Any:
        return self(*self.example_inputs())

    output_meaning = "reconstruction of the input, of its shape, in units of the data"

    def outputs(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``reconstruction``, of the input's shape in units of the data; a variational one is of the codes' mean."""
        return {"reconstruction": self(x, y)}

    def output_shape(self) -> tuple[int, ...]:
        return self.example_shape

    # For users: in evaluation mode, without gradients -------------------------------------------------------------

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the codes of examples, ``(B, ...)`` -> ``(B, latent_dim)``; of a variational autoencoder their means."""
        with evaluating(self):
            return self.codes(x, self._checked(y, len(x)))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the examples of codes, ``(B, latent_dim)`` -> ``(B, *input_shape)`` in units of the data."""
        with evaluating(self):
            return self.to_data(self.net.decode(z, *self.labels(self._checked(y, len(z)))))

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Encode and decode examples: ``(B, ...)`` -> the same shape."""
        with evaluating(self):
            return self(x, self._checked(y, len(x)))

    def _checked(self, y: Tensor | None, count: int) -> Tensor | None:
        return self.classes(count, y) if self.conditional and y is not None else None

    def interpolate(self, x0: Tensor, x1: Tensor, steps: int = 8, y: Tensor | None = None) -> Tensor:
        """Return examples between two others, along the straight line between their codes.

        Shape:
            ``(B, ...)`` and ``(B, ...)`` -> ``(B, steps, ...)``, the first and the last being the reconstructions.

        Raises:
            ValueError: Fewer than two steps.
        """
        if steps < 2:
            raise ValueError(f"steps must be 2 or more, got {steps}")
        z0, z1 = self.encode(x0, y), self.encode(x1, y)
        share = torch.linspace(0, 1, steps, device=z0.device, dtype=z0.dtype)[:, None]  # (steps, 1)
        z = torch.lerp(z0[:, None], z1[:, None], share)  # (B, steps, latent_dim)
        classes = None if y is None else y.repeat_interleave(steps)
        return self.decode(z.flatten(0, 1), classes).unflatten(0, (-1, steps))

    def latent_plane(self, across: Tensor, up: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the examples of codes of two numbers, row by row from the top, as a plane is drawn.

        Args:
            across: Values of the first number, from left to right ``(W,)``.
            up: Values of the second, from the bottom to the top ``(H,)``.
            y: Classes of all places, ``(H W,)``, where the net is conditional.

        Returns:
            ``(H W, *input_shape)``.

        Raises:
            ValueError: Codes of another length.
        """
        if self.net.latent_dim != 2:
            raise ValueError(
                f"codes of {self.net.latent_dim} numbers are no plane: a latent grid wants a model with latent_dim=2"
            )
        rows, columns = torch.meshgrid(up.flip(0), across, indexing="ij")
        return self.decode(torch.stack([columns, rows], dim=-1).flatten(0, 1), y)

    # Pictures -------------------------------------------------------------------------------------------------------

    def grid_for(self, codes: Tensor) -> Tensor:
        """Return the examples of the latent plane, in the region of some codes ``(N, 2)``; see :meth:`latent_plane`."""
        raise TypeError(
            f"{type(self).__name__} does not say which region of its codes is worth a look: define grid_for"
        )

    def render_codes(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Return pictures of the codes: of two numbers ``codes`` and ``latent_grid``; of images ``interpolation``."""
        shown: dict[str, Any] = {}
        if self.net.latent_dim == 2:
            codes = self.encode(x, y)
            shown["codes"] = images.codes(codes, y, self.class_names)
            if images.are_images(x) and not self.conditional:
                shown["latent_grid"] = images.image_wall(self.grid_for(codes), columns=SIDE)
        count = min(_PATHS, len(x) // 2)
        if images.are_images(x) and count:
            paths = self.interpolate(x[:count], x[count : 2 * count], _STEPS, y[:count] if self.conditional else None)
            shown["interpolation"] = images.image_wall(paths.flatten(0, 1), columns=_STEPS)
        return shown
