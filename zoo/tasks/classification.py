"""Classification: multi-class (softmax), binary (one logit), multi-label (one logit a class)."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from zoo.tasks.base import Task
from zoo.tasks.metrics import IGNORED, classification_metrics
from zoo.tasks.portable import check_num_classes, real_device
from zoo.tasks.render import render_classification


class ClassificationTask(Task):
    """Train a net as a classifier.

    Loss in nats, a mean over examples: cross-entropy ("multiclass"), or binary cross-entropy with logits ("binary": one
    logit; "multilabel": the mean over the K logits). Logs loss, accuracy (``acc``), macro-averaged F1 (``f1``) and, with
    ``top_k``, top-k accuracy (``acc_top5``); ``metrics["confusion"].compute()`` is the confusion matrix of the last evaluation.

    Args:
        net: ``(B, ...)`` -> logits ``(B, K)``. In binary mode K is 1: a net that has ``reset_head`` gets its one output here.
            In training it may also give (logits, [logits of its auxiliary heads, ...]), or as torchvision (logits, aux, ...).
        num_classes: number of classes K >= 2 (labels, in multi-label mode >= 1).
        mode: "multiclass", "binary" or "multilabel".
        class_weight: "balanced", or K weights >= 0 that multiply the TRAINING loss of an example of that class (multi-label:
            of a positive of that class). "balanced" is N / (K N_k) (multi-label: negatives / positives), counted on the
            datamodule's training split at the first fit.
        label_smoothing: share of the target spread over all classes in training, in [0, 1).
        top_k: also log top-k accuracy, 2 <= top_k < K (multi-class only).
        threshold: probability from which a binary or multi-label output counts as positive, in (0, 1).
        monitor: the metric that decides which checkpoint is best: "val/acc", "val/loss" ...
        aux_weight: what the loss of each auxiliary head counts, >= 0, for a net that has such; 0.3 in Szegedy et al. 2014
            (arXiv:1409.4842, section 5). ``train/loss`` is without them; they are ``train/aux1_loss`` ...
        task: arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` with x ``(B, ...)`` and y int64 ``(B,)`` in 0..K-1 (multi-label: 0/1, ``(B, K)``); evaluation also takes
        ``(x, y, weight)``: rows of weight 0 count nowhere. In training, multi-class y may be soft (mixup, cutmix): float
        ``(B, K)``, shares that sum to 1; then the loss is the cross-entropy with them, and ``train/acc`` the mean share that the
        predicted class has in the target, which not even a perfect net brings to 1.

    Raises:
        ValueError: an argument out of its range, or data with another number of classes.
    """

    class_weight: Tensor

    def __init__(
        self,
        net: nn.Module,
        num_classes: int = 10,
        mode: Literal["multiclass", "binary", "multilabel"] = "multiclass",
        class_weight: Literal["balanced"] | list[float] | None = None,
        label_smoothing: float = 0.0,
        top_k: int | None = None,
        threshold: float = 0.5,
        monitor: str = "val/acc",
        aux_weight: float = 0.3,
        **task: Any,
    ) -> None:
        _check(num_classes, mode, class_weight, label_smoothing, top_k, threshold, monitor)
        if not aux_weight >= 0:
            raise ValueError(f"aux_weight must be 0 or more, got {aux_weight}")
        reset_head = getattr(net, "reset_head", None)
        if mode == "binary" and reset_head is not None:
            reset_head(1)
        super().__init__(net, **task)
        self.num_classes = num_classes
        self.mode = mode
        self._weighted = class_weight is not None

    def register_task_buffers(self) -> None:
        """The weights of the classes too."""
        super().register_task_buffers()
        given, count = self.hparams["class_weight"], self.hparams["num_classes"]
        weights = [1.0] * count if given in (None, "balanced") else given
        self.register_buffer("class_weight", torch.tensor(weights, device=real_device()))

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that decides which checkpoint is best, and its mode."""
        name = self.hparams["monitor"]
        return name, "min" if name.endswith("loss") else "max"

    def setup(self, stage: str) -> None:
        """Compare the number of classes with the data's, and count the classes for "balanced" weights."""
        data = getattr(self.trainer, "datamodule", None)
        check_num_classes(self.num_classes, data)
        super().setup(stage)
        known = (self.class_weight != 1).any()  # counted before, or loaded with the model
        if stage == "fit" and self.hparams["class_weight"] == "balanced" and not known:
            self.class_weight = self._balanced(data).to(self.class_weight.device)

    @property
    def output_size(self) -> int:
        """One logit a class; one in binary mode."""
        return 1 if self.mode == "binary" else self.num_classes

    def _balanced(self, data: Any) -> Tensor:
        counts = getattr(data, "class_counts", None)
        if counts is None:
            raise ValueError(
                'class_weight="balanced" needs a datamodule with class_counts: give a list of weights instead'
            )
        count = torch.as_tensor(counts, dtype=torch.float32)
        if (count == 0).any():
            raise ValueError(f"class_weight='balanced' cannot weigh a class without training examples, counts {counts}")
        if self.mode == "multilabel":
            return (len(data.train_dataloader().dataset) - count) / count
        return count.sum() / (len(count) * count)

    def _losses(self, logits: Tensor, y: Tensor, training: bool) -> Tensor:
        """Cross-entropy of each example in nats, ``(B,)``; weights and smoothing in training only."""
        smoothing = self.hparams["label_smoothing"] if training else 0.0
        weighted = training and self._weighted
        if self.mode == "multiclass" and y.ndim == 2:  # the mean over what each class by itself would give
            target = y.to(logits.dtype) * (self.class_weight if weighted else 1.0)
            target = torch.lerp(target, target.mean(dim=1, keepdim=True), smoothing)
            return F.cross_entropy(logits, target, reduction="none")
        if self.mode == "multiclass":
            losses = F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
            return losses * self.class_weight[y] if weighted else losses
        if self.mode == "binary":
            target = y.to(logits.dtype)
            losses = _bce(logits.squeeze(1), target, smoothing)
            return losses * self.class_weight[y.long()] if weighted else losses
        target = y.to(logits.dtype)
        losses = _bce(logits, target, smoothing)
        if weighted:
            losses = losses * torch.where(target > 0.5, self.class_weight, 1.0)
        return losses.mean(dim=1)  # (B, K) -> (B,)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits -> probabilities of the classes ``(B, K)``: softmax; (1 - p, p) of the one logit; or a sigmoid each."""
        if self.mode == "multiclass":
            return logits.softmax(dim=1)
        p = logits.sigmoid()
        return torch.cat([1 - p, p], dim=1) if self.mode == "binary" else p

    def decide(self, p: Tensor) -> Tensor:
        """Probabilities -> what is predicted: classes ``(B,)``; multi-label: True for the labels given, ``(B, K)``."""
        if self.mode == "multiclass":
            return p.argmax(dim=1)
        positive = p >= self.hparams["threshold"]
        return positive[:, 1].long() if self.mode == "binary" else positive

    def _hits(self, logits: Tensor, y: Tensor) -> Tensor:
        """Share of right answers in the batch."""
        if self.mode == "multiclass" and y.ndim == 2:
            return y.gather(1, logits.argmax(dim=1, keepdim=True)).mean()
        if self.mode == "multiclass":
            return (logits.argmax(dim=1) == y).float().mean()
        cut = math.log(self.hparams["threshold"] / (1 - self.hparams["threshold"]))
        positive = logits.squeeze(1) >= cut if self.mode == "binary" else logits >= cut
        return (positive == (y > 0.5)).float().mean()

    def _outputs(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and those of the auxiliary heads: in training, where the net has such."""
        output = self(x)
        if not isinstance(output, tuple):
            return output, []
        logits, *others = output  # torchvision's nets: (logits, auxiliary logits, ...)
        return logits, others[0] if others and isinstance(others[0], list) else others

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        """Mean cross-entropy, and that of auxiliary heads by their weight; each of them and the accuracy are logged."""
        x, y = batch[0], batch[1]
        logits, auxiliary = self._outputs(x)
        loss = self._losses(logits, y, training=True).mean()
        with torch.no_grad():
            means = {"loss": loss, "acc": self._hits(logits, y)}
        for i, other in enumerate(auxiliary, start=1):
            means[f"aux{i}_loss"] = self._losses(other, y, training=True).mean()
            loss = loss + self.hparams["aux_weight"] * means[f"aux{i}_loss"]
        return loss, means, len(y)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Look at the labels in the first epoch: on a GPU a label out of range would be an unreadable device assert."""
        if self.trainer.current_epoch == 0:
            self._check_labels(batch[1], training=True)

    def _check_labels(self, y: Tensor, training: bool = False) -> None:
        if training and self.mode == "multiclass" and y.ndim == 2:
            if y.shape[1] != self.num_classes or (y < 0).any() or ((y.sum(dim=1) - 1).abs() > 1e-3).any():
                raise ValueError(f"soft targets must be shares of {self.num_classes} classes that sum to 1, got {y}")
            return
        top = 1 if self.mode == "multilabel" else self.num_classes - 1
        lowest, highest = (value.item() for value in y.aminmax())
        if lowest < 0 or highest > top:
            raise ValueError(f"labels must lie in 0..{top} for num_classes={self.num_classes}, got {lowest}..{highest}")
        many = self.mode == "multilabel"
        if y.shape[1:] != ((self.num_classes,) if many else ()) or (y != y.round()).any():
            raise ValueError(
                f"{self.mode} targets must have shape {f'(B, {self.num_classes})' if many else '(B,)'} and be whole numbers, got "
                f"{tuple(y.shape)} {y.dtype}: soft ones (mixup, cutmix) are for training with mode='multiclass'"
            )

    def build_metrics(self) -> dict[str, Metric]:
        """Loss, accuracy, macro F1, top-k accuracy and the confusion matrix."""
        return classification_metrics(self.mode, self.num_classes, self.hparams["threshold"], self.hparams["top_k"])

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add a batch; rows of weight 0 count nowhere."""
        x, y, *rest = batch
        self._check_labels(y)
        logits = self._outputs(x)[0].float()
        losses = self._losses(logits, y, training=False)
        weight = rest[0] if rest else torch.ones_like(losses)
        target = y.long().masked_fill((weight == 0).view(-1, *[1] * (y.ndim - 1)), IGNORED)
        scores = self.probabilities(logits)
        for name, metric in metrics.items():
            if name == "loss":
                # not by its weight argument: nan_strategy="disable" drops it silently
                metric.update(losses[weight > 0])
            elif self.mode == "binary":
                p = scores[:, 1]
                metric.update((p >= self.hparams["threshold"]).long() if name == "f1" else p, target)
            else:
                metric.update(scores, target)

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """What a user can read.

        Returns:
            ``label``: a class name an example (multi-label: a list of them), ``probability``: of that label ``(B,)`` (multi-label:
            of the most probable one), ``probabilities``: ``(B, K)``.
        """
        x = batch if isinstance(batch, Tensor) else batch[0]
        p = self.probabilities(self._outputs(x)[0].float())
        names = self.class_names or [str(k) for k in range(self.num_classes)]
        best = self.decide(p)
        if self.mode == "multilabel":
            label: list[Any] = [[names[k] for k in row.nonzero().flatten()] for row in best]
            return {"label": label, "probability": p.amax(dim=1), "probabilities": p}
        return {
            "label": [names[k] for k in best],
            "probability": p.gather(1, best.unsqueeze(1)).squeeze(1),
            "probabilities": p,
        }

    def render(self, batch: Any) -> dict[str, Any]:
        """The examples (images), the regions of the plane (two inputs), the confusion matrix of the last evaluation."""
        return render_classification(self, batch)

    def expected_initial_loss(self) -> float:
        """ln K for a softmax over K classes, ln 2 for a logistic output."""
        return math.log(self.num_classes if self.mode == "multiclass" else 2)

    def loss_floor(self) -> float:
        """The entropy of a smoothed target."""
        share = self.hparams["label_smoothing"]
        k = self.num_classes if self.mode == "multiclass" else 2
        wrong = share / k
        right = 1 - share + wrong
        return -right * math.log(right) - ((k - 1) * wrong * math.log(wrong) if wrong else 0.0)


def _bce(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target * (1 - smoothing) + 0.5 * smoothing, reduction="none")


def _check(
    num_classes: int,
    mode: str,
    class_weight: str | list[float] | None,
    label_smoothing: float,
    top_k: int | None,
    threshold: float,
    monitor: str,
) -> None:
    """Refuse arguments out of their range."""
    if mode not in ("multiclass", "binary", "multilabel"):
        raise ValueError(f"mode must be multiclass, binary or multilabel, got {mode!r}")
    if num_classes < (1 if mode == "multilabel" else 2):
        raise ValueError(
            f"num_classes must be 2 or more, got {num_classes}: one logit for two classes is mode='binary'"
        )
    if mode == "binary" and num_classes != 2:
        raise ValueError(f"mode='binary' is for two classes, got num_classes={num_classes}")
    if isinstance(class_weight, str) and class_weight != "balanced":
        raise ValueError(f"class_weight must be 'balanced' or a list of weights, got {class_weight!r}")
    if isinstance(class_weight, list) and (len(class_weight) != num_classes or min(class_weight) < 0):
        raise ValueError(f"class_weight wants {num_classes} weights >= 0, one a class, got {class_weight}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
    if top_k is not None and (mode != "multiclass" or not 2 <= top_k < num_classes):
        raise ValueError(f"top_k must lie in 2..{num_classes - 1} in multiclass mode, got {top_k} in {mode} mode")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is a probability in (0, 1), got {threshold}")
    if not monitor.startswith(("val/", "train/")):
        raise ValueError(f"monitor names a logged metric such as 'val/acc' or 'val/loss', got {monitor!r}")
