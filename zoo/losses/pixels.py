"""Losses of segmentation, each a function of sums over pixels: the same over batches and processes."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = ("cross_entropy", "dice", "focal")
_TINY = 1e-12


class PixelSums(NamedTuple):
    """Sums over valid pixels; the sums of two sets of pixels can be added.

    Attributes:
        pixels: Number of valid pixels.
        cross_entropy, focal: Sums of these losses.
        both: Sum of the predicted probability of each class where it is true, ``(K,)``.
        given: Sum of the predicted probability of each class, ``(K,)``.
        true: Number of pixels of each class, ``(K,)``.
    """

    pixels: Tensor
    cross_entropy: Tensor
    focal: Tensor
    both: Tensor
    given: Tensor
    true: Tensor

    @classmethod
    def zeros(cls, num_classes: int, dtype: torch.dtype) -> "PixelSums":
        """Return the sums over no pixels."""
        one, each = torch.zeros((), dtype=dtype), torch.zeros(num_classes, dtype=dtype)
        return cls(one, one.clone(), one.clone(), each, each.clone(), each.clone())

    @classmethod
    def of(
        cls, logits: Tensor, y: Tensor, valid: Tensor, loss: "PixelLoss", class_weight: Tensor | None = None
    ) -> "PixelSums":
        """Return the sums over the pixels of a batch; those that ``loss`` does not use stay 0.

        Args:
            logits: Logits ``(B, K, H, W)``.
            y: Classes ``(B, H, W)``.
            valid: Which pixels count, ``(B, H, W)``.
            loss: The loss that is computed from the sums.
            class_weight: Factors ``(K,)`` of the losses of the pixels of each class.
        """
        k = logits.shape[1]
        zero, none = logits.new_zeros(()), logits.new_zeros(k)
        y = y.where(valid, 0)
        ce, focal, both, given, true = zero, zero, none, none, none
        if loss.per_pixel:
            losses = F.cross_entropy(logits, y, reduction="none")  # (B, H, W)
            weight = valid.to(logits.dtype) if class_weight is None else class_weight[y] * valid
            ce = (losses * weight).sum()
            if "focal" in loss.weights:  # 1 - p from -ln p, without cancellation; the slope of a root is infinite at 0
                wrong = (-torch.expm1(-losses)).clamp(min=_TINY)
                focal = (wrong**loss.gamma * losses * weight).sum()
        if "dice" in loss.weights:
            p = logits.softmax(dim=1) * valid.unsqueeze(1)  # (B, K, H, W)
            p_true = p.gather(1, y.unsqueeze(1)).flatten()
            both = none.index_add(0, y.flatten(), p_true)
            given = p.sum(dim=(0, 2, 3))
            true = none.index_add(0, y.flatten(), valid.flatten().to(none.dtype))
        return cls(valid.sum().to(logits.dtype), ce, focal, both, given, true)


class PixelLoss:
    """Weighted sum of cross-entropy, Dice and focal loss, a function of :class:`PixelSums`.

    - "cross_entropy": mean over pixels, in nats.
    - "dice": 1 - D, D the mean over the classes that occur of 2 both / (given + true) (Milletari et al. 2016, arXiv:1606.04797,
      without the squares). It is no mean over pixels.
    - "focal": (1 - p)^gamma times the cross-entropy, p the probability of the true class; mean over pixels (Lin et al. 2017,
      arXiv:1708.02002, eq. 4).

    Args:
        weights: Weight of each loss by name.
        gamma: Exponent of the focal loss.
    """

    def __init__(self, weights: dict[str, float], gamma: float) -> None:
        self.weights, self.gamma = weights, gamma
        self.per_pixel = bool({"cross_entropy", "focal"} & weights.keys())

    def __call__(self, sums: PixelSums) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its terms by name; 0 for no pixels."""
        terms = {}
        count = sums.pixels.clamp(min=1)
        for name in self.weights:
            if name == "dice":
                present = sums.true > 0
                dice = 2 * sums.both / (sums.given + sums.true).clamp(min=_TINY)
                terms[name] = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
            else:
                terms[name] = getattr(sums, name) / count
        return sum((w * terms[name] for name, w in self.weights.items()), torch.zeros_like(count)), terms
