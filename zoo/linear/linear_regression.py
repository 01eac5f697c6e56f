"""Linear regression (least squares): Bishop 2006, "Pattern Recognition and Machine Learning", section 3.1.

By gradient, or in closed form from sums over batches, so that the rows are never in memory at once.
"""

from collections.abc import Iterable
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from zoo.blocks import flatten_features
from zoo.registry import register
from zoo.tasks import RegressionArguments, RegressionTask


class LinearRegression(nn.Module):
    """One linear layer: y = W x + b.

    Args:
        in_features: Number of inputs D; images are flattened.
        num_outputs: Number of outputs K.
        bias: Whether there is a b; without it, the output for standardized inputs of 0 is the target's mean.

    Shape:
        ``(B, ...)`` with D numbers an example -> ``(B, K)``.

    Raises:
        ValueError: Input that does not have D numbers an example.
    """

    def __init__(self, in_features: int = 10, num_outputs: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.num_features = in_features
        self.fc = nn.Linear(in_features, num_outputs, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(flatten_features(self, x, self.num_features))


class LinearRegressor(RegressionTask):
    """A :class:`LinearRegression` trained by gradient. Arguments: those of the net, then ``**task``.

    :func:`fit_closed_form` sets the weights to the least-squares solution in one pass over the data.
    """

    def __init__(
        self, in_features: int = 10, num_outputs: int = 1, bias: bool = True, **task: Unpack[RegressionArguments]
    ) -> None:
        net = LinearRegression(in_features=in_features, num_outputs=num_outputs, bias=bias)
        super().__init__(net, num_outputs, **task)


class NormalEquations:
    """Least squares in one pass: X'X and X'y with a column of ones, in float64 on the CPU.

    Memory is (D + 1) (D + 1 + K) numbers, whatever the number of rows. Columns are shifted and scaled by the mean and the deviation
    of the first batch: the solution is the same, and columns far from zero keep their digits.

    Args:
        num_features: Number of inputs D.
        num_outputs: Number of outputs K.

    Attributes:
        count: Number of rows so far.

    Example:
        >>> equations = NormalEquations(1)
        >>> for x in (0.0, 1.0, 2.0):
        ...     equations.update(torch.tensor([[x]]), torch.tensor([3.0 * x + 1.0]))
        >>> weight, bias = equations.solve()
        >>> round(weight.item(), 9), round(bias.item(), 9)
        (3.0, 1.0)
    """

    def __init__(self, num_features: int, num_outputs: int = 1) -> None:
        self.num_features, self.num_outputs = num_features, num_outputs
        self.count = 0
        self.xx = torch.zeros(num_features + 1, num_features + 1, dtype=torch.float64)
        self.xy = torch.zeros(num_features + 1, num_outputs, dtype=torch.float64)
        self._origin: tuple[Tensor, Tensor, Tensor] | None = None  # mean and deviation of x, mean of y

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch of any size.

        Shape:
            x ``(B, ...)`` with D numbers an example, y ``(B, K)``, with one output also ``(B,)``.

        Raises:
            ValueError: Another shape.
        """
        rows, targets = x.flatten(1), y.unsqueeze(1) if y.ndim == 1 else y
        if rows.shape[1] != self.num_features or targets.shape != (len(rows), self.num_outputs):
            raise ValueError(
                f"x must have shape (B, {self.num_features}) and y (B, {self.num_outputs}), got {tuple(x.shape)} and "
                f"{tuple(y.shape)}"
            )
        rows, targets = rows.to("cpu", torch.float64), targets.to("cpu", torch.float64)
        if not len(rows):
            return
        if self._origin is None:
            deviation = rows.std(dim=0, correction=0)
            self._origin = rows.mean(dim=0), torch.where(deviation > 0, deviation, 1.0), targets.mean(dim=0)
        shift, scale, target_shift = self._origin
        z = torch.cat([(rows - shift) / scale, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)  # (B, D + 1)
        self.count += len(rows)
        self.xx += z.T @ z
        self.xy += z.T @ (targets - target_shift)

    def solve(self, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the weights that minimize the sum of squared residuals plus ``ridge`` times the sum of squared weights.

        Where columns depend on each other, it is one of several solutions that all predict the same.

        Args:
            ridge: Penalty >= 0, in units of the given columns; there is none on the bias.

        Returns:
            ``weight (K, D)`` and ``bias (K,)``, float64.

        Raises:
            ValueError: A negative ``ridge``, or no data yet.
        """
        if ridge < 0:
            raise ValueError(f"ridge must be 0 or above, got {ridge}")
        if self._origin is None:
            raise ValueError("no data: call update with at least one row first")
        shift, scale, target_shift = self._origin
        penalty = torch.cat([ridge / scale.square(), torch.zeros(1, dtype=torch.float64)])
        solution = torch.linalg.lstsq(self.xx + penalty.diag(), self.xy, driver="gelsd").solution  # (D + 1, K)
        weight = (solution[:-1] / scale.unsqueeze(1)).T  # (D, K) -> (K, D)
        return weight, solution[-1] + target_shift - weight @ shift


def fit_closed_form(model: LinearRegressor, batches: Iterable[Any], ridge: float = 0.0) -> NormalEquations:
    """Set a model's weights to the least-squares solution, in one pass over the data.

    Args:
        model: Model whose weights are set, in its own precision (float32 keeps about seven digits of them).
        batches: Batches ``(x, y)`` or ``(x, y, weight)``, as a datamodule's loader gives them; rows of weight 0 are left out.
        ridge: Penalty as in :meth:`NormalEquations.solve`, on the columns as the model standardizes them.

    Returns:
        The sums over the data, with the number of rows in ``count``.

    Raises:
        ValueError: A negative ``ridge``, no data, data of another shape, or a model without a bias.
    """
    fc = model.net.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    if fc.bias is None:
        raise ValueError(
            "the closed form solves for weights and a bias, and this model has bias=False: build it with bias=True"
        )
    equations = NormalEquations(fc.in_features, fc.out_features)
    for x, y, *rest in batches:
        rows, targets = (
            model.standardize(x.double(), torch.float64).flatten(1),
            model.standardize_target(y.double(), torch.float64),
        )
        if rest:
            rows, targets = rows[rest[0] > 0], targets[rest[0] > 0]
        equations.update(rows, targets)
    weight, bias = equations.solve(ridge)
    with torch.no_grad():
        fc.weight.copy_(weight)
        fc.bias.copy_(bias)
    return equations


register("linear_regression", LinearRegressor)
