"""Losses of adversarial training: what a discriminator and a generator minimize."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Literal["minimax", "non_saturating", "least_squares", "wasserstein"]
LOSSES = ("minimax", "non_saturating", "least_squares", "wasserstein")


def discriminator_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of the discriminator, of its scores of real and of generated examples.

    Args:
        loss: "minimax", "non_saturating": cross-entropy in nats, real ones labeled 1 and generated ones 0, the mean of
            both halves (Goodfellow et al. 2014, arXiv:1406.2661); "least_squares": half the squared distance to 1 and to 0, summed
            (Mao et al. 2017, arXiv:1611.04076, eq. 8); "wasserstein": generated minus real (Arjovsky et al. 2017,
            arXiv:1701.07875).
        real: scores ``(B,)`` before any sigmoid.
        fake: scores ``(B,)``.
    """
    if loss == "wasserstein":
        return fake.mean() - real.mean()
    if loss == "least_squares":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def generator_loss(loss: str, fake: Tensor) -> Tensor:
    """Return the loss of the generator, of the scores of its examples.

    "minimax": log(1 - D), which saturates where the discriminator is sure; "non_saturating": -log D; "least_squares": half the
    squared distance to 1; "wasserstein": minus the mean score.
    """
    if loss == "wasserstein":
        return -fake.mean()
    if loss == "least_squares":
        return (fake - 1).square().mean() / 2
    return F.softplus(-fake).mean() if loss == "non_saturating" else -F.softplus(fake).mean()


def gradient_penalty_of(
    discriminator: nn.Module, real: Tensor, fake: Tensor, y: Tensor | None, share: Tensor
) -> Tensor:
    """Return the gradient penalty between real and generated examples: the mean of (|gradient| - 1)^2.

    Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv:1704.00028, eq. 3. Computed in the type of the
    discriminator's weights, float32 under mixed precision too: a gradient of a gradient wants its digits.

    Args:
        discriminator: must look at each example by itself: no batch normalization.
        real: examples.
        fake: examples.
        y: their classes.
        share: where between the two, in [0, 1], an example ``(B,)``; 1 is the real one.
    """
    dtype = next(discriminator.parameters()).dtype
    share = share.view(-1, *[1] * (real.ndim - 1)).to(dtype)
    between = (share * real.to(dtype) + (1 - share) * fake.detach().to(dtype)).requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        scores = discriminator(between, y)
        (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1)  # (B, ...) -> (B,)
    return (norms - 1).square().mean()
