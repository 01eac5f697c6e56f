"""Metrics of our own, torchmetrics objects: exact however examples are spread over batches and processes."""

from zoo.metrics.codes import ActiveUnits
from zoo.metrics.labels import MacroF1
from zoo.metrics.pixels import EvaluationLoss
from zoo.metrics.running_means import RunningMeans
from zoo.metrics.samples import FrechetDistance, Shares, entropy, frechet_distance, mode_of, num_reached, share_within

__all__ = [
    "ActiveUnits",
    "EvaluationLoss",
    "FrechetDistance",
    "MacroF1",
    "RunningMeans",
    "Shares",
    "entropy",
    "frechet_distance",
    "mode_of",
    "num_reached",
    "share_within",
]
