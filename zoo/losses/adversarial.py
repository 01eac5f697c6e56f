"""Losses of adversarial training: those of the discriminator and of the generator, and the gradient penalty."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Literal["minimax", "non_saturating", "least_squares", "wasserstein"]
LOSSES = ("minimax", "non_saturating", "least_squares", "wasserstein")


def discriminator_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of the discriminator.

    Args:
        loss: "minimax", "non_saturating": cross-entropy in nats, real ones labeled 1 and generated ones 0, the mean of
            both halves (Goodfellow et al. 2014, arXiv:1406.2661); "least_squares": half the squared distance to 1 and to 0, summed
            (Mao et al. 2017, arXiv:1611.04076, eq. 8); "wasserstein": generated minus real (Arjovsky et al. 2017,
            arXiv:1701.07875).
        real: Logits of real examples, ``(B,)``.
        fake: Logits of generated examples, ``(B,)``.
    """
    if loss == "wasserstein":
        return fake.mean() - real.mean()
    if loss == "least_squares":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def generator_loss(loss: str, fake: Tensor) -> Tensor:
    """Return the loss of the generator.

    Args:
        loss: "minimax": log(1 - D), which saturates where the discriminator is certain; "non_saturating": -log D;
            "least_squares": half the squared distance to 1; "wasserstein": minus the mean.
        fake: Logits of generated examples, ``(B,)``.
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
    discriminator's weights, also under mixed precision: a second derivative needs the digits.

    Args:
        discriminator: Discriminator that treats each example alone, without batch normalization.
        real: Real examples.
        fake: Generated examples, of the same shape.
        y: Classes of both, or None.
        share: Position of the point between the two, in [0, 1], ``(B,)``; 1 is the real example.
    """
    dtype = next(discriminator.parameters()).dtype
    share = share.view(-1, *[1] * (real.ndim - 1)).to(dtype)
    between = (share * real.to(dtype) + (1 - share) * fake.detach().to(dtype)).requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        scores = discriminator(between, y)
        (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1)  # (B, ...) -> (B,)
    return (norms - 1).square().mean()
