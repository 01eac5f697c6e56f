"""Classification: multi-class (softmax), binary (one logit), multi-label (one logit a class)."""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any, ClassVar, Literal, Self, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo import backbones
from zoo.drawing import figures
from zoo.losses.means import counted, weighted_mean
from zoo.metrics.labels import (
    IGNORED,
    MATRIX,
    Accuracy,
    ConfusionMatrix,
    DecisionMetric,
    LabelConfusion,
    MacroF1,
    TopKAccuracy,
)
from zoo.model import Makes, check_num_classes, comes_from_file
from zoo.registry import is_registered_net, register_by_net
from zoo.tasks.base import Task, TaskArguments, check_monitor, input_of, net_is_missing

Mode = Literal["multiclass", "binary", "multilabel"]
_MISTAKES = 50  # rows of the table that replaces a confusion matrix without names


class ClassifierArguments(TaskArguments, total=False):
    """Arguments of :class:`ClassificationTask` but the net, ``num_classes`` and ``mode``."""

    class_weight: Literal["balanced"] | list[float] | None
    label_smoothing: float
    top_k: int | None
    threshold: float
    monitor: str
    aux_weight: float


class ClassificationArguments(ClassifierArguments, total=False):
    """Arguments of :class:`ClassificationTask` but the net and ``num_classes``."""

    mode: Mode


class MultiClass:
    """K logits, one class an example.

    Args:
        num_classes: Number of classes K.
        threshold: Of the other modes; here the most probable class is predicted.
    """

    def __init__(self, num_classes: int, threshold: float) -> None:
        self.num_classes, self.threshold = num_classes, threshold
        self.num_outputs = num_classes
        self.chance_loss = math.log(num_classes)  # nats, of equal probabilities
        self.outcomes = num_classes  # of one decision

    def losses(self, logits: Tensor, y: Tensor, class_weight: Tensor | None, smoothing: float) -> Tensor:
        """Cross-entropy in nats ``(B,)`` of logits ``(B, K)``, y ``(B,)`` or soft ``(B, K)``."""
        if y.ndim == 2:  # the mean over what each class by itself would give
            target = y.to(logits.dtype) * (1.0 if class_weight is None else class_weight)
            target = torch.lerp(target, target.mean(dim=1, keepdim=True), smoothing)
            return F.cross_entropy(logits, target, reduction="none")
        losses = F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
        return losses if class_weight is None else losses * class_weight[y]

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def decide(self, p: Tensor) -> Tensor:
        """Classes ``(B,)`` of probabilities ``(B, K)``."""
        return p.argmax(dim=1)

    def hits(self, logits: Tensor, y: Tensor) -> Tensor:
        """Share of right answers of each example ``(B,)``."""
        if y.ndim == 2:
            return y.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1).float()
        return (logits.argmax(dim=1) == y).float()

    def check(self, y: Tensor, training: bool) -> None:
        """Refuse labels that are none; soft ones are allowed in training."""
        if not (training and y.ndim == 2):
            self._check_range(y, self.num_classes - 1, ())
        elif y.shape[1] != self.num_classes or ((y < 0).any() | ((y.sum(dim=1) - 1).abs() > 1e-3).any()):
            raise ValueError(f"soft targets must be shares of {self.num_classes} classes that sum to 1, got {y}")

    def _check_range(self, y: Tensor, top: int, shape: tuple[int, ...]) -> None:
        lowest, highest = torch.stack(y.aminmax()).tolist()  # a GPU is waited for once
        if lowest < 0 or highest > top:
            raise ValueError(f"labels must lie in 0..{top} for num_classes={self.num_classes}, got {lowest}..{highest}")
        if y.shape[1:] != shape or (y.is_floating_point() and (y != y.round()).any()):
            name = {MultiClass: "multiclass", Binary: "binary", MultiLabel: "multilabel"}[type(self)]
            raise ValueError(
                f"{name} targets must have shape {f'(B, {shape[0]})' if shape else '(B,)'} and be whole numbers, got "
                f"{tuple(y.shape)} {y.dtype}: soft ones (mixup, cutmix) are for training with mode='multiclass'"
            )

    def metrics(self, top_k: int | None) -> dict[str, Metric]:
        """Fresh metrics by name: accuracy, macro F1, the confusion matrix (up to ``MATRIX`` classes) and top-k accuracy."""
        k = self.num_classes
        metrics: dict[str, Metric] = {"acc": Accuracy(), "f1": MacroF1(k)}
        if k <= MATRIX:
            metrics["confusion"] = ConfusionMatrix(k)
        if top_k is not None:
            metrics[f"acc_top{top_k}"] = TopKAccuracy(top_k)
        return metrics

    def scores(self, p: Tensor) -> Tensor:
        """What torchmetrics' metrics of this mode take, of probabilities ``(B, K)``."""
        return p

    def names_of(self, decided: Tensor, names: list[str]) -> list[Any]:
        """Class names of decisions ``(B,)``."""
        return [names[k] for k in decided.tolist()]

    def balanced(self, counts: Tensor, examples: int) -> Tensor:
        """Class weights N / (K N_k) ``(K,)``."""
        return counts.sum() / (len(counts) * counts)


