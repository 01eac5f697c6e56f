"""Losses over pixels, each a function of sums: the same over a batch, over all batches and over all processes."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = ("cross_entropy", "dice", "focal")
_TINY = 1e-12


class PixelSums(NamedTuple):
    """Sums over valid pixels; those of two sets of pixels add up.

    Attributes:
        pixels: how many are valid.
        cross_entropy, focal: sums of these losses.
        both, given, true: by class ``(K,)``: the probability given to the class where it is true, that given anywhere, and the
            pixels where it is true.
    """

    pixels: Tensor
    cross_entropy: Tensor
    focal: Tensor
    both: Tensor
    given: Tensor
    true: Tensor

    @classmethod
    def zeros(cls, num_classes: int, dtype: torch.dtype) -> "PixelSums":
        """Of no pixels."""
        one, each = torch.zeros((), dtype=dtype), torch.zeros(num_classes, dtype=dtype)
        return cls(one, one.clone(), one.clone(), each, each.clone(), each.clone())

    @classmethod
    def of(
        cls, logits: Tensor, y: Tensor, valid: Tensor, loss: "PixelLoss", class_weight: Tensor | None = None
    ) -> "PixelSums":
        """Of a batch: logits ``(B, K, H, W)``, classes y ``(B, H, W)``, of which the ``valid`` ones count.

        What ``loss`` does not use stays 0. ``class_weight`` ``(K,)`` multiplies the losses of the pixels of a class.
        """
        k = logits.shape[1]
        zero, none = logits.new_zeros(()), logits.new_zeros(k)
        y = y.where(valid, 0)
        ce, focal, both, given, true = zero, zero, none, none, none
        if loss.per_pixel:
            losses = F.cross_entropy(logits, y, reduction="none")  # (B, H, W)
            weight = valid.to(logits.dtype) if class_weight is None else class_weight[y] * valid
            ce = (losses * weight).sum()
            if "focal" in loss.weights:  # 1 - p, from -ln p without loss of digits; a root's slope at 0 is not finite
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
    """A weighted sum of losses.

    Args:
        weights: by name, see ``LOSSES``.
        gamma: of the focal loss.
    """

    def __init__(self, weights: dict[str, float], gamma: float) -> None:
        self.weights, self.gamma = weights, gamma
        self.per_pixel = bool({"cross_entropy", "focal"} & weights.keys())

    def __call__(self, sums: PixelSums) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its terms by name; 0 for no pixels."""
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
