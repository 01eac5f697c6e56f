"""What a classifier is measured by."""

from typing import Any

from torchmetrics import MeanMetric, Metric
from torchmetrics import classification as tm

IGNORED = -1  # the label of a row that no metric counts


def classification_metrics(mode: str, num_classes: int, threshold: float, top_k: int | None) -> dict[str, Metric]:
    """Fresh metrics by name: loss, accuracy, macro F1, top-k accuracy and the confusion matrix.

    Args:
        mode, num_classes, threshold, top_k: as in :class:`zoo.ClassificationTask`.
    """
    metrics: dict[str, Metric] = {"loss": MeanMetric(nan_strategy="disable")}
    if mode == "multiclass":
        k: dict[str, Any] = {"num_classes": num_classes, "ignore_index": IGNORED, "validate_args": False}
        metrics["acc"] = tm.MulticlassAccuracy(average="micro", **k)
        metrics["f1"] = tm.MulticlassF1Score(average="macro", **k)
        metrics["confusion"] = tm.MulticlassConfusionMatrix(**k)
        if top_k is not None:
            metrics[f"acc_top{top_k}"] = tm.MulticlassAccuracy(average="micro", top_k=top_k, **k)
    elif mode == "binary":
        b: dict[str, Any] = {"threshold": threshold, "ignore_index": IGNORED, "validate_args": False}
        metrics["acc"] = tm.BinaryAccuracy(**b)
        # macro as in the other modes: the mean over both classes
        metrics["f1"] = tm.MulticlassF1Score(2, average="macro", ignore_index=IGNORED, validate_args=False)
        metrics["confusion"] = tm.BinaryConfusionMatrix(**b)
    else:
        m: dict[str, Any] = {
            "num_labels": num_classes,
            "threshold": threshold,
            "ignore_index": IGNORED,
            "validate_args": False,
        }
        metrics["acc"] = tm.MultilabelAccuracy(average="micro", **m)
        metrics["f1"] = tm.MultilabelF1Score(average="macro", **m)
        metrics["confusion"] = tm.MultilabelConfusionMatrix(**m)
    return metrics