class Binary(MultiClass):
    """One logit, that of class 1."""

    def __init__(self, num_classes: int, threshold: float) -> None:
        super().__init__(num_classes, threshold)
        self.num_outputs = 1
        self.chance_loss, self.outcomes = math.log(2), 2

    def losses(self, logits: Tensor, y: Tensor, class_weight: Tensor | None, smoothing: float) -> Tensor:
        losses = _bce(logits.squeeze(1), y.to(logits.dtype), smoothing)
        return losses if class_weight is None else losses * class_weight[y.long()]

    def probabilities(self, logits: Tensor) -> Tensor:
        p = logits.sigmoid()
        return torch.cat([1 - p, p], dim=1)

    def decide(self, p: Tensor) -> Tensor:
        return (p[:, 1] >= self.threshold).long()

    def hits(self, logits: Tensor, y: Tensor) -> Tensor:
        return ((logits.squeeze(1) >= _logit(self.threshold)) == (y > 0.5)).float()

    def check(self, y: Tensor, training: bool) -> None:
        self._check_range(y, 1, ())

    def scores(self, p: Tensor) -> Tensor:
        return p[:, 1]


class MultiLabel(MultiClass):
    """K logits, each of a label that is given or not."""

    def __init__(self, num_classes: int, threshold: float) -> None:
        super().__init__(num_classes, threshold)
        self.chance_loss, self.outcomes = math.log(2), 2

    def losses(self, logits: Tensor, y: Tensor, class_weight: Tensor | None, smoothing: float) -> Tensor:
        """Binary cross-entropy in nats of each label, ``(B, K)``."""
        target = y.to(logits.dtype)
        losses = _bce(logits, target, smoothing)
        return losses if class_weight is None else losses * torch.where(target > 0.5, class_weight, 1.0)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def decide(self, p: Tensor) -> Tensor:
        """True for the labels given, ``(B, K)``."""
        return p >= self.threshold

    def hits(self, logits: Tensor, y: Tensor) -> Tensor:
        return ((logits >= _logit(self.threshold)) == (y > 0.5)).float().mean(dim=1)

    def check(self, y: Tensor, training: bool) -> None:
        self._check_range(y, 1, (self.num_classes,))

    def metrics(self, top_k: int | None) -> dict[str, Metric]:
        k = self.num_classes
        return {"acc": Accuracy(), "f1": MacroF1(k), "confusion": LabelConfusion(k)}

    def names_of(self, decided: Tensor, names: list[str]) -> list[Any]:
        """A list of class names for each row of ``(B, K)``."""
        return [[names[k] for k in row.nonzero().flatten()] for row in decided]

    def balanced(self, counts: Tensor, examples: int) -> Tensor:
        """Weights of positives: negatives / positives ``(K,)``."""
        return (examples - counts) / counts


MODES: dict[str, type[MultiClass]] = {"multiclass": MultiClass, "binary": Binary, "multilabel": MultiLabel}


