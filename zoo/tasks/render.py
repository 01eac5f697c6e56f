"""What is worth looking at, by the kind of task."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix, multilabel_confusion_matrix

from zoo.tasks import pictures

if TYPE_CHECKING:
    from zoo.tasks.classification import ClassificationTask
    from zoo.tasks.regression import RegressionTask

_MISTAKES = 50  # rows of the table that stands in for a confusion matrix without names


@torch.no_grad()
def render_classification(task: "ClassificationTask", batch: Any) -> dict[str, Any]:
    """``examples`` (images), ``regions`` (two inputs), ``confusion``, and ``mistakes`` where that is too large for names."""
    x, y = batch[0], batch[1]
    names = task.class_names or [str(k) for k in range(task.num_classes)]
    p = task.probabilities(task(x).float())
    decided = task.decide(p)
    found: dict[str, Any] = {}
    if x.ndim == 4 and x.shape[1] in (1, 3):
        found["examples"] = pictures.image_grid(x, _told(decided, names), _told(y, names))
    if x.shape[1:] == (2,) and task.mode != "multilabel":
        found["regions"] = pictures.decision_regions(x, y, decided != y, lambda grid: _sureness(task, grid), names)
    last = task.metrics.get("confusion")
    evaluated = last is not None and last.update_called
    counts = last.compute() if last is not None and evaluated else _confusion(task, decided, y)
    return found | _confusion_pictures(counts.cpu(), names, "" if evaluated else " shown")


def _confusion(task: "ClassificationTask", decided: Tensor, y: Tensor) -> Tensor:
    if task.mode == "multilabel":
        return multilabel_confusion_matrix(decided.long(), y.long(), task.num_classes)
    return multiclass_confusion_matrix(decided, y.long(), task.num_classes)


def _sureness(task: "ClassificationTask", x: Tensor) -> Tensor:
    """Probabilities, bent so that the largest one is the decision whatever the threshold."""
    p = task.probabilities(task(x).float())
    if task.mode != "binary":
        return p
    cut = task.hparams["threshold"]  # bend [0, cut, 1] to [0, 1/2, 1]
    bent = torch.where(p[:, 1] < cut, p[:, 1] / (2 * cut), 1 - (1 - p[:, 1]) / (2 * (1 - cut)))
    return torch.stack([1 - bent, bent], dim=1)


def _told(labels: Tensor, names: list[str]) -> list[str]:
    """Class names: of ``(B,)``, or of the ones in ``(B, K)``."""
    if labels.ndim == 1:
        return [names[k] for k in labels.tolist()]
    return [", ".join(names[k] for k in row.nonzero().flatten()) or "none" for row in labels]


def _confusion_pictures(counts: Tensor, names: list[str], which: str) -> dict[str, Any]:
    if counts.ndim == 3:  # of each label: ((true negative, false positive), (false negative, true positive))
        table = counts.flatten(1)[:, [3, 2, 1, 0]]  # (K, 2, 2) -> (K, 4)
        share = float((table[:, 0] + table[:, 3]).sum() / table.sum())
        columns = ["right: yes", "missed", "false alarm", "right: no"]
        title = f"{share:.2%} right of {int(table.sum())} answers{which}"
        return {"confusion": pictures.heatmap(table, names, columns, ("label", "answer"), title)}
    total, right = int(counts.sum()), int(counts.diagonal().sum())
    title = f"{right / max(total, 1):.2%} right of {total} examples{which}"
    found: dict[str, Any] = {"confusion": pictures.heatmap(counts, names, names, ("true", "predicted"), title)}
    if len(names) > pictures.NAMED:
        wrong = counts - torch.diag(counts.diagonal())
        number, place = wrong.flatten().sort(descending=True, stable=True)
        rows = zip(place.tolist(), number[:_MISTAKES].tolist(), strict=False)
        mistakes = [[names[i // len(names)], names[i % len(names)], n] for i, n in rows if n]
        found["mistakes"] = [["true", "predicted", "count"], *mistakes]
    return found


@torch.no_grad()
def render_regression(task: "RegressionTask", batch: Any) -> dict[str, Any]:
    """``scatter``, and ``curve`` for one input."""
    x, y = batch[0], batch[1]
    columns = y.unsqueeze(1) if y.ndim == 1 else y
    found = {"scatter": pictures.predicted_against_true(columns, task(x))}
    if x.shape[1:] == (1,):
        found["curve"] = pictures.fitted_curve(x, columns, task)
    return found
