"""``confusion.json`` of a run: what a classifier, or a segmenter, took for what when its best checkpoint was tested."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.internals import is_validate_call
from callbacks.writing import warning_only
from recipes.cli.run.folder import CONFUSION
from zoo.metrics import ConfusionMatrix, LabelConfusion
from zoo.writing import replacing

_PAIRS = 20_000  # at most as many pairs of classes are written, the most frequent ones


class Confusion(Callback):
    """Write the confusion matrix of the test, or of the validation where there is no test part.

    The counts are those of the module's metric ``confusion``, exact over all processes. An error is a warning.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, "test")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_validate_call(trainer):
            self._write(trainer, pl_module, "val")

    def _write(self, trainer: Trainer, module: Any, part: str) -> None:
        metrics = getattr(module, "metrics", None)
        metric = metrics.get("confusion") if isinstance(metrics, dict) else None
        if not isinstance(metric, ConfusionMatrix | LabelConfusion):
            return
        counts = metric.compute().cpu()  # of all processes; the value that was computed when the evaluation ended
        if not trainer.is_global_zero:
            return
        with warning_only("the confusion matrix could not be written"), replacing(self.folder / CONFUSION) as temporary:
            names = [str(name) for name in module.label_names]
            unit = "pixels" if getattr(module, "makes", None) == "mask" else "examples"
            content = {"part": part, "unit": unit, "names": names, **confusion(counts)}
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def confusion(counts: Tensor) -> dict[str, Any]:
    """Return what ``confusion.json`` tells of a matrix: numbers of the classes, and the pairs that were confused.

    Args:
        counts: ``(K, K)``, rows are true, columns predicted classes; or ``(K, 2, 2)``, ((true negative, false positive), (false
            negative, true positive)) of each label.

    Example:
        >>> confusion(torch.tensor([[5, 2], [0, 3]]))
        {'true': [7, 3], 'predicted': [5, 5], 'right': [5, 3], 'pairs': [[0, 1, 2]], 'further': 0}
    """
    if counts.ndim == 3:
        return {"labels": counts.tolist()}
    true, predicted = (counts - torch.diag(counts.diagonal())).nonzero(as_tuple=True)
    number, order = counts[true, predicted].sort(descending=True, stable=True)
    pairs = torch.stack([true[order], predicted[order], number], dim=1)
    return {
        "true": counts.sum(dim=1).tolist(),
        "predicted": counts.sum(dim=0).tolist(),
        "right": counts.diagonal().tolist(),
        "pairs": pairs[:_PAIRS].tolist(),
        "further": int(number[_PAIRS:].sum()),
    }
