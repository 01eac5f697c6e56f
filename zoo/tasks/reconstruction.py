"""Reconstruction: a net learns to give back its input, or, of a corrupted input, the clean one."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.tasks.draws import normal_of, uniform_of
from zoo.tasks.generative import CodingTask
from zoo.tasks.render_codes import render_reconstruction

Corruption = Literal["none", "gaussian", "masking"]


class ReconstructionTask(CodingTask):
    """Train an autoencoder: ``decode(encode(x))`` shall be x.

    A denoising autoencoder (Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders") sees a
    corrupted x, and still has to give the clean one. Logs in evaluation ``loss``, ``mse`` and ``mae`` of the clean input, means
    over all values in units of the data; of a denoiser also ``denoised_mse``, that of its corrupted input, and
    ``corrupted_mse``, that of doing nothing. Evaluation corrupts an example always in the same way.

    Args:
        net: see :class:`zoo.tasks.generative.CodingTask`.
        loss: "mse" or "mae", a mean over all values.
        corruption: of the training input: "none"; "gaussian", noise is added; "masking", values are set to 0.
        corruption_level: of the noise the standard deviation in units of the data, > 0; of masking the probability in (0, 1) of
            each value.
        task: arguments of :class:`GenerativeTask`.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``; y is looked at in pictures only.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Literal["mse", "mae"] = "mse",
        corruption: Corruption = "none",
        corruption_level: float = 0.3,
        **task: Any,
    ) -> None:
        if loss not in ("mse", "mae"):
            raise ValueError(f"loss must be mse or mae, got {loss!r}")
        if corruption not in ("none", "gaussian", "masking"):
            raise ValueError(f"corruption must be none, gaussian or masking, got {corruption!r}")
        if not corruption_level > 0 or (corruption == "masking" and corruption_level >= 1):
            wanted = "a share in (0, 1)" if corruption == "masking" else "above 0"
            raise ValueError(f"corruption_level must be {wanted}, got {corruption_level}")
        super().__init__(net, **task)

    @property
    def denoises(self) -> bool:
        """Whether the training input is corrupted."""
        return self.hparams["corruption"] != "none"

    @property
    def monitor(self) -> tuple[str, str]:
        """The error of what a denoiser is for, else the loss."""
        return ("val/denoised_mse" if self.denoises else "val/loss"), "min"

    def corrupt(self, x: Tensor, repeatable: bool = True) -> Tensor:
        """A corrupted copy: by numbers that are a function of each example, or by the global generator's next ones."""
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

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        """The mean loss of what becomes of the input, corrupted if so said."""
        x = batch[0]
        loss = self._losses(self(self.corrupt(x, repeatable=False)), x, self.hparams["loss"]).mean()
        return loss, {"loss": loss}, len(x)

    def build_metrics(self) -> dict[str, Metric]:
        """Of the clean input, and for a denoiser of the corrupted one."""
        names = ["loss", "mse", "mae", *(("denoised_mse", "corrupted_mse") if self.denoises else ())]
        return {name: MeanMetric(nan_strategy="disable") for name in names}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add a batch; rows of weight 0 count nowhere."""
        x, _, *rest = batch
        counts = rest[0] > 0 if rest else torch.ones(len(x), dtype=torch.bool, device=x.device)
        found = {kind: self._losses(self(x), x, kind) for kind in ("mse", "mae")}
        found["loss"] = found[self.hparams["loss"]]
        if self.denoises:
            corrupted = self.corrupt(x)
            found["denoised_mse"] = self._losses(self(corrupted), x, "mse")
            found["corrupted_mse"] = self._losses(corrupted, x, "mse")
        for name, values in found.items():
            metrics[name].update(values[counts])

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """What a user can read: an example as the net gives it back, and how far off that is.

        Returns:
            ``reconstruction``, of the input's shape, in units of the data, and ``error``, its mean squared error ``(B,)``.
        """
        x = batch if isinstance(batch, Tensor) else batch[0]
        made = self(x).to(x.dtype)
        return {"reconstruction": made, "error": self._losses(made, x, "mse")}

    def render(self, batch: Any) -> dict[str, Any]:
        """Reconstructions; of codes of two numbers their plane as well."""
        return render_reconstruction(self, batch)

    def latent_grid(self, side: int, codes: Tensor) -> Tensor:
        """What the plane of codes stands for, over the middle nine tenths of some codes ``(N, 2)``.

        Returns:
            ``(side * side, *input_shape)``, row by row from the top.
        """
        low, high = codes.float().quantile(codes.new_tensor([0.05, 0.95]).float(), dim=0).to(codes)
        share = torch.linspace(0, 1, side, device=codes.device, dtype=codes.dtype)
        return self.latent_plane(low[0] + share * (high - low)[0], low[1] + share * (high - low)[1])
