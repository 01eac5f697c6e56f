"""The perceptron: Rosenblatt 1958, "The Perceptron: A Probabilistic Model", Psychological Review 65(6)."""

from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from zoo.blocks import Classifier, flatten_features
from zoo.registry import register
from zoo.tasks import ClassificationTask, ClassifierArguments


class Perceptron(Classifier):
    """A threshold unit: class 1 where the score w x + b is 0 or more, else class 0.

    Args:
        in_features: Number of inputs D; images are flattened.

    Shape:
        ``(B, ...)`` with D numbers an example -> scores ``(B, 1)``.

    Raises:
        ValueError: Input that does not have D numbers an example.
    """

    def __init__(self, in_features: int = 2) -> None:
        super().__init__()
        self.num_features = in_features
        self.fc = nn.Linear(in_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, before the threshold."""
        return self.fc(flatten_features(self, x, self.num_features))


class PerceptronClassifier(ClassificationTask):
    """A :class:`Perceptron` trained by its own rule, or with the hinge loss.

    With "perceptron", SGD and batches of one example, a step is Rosenblatt's rule: an example on the wrong side of the border (or
    on it) adds ``lr * x`` to the weights, or subtracts it; any other changes nothing. The "hinge" loss also pushes examples out
    of a margin of 1 (with weight decay: a linear support vector machine). There are no probabilities: those of ``predict_step``
    are 0 or 1.

    Args:
        in_features: Number of inputs D.
        num_classes: Always 2.
        rule: "perceptron", the loss max(0, -t s), or "hinge", max(0, 1 - t s); s is the score, t = -1 or 1 the class.
        mode: Always "binary".
        task: Arguments of :class:`zoo.ClassificationTask`; ``threshold`` and ``label_smoothing`` do not apply.

    Raises:
        ValueError: An unknown rule, another number of classes, or an argument that does not apply.
    """

    def __init__(
        self,
        in_features: int = 2,
        num_classes: int = 2,
        rule: Literal["perceptron", "hinge"] = "perceptron",
        mode: Literal["binary"] = "binary",
        **task: Unpack[ClassifierArguments],
    ) -> None:
        if rule not in ("perceptron", "hinge"):
            raise ValueError(f"rule must be perceptron or hinge, got {rule!r}")
        if mode != "binary":
            raise ValueError(f"a perceptron has two classes, mode='binary', got {mode!r}: take SoftmaxRegression")
        super().__init__(Perceptron(in_features=in_features), num_classes, mode=mode, **task)
        for name, only in (("threshold", 0.5), ("label_smoothing", 0.0)):
            if self.hparams[name] != only:
                raise ValueError(f"a perceptron gives no probabilities, so {name} does not apply: leave it at {only}")

    def example_losses(self, logits: Tensor, y: Tensor, training: bool) -> Tensor:
        """Return the loss of each example by the rule, ``(B,)``."""
        agreement = logits.squeeze(1) * (2 * y.to(logits.dtype) - 1)  # t s
        if self.hparams["rule"] == "hinge":
            losses = (1 - agreement).clamp(min=0)
        else:  # not clamp: it has no gradient on the border, where the example is learned, too
            losses = torch.where(agreement <= 0, -agreement, torch.zeros_like(agreement))
        return losses * self.class_weight[y.long()] if training and self.hparams["class_weight"] is not None else losses

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the decision as probabilities 0 and 1, ``(B, 2)``."""
        decision = (logits >= 0).to(logits.dtype)
        return torch.cat([1 - decision, decision], dim=1)

    output_meaning = "the decision as probabilities (B, 2): 0 or 1"

    def expected_initial_loss(self) -> float:
        """Return 1 for the hinge loss of scores near 0, 0 for the loss of the perceptron."""
        return 1.0 if self.hparams["rule"] == "hinge" else 0.0

    def loss_floor(self) -> float:
        """Return 0, the loss where every example is beyond the border or margin."""
        return 0.0


register("perceptron", PerceptronClassifier)
register("perceptron_hinge", PerceptronClassifier, rule="hinge")
