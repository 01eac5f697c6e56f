"""A diffusion model of small images: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239.

Deviations from the paper: a small net, 200 steps instead of 1000 (with betas that are larger by as much), and the net predicts
the velocity of Salimans and Ho 2022, arXiv:2202.00512, a mixture of noise and image, instead of the noise alone.

A net and a task of your own, on data of the zoo. ``zoo fit -c diffusion.yaml`` trains it, ``zoo sample runs/diffusion/version_0``
draws digits. This is ``diffusion.yaml``::

    seed_everything: 0
    model: {class_path: diffusion_digits.DiffusionModel, init_args: {width: 32, lr: 3.0e-3}}
    data: {class_path: datamodules.DigitsDataModule, init_args: {batch_size: 32}}
    trainer:
      max_epochs: 60
      callbacks:
        - {class_path: callbacks.EMA, init_args: {decay: 0.99}}
        - {class_path: callbacks.LRSchedule, init_args: {schedule: cosine}}
        - {class_path: callbacks.Samples, init_args: {every_n_epochs: 20}}
"""

from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

import zoo
from zoo.blocks.noise import normal_of, uniform_of
from zoo.drawing.images import image_wall
from zoo.losses import counted, weighted_mean
from zoo.tasks import Task, TaskArguments

# The net ----------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3x3 convolutions, the time added between them, and a shortcut.

    Shape:
        ``(B, W, H, W')``, time ``(B, E)`` -> ``(B, W, H, W')``.
    """

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, width), nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(embedding, width)
        self.norm2, self.conv2 = nn.GroupNorm(4, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(hidden)))


class Denoiser(nn.Module):
    """A U-Net of two sizes.

    Args:
        in_channels: Number of channels C.
        width: Number of maps in full size, a multiple of 4; at half the size there are twice as many.

    Shape:
        noisy images ``(B, C, H, W)``, H and W even, time ``(B,)`` in steps -> ``(B, C, H, W)``.
    """

    def __init__(self, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.embedding = 4 * width
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.encoder = Block(width, self.embedding)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.middle = nn.ModuleList(Block(2 * width, self.embedding) for _ in range(2))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.decoder = Block(width, self.embedding)
        self.norm = nn.GroupNorm(4, width)
        self.last = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        frequencies = torch.logspace(0, -4, self.embedding // 2, device=x.device, dtype=x.dtype)
        angles = time[:, None] * frequencies  # (B,) -> (B, E / 2)
        embedded = torch.cat([angles.sin(), angles.cos()], dim=1)
        skip = self.encoder(self.first(x), embedded)
        hidden = self.down(skip)  # (B, W, H, W') -> (B, 2 W, H / 2, W' / 2)
        for block in self.middle:
            hidden = block(hidden, embedded)
        hidden = self.decoder(skip + self.up(hidden), embedded)
        return self.last(F.silu(self.norm(hidden)))


# The task ---------------------------------------------------------------------------------------------------------------


class DiffusionModel(Task):
    """:class:`Denoiser`, trained to separate an image from the noise that is mixed into it.

    The loss is the mean squared error of the velocity, over all values, at times drawn evenly (algorithm 1); evaluation draws the
    same times and noise for an example every time.

    Args:
        in_channels, width: See :class:`Denoiser`.
        num_steps: Number T of steps from an image to noise, >= 25.
        task: Arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``, x ``(B, C, H, W)`` in [0, 1], weight ``(B,)``; y is not used.

    Raises:
        ValueError: An argument out of its range.
    """

    net: Denoiser
    alpha_bar: Tensor
    reads = "nothing"
    samples = "image"

    def __init__(
        self, in_channels: int = 1, width: int = 16, num_steps: int = 200, **task: Unpack[TaskArguments]
    ) -> None:
        if num_steps < 25:  # or the last beta is not below 1
            raise ValueError(f"num_steps must be 25 or more, got {num_steps}")
        super().__init__(Denoiser(in_channels=in_channels, width=width), **task)

    def register_task_buffers(self) -> None:
        super().register_task_buffers()
        steps = self.hparams["num_steps"]
        beta = torch.linspace(1e-4, 0.02, steps) * (1000 / steps)  # section 4: for 1000 steps
        self.register_buffer("alpha_bar", (1 - beta).cumprod(dim=0))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the velocity of noisy images, which are standardized already: ``(B, C, H, W)``."""
        return self.net(x, time)

    def forward_args(self, batch: Any) -> tuple[Tensor, Tensor]:
        x = self.standardize(batch[0])
        return x, torch.arange(len(x), device=x.device) % self.hparams["num_steps"]

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor, Tensor]:
        x = torch.zeros(batch_size, *self.example_shape, device=self.device)
        return x, torch.zeros(batch_size, dtype=torch.long, device=self.device)

    def _losses(self, x: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Return the squared errors ``(B, C, H, W)`` at times ``(B,)``."""
        x, share = self.standardize(x), self.alpha_bar[time].view(-1, 1, 1, 1)
        noisy = share.sqrt() * x + (1 - share).sqrt() * noise  # eq. 4
        velocity = share.sqrt() * noise - (1 - share).sqrt() * x
        return (self(noisy, time) - velocity).square()

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        x, _, *weight = batch
        time = torch.randint(len(self.alpha_bar), (len(x),), device=x.device)
        loss, count = weighted_mean(self._losses(x, time, torch.randn_like(x)), *weight)
        return loss, {"loss": loss}, count

    def build_metrics(self) -> dict[str, Metric]:
        return {"loss": MeanMetric()}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, _, *weight = batch
        time = (uniform_of(x, 1)[:, 0] * len(self.alpha_bar)).long()
        losses = self._losses(x, time, normal_of(x, x[0].numel(), seed=1).view_as(x))
        metrics["loss"].update(counted(losses, *weight))

    def render(self, batch: Any) -> dict[str, Any]:
        return {"samples": image_wall(self.sample(64))}

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Return new images in [0, 1], made from noise step by step (algorithm 2): ``(count, C, H, W)``.

        Args:
            count: Number of images.
            seed: Seed of the noise.
        """
        generator, shape = torch.Generator().manual_seed(seed), (count, *self.example_shape)
        x = torch.randn(shape, generator=generator).to(self.device)
        for step in reversed(range(self.hparams["num_steps"])):
            share = self.alpha_bar[step]
            before = self.alpha_bar[step - 1] if step else torch.ones_like(share)
            velocity = self(x, torch.full((count,), step, device=self.device))
            noise = (1 - share).sqrt() * x + share.sqrt() * velocity  # what the net takes for noise in x
            beta = 1 - share / before
            x = (x - beta / (1 - share).sqrt() * noise) / (1 - beta).sqrt()
            fresh = torch.randn(shape, generator=generator).to(self.device)
            x = x + ((1 - before) / (1 - share) * beta).sqrt() * fresh  # none in the last step
        return (x * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)).clamp(0, 1)


zoo.register("diffusion_unet", DiffusionModel)
