"""Generalized linear models with canonical links: McCullagh and Nelder 1989, "Generalized Linear Models", chapter 2.

The dispersion is 1: the gaussian family has variance 1, its scale is not estimated.
"""

import math
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, Poisson
from torchmetrics import MeanMetric, Metric

from zoo.blocks import flatten_features
from zoo.drawing import figures
from zoo.losses.means import counted, weighted_mean
from zoo.metrics.labels import MATRIX, ConfusionMatrix
from zoo.model import Makes
from zoo.registry import register
from zoo.tasks import Task, TaskArguments
from zoo.tasks.base import input_of

Family = Literal["gaussian", "bernoulli", "categorical", "poisson"]
FAMILIES = ("gaussian", "bernoulli", "categorical", "poisson")


class GLM(nn.Module):
    """Linear natural parameters, eta = W x + b, of a distribution of the exponential family.

    With the canonical link the mean of y is a fixed function of eta: identity (gaussian), sigmoid (bernoulli), softmax
    (categorical), exp (poisson).

    Args:
        in_features: Number of inputs D; images are flattened.
        num_outputs: Number of natural parameters K: targets of an example, or classes (categorical).
        family: "gaussian", "bernoulli", "categorical" or "poisson".

    Shape:
        ``(B, ...)`` with D numbers an example -> eta ``(B, K)``.

    Raises:
        ValueError: An unknown family, a single class, or input that does not have D numbers an example.
    """

    def __init__(self, in_features: int = 10, num_outputs: int = 1, family: Family = "gaussian") -> None:
        super().__init__()
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
        if num_outputs < (2 if family == "categorical" else 1):
            raise ValueError(
                f"num_outputs must be 1 or more (categorical: 2 or more), got {num_outputs} for the {family} family"
            )
        self.num_features = in_features
        self.family = family
        self.fc = nn.Linear(in_features, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the natural parameters."""
        return self.fc(flatten_features(self, x, self.num_features))

    def distribution(self, eta: Tensor) -> Distribution:
        """Return the distribution of y of natural parameters ``(B, K)``; its batch shape is ``(B, K)``, categorical ``(B,)``."""
        if self.family == "gaussian":
            return Normal(eta, torch.ones_like(eta), validate_args=False)
        if self.family == "bernoulli":
            return Bernoulli(logits=eta, validate_args=False)
        if self.family == "categorical":
            return Categorical(logits=eta, validate_args=False)
        return Poisson(eta.exp(), validate_args=False)

    def expectation(self, eta: Tensor) -> Tensor:
        """Return the mean of y, ``(B, K)``; categorical: the probabilities of the classes."""
        if self.family == "categorical":
            return eta.softmax(dim=1)
        return self.distribution(eta).mean


class GLMRegressor(Task):
    """A :class:`GLM` trained by maximum likelihood. Arguments: those of the net, then ``**task``.

    The loss is the negative log-likelihood in nats, a mean over examples and targets. Logs ``loss`` and ``mae``, the mean
    absolute difference between y and its expectation (categorical: between 1 and the probability of the true class).

    Shape:
        batch: ``(x, y)`` with y ``(B, K)``, with one output also ``(B,)``, categorical int64 ``(B,)``; or ``(x, y, weight)`` with
        weight ``(B,)`` or the shape of y: of weight 0 nothing counts.

    Raises:
        ValueError: An argument out of its range, or targets of another shape or outside of the family's support.
    """

    net: GLM

    def __init__(
        self, in_features: int = 10, num_outputs: int = 1, family: Family = "gaussian", **task: Unpack[TaskArguments]
    ) -> None:
        super().__init__(GLM(in_features=in_features, num_outputs=num_outputs, family=family), **task)

    @property
    def makes(self) -> Makes:
        return "number"

    @property
    def learns(self) -> tuple[str, ...]:
        """Kinds of data whose targets it is trained on: the bernoulli and the categorical family take classes, too."""
        classes = self.net.family in ("bernoulli", "categorical")
        return ("classification", "regression") if classes else ("regression",)

    def _targets(self, y: Tensor, outputs: int) -> Tensor:
        """Targets in the shape of the distribution, ``(B, K)`` or, categorical, ``(B,)``."""
        if self.net.family == "categorical":
            if y.ndim != 1:
                raise ValueError(f"categorical targets are class numbers (B,), got shape {tuple(y.shape)}")
            return y.long()
        columns = y.unsqueeze(1) if y.ndim == 1 else y
        if columns.ndim != 2 or columns.shape[1] != outputs:
            raise ValueError(f"targets must have shape (B, {outputs}) for num_outputs={outputs}, got {tuple(y.shape)}")
        return columns

    def _check_support(self, y: Tensor) -> None:
        """Refuse targets outside of the family's support."""
        family = self.net.family
        if family == "gaussian" or not y.numel():
            return
        top = {"bernoulli": 1, "categorical": self.hparams["num_outputs"] - 1}.get(family)
        if y.min() < 0 or (top is not None and y.max() > top) or (y != y.round()).any():
            wanted = "whole numbers from 0" if top is None else f"whole numbers in 0..{top}"
            raise ValueError(f"{family} targets must be {wanted}, got values in {y.min():g}..{y.max():g}")

    def _losses(self, eta: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats: ``(B, K)``, categorical ``(B,)``."""
        target = self._targets(y, eta.shape[1])
        if self.net.family != "categorical":
            target = target.to(eta.dtype)
        return -self.net.distribution(eta).log_prob(target)

    def _errors(self, eta: Tensor, y: Tensor) -> Tensor:
        """|y - E y| of each target: ``(B, K)``, categorical ``(B,)``."""
        target, mean = self._targets(y, eta.shape[1]), self.net.expectation(eta)
        if self.net.family == "categorical":
            return 1 - mean.gather(1, target.unsqueeze(1)).squeeze(1)
        return (target - mean).abs()

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean negative log-likelihood; the mean absolute error is logged beside it."""
        x, y, *rest = batch
        weight = rest[0] if rest else None
        eta = self(x).to(self.net_dtype)  # under autocast too: the exponential of the poisson link needs the digits
        loss, count = weighted_mean(self._losses(eta, y), weight)
        mae, _ = weighted_mean(self._errors(eta.detach(), y), weight)
        return loss, {"loss": loss, "mae": mae}, count

    def setup(self, stage: str) -> None:
        """Refuse targets that the trainer's precision cannot hold: they are not standardized."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            self.check_digits("targets", getattr(data, "target_mean", None), getattr(data, "target_std", None))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the targets in the first epoch."""
        if self.trainer.current_epoch == 0:
            self._check_support(batch[1])

    def build_metrics(self) -> dict[str, Metric]:
        """Return the negative log-likelihood and the mean absolute error."""
        return {name: MeanMetric(nan_strategy="disable") for name in ("loss", "mae")}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *rest = batch
        weight = rest[0] if rest else None
        self._check_support(y)
        eta = self(x).to(self.net_dtype)
        metrics["loss"].update(counted(self._losses(eta, y), weight))
        metrics["mae"].update(counted(self._errors(eta, y), weight))

    @property
    def output_meaning(self) -> str:  # type: ignore[override]
        """What :meth:`outputs` gives, by the family."""
        if self.net.family == "categorical":
            return "probabilities of the classes (B, K)"
        return f"expectation of the target (B, K), in its own unit, by the {self.net.family} family"

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``value``: the expectation of y, ``(B, K)``; categorical: probabilities ``(B, K)``."""
        eta = self(x)
        return {"value": self.net.expectation(eta.to(torch.promote_types(eta.dtype, torch.float32)))}

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``value``: the expectation of y, ``(B, K)``, with one output ``(B,)``; categorical: probabilities ``(B, K)``."""
        value = self.outputs(input_of(batch))["value"]
        return {"value": value.squeeze(1) if value.shape[1] == 1 else value}

    @torch.no_grad()
    def render(self, batch: Any) -> dict[str, Any]:
        """Return a picture: the expectation of y against y; categorical: the counts of true and most probable classes, of which
        there is none above 2,000 of them.
        """
        value = self.outputs(input_of(batch))["value"]
        k = value.shape[1]
        target = self._targets(batch[1], k)
        if self.net.family != "categorical":
            return {"scatter": figures.predicted_against_true(target, value)}
        if k > MATRIX:
            return {}
        names, decided = self.class_names or [str(i) for i in range(k)], value.argmax(dim=1)
        confusion = ConfusionMatrix(k).to(value.device)
        confusion.update(decided, target)
        title = f"{int((decided == target).sum())} of {len(target)} shown are right"
        return {"confusion": figures.heatmap(confusion.compute(), names, names, ("true", "most probable"), title)}

    def loss_floor(self) -> float:
        """Return ln(2 pi) / 2 for a gaussian of variance 1, else 0: the entropy of a poisson's counts is not known."""
        return math.log(2 * math.pi) / 2 if self.net.family == "gaussian" else 0.0


register("glm_gaussian", GLMRegressor)
for family in ("bernoulli", "poisson"):
    register(f"glm_{family}", GLMRegressor, family=family)
register("glm_categorical", GLMRegressor, family="categorical", num_outputs=3)
