"""Losses, each a function of sums where it can be: the same over batches, accumulation and processes.

- Pixels: cross-entropy, Dice and focal loss, and weighted sums of them (:class:`PixelLoss`, of :class:`PixelSums`).
- Adversarial training: minimax, non-saturating, least-squares and Wasserstein losses; the gradient penalty.
- Distillation: divergence from a teacher's softened probabilities, distance to its features.
- Variational bounds: the Kullback-Leibler divergence from a standard normal.
- Means over examples, labels or tokens with weights.

Example:
    >>> import torch
    >>> loss = PixelLoss({"dice": 1.0, "focal": 0.5}, gamma=2.0)
    >>> logits, y = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long)
    >>> value, terms = loss(PixelSums.of(logits, y, valid=y >= 0, loss=loss))
    >>> sorted(terms)
    ['dice', 'focal']
"""

from zoo.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty_of
from zoo.losses.distillation import feature_losses, soft_losses
from zoo.losses.means import counted, weighted_mean
from zoo.losses.pixels import PixelLoss, PixelSums
from zoo.losses.variational import kl_to_standard_normal

__all__ = [
    "PixelLoss",
    "PixelSums",
    "counted",
    "discriminator_loss",
    "feature_losses",
    "generator_loss",
    "gradient_penalty_of",
    "kl_to_standard_normal",
    "soft_losses",
    "weighted_mean",
]
