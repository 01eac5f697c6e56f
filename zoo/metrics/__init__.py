"""Metrics of our own, torchmetrics objects: exact however examples are spread over batches and processes."""

from zoo.metrics.calibration import CalibrationError, Reliability
from zoo.metrics.captions import AttributesRight, CIDErD, caption_metrics
from zoo.metrics.codes import ActiveUnits
from zoo.metrics.labels import Accuracy, ConfusionMatrix, DecisionMetric, LabelConfusion, MacroF1, TopKAccuracy
from zoo.metrics.pixels import EvaluationLoss
from zoo.metrics.running_means import RunningMeans
from zoo.metrics.samples import FrechetDistance, Shares, entropy, frechet_distance, mode_of, num_reached, share_within
from zoo.metrics.series import RelativeError, seasonal_naive
from zoo.metrics.texts import BLEU, CHRF, ExactMatch, text_metrics
from zoo.metrics.tokens import BitsPer, NatsPer, Perplexity

__all__ = [
    "BLEU",
    "CHRF",
    "Accuracy",
    "ActiveUnits",
    "AttributesRight",
    "BitsPer",
    "CIDErD",
    "CalibrationError",
    "ConfusionMatrix",
    "DecisionMetric",
    "EvaluationLoss",
    "ExactMatch",
    "FrechetDistance",
    "LabelConfusion",
    "MacroF1",
    "NatsPer",
    "Perplexity",
    "RelativeError",
    "Reliability",
    "RunningMeans",
    "Shares",
    "TopKAccuracy",
    "caption_metrics",
    "entropy",
    "frechet_distance",
    "mode_of",
    "num_reached",
    "seasonal_naive",
    "share_within",
    "text_metrics",
]
