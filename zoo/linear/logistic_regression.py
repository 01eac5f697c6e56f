"""Logistic regression: Bishop 2006, "Pattern Recognition and Machine Learning", section 4.3.2."""

from typing import Any, Literal, Unpack

from torch import Tensor, nn

from zoo.blocks import Classifier, flatten_features
from zoo.registry import register
from zoo.tasks import ClassificationTask, ClassifierArguments


class LogisticRegression(Classifier):
    """One linear layer; a sigmoid of each output is a probability.

    Args:
        in_features: number of inputs D; images are flattened.
        num_outputs: number of logits K: 1 for two classes, one a label for several labels.

    Shape:
        ``(B, ...)`` with D numbers an example -> logits ``(B, K)``.

    Raises:
        ValueError: input that has not D numbers an example.
    """

    def __init__(self, in_features: int = 30, num_outputs: int = 1) -> None:
        super().__init__()
        self.num_features = in_features
        self.fc = nn.Linear(in_features, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.fc(flatten_features(self, x, self.num_features))


class LogisticRegressionClassifier(ClassificationTask):
    """:class:`LogisticRegression`, trained as a classifier of two classes, or of several labels that do not exclude each other.

    An L2 penalty is part of the loss that is minimized; it is logged apart as ``train/penalty``, so that ``train/loss`` and
    ``val/loss`` stay comparable. (``weight_decay`` is the optimizer's own way, decoupled for AdamW.)

    Args:
        in_features: number of inputs D.
        num_classes: 2, or the number of labels in multi-label mode.
        mode: "binary" (one logit) or "multilabel" (one logit a label).
        l2: the penalty is ``l2 / 2`` times the sum of squared weights, for standardized inputs, >= 0; biases are free.
            scikit-learn's ``C`` is ``1 / (N l2)`` for N training examples.
        task: arguments of :class:`zoo.ClassificationTask`, ``threshold`` among them.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        in_features: int = 30,
        num_classes: int = 2,
        mode: Literal["binary", "multilabel"] = "binary",
        l2: float = 0.0,
        **task: Unpack[ClassifierArguments],
    ) -> None:
        if mode not in ("binary", "multilabel"):
            raise ValueError(
                f"mode must be binary or multilabel, got {mode!r}: for classes that exclude each other take SoftmaxRegression"
            )
        if l2 < 0:
            raise ValueError(f"l2 must be 0 or above, got {l2}")
        outputs = 1 if mode == "binary" else num_classes
        super().__init__(
            LogisticRegression(in_features=in_features, num_outputs=outputs), num_classes, mode=mode, **task
        )

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Mean binary cross-entropy plus the penalty; both are logged, each by itself."""
        loss, means, count = super().training_losses(batch)
        l2 = self.hparams["l2"]
        if not l2:
            return loss, means, count
        penalty = l2 / 2 * self.net.get_parameter("fc.weight").square().sum()
        return loss + penalty, {**means, "penalty": penalty}, count


register("logistic_regression", LogisticRegressionClassifier)
