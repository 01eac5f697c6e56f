"""Least squares against numpy and scikit-learn, on data read in batches."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression as Theirs
from sklearn.linear_model import Ridge
from torch import Tensor

import zoo
from zoo.linear import LinearRegression, NormalEquations, fit_closed_form


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """1000 rows, columns of very different scale and far from zero, two outputs."""
    x = torch.randn(1000, 6, dtype=torch.float64) * torch.tensor([1, 1e3, 1e-3, 1, 5, 1]) + torch.tensor(
        [0, 1e5, 2, 2000, -3, 0]
    )
    y = x @ torch.randn(6, 2, dtype=torch.float64) + torch.randn(1000, 2, dtype=torch.float64)
    return x, y


def reference(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) by numpy's SVD on the whole matrix; centering first is the exact elimination of the bias."""
    a, b = x.numpy(), y.numpy()
    weight = np.linalg.lstsq(a - a.mean(0), b - b.mean(0), rcond=None)[0]
    return weight.T, b.mean(0) - a.mean(0) @ weight


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_streaming_equals_numpy(data: tuple[Tensor, Tensor], batch_size: int) -> None:
    x, y = data
    equations = NormalEquations(6, 2)
    for rows in torch.arange(1000).split(batch_size):
        equations.update(x[rows], y[rows])
    (weight, bias), (w, b) = equations.solve(), reference(x, y)
    assert equations.count == 1000
    np.testing.assert_allclose(weight, w, rtol=1e-8)
    np.testing.assert_allclose(bias, b, rtol=1e-8)


def test_streaming_equals_numpy_on_real_data() -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    equations = NormalEquations(10)
    for rows in torch.arange(len(x)).split(32):
        equations.update(torch.tensor(x)[rows], torch.tensor(y)[rows])
    weight, bias = equations.solve()
    solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]  # X'X itself, not centered
    np.testing.assert_allclose(np.r_[weight[0], bias], solution, rtol=1e-8)


def test_ridge_equals_scikit_learn(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    equations = NormalEquations(6, 2)
    for rows in torch.arange(1000).split(64):
        equations.update(x[rows], y[rows])
    weight, bias = equations.solve(ridge=3.0)
    theirs = Ridge(alpha=3.0, solver="svd").fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(weight, theirs.coef_, rtol=1e-7)
    np.testing.assert_allclose(bias, theirs.intercept_, rtol=1e-7)


def test_dependent_and_constant_columns_predict_the_same(data: tuple[Tensor, Tensor]) -> None:
    x = torch.cat([data[0], data[0][:, :1] * 2 + 1, torch.full((1000, 1), 4.0)], dim=1)
    equations = NormalEquations(8, 2)
    equations.update(x, data[1])
    weight, bias = equations.solve()
    w, b = reference(*data)
    np.testing.assert_allclose(x @ weight.T + bias, data[0].numpy() @ w.T + b, rtol=1e-8)


def test_fit_closed_form_is_the_minimum(data: tuple[Tensor, Tensor]) -> None:
    """In the model's own standardized units, without rows of weight 0: the gradient is 0."""
    x, y = data
    model = zoo.LinearRegressor(6, 2).double()
    model.mean, model.std = x.mean(0), x.std(0)
    model.target_mean, model.target_std = y.mean(0), y.std(0)
    weight = (torch.arange(1000) % 4 > 0).double()
    wrong = torch.where(weight.bool()[:, None], y, y + 100)
    equations = fit_closed_form(model, zip(x.split(64), wrong.split(64), weight.split(64), strict=True))
    kept = weight.bool()
    assert equations.count == 750
    theirs = Theirs().fit(x[kept].numpy(), y[kept].numpy())
    np.testing.assert_allclose(model(x).detach(), theirs.predict(x.numpy()), rtol=1e-8)
    model.training_losses((x[kept], y[kept]))[0].backward()
    assert model.net.fc.weight.grad.abs().max() < 1e-10


def test_one_newton_step_finds_the_closed_form() -> None:
    x, y = (torch.tensor(a) for a in load_diabetes(return_X_y=True))
    arguments = {"optimizer": "Newton", "lr": 1.0, "optimizer_args": {"damping": 0.0}}
    models = [zoo.LinearRegressor(**arguments).double() for _ in range(2)]
    for model in models:
        model.mean, model.std = x.mean(0), x.std(0)
        model.target_mean, model.target_std = y.mean().view(1), y.std().view(1)
    optimizer = models[0].configure_optimizers()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = models[0].training_losses((x, y))[0]
        loss.backward()
        return loss

    optimizer.step(closure)
    fit_closed_form(models[1], [(x, y)])
    torch.testing.assert_close(models[0].net.fc.weight, models[1].net.fc.weight, atol=1e-6, rtol=0)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="takes 10 numbers an example, got 4: set in_features=4"):
        LinearRegression()(torch.rand(2, 4))
    equations = NormalEquations(3)
    with pytest.raises(ValueError, match="no data"):
        equations.solve()
    with pytest.raises(ValueError, match=r"x must have shape \(B, 3\) and y \(B, 1\), got \(5, 3\) and \(4,\)"):
        equations.update(torch.rand(5, 3), torch.rand(4))
    equations.update(torch.rand(0, 3), torch.rand(0))
    assert equations.count == 0
    equations.update(torch.rand(5, 3), torch.rand(5))
    with pytest.raises(ValueError, match="ridge must be 0 or above"):
        equations.solve(-1.0)
