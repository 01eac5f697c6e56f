"""Losses, each a function of sums where it can be: the same over batches, accumulation and processes."""

from zoo.losses.means import counted, weighted_mean

__all__ = ["counted", "weighted_mean"]
