"""What a classifier's metrics of labels cost a batch of 64, against torchmetrics' own, for few and for many classes."""

from functools import partial

import torch
from torch import nn
from torchmetrics import Metric
from torchmetrics import classification as tm

from benchmarks.harness import Row, alternate, clock, difference, peak_memory, ratio, spread
from zoo.metrics.labels import MATRIX, DecisionMetric
from zoo.tasks import ClassificationTask

BATCH = 64


def ours(k: int, device: str) -> dict[str, Metric]:
    """Accuracy, top-5 accuracy, macro F1, and up to 2,000 classes the confusion matrix, as our task builds them."""
    metrics = ClassificationTask(nn.Identity(), k, top_k=5).build_metrics()
    return {name: metric.to(device) for name, metric in metrics.items() if name != "loss"}


def peers(k: int, device: str) -> dict[str, Metric]:
    """The same by torchmetrics, without checks of the labels."""
    metrics: dict[str, Metric] = {
        "acc": tm.MulticlassAccuracy(k, average="micro", validate_args=False),
        "acc_top5": tm.MulticlassAccuracy(k, average="micro", top_k=5, validate_args=False),
        "f1": tm.MulticlassF1Score(k, average="macro", validate_args=False),
    }
    if k <= MATRIX:
        metrics["confusion"] = tm.MulticlassConfusionMatrix(k, validate_args=False)
    return {name: metric.to(device) for name, metric in metrics.items()}


def update(metrics: dict[str, Metric], k: int, times: int, device: str) -> float:
    """Seconds an update takes, the decision included."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(BATCH, k, generator=generator).softmax(1).to(device)
    y = torch.randint(k, (BATCH,), generator=generator).to(device)
    started = clock(device)
    for _ in range(times):
        decided = p.argmax(1) if any(isinstance(metric, DecisionMetric) for metric in metrics.values()) else None
        for metric in metrics.values():
            metric.update(decided if isinstance(metric, DecisionMetric) else p, y)
    return (clock(device) - started) / times


def hold_ours(k: int, device: str) -> None:
    """A few updates of ours, for its peak memory."""
    update(ours(k, device), k, 3, device)


def hold_peers(k: int, device: str) -> None:
    """The same of the peer."""
    update(peers(k, device), k, 3, device)


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    rows = []
    for k, repeats, target in ((10, 200, 1.5), (1000, 50, 10), (10_000, 3, 50)):
        made = {"ours": ours(k, device), "peers": peers(k, device)}
        times = alternate(
            {name: partial(update, metrics, k, repeats, device) for name, metrics in made.items()}, rounds=7
        )
        faster = ratio(times["peers"], times["ours"])
        matrix = "" if k > MATRIX else " and confusion matrix"
        rows.append(
            Row(
                f"{k:,} classes, batch {BATCH}: accuracy, top-5 accuracy, macro F1{matrix}",
                f"{1e3 * spread(times['ours']).median:.2f} ms",
                f"{1e3 * spread(times['peers']).median:.2f} ms by torchmetrics",
                f"{faster:.1f}x faster",
                f">= {target}x faster",
                faster.median >= target,
            )
        )
        mine, others = ([peak_memory(partial(f, k), device) for _ in range(3)] for f in (hold_ours, hold_peers))
        rows.append(
            Row(
                "the same: peak memory",
                f"{spread(mine).median:.0f} MB",
                f"{spread(others).median:.0f} MB",
                f"{difference(mine, others):+.0f} MB",
                "<= +2 MB",
                difference(mine, others).median <= 2,
            )
        )
    return rows
