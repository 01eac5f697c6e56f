"""Forecasts without a net, the baselines of series: the past repeats itself, or scikit-learn goes on from the last value."""

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from numpy import ndarray


def forecasters(data: Any, regressors: dict[str, Any]) -> dict[str, Any]:
    """Return the methods for series by name.

    Args:
        data: A datamodule of series that was set up: it knows season, horizon, shapes, and mean and deviation of the columns.
        regressors: scikit-learn's methods for numbers.
    """
    context, season = data.input_shape[0], data.season
    naive: dict[str, Any] = {"last value": Naive(data, 1)}
    if season > 1:
        naive[f"seasonal naive, season {season}"] = Naive(data, season)
    if 1 < season <= context // 2:
        naive["seasonal naive with drift"] = Naive(data, season, drift=True)
    return {**naive, **{name: FromLastValue(method, data) for name, method in regressors.items()}}


class Naive:
    """A forecast that repeats the last season of the context; season 1 repeats the last value.

    Args:
        data: See :func:`forecasters`.
        season: Steps of a season.
        drift: Whether it is raised by the difference of the means of the last season and the one before.
    """

    def __init__(self, data: Any, season: int, drift: bool = False) -> None:
        self.data, self.season, self.drift = data, season, drift

    def fit(self, x: "ndarray", y: "ndarray") -> Self:
        """Learn nothing."""
        return self

    def predict(self, x: "ndarray") -> "ndarray":
        """Return forecasts in the series' own unit: standardized contexts ``(N, T D)`` -> ``(N, H K)``."""
        import numpy as np

        known = targets_of(self.data, x)
        last = known[:, -self.season :]
        forecast = last[:, np.arange(self.data.horizon) % self.season]
        if self.drift:
            before = known[:, -2 * self.season : -self.season]
            forecast = forecast + (last.mean(axis=1) - before.mean(axis=1))[:, None]
        return forecast.reshape(len(x), -1)


class FromLastValue:
    """A regressor of what series become beyond the last value of the context, so that their level makes no difference.

    Args:
        method: Regressor of scikit-learn.
        data: See :func:`forecasters`.
    """

    def __init__(self, method: Any, data: Any) -> None:
        self.method, self.data = method, data

    def _parts(self, x: "ndarray") -> "tuple[ndarray, ndarray]":
        """Return the contexts less their last values, flattened, and the last values of the targets at all steps ``(N, H K)``."""
        contexts = x.reshape(len(x), *self.data.input_shape)
        last = targets_of(self.data, x)[:, -1:].repeat(self.data.horizon, axis=1)
        return (contexts - contexts[:, -1:]).reshape(len(x), -1), last.reshape(len(x), -1)

    def fit(self, x: "ndarray", y: "ndarray") -> Self:
        """Fit the regressor to differences."""
        inputs, last = self._parts(x)
        self.method.fit(inputs, y - last)
        return self

    def predict(self, x: "ndarray") -> "ndarray":
        """Return forecasts in the series' own unit: standardized contexts ``(N, T D)`` -> ``(N, H K)``."""
        inputs, last = self._parts(x)
        return self.method.predict(inputs).reshape(last.shape) + last


def targets_of(data: Any, x: "ndarray") -> "ndarray":
    """Return the targets in standardized contexts, in their own unit: ``(N, T D)`` -> ``(N, T, K)``."""
    k = data.num_outputs
    contexts = x.reshape(len(x), *data.input_shape)[..., :k]
    return contexts * data.std[:k].numpy() + data.mean[:k].numpy()
