"""Metrics of classifiers whose examples have several labels."""

from typing import Any

from torch import Tensor
from torchmetrics.classification import MultilabelF1Score


class MacroF1(MultilabelF1Score):
    """The mean F1 of the labels that occur or are predicted, from counts over all examples; nan if there is none.

    A label that neither occurs nor is predicted has no F1, so it is left out, as a class of one label an example is (torchmetrics
    would count it as 0 here).

    Args:
        metric: Arguments of ``torchmetrics.classification.MultilabelF1Score`` but the average.
    """

    def __init__(self, **metric: Any) -> None:
        super().__init__(average="none", zero_division=float("nan"), **metric)

    def compute(self) -> Tensor:
        return super().compute().nanmean()