class ClassificationTask(Task):
    """Train a net as a classifier.

    Loss in nats, a mean over examples: cross-entropy ("multiclass"), or binary cross-entropy with logits ("binary": one
    logit; "multilabel": the mean over the K logits). Logs loss, accuracy (``acc``), macro-averaged F1 (``f1``: the mean over the
    classes that occur or are predicted in the evaluation, in every mode) and, with ``top_k``, top-k accuracy (``acc_top5``);
    ``metrics["confusion"].compute()`` is the confusion matrix of the last evaluation, which is kept and drawn up to 2,000 classes
    (multi-label: a 2 x 2 matrix for each label, however many).

    Args:
        net: The name of a net that is built here: "timm/resnet18", "torchvision/efficientnet_b0", "hf/OWNER/NAME" (of timm, on the
            Hugging Face hub), a model of the zoo ("resnet18"), or your own class "package.module.Class", which is built with
            ``num_classes``, ``in_channels`` (where it has them) and ``net_args``. Or a net itself,
            ``(B, ...)`` -> logits ``(B, K)``. In binary mode K is 1: a net that has ``reset_head`` gets its one output here.
            In training it may also give (logits, [logits of its auxiliary heads, ...]), or as torchvision (logits, aux, ...).
        num_classes: Number of classes K >= 2 (labels, in multi-label mode >= 1).
        mode: "multiclass", "binary" or "multilabel".
        class_weight: "balanced", or K weights >= 0 that multiply the TRAINING loss of an example of that class (multi-label:
            of a positive of that class). "balanced" is N / (K N_k) (multi-label: negatives / positives), counted on the
            datamodule's training split at the first fit.
        label_smoothing: Share of the target that is spread over all classes in training, in [0, 1).
        top_k: Also log top-k accuracy, 2 <= top_k < K (multi-class only).
        threshold: Probability from which a binary or multi-label output counts as positive, in (0, 1).
        monitor: Metric that decides which checkpoint is best: "val/acc", "val/loss" ...
        aux_weight: Weight >= 0 of the loss of each auxiliary head, for a net that has such; 0.3 in Szegedy et al. 2014
            (arXiv:1409.4842, section 5). ``train/loss`` is without them; they are ``train/aux1_loss`` ...
        net_args: Further arguments of a net by name, e.g. ``{"drop_path_rate": 0.1}``.
        in_channels: Number of image channels C that a net by name is built for; None: 3, or what the zoo's net has by default.
        preprocessing: How images must be prepared, e.g. ``{"mean": [0.5], "std": [0.5], "size": 224, "interpolation": "bicubic",
            "crop": 0.9}``, see :meth:`zoo.Model.set_preprocessing`; None: as the weights say, else as the data are.
        task: Arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` with x ``(B, ...)`` and y int64 ``(B,)`` in 0..K-1 (multi-label: 0/1, ``(B, K)``), or ``(x, y, weight)``
        with weight ``(B,)`` or the shape of y: of weight 0 nothing counts. In training, multi-class y may be soft (mixup,
        cutmix): float ``(B, K)``, shares that sum to 1; then the loss is the cross-entropy with them, and ``train/acc`` the mean
        share that the predicted class has in the target, which not even a perfect net brings to 1.

    Raises:
        ValueError: An argument out of its range, or data with another number of classes.
    """

    class_weight: Tensor
    training_arguments = (*Task.training_arguments, "top_k")
    training_buffers = ("class_weight",)
    filled_arguments: ClassVar[tuple[str, ...]] = ("net_args", "preprocessing")
    _named: tuple[str, dict[str, Any] | None] | None = None  # the net's full name and arguments

    def __init__(
        self,
        net: str | nn.Module,
        num_classes: int = 10,
        mode: Mode = "multiclass",
        class_weight: Literal["balanced"] | list[float] | None = None,
        label_smoothing: float = 0.0,
        top_k: int | None = None,
        threshold: float = 0.5,
        monitor: str = "val/acc",
        aux_weight: float = 0.3,
        net_args: dict[str, Any] | None = None,
        in_channels: int | None = None,
        preprocessing: dict[str, Any] | None = None,
        **task: Unpack[TaskArguments],
    ) -> None:
        _check(num_classes, mode, class_weight, label_smoothing, top_k, threshold)
        check_monitor(monitor, "val/acc")
        if not aux_weight >= 0:
            raise ValueError(f"aux_weight must be 0 or more, got {aux_weight}")
        if isinstance(net, str):
            net = self._build_net(net, num_classes if mode != "binary" else 1, in_channels, net_args)
        elif net_args is not None:
            raise TypeError("net_args are for a net by name, and net is a module: build it with them")
        elif mode == "binary" and (reset_head := getattr(net, "reset_head", None)) is not None:
            reset_head(1)
        super().__init__(net, **task)
        if preprocessing is not None:  # comes before that of the weights
            self.set_preprocessing(preprocessing)
        self.mode = mode
        self._mode = MODES[mode](num_classes, threshold)

    def _build_net(
        self, name: str, outputs: int, in_channels: int | None, arguments: dict[str, Any] | None
    ) -> nn.Module:
        """Build a net by name; its full name and resolved arguments become hyperparameters."""
        name = backbones.full_name(name)
        asked = backbones.beyond(name, arguments)
        if asked and comes_from_file("net") and not is_registered_net(type(self), name):
            raise net_is_missing(type(self), name)
        resolved = backbones.resolved_arguments(name, arguments)
        net = backbones.build(name, outputs, in_channels, resolved)
        self._named = name, resolved
        return net

    @property
    def net_by_name(self) -> str | None:
        return None if self._named is None else self._named[0]

    def build_parts(self) -> None:
        """Complete the hyperparameters of a net by name."""
        if self._named is not None:
            self.hparams["net"], self.hparams["net_args"] = self._named

    def set_preprocessing(self, preprocessing: Mapping[str, Any]) -> Self:
        """Set how images must be prepared, see :meth:`zoo.Model.set_preprocessing`; it is a hyperparameter here."""
        super().set_preprocessing(preprocessing)
        if "preprocessing" in self.hparams:  # of a net from outside or by name
            self.hparams["preprocessing"] = self.preprocessing
        return self

    def register_task_buffers(self) -> None:
        """Register the weights of the classes too."""
        super().register_task_buffers()
        given, count = self.hparams["class_weight"], self.hparams["num_classes"]
        weights = [1.0] * count if given in (None, "balanced") else given
        self.register_buffer("class_weight", torch.tensor(weights))

    @property
    def num_classes(self) -> int:
        return self.hparams["num_classes"]

    @property
    def makes(self) -> Makes:
        return "label"

    @property
    def predict_options(self) -> tuple[str, ...]:
        return ("top", *super().predict_options)

    @property
    def monitor(self) -> tuple[str, str]:
        name = self.hparams["monitor"]
        return name, "min" if name.endswith("loss") else "max"

    def output_shape(self) -> tuple[int, ...]:
        return (self._mode.num_outputs,)

    def setup(self, stage: str) -> None:
        """Compare the number of classes with the data's, and count the classes for "balanced" weights."""
        data = getattr(self.trainer, "datamodule", None)
        check_num_classes(self.num_classes, data)
        super().setup(stage)
        known = (self.class_weight != 1).any()  # counted before, or loaded with the model
        if stage == "fit" and self.hparams["class_weight"] == "balanced" and not known:
            self.class_weight = self._balanced(data).to(self.class_weight.device)

    def _balanced(self, data: Any) -> Tensor:
        counts = getattr(data, "class_counts", None)
        if counts is None:
            raise ValueError(
                'class_weight="balanced" needs a datamodule with class_counts: give a list of weights instead'
            )
        count = torch.as_tensor(counts, dtype=torch.float32)
        if (count == 0).any():
            raise ValueError(f"class_weight='balanced' cannot weigh a class without training examples, counts {counts}")
        return self._mode.balanced(count, len(data.train_dataloader().dataset))

    # Losses and decisions -------------------------------------------------------------------------------------------

    def example_losses(self, logits: Tensor, y: Tensor, training: bool) -> Tensor:
        """Return the loss in nats of each example ``(B,)``, multi-label of each label ``(B, K)``.

        Class weights and label smoothing act in training only.
        """
        weighted = training and self.hparams["class_weight"] is not None
        smoothing = self.hparams["label_smoothing"] if training else 0.0
        return self._mode.losses(logits, y, self.class_weight if weighted else None, smoothing)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes ``(B, K)``: a softmax; (1 - p, p) of the one logit; or a sigmoid each."""
        return self._mode.probabilities(logits)

    def decide(self, p: Tensor) -> Tensor:
        """Return the predicted classes ``(B,)`` of probabilities; multi-label: True for the labels given, ``(B, K)``."""
        return self._mode.decide(p)

    def _outputs(self, x: Any) -> tuple[Tensor, list[Tensor]]:
        """Logits, and those of the auxiliary heads: in training, where the net has such."""
        output = self(x)
        if not isinstance(output, tuple):
            return output, []
        logits, *others = output  # torchvision's nets: (logits, auxiliary logits, ...)
        return logits, others[0] if others and isinstance(others[0], list) else others

    # Training and evaluation ----------------------------------------------------------------------------------------

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean cross-entropy, and that of auxiliary heads by their weight; each of them and the accuracy are logged."""
        return self.label_losses(*self._outputs(batch[0]), batch)

    def label_losses(
        self, logits: Tensor, auxiliary: list[Tensor], batch: Any
    ) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return :meth:`training_losses` of logits, and those of auxiliary heads, that the net gave for a batch."""
        _, y, *rest = batch
        weight = rest[0] if rest else None
        loss, count = weighted_mean(self.example_losses(logits, y, training=True), weight)
        with torch.no_grad():
            rows = None if weight is None else weight.flatten(1).mean(dim=1) if weight.ndim > 1 else weight
            means = {"loss": loss, "acc": weighted_mean(self._mode.hits(logits, y), rows)[0]}
        for i, other in enumerate(auxiliary, start=1):
            means[f"aux{i}_loss"] = weighted_mean(self.example_losses(other, y, training=True), weight)[0]
            loss = loss + self.hparams["aux_weight"] * means[f"aux{i}_loss"]
        return loss, means, count

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the labels in the first epoch: on a GPU a label out of range would be an unreadable device assert."""
        if self.trainer.current_epoch == 0:
            self._mode.check(batch[1], training=True)

    def build_metrics(self) -> dict[str, Metric]:
        """Return loss, accuracy, macro F1, top-k accuracy and the confusion matrix.

        Metrics of your own may be added: a :class:`~zoo.metrics.DecisionMetric` gets decided and true labels, any other one what
        those of torchmetrics take, probabilities and labels, of which -1 does not count.
        """
        return {"loss": MeanMetric(nan_strategy="disable"), **self._mode.metrics(self.hparams["top_k"])}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *rest = batch
        weight = rest[0] if rest else None
        self._mode.check(y, training=False)
        logits = self._outputs(x)[0].float()
        target = y.long()
        if weight is not None:
            target = target.masked_fill((weight == 0).view(*weight.shape, *[1] * (y.ndim - weight.ndim)), IGNORED)
        p = self.probabilities(logits)
        decided = self.decide(p)
        for name, metric in metrics.items():
            if name == "loss":
                # not by its weight argument: nan_strategy="disable" drops it silently
                metric.update(counted(self.example_losses(logits, y, training=False), weight))
            elif isinstance(metric, DecisionMetric):
                metric.update(decided, target)
            else:
                metric.update(self._mode.scores(p), target)

    @property
    def output_meaning(self) -> str:  # type: ignore[override]
        """What :meth:`outputs` gives, by the mode."""
        return {
            "multiclass": "probabilities of the classes (B, K), in the order of class_names, which sum to 1",
            "binary": f"probabilities of the two classes (B, 2); class 1 is predicted from {self.hparams['threshold']:g}",
            "multilabel": f"probability of each label by itself (B, K); it is given from {self.hparams['threshold']:g}",
        }[self.mode]

    def outputs(self, x: Any) -> dict[str, Tensor]:
        """Return ``probabilities``, ``(B, K)``; in binary mode ``(B, 2)``."""
        return {"probabilities": self.probabilities(self._outputs(x)[0].float())}

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return the predicted labels.

        Returns:
            ``label``: a class name an example (multi-label: a list of them), ``probability``: of that label ``(B,)`` (multi-label:
            of the most probable one), ``probabilities``: ``(B, K)``.
        """
        p = self.outputs(input_of(batch))["probabilities"]
        decided = self.decide(p)
        probability = p.gather(1, decided.unsqueeze(1)).squeeze(1) if decided.ndim == 1 else p.amax(dim=1)
        return {
            "label": self._mode.names_of(decided, self.label_names),
            "probability": probability,
            "probabilities": p,
        }

    def expected_initial_loss(self) -> float:
        """Return ln K for a softmax over K classes, ln 2 for a logistic output."""
        return self._mode.chance_loss

    def loss_floor(self) -> float:
        """Return the entropy of a smoothed target."""
        share, k = self.hparams["label_smoothing"], self._mode.outcomes
        wrong = share / k
        right = 1 - share + wrong
        return -right * math.log(right) - ((k - 1) * wrong * math.log(wrong) if wrong else 0.0)

    # Pictures -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def render(self, batch: Any) -> dict[str, Any]:
        """Return pictures: the examples (images), the regions of the plane (two inputs), the last evaluation's confusion matrix.

        A confusion matrix that is too large for names comes with a table of the most frequent ``mistakes``; above 2,000 classes
        there is neither.
        """
        x, y = batch[0], batch[1]
        names = self.label_names
        decided = self.decide(self.probabilities(self(x).float()))
        shown: dict[str, Any] = {}
        if isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] in (1, 3):
            shown["examples"] = figures.image_grid(x, self._captions(decided), self._captions(y))
        if isinstance(x, Tensor) and x.shape[1:] == (2,) and self.mode != "multilabel":
            shown["regions"] = figures.decision_regions(x, y, decided != y, self._confidence, names)
        return shown | self._confusion_pictures(decided, y)

    def _confusion_pictures(self, decided: Tensor, y: Tensor) -> dict[str, Any]:
        """The confusion of the last evaluation, before the first one of these examples; none for too many classes."""
        last, which = self.metrics.get("confusion"), ""
        if last is None or not last.update_called:
            last, which = self._mode.metrics(None).get("confusion"), " shown"
            if last is not None:
                last.distributed_available_fn = lambda: False  # one process draws, and would wait for the others
                last.to(y.device).update(decided, y.long())
        return {} if last is None else _confusion_pictures(last.compute().cpu(), self.label_names, which)

    def _captions(self, labels: Tensor) -> list[str]:
        """Class names of ``(B,)``, or of the ones in ``(B, K)``."""
        names = self._mode.names_of(labels, self.label_names)
        return [name if isinstance(name, str) else ", ".join(name) or "none" for name in names]

    def _confidence(self, x: Tensor) -> Tensor:
        """Probabilities, bent so that the largest one is the decision whatever the threshold."""
        p = self.probabilities(self(x).float())
        if self.mode != "binary":
            return p
        cut = self.hparams["threshold"]  # bend [0, cut, 1] to [0, 1/2, 1]
        bent = torch.where(p[:, 1] < cut, p[:, 1] / (2 * cut), 1 - (1 - p[:, 1]) / (2 * (1 - cut)))
        return torch.stack([1 - bent, bent], dim=1)


register_by_net(ClassificationTask)


def _confusion_pictures(counts: Tensor, names: list[str], which: str) -> dict[str, Any]:
    if counts.ndim == 3:  # of each label: ((true negative, false positive), (false negative, true positive))
        table = counts.flatten(1)[:, [3, 2, 1, 0]]  # (K, 2, 2) -> (K, 4)
        share = float((table[:, 0] + table[:, 3]).sum() / table.sum())
        columns = ["right: yes", "missed", "false alarm", "right: no"]
        title = f"{share:.2%} right of {int(table.sum())} answers{which}"
        return {"confusion": figures.heatmap(table, names, columns, ("label", "answer"), title)}
    total, right = int(counts.sum()), int(counts.diagonal().sum())
    title = f"{right / max(total, 1):.2%} right of {total} examples{which}"
    shown: dict[str, Any] = {"confusion": figures.heatmap(counts, names, names, ("true", "predicted"), title)}
    if len(names) > figures.NAMED:
        true, predicted = (counts - torch.diag(counts.diagonal())).nonzero(as_tuple=True)
        number, order = counts[true, predicted].sort(descending=True, stable=True)
        rows = zip(true[order].tolist(), predicted[order].tolist(), number.tolist(), strict=True)
        mistakes = [[names[i], names[j], n] for i, j, n in islice(rows, _MISTAKES)]
        shown["mistakes"] = [["true", "predicted", "count"], *mistakes]
    return shown


def _bce(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target * (1 - smoothing) + 0.5 * smoothing, reduction="none")


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _check(
    num_classes: int,
    mode: str,
    class_weight: str | list[float] | None,
    label_smoothing: float,
    top_k: int | None,
    threshold: float,
) -> None:
    """Refuse arguments out of their range."""
    if mode not in MODES:
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
