"""Terms of variational bounds."""

from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of a diagonal normal from the standard one, in nats: ``(B, D)`` twice -> ``(B,)``."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1) / 2
