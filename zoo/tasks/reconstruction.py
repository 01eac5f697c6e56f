"""Reconstruction: a net learns to give back its input, or, of a corrupted input, the clean one."""

from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.blocks.noise import normal_of, uniform_of
from zoo.drawing import images
from zoo.losses.means import counted, weighted_mean
from zoo.tasks.base import TaskArguments, input_of
from zoo.tasks.generative import COLUMNS, SIDE, CodingTask, Output

Corruption = Literal["none", "gaussian", "masking"]


class ReconstructionArguments(TaskArguments, total=False):
    """Arguments of :class:`ReconstructionTask` but the net."""

    loss: Literal["mse", "mae"]
    corruption: Corruption
    corruption_level: float
    output: Output


class ReconstructionTask(CodingTask):
    """Train an autoencoder: ``decode(encode(x))`` shall be x.

    A denoising autoencoder (Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders") sees a
    corrupted x, and still has to give the clean one. Logs in evaluation ``loss``, ``mse`` and ``mae`` of the clean input, means
    over all values in units of the data; of a denoiser also ``denoised_mse``, that of its corrupted input, and
    ``corrupted_mse``, that of doing nothing. Evaluation corrupts an example always in the same way.

    Args:
        net: See :class:`zoo.tasks.generative.CodingTask`.
        loss: "mse" or "mae", a mean over all values.
        corruption: Of the training input: "none"; "gaussian", noise is added; "masking", values are set to 0.
        corruption_level: Standard deviation of the noise in units of the data, > 0; of masking the probability in (0, 1) of
            each value.
        task: Arguments of :class:`~zoo.tasks.generative.GenerativeTask`.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``, weight ``(B,)``; y is used in pictures only.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Literal["mse", "mae"] = "mse",
        corruption: Corruption = "none",
        corruption_level: float = 0.3,
        output: Output = "linear",
        **task: Unpack[TaskArguments],
    ) -> None:
        if loss not in ("mse", "mae"):
            raise ValueError(f"loss must be mse or mae, got {loss!r}")
        if corruption not in ("none", "gaussian", "masking"):
            raise ValueError(f"corruption must be none, gaussian or masking, got {corruption!r}")
        if not corruption_level > 0 or (corruption == "masking" and corruption_level >= 1):
            wanted = "a share in (0, 1)" if corruption == "masking" else "above 0"
            raise ValueError(f"corruption_level must be {wanted}, got {corruption_level}")
        super().__init__(net, output=output, **task)

    @property
    def denoises(self) -> bool:
        """Whether the training input is corrupted."""
        return self.hparams["corruption"] != "none"

    @property
    def monitor(self) -> tuple[str, str]:
        return ("val/denoised_mse" if self.denoises else "val/loss"), "min"

    def corrupt(self, x: Tensor, repeatable: bool = True) -> Tensor:
        """Return a corrupted copy: by random numbers that are a function of each example, or by new ones."""
        level, numbers = self.hparams["corruption_level"], x[0].numel()
        if self.hparams["corruption"] == "masking":
            kept = uniform_of(x, numbers).view_as(x) if repeatable else torch.rand_like(x)
            return x * (kept >= level)
        if self.hparams["corruption"] == "gaussian":
            return x + level * (normal_of(x, numbers).view_as(x) if repeatable else torch.randn_like(x))
        return x

    def _losses(self, output: Tensor, x: Tensor, kind: str) -> Tensor:
        """The mean over the values of each example: ``(B, ...)`` -> ``(B,)``."""
        if output.shape != x.shape:
            raise ValueError(
                f"{type(self.net).__name__} gives {tuple(output.shape)} for input {tuple(x.shape)}: they must agree"
            )
        residuals = (output.to(x.dtype) - x).flatten(1)
        return (residuals.square() if kind == "mse" else residuals.abs()).mean(dim=1)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean loss of the reconstruction of the input, corrupted where that is asked for."""
        x, weight = batch[0], batch[2] if len(batch) > 2 else None
        losses = self._losses(self(self.corrupt(x, repeatable=False)), x, self.hparams["loss"])
        loss, count = weighted_mean(losses, weight)
        return loss, {"loss": loss}, count

    def build_metrics(self) -> dict[str, Metric]:
        names = ["loss", "mse", "mae", *(("denoised_mse", "corrupted_mse") if self.denoises else ())]
        return {name: MeanMetric(nan_strategy="disable") for name in names}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, weight = batch[0], batch[2] if len(batch) > 2 else None
        losses = {kind: self._losses(self(x), x, kind) for kind in ("mse", "mae")}
        losses["loss"] = losses[self.hparams["loss"]]
        if self.denoises:
            corrupted = self.corrupt(x)
            losses["denoised_mse"] = self._losses(self(corrupted), x, "mse")
            losses["corrupted_mse"] = self._losses(corrupted, x, "mse")
        for name, values in losses.items():
            metrics[name].update(counted(values, weight))

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``reconstruction``, of the input's shape in units of the data, and ``error``, its mean squared error ``(B,)``."""
        x = input_of(batch)
        made = self(x).to(x.dtype)
        return {"reconstruction": made, "error": self._losses(made, x, "mse")}

    def render(self, batch: Any) -> dict[str, Any]:
        """Return pictures: ``reconstructions`` below the input (a denoiser's corrupted one between), and those of the codes."""
        x, y = batch[0], batch[1]
        seen = self.corrupt(x)
        shown: dict[str, Any] = {}
        if images.are_images(x):
            rows = [x, seen, self.reconstruct(seen)] if self.denoises else [x, self.reconstruct(x)]
            shown["reconstructions"] = images.image_rows([row[:COLUMNS] for row in rows])
        return shown | self.render_codes(x, y)

    def grid_for(self, codes: Tensor) -> Tensor:
        return self.latent_grid(SIDE, codes)

    def latent_grid(self, side: int, codes: Tensor) -> Tensor:
        """Return the examples of the latent plane over the middle nine tenths of some codes ``(N, 2)``.

        Returns:
            ``(side * side, *input_shape)``, row by row from the top.
        """
        low, high = codes.float().quantile(codes.new_tensor([0.05, 0.95]).float(), dim=0).to(codes)
        share = torch.linspace(0, 1, side, device=codes.device, dtype=codes.dtype)
        return self.latent_plane(low[0] + share * (high - low)[0], low[1] + share * (high - low)[1])
