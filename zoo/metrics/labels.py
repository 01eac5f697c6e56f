"""Metrics of classifiers, from counts of decided and true labels."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.metrics.pixels import exact_dtype

IGNORED = -1  # the true label of an example that no metric counts
MATRIX = 2000  # classes up to which a task keeps and draws a confusion matrix, of 32 MB


class DecisionMetric(Metric):
    """Base of metrics that are updated with decided labels, not with probabilities.

    Shape:
        of each update: decided and true labels ``(N, ...)``, int64 in 0..K-1; or, where an example has several labels, whether
        each is given, ``(N, K)``. A true label of -1 does not count.
    """

    full_state_update = False


class _Share(Metric):
    """Share of what is right of all that counts; nan if nothing does."""

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("right", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def _add(self, right: Tensor, valid: Tensor) -> None:
        self.right += (right & valid).sum()
        self.total += valid.sum()

    def compute(self) -> Tensor:
        return (self.right.to(exact_dtype(self.right.device)) / self.total).float()


class Accuracy(_Share, DecisionMetric):
    """Share of all labels that are decided right; nan without labels."""

    def update(self, decided: Tensor, target: Tensor) -> None:
        self._add(decided == target, target != IGNORED)


class TopKAccuracy(_Share):
    """Share of examples whose true label is among the ``k`` most probable ones; nan without examples.

    Args:
        k: Number of labels that are looked at, >= 1.

    Shape:
        of each update: probabilities or logits ``(N, K)``, true labels ``(N,)``, of which -1 does not count.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.k = k

    def update(self, p: Tensor, target: Tensor) -> None:
        self._add((p.topk(self.k, dim=1).indices == target[:, None]).any(dim=1), target != IGNORED)


class ClassCounts(DecisionMetric):
    """Base of metrics from four numbers a class or label: how often it is decided right, decided, true, and how many there are.

    An update costs as much time and memory as its examples, whatever the number of classes.

    Args:
        num_classes: Number of classes or labels K.
    """

    counts: Tensor  # (4, K)

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", torch.zeros(4, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, decided: Tensor, target: Tensor) -> None:
        valid = target != IGNORED
        if target.ndim > 1:
            given, true = decided.bool() & valid, target == 1
            self.counts += torch.stack([part.sum(dim=0) for part in (given & true, given, true, valid)])
            return
        right, given, true, total = self.counts
        add_at(right, target, valid & (decided == target))
        add_at(given, decided, valid)
        add_at(true, target, valid)
        total += valid.sum()


class MacroF1(ClassCounts):
    """The mean F1 of the classes or labels that occur or are predicted, from counts over all examples; nan if there is none.

    A class that neither occurs nor is predicted has no F1, so it is left out (of labels, torchmetrics would count it as 0).

    Args:
        num_classes: Number of classes or labels K.
    """

    def compute(self) -> Tensor:
        right, given, true, _ = self.counts.to(exact_dtype(self.counts.device))
        return (2 * right / (given + true)).nanmean().float()  # 0 / 0: nan


class LabelConfusion(ClassCounts):
    """A confusion matrix of each label, ``(K, 2, 2)``: ((true negative, false positive), (false negative, true positive)).

    Args:
        num_classes: Number of labels K.
    """

    def compute(self) -> Tensor:
        right, given, true, total = self.counts
        table = torch.stack([total - given - true + right, given - right, true - right, right], dim=1)
        return table.view(-1, 2, 2)  # (K, 4) -> (K, 2, 2)


class ConfusionMatrix(DecisionMetric):
    """Counts of examples ``(K, K)``: rows are true, columns decided classes.

    An update costs as much time as its examples, but the matrix K^2 numbers: keep it for few classes (see ``MATRIX``).

    Args:
        num_classes: Number of classes K.
    """

    counts: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, decided: Tensor, target: Tensor) -> None:
        add_at(self.counts.view(-1), target * len(self.counts) + decided, target != IGNORED)

    def compute(self) -> Tensor:
        return self.counts.clone()


def add_at(counts: Tensor, index: Tensor, valid: Tensor) -> None:
    """Count valid indices into ``counts``, in place: at the cost of the indices, where a ``bincount`` costs all counts.

    Shape:
        counts: int64 ``(M,)``, index: int64 of any shape, valid: bool of the same.
    """
    counts.index_add_(0, torch.where(valid, index, 0).flatten(), valid.flatten().to(counts.dtype))
