"""Which panel a curve of a run belongs to, and where its axis is logarithmic. Imports no torch."""

import re
from collections.abc import Sequence

EPOCH_METRIC = re.compile(r"(train|val)[/_](?!.*_(step|epoch)$)([^/]+)")  # train/loss, val/acc; not val/iou/cat
STEP_METRIC = re.compile(r"train[/_].+_step|grad_norm(/\d+)?")  # train/loss_step, grad_norm, grad_norm/0
LOSS, RATE, NORM = "loss (nats)", "learning rate", "gradient norm"


def panel_of(name: str) -> str:
    """Return the label of the panel that a curve is drawn in.

    Example:
        >>> panel_of("train/acc_step"), panel_of("val/loss"), panel_of("grad_norm")
        ('acc', 'loss (nats)', 'gradient norm')
    """
    if match := EPOCH_METRIC.fullmatch(name.removesuffix("_step")):
        return LOSS if match[3] == "loss" else match[3]
    return RATE if name.startswith("lr") else NORM


def order_of(panel: str) -> tuple[bool, bool, bool, str]:
    """Return a key that sorts panels: the loss first, the gradient norm last."""
    return panel == NORM, panel == RATE, panel != LOSS, panel


def log_bottom(curves: Sequence[Sequence[float]], panel: str) -> float | None:
    """Return where a logarithmic axis begins, None for a linear one: values differ little, or a curve would not be seen."""
    positive = [[y for y in ys if y > 0] for ys in curves]
    least, most = min(min(ys) for ys in curves), max(max(ys) for ys in curves)
    if panel not in (LOSS, RATE, NORM) or least < 0 or not all(positive):
        return None
    least = min(map(min, positive))
    if most <= (100 if panel == LOSS else 10) * least:
        return None
    return min(max(least, 1e-4 * most), *map(max, positive)) / 1.5
