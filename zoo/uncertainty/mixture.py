"""What several predictions for the same examples say together, and how far they disagree."""

from collections.abc import Iterable

import torch
from torch import Tensor

from zoo.metrics.pixels import exact_dtype


def mixture(predictions: Iterable[Tensor], several: bool = False) -> dict[str, Tensor]:
    """Return the mean of predicted probabilities, its entropy, and the part of that which is disagreement.

    The entropy of the mean is the mean entropy of the predictions plus the mutual information between the label and which
    prediction is asked, how far they disagree: Gal 2016, "Uncertainty in Deep Learning", section 3.3; Lakshminarayanan et al.
    2017, arXiv:1612.01474, section 2.4.

    Args:
        predictions: One tensor of probabilities a member, one or more; none is kept longer than it is needed.
        several: Whether an example may have several labels: each probability is then that of a label by itself, given or not.

    Returns:
        ``probabilities``, ``entropy`` and ``disagreement``, both in nats, >= 0, the second at most the first.

    Shape:
        predictions: ``(..., K)``; entropy and disagreement ``(...)``, with ``several`` ``(..., K)``.

    Raises:
        ValueError: There is no prediction.

    Example:
        >>> sure, unsure = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> {name: value.tolist() for name, value in mixture([sure, sure]).items()}
        {'probabilities': [[1.0, 0.0]], 'entropy': [0.0], 'disagreement': [0.0]}
        >>> mixture([unsure, unsure])["entropy"].item() == mixture([sure, sure.flip(1)])["entropy"].item()
        True
    """
    total = own = None
    count = 0
    for p in predictions:
        exact = p.to(exact_dtype(p.device))
        entropy = _entropy(exact, several)
        total, own = (exact, entropy) if total is None or own is None else (total + exact, own + entropy)
        count, kind = count + 1, p.dtype
    if total is None or own is None:
        raise ValueError("there is no prediction to mix: give one or more")
    mean = total / count
    entropy = _entropy(mean, several)
    disagreement = (entropy - own / count).clamp(min=0)  # by Jensen >= 0, but for rounding
    return {"probabilities": mean.to(kind), "entropy": entropy.to(kind), "disagreement": disagreement.to(kind)}


def _entropy(p: Tensor, several: bool) -> Tensor:
    """Entropy in nats; 0 log 0 is 0."""
    terms = -torch.xlogy(p, p)
    return terms - torch.xlogy(1 - p, 1 - p) if several else terms.sum(dim=-1)
