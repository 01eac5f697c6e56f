"""Temperature scaling: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2."""

import math

import torch
from torch import Tensor

_STEPS = 200  # more than it takes to halve an interval until float64 has no number in it


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """Return the temperature T > 0 for which ``logits / T`` have the smallest negative log-likelihood.

    Fit it on validation logits, and use it as ``model.probabilities(logits / T)``: above 1 the model was too sure, below 1 not sure
    enough. No decision between classes changes, nor does one at a threshold of 1/2. The loss is convex in 1 / T, so there is one
    best value; it is found in float64 by Newton's method within an interval, the same in each call.

    Args:
        logits: Logits as the net gives them.
        y: True labels.

    Shape:
        logits ``(N, K)`` and int64 y ``(N,)``; binary ``(N, 1)`` or ``(N,)`` and 0 or 1 ``(N,)``; multi-label ``(N, K)`` and 0 or 1
        ``(N, K)``: one temperature for all labels.

    Raises:
        ValueError: Logits that are not finite or of another shape than the labels, labels out of range; or no temperature is the
            best one: none is too small where each example is right, and none too large where the logits are no better than chance.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])  # sure to 98%, and right in 2 of 3
        >>> temperature = fit_temperature(logits, torch.tensor([0, 0, 1]))
        >>> [round(p, 4) for p in (logits / temperature).softmax(dim=1)[0].tolist()]
        [0.6667, 0.3333]
    """
    z, target = _two_or_more(logits.detach().cpu().double(), y.detach().cpu())
    true = z.gather(1, target[:, None])[:, 0]

    def slopes(inverse: float) -> tuple[float, float]:
        """First and second derivative of the loss by 1 / T."""
        p = (inverse * z).softmax(dim=1)
        mean = (p * z).sum(dim=1, keepdim=True)
        return float((mean[:, 0] - true).mean()), float((p * (z - mean).square()).sum(dim=1).mean())

    if slopes(0.0)[0] >= 0:
        raise ValueError("the logits are no better than chance, so no temperature is too large: train the model first")
    if not bool((true < z.amax(dim=1)).any()):
        raise ValueError(
            f"each of the {len(logits)} examples is classified right, so no temperature is too small: fit it on examples of which "
            f"some are wrong"
        )
    low = high = 1 / float(z.abs().max())  # logits of any scale
    while slopes(low)[0] > 0:
        low /= 2
    while slopes(high)[0] < 0:
        high *= 2
    inverse = (low + high) / 2
    for _ in range(_STEPS):
        slope, curvature = slopes(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = slope / curvature if curvature > 0 else math.inf
        if abs(step) <= 1e-12 * inverse:
            break
        inverse = inverse - step if low < inverse - step < high else (low + high) / 2
    return 1 / inverse


def _two_or_more(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(M, K)`` with K >= 2, and classes ``(M,)``: a logit of a label by itself is one beside 0."""
    if logits.ndim == 2 and logits.shape[1] == 1 and y.ndim == 1:
        logits = logits[:, 0]
    if logits.ndim not in (1, 2) or y.shape not in ((len(logits),), logits.shape) or not logits.numel():
        raise ValueError(
            f"logits must have shape (N, K) and labels (N,), multi-label (N, K), with one example or more, got "
            f"{tuple(logits.shape)} and {tuple(y.shape)}"
        )
    if not bool(logits.isfinite().all()):
        raise ValueError("the logits are not finite: look at the model, or leave those examples out")
    outcomes = 2 if y.shape == logits.shape else logits.shape[1]
    if y.is_floating_point() or int(y.min()) < 0 or int(y.max()) >= outcomes:
        raise ValueError(
            f"labels must be whole numbers in 0..{outcomes - 1}, got {y.min().item():g}..{y.max().item():g} ({y.dtype})"
        )
    if y.shape == logits.shape:
        logits = torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(0, -2)  # (N, ...) -> (M, 2)
    return logits, y.flatten().long()
