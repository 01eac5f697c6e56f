"""Segmentation: a class for each pixel."""

import math
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from zoo.drawing import figures
from zoo.drawing.masks import IGNORED_BYTE, mask_layers, mask_rows
from zoo.losses.pixels import LOSSES, PixelLoss, PixelSums
from zoo.metrics.labels import IGNORED, ConfusionMatrix
from zoo.metrics.pixels import EvaluationLoss, exact_dtype, scores
from zoo.model import Makes, check_num_classes
from zoo.tasks.base import Task, TaskArguments, check_monitor, input_of

_SHOWN = 8  # examples in a picture


class SegmentationArguments(TaskArguments, total=False):
    """Arguments of :class:`SegmentationTask` but the net and ``num_classes``."""

    loss: Literal["cross_entropy", "dice", "focal"] | dict[str, float]
    ignore_index: int
    class_weight: list[float] | None
    focal_gamma: float
    monitor: str


class SegmentationTask(Task):
    """Train a net to predict the class of each pixel.

    Pixels of ``ignore_index`` do not count; all others are valid. The loss is one of these, or a weighted sum of them:

    - "cross_entropy": in nats, the mean over the valid pixels of the batch (not over images).
    - "dice": 1 - D, D the mean over the classes that the batch's masks have of 2 sum(p t) / (sum(p) + sum(t)), sums over all valid
      pixels of the batch, p the probability and t 0 or 1 (Milletari et al. 2016, arXiv:1606.04797, without the squares). Classes
      that are absent have no term of their own; what is wrongly given to them is missing elsewhere.
    - "focal": -(1 - p)^gamma ln p with p the probability of the true class, the mean over valid pixels (Lin et al. 2017,
      arXiv:1708.02002, equation 4).

    A batch without a valid pixel has loss 0 and gradients of 0.

    Logs ``loss`` (of a sum its terms too, by their names) and pixel accuracy ``acc``, in evaluation also ``miou`` and the
    intersection over union of each class, ``iou/<name>`` (nan for a class that neither the masks nor the predictions have; ``miou``
    is the mean over the others). All are exact means over valid pixels, whatever the batches and processes: those of evaluation
    come from one confusion matrix, and its Dice from sums over all of the data. ``metrics["confusion"].compute()`` is that matrix.
    So is the gradient of the cross-entropy and the focal loss, however a step is cut into batches and processes; Dice, a ratio of
    sums, is that of each batch.

    Args:
        net: ``(B, C, H, W)`` -> logits ``(B, K, H, W)``.
        num_classes: Number of classes K >= 2, the background included.
        loss: "cross_entropy", "dice", "focal", or weights > 0 of some of them, e.g. ``{"cross_entropy": 1.0, "dice": 0.5}``.
        ignore_index: Value of pixels that do not count.
        class_weight: K weights >= 0 that multiply the TRAINING cross-entropy and focal loss of a pixel of that class.
        focal_gamma: Exponent of the focal loss, >= 0; 2 in the paper.
        monitor: Metric that decides which checkpoint is best: "val/miou", "val/loss" ...
        task: Arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` with x ``(B, C, H, W)`` and y whole numbers ``(B, H, W)``, 0..K-1 or ``ignore_index``; or ``(x, y,
        weight)`` with weight ``(B,)`` or ``(B, H, W)``: pixels of weight 0 do not count.

    Raises:
        ValueError: An argument out of its range, masks of another size than their images, or with classes that there are not.
    """

    class_weight: Tensor
    training_buffers = ("class_weight",)

    def __init__(
        self,
        net: nn.Module,
        num_classes: int = 2,
        loss: Literal["cross_entropy", "dice", "focal"] | dict[str, float] = "cross_entropy",
        ignore_index: int = 255,
        class_weight: list[float] | None = None,
        focal_gamma: float = 2.0,
        monitor: str = "val/miou",
        **task: Unpack[TaskArguments],
    ) -> None:
        if num_classes < 2:
            raise ValueError(
                f"num_classes must be 2 or more, got {num_classes}: an object and its background are two classes"
            )
        terms: dict[str, float] = {loss: 1.0} if isinstance(loss, str) else {**loss}
        if not terms or set(terms) - set(LOSSES) or not all(0 < weight < math.inf for weight in terms.values()):
            raise ValueError(
                f"loss must be one of {', '.join(LOSSES)}, or weights above 0 of some of them, got {loss!r}"
            )
        if class_weight is not None and (len(class_weight) != num_classes or min(class_weight) < 0):
            raise ValueError(f"class_weight wants {num_classes} weights >= 0, one a class, got {class_weight}")
        if not 0 <= focal_gamma < math.inf:
            raise ValueError(f"focal_gamma must be 0 or more, got {focal_gamma}")
        check_monitor(monitor, "val/miou")
        super().__init__(net, **task)
        self.pixel_loss = PixelLoss(terms, focal_gamma)

    def register_task_buffers(self) -> None:
        """Register the weights of the classes too."""
        super().register_task_buffers()
        weights = self.hparams["class_weight"] or [1.0] * self.hparams["num_classes"]
        self.register_buffer("class_weight", torch.tensor(weights))

    @property
    def num_classes(self) -> int:
        return self.hparams["num_classes"]

    @property
    def makes(self) -> Makes:
        return "mask"

    @property
    def monitor(self) -> tuple[str, str]:
        name = self.hparams["monitor"]
        return name, "max" if name.endswith(("miou", "acc")) or "/iou/" in name else "min"

    def setup(self, stage: str) -> None:
        """Compare the number of classes with the data's."""
        check_num_classes(self.num_classes, getattr(self.trainer, "datamodule", None))
        super().setup(stage)

    def output_shape(self) -> tuple[int, ...]:
        return (self.num_classes, *self.example_shape[1:])

    def _logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits for checked masks, in float32 at least."""
        if y.shape != (len(x), *x.shape[2:]):
            raise ValueError(
                f"masks must have shape {(len(x), *x.shape[2:])}, (B, H, W) of images {tuple(x.shape)}, got {tuple(y.shape)}: "
                "resize and crop a mask with its image, by the nearest pixel"
            )
        logits = self(x)
        if not isinstance(logits, Tensor) or logits.shape != (len(x), self.num_classes, *x.shape[2:]):
            raise ValueError(
                f"{type(self.net).__name__} gives {tuple(getattr(logits, 'shape', ())) or type(logits).__name__} for images "
                f"{tuple(x.shape)}: wanted are {self.num_classes} logits for each pixel, {(len(x), self.num_classes, *x.shape[2:])}"
            )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _check_classes(self, y: Tensor) -> None:
        ignored = self.hparams["ignore_index"]
        valid = y[y != ignored]
        if valid.is_floating_point() or (len(valid) and (valid.min() < 0 or valid.max() >= self.num_classes)):
            found = ", ".join(f"{value:g}" for value in valid.unique().tolist()[-5:])
            raise ValueError(
                f"masks must hold the classes 0..{self.num_classes - 1} as whole numbers, or ignore_index={ignored}, got {y.dtype} "
                f"with {found}: set num_classes to that of the data, or ignore_index to what stands for no class"
            )

    def _valid(self, y: Tensor, weight: list[Tensor]) -> Tensor:
        """True where a pixel counts ``(B, H, W)``; of ``weight``, none or one tensor, 0 does not."""
        valid = y != self.hparams["ignore_index"]
        return (
            valid & (weight[0] > 0).view(len(y), *([1, 1] if weight[0].ndim == 1 else y.shape[1:])) if weight else valid
        )

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the loss over valid pixels, its terms if there are several, pixel accuracy, and the number of valid pixels."""
        x, y, *weight = batch
        logits = self._logits(x, y)
        y = y.long()
        valid = self._valid(y, weight)
        class_weight = None if self.hparams["class_weight"] is None else self.class_weight
        sums = PixelSums.of(logits, y, valid, self.pixel_loss, class_weight)
        loss, terms = self.pixel_loss(sums)
        with torch.no_grad():
            right = ((logits.argmax(dim=1) == y) & valid).sum() / sums.pixels.clamp(min=1)
        return loss, {"loss": loss, "acc": right, **(terms if len(terms) > 1 else {})}, sums.pixels

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the classes in the first epoch: on a GPU one out of range would be an unreadable device assert."""
        if self.trainer.current_epoch == 0:
            self._check_classes(batch[1])

    def build_metrics(self) -> dict[str, Metric]:
        """Return the confusion matrix of all valid pixels, and the loss."""
        k = self.num_classes
        return {
            "loss": EvaluationLoss(self.pixel_loss, k, exact_dtype(self.device)),
            "confusion": ConfusionMatrix(k),
        }

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *weight = batch
        self._check_classes(y)
        logits, valid = self._logits(x, y), self._valid(y, weight)
        y = y.long()
        metrics["loss"].update(PixelSums.of(logits, y, valid, self.pixel_loss))
        metrics["confusion"].update(logits.argmax(dim=1), y.masked_fill(~valid, IGNORED))

    def _end_evaluation(self, stage: str) -> None:
        super()._end_evaluation(stage)
        values: dict[str, Tensor] = {}
        loss: Any = self.metrics["loss"]
        if len(self.pixel_loss.weights) > 1:
            values |= loss.terms
        values |= scores(self.metrics["confusion"].compute(), self.label_names)
        for name, value in values.items():  # the same on all ranks
            self.log(f"{stage}/{name}", value, batch_size=1, prog_bar=name == "miou", sync_dist=True, reduce_fx="max")

    output_meaning = "probabilities of the classes of each pixel (B, K, H, W), in the order of class_names"

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``probabilities``, ``(B, K, H, W)``."""
        return {"probabilities": self(x).float().softmax(dim=1)}

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return the predicted masks.

        Returns:
            ``mask``: the most probable class of each pixel, ``(B, H, W)``, uint8 (int64 for more than 256 classes);
            ``probability``: of that class.
        """
        probability, mask = self.outputs(input_of(batch))["probabilities"].max(dim=1)  # (B, K, H, W) -> (B, H, W)
        return {"mask": mask.byte() if self.num_classes <= 256 else mask, "probability": probability}

    @torch.no_grad()
    def render(self, batch: Any) -> dict[str, Any]:
        """Return ``masks``: images, their true and their predicted masks; ``confusion``: of the last evaluation.

        ``overlays`` are the same masks for trackers that draw them by themselves, where a byte holds a class.
        """
        x, y, names = batch[0][:_SHOWN], batch[1][:_SHOWN], self.label_names
        predicted = self._logits(x, y).argmax(dim=1)
        shown: dict[str, Any] = {"masks": mask_rows(x, y, predicted, names)}
        if len(names) <= IGNORED_BYTE:
            shown["overlays"] = mask_layers(x, y, predicted, names)
        last = self.metrics.get("confusion")
        if last is not None and last.update_called:
            counts = last.compute().cpu()
            title = f"{float(counts.diagonal().sum() / counts.sum()):.2%} right of {int(counts.sum()):,} pixels"
            shown["confusion"] = figures.heatmap(counts, names, names, ("true", "predicted"), title)
        return shown

    def expected_initial_loss(self) -> float | None:
        """Return ln K for the cross-entropy, (1 - 1/K)^gamma ln K for the focal loss; None with Dice: it depends on the masks."""
        k, weights = self.num_classes, self.pixel_loss.weights
        if "dice" in weights:
            return None
        focus = (1 - 1 / k) ** self.hparams["focal_gamma"]
        return math.log(k) * (weights.get("cross_entropy", 0.0) + weights.get("focal", 0.0) * focus)
