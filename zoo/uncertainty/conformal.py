"""Conformal sets of labels: Angelopoulos and Bates 2021, "A Gentle Introduction to Conformal Prediction and Distribution-Free
Uncertainty Quantification", arXiv:2107.07511.

From scores of n calibration examples that the model was not trained on, a threshold; a set holds the labels whose score is no
higher. **The guarantee**: if the calibration examples and a new one are exchangeable (drawn alike), the set holds the true label
of the new one with a probability of at least ``1 - alpha``, whatever the model, and, if no two scores are equal, of at most
``1 - alpha + 1 / (n + 1)`` (theorem 1 and appendix D). The probability is over calibration examples and new ones together: it
says nothing of one class, of one example, or of data that have changed. A set may be empty: no label is as probable for this
example as true labels mostly are. Where ``alpha`` is larger than the model's error rate, some sets must be.

Example:
    >>> p, y = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]), torch.tensor([0, 0, 1])
    >>> threshold = conformal_threshold(conformal_scores(p).gather(1, y[:, None])[:, 0], alpha=0.5)
    >>> conformal_sets(torch.tensor([[0.85, 0.15], [0.5, 0.5]]), threshold).tolist()
    [[True, False], [False, False]]
"""

import math
import warnings
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from zoo.metrics.pixels import exact_dtype

Score = Literal["lac", "aps"]


def conformal_scores(p: Tensor, score: Score = "lac") -> Tensor:
    """Return how unusual each label would be for an example, in [0, 1].

    Args:
        p: Probabilities.
        score: "lac", ``1 - p`` of the label: the smallest sets on average (section 1; Sadinle et al. 2019, arXiv:1609.00451); or
            "aps", the sum of all probabilities down to that of the label: sets that grow with the difficulty of an example (section
            2.1; Romano et al. 2020, arXiv:2006.02544).

    Shape:
        ``(N, K)`` -> ``(N, K)``, float64.

    Raises:
        ValueError: An unknown score, or probabilities of another shape.
    """
    if score not in ("lac", "aps"):
        raise ValueError(f"score must be 'lac' or 'aps', got {score!r}")
    if p.ndim != 2:
        raise ValueError(f"probabilities must have shape (N, K), got {tuple(p.shape)}")
    p = p.to(exact_dtype(p.device))
    if score == "lac":
        return 1 - p
    values, classes = p.sort(dim=1, descending=True, stable=True)
    return torch.empty_like(p).scatter_(1, classes, values.cumsum(dim=1))


def conformal_threshold(scores: Tensor, alpha: float) -> float:
    """Return the threshold for sets that hold the true label with a probability of at least ``1 - alpha``.

    It is the k-th smallest score, ``k = ceil((n + 1) (1 - alpha))``. Of too few examples, ``n < 1 / alpha - 1``, it is infinite,
    with a warning: nothing less than all labels has the guarantee.

    Args:
        scores: Scores of the true labels of the calibration examples, in any order.
        alpha: Share of new examples whose true label may be missing, in (0, 1).

    Shape:
        ``(N,)``.

    Raises:
        ValueError: ``alpha`` out of its range, or scores of another shape.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is the share of sets that may miss the true label, in (0, 1), got {alpha}")
    if scores.ndim != 1:
        raise ValueError(f"scores must have shape (N,), those of the true labels, got {tuple(scores.shape)}")
    count = len(scores)
    share = 1 - Fraction(str(alpha))  # as it was written: 0.1 is no sum of powers of two
    k = math.ceil((count + 1) * share)
    if k > count:
        least = math.ceil(1 / (1 - share)) - 1
        warnings.warn(
            f"{count} calibration examples are too few for alpha={alpha:g}, which takes {least} or more: each set holds all labels",
            stacklevel=2,
        )
        return math.inf
    return float(scores.sort().values[k - 1])


def conformal_sets(p: Tensor, threshold: float, score: Score = "lac") -> Tensor:
    """Return which labels are in the set of each example: those whose score is at most the threshold.

    A set of "aps" also holds the label with which its sum passes the threshold, so it is never empty, and covers more than is
    asked (section 2.1; the paper leaves that label out at random).

    Args:
        p: Probabilities.
        threshold: See :func:`conformal_threshold`.
        score: That of the threshold, see :func:`conformal_scores`.

    Shape:
        ``(N, K)`` -> bool ``(N, K)``.
    """
    scores = conformal_scores(p, score)
    inside = scores <= threshold
    return inside if score == "lac" else inside | (scores - p < threshold)
