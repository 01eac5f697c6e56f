"""Maximum likelihood by gradient, for any family of ``torch.distributions``.

The main case is Gumbel's distribution of extremes: Gumbel 1958, "Statistics of Extremes". The estimates of its location and scale
have no closed form. The scale stays above 0 because it is learned through ``torch.distributions.transform_to``.
"""

from typing import Any, Unpack

import torch
from torch import Tensor, distributions, nn
from torch.distributions import Distribution, transform_to
from torchmetrics import MeanMetric, Metric

from zoo.losses.means import counted, weighted_mean
from zoo.registry import register
from zoo.spelling import suggest
from zoo.tasks import Task, TaskArguments
from zoo.tasks.base import input_of

# of several arguments for the same parameter, the one that is learned instead
_REDUNDANT = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}


class FittedDistribution(nn.Module):
    """A distribution with learned parameters, which are unconstrained and mapped to the values that are allowed.

    Args:
        family: Name of a class of ``torch.distributions``: "Gumbel", "Normal", "Gamma", "MultivariateNormal" ...
        size: Number of columns D. A family of numbers is fitted to each column by itself; vectors have D entries; "Categorical"
            has D classes.
        fixed: Arguments of the family that are not learned, e.g. ``{"total_count": 10}`` of "Binomial".

    Shape:
        ``(B, D)``, of numbers with D = 1 also ``(B,)``, of classes ``(B,)`` -> log-likelihood of each example in nats ``(B,)``.

    Raises:
        ValueError: An unknown family, an argument that it does not have, one that has no gradient and is not fixed, or examples of
            another shape.
    """

    def __init__(self, family: str = "Gumbel", size: int = 1, fixed: dict[str, float] | None = None) -> None:
        super().__init__()
        known = {name for name in distributions.__all__ if isinstance(getattr(distributions, name), type)}
        if family not in known:
            raise ValueError(f"unknown family {family!r}{suggest(family, known)}; it is a class of torch.distributions")
        if size < 1:
            raise ValueError(f"size must be 1 or more, got {size}")
        self.family: Any = getattr(distributions, family)
        constraints = getattr(self.family, "arg_constraints", {})
        constraints = dict(constraints) if isinstance(constraints, dict) else {}
        self.fixed = dict(fixed or {})
        for name in self.fixed:
            if name not in constraints:
                raise ValueError(
                    f"{family} has no parameter {name!r}{suggest(name, constraints)}; it has {', '.join(constraints)}"
                )
        names = [n for n in constraints if n not in self.fixed and _REDUNDANT.get(n) not in constraints]
        self.transforms = {}
        self.free = nn.ParameterDict()
        for name in names:
            try:
                self.transforms[name] = transform_to(constraints[name])
            except NotImplementedError as error:
                raise ValueError(
                    f"{name} of {family} cannot be learned by gradient: give it in fixed={{{name!r}: ...}}, or take another family"
                ) from error
            self.free[name] = nn.Parameter(torch.zeros((size,) * max(1, constraints[name].event_dim)))
        if not self.free:
            raise ValueError(f"{family} has no parameter (left) that a gradient can learn")

    def parameters_of(self) -> dict[str, Tensor]:
        """Return the learned parameters by name, mapped to the values that are allowed."""
        return {name: transform(self.free[name]) for name, transform in self.transforms.items()}

    def distribution(self) -> Distribution:
        """Return the distribution with the current parameters."""
        learned = self.parameters_of()
        like = next(iter(learned.values()))
        fixed = {
            name: torch.as_tensor(value, dtype=like.dtype, device=like.device) for name, value in self.fixed.items()
        }
        return self.family(**learned, **fixed, validate_args=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-likelihood of each example; of a family of numbers, the sum over the columns."""
        distribution = self.distribution()
        shape = distribution.batch_shape + distribution.event_shape
        if x.ndim == 1 and shape == (1,):
            x = x.unsqueeze(1)  # (B,) -> (B, 1)
        if x.shape[1:] not in (shape, shape or (1,)):
            raise ValueError(
                f"{self.family.__name__} was built for examples of shape {tuple(shape)}, got {tuple(x.shape)} for a batch: set "
                f"size={x.shape[-1]}"
            )
        likelihood = distribution.log_prob(x)
        return likelihood.flatten(1).sum(dim=1) if likelihood.ndim > 1 else likelihood


class MaximumLikelihood(Task):
    """A :class:`FittedDistribution` trained by maximum likelihood. Arguments: those of the net, then ``**task``.

    The loss is the negative log-likelihood in nats, a mean over examples. Nothing is standardized, since a density depends on the
    unit of its data. :func:`fit_distribution` gives the solution at once where the data fit into memory.

    Shape:
        batch: ``x``, ``(x, y)``, whose y is not used, or ``(x, y, weight)`` with weight ``(B,)``: rows of weight 0 do not count.

    Raises:
        ValueError: As the net, or data outside of the family's support.
    """

    net: FittedDistribution

    def __init__(
        self,
        family: str = "Gumbel",
        size: int = 1,
        fixed: dict[str, float] | None = None,
        **task: Unpack[TaskArguments],
    ) -> None:
        super().__init__(FittedDistribution(family=family, size=size, fixed=fixed), **task)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: that of the data, or of the distribution where no data were seen yet."""
        if self.input_shape is not None:
            return self.input_shape
        distribution = self.net.distribution()
        return tuple(distribution.batch_shape + distribution.event_shape)

    def standardize(self, x: Any, dtype: torch.dtype | None = None) -> Any:
        """Return the data as they are."""
        return x

    def setup(self, stage: str) -> None:
        """Refuse data that the trainer's precision cannot hold: they are not standardized."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            self.check_digits("columns", getattr(data, "mean", None), getattr(data, "std", None))

    def check_support(self, x: Tensor) -> None:
        """Refuse data that the family cannot produce.

        Raises:
            ValueError: A value outside of the support.
        """
        support: Any = self.net.distribution().support
        if not support.check(x).all():
            raise ValueError(f"{self.hparams['family']} cannot produce these data: they must be {support}")

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean negative log-likelihood."""
        loss, count = weighted_mean(-self(input_of(batch)), _weight_of(batch))
        return loss, {"loss": loss}, count

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the data in the first epoch."""
        if self.trainer.current_epoch == 0:
            self.check_support(input_of(batch))

    def build_metrics(self) -> dict[str, Metric]:
        return {"loss": MeanMetric(nan_strategy="disable")}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x = input_of(batch)
        self.check_support(x)
        metrics["loss"].update(counted(-self(x), _weight_of(batch)))

    output_meaning = "log-likelihood of each example in nats (B,)"

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``log_likelihood`` of each example in nats, ``(B,)``."""
        return {"log_likelihood": self(x)}

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``log_likelihood``: of each example in nats, ``(B,)``."""
        return self.outputs(input_of(batch))


def _weight_of(batch: Any) -> Tensor | None:
    """Weights of the rows of a batch ``x`` or ``(x, y, weight)``."""
    return batch[2] if not isinstance(batch, Tensor) and len(batch) > 2 else None


def fit_distribution(
    family: str, x: Tensor, fixed: dict[str, float] | None = None, steps: int = 500
) -> FittedDistribution:
    """Fit a family to data in memory, in float64, by L-BFGS on all of them.

    Args:
        family: Name of a class of ``torch.distributions``.
        x: Data ``(N,)`` or ``(N, D)``; of classes ``(N,)``, numbered from 0.
        fixed: Arguments of the family that are not learned.
        steps: Maximum number of L-BFGS iterations.

    Returns:
        The fitted distribution; ``parameters_of()`` are its parameters.

    Raises:
        ValueError: As :class:`FittedDistribution`, data outside of the family's support, or a fit that does not converge.

    Example:
        >>> fit = fit_distribution("Exponential", torch.tensor([1.0, 2.0, 3.0]))
        >>> round(fit.parameters_of()["rate"].item(), 6)  # 1 / mean
        0.5
    """
    classes = family == "Categorical"
    size = int(x.max()) + 1 if classes else (1 if x.ndim == 1 else x.shape[1])
    task = MaximumLikelihood(family, size, fixed).double()
    x = x.double()
    task.check_support(x)
    optimizer = torch.optim.LBFGS(
        task.parameters(), max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        optimizer.zero_grad()
        loss = task.training_losses(x)[0]
        loss.backward()
        return loss

    optimizer.step(closure)
    if not torch.isfinite(closure()):
        raise ValueError(
            f"the fit of {family} does not converge: the likelihood of these data has no maximum, or is not finite"
        )
    return task.net


register("max_likelihood_gumbel", MaximumLikelihood)
