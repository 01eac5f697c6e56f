"""Generalized linear models against scikit-learn's fits and hand-written likelihoods in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from sklearn import linear_model
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.linear.glm import FAMILIES, GLM


def softmax(eta: np.ndarray) -> np.ndarray:
    e = np.exp(eta)
    return e / e.sum(1, keepdims=True)


def nll(family: str, eta: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-ln p(y | eta), the canonical form a(eta) - eta y - c(y) written out."""
    if family == "gaussian":
        return eta**2 / 2 - eta * y + y**2 / 2 + math.log(2 * math.pi) / 2
    if family == "bernoulli":
        return np.log1p(np.exp(eta)) - eta * y
    if family == "poisson":
        return np.exp(eta) - eta * y + np.vectorize(math.lgamma)(y + 1)
    return -np.log(softmax(eta)[np.arange(len(y)), y.astype(int)])


MEANS = {
    "gaussian": lambda e: e,
    "bernoulli": lambda e: 1 / (1 + np.exp(-e)),
    "poisson": np.exp,
    "categorical": softmax,
}


def sample(family: str, outputs: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(300, 4, dtype=torch.float64)
    eta = 0.5 * x @ torch.randn(4, outputs, dtype=torch.float64)
    net = GLM(4, outputs, family)
    return x, net.distribution(eta).sample()


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_prediction(family: str) -> None:
    x, y = sample(family, 3)
    task = zoo.GLMRegressor(4, 3, family).double()
    eta = task(x).detach().numpy()
    loss, means, count = task.training_losses((x, y))
    assert loss.item() == pytest.approx(nll(family, eta, y.numpy()).mean(), rel=1e-10)
    assert count == 300
    mean = MEANS[family](eta)
    np.testing.assert_allclose(task.predict_step(x)["value"].detach(), mean, rtol=1e-5)
    error = 1 - mean[np.arange(300), y.int()] if family == "categorical" else abs(mean - y.numpy())
    assert means["mae"].item() == pytest.approx(error.mean(), rel=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_newton_finds_scikit_learns_solution(family: str) -> None:
    x, y = sample(family, 3 if family == "categorical" else 1)
    task = zoo.GLMRegressor(4, 3 if family == "categorical" else 1, family, optimizer="Newton", lr=1.0).double()
    optimizer = task.configure_optimizers()
    for p in task.parameters():
        torch.nn.init.zeros_(p)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.training_losses((x, y))[0]
        loss.backward()
        return loss

    for _ in range(12):
        optimizer.step(closure)
    tight: dict[str, Any] = {"tol": 1e-10, "max_iter": 10_000}
    theirs = {
        "gaussian": linear_model.LinearRegression(),
        "bernoulli": linear_model.LogisticRegression(C=math.inf, **tight),
        "categorical": linear_model.LogisticRegression(C=math.inf, **tight),
        "poisson": linear_model.PoissonRegressor(alpha=0.0, **tight),
    }[family].fit(x.numpy(), y.numpy().ravel())
    weight = task.net.fc.weight.detach().numpy()
    if family == "categorical":  # only differences between classes are determined
        weight, coef = weight - weight.mean(0), theirs.coef_ - theirs.coef_.mean(0)
    else:
        coef = np.atleast_2d(theirs.coef_)
    np.testing.assert_allclose(weight, coef, atol=1e-4)


def test_the_canonical_gradient_is_the_residual_times_the_input() -> None:
    """The property of a canonical link: for every family, d loss / d W = (E y - y) x'."""
    for family in FAMILIES:
        x, y = sample(family, 3)
        task = zoo.GLMRegressor(4, 3, family).double()
        task.training_losses((x, y))[0].backward()
        target = torch.eye(3, dtype=torch.float64)[y.long()] if family == "categorical" else y
        residual = torch.from_numpy(MEANS[family](task(x).detach().numpy())) - target
        scale = 300 if family == "categorical" else 900  # a mean over examples and targets
        torch.testing.assert_close(task.net.fc.weight.grad, residual.T @ x / scale)


def test_the_floor_of_a_gaussian_is_the_loss_of_a_net_that_knows_every_target() -> None:
    task = zoo.GLMRegressor(1)
    torch.nn.init.ones_(task.net.fc.weight)
    torch.nn.init.zeros_(task.net.fc.bias)
    y = torch.randn(9)
    assert task.training_losses((y[:, None], y))[0].item() == pytest.approx(task.loss_floor())
    assert zoo.GLMRegressor(1, family="poisson").loss_floor() == 0


def test_evaluation_is_exact_without_rows_of_weight_zero(tmp_path: Any) -> None:
    x, y = sample("poisson", 1)
    task = zoo.GLMRegressor(4, family="poisson")
    weight = (torch.arange(300) % 3 > 0).float()
    run = quiet_trainer(default_root_dir=tmp_path)
    got = run.validate(task, DataLoader(TensorDataset(x.float(), y.float(), weight), 7), verbose=False)[0]
    kept, eta = weight.bool(), task(x.float()).detach().double().numpy()
    assert got["val/loss"] == pytest.approx(nll("poisson", eta, y.numpy())[kept].mean(), rel=1e-5)
    assert got["val/mae"] == pytest.approx(abs(np.exp(eta) - y.numpy())[kept].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("family", "y", "message"),
    [
        ("poisson", [0.0, -1.0], "poisson targets must be whole numbers from 0, got values in -1..0"),
        ("poisson", [0.0, 1.5], "poisson targets must be whole numbers from 0"),
        ("bernoulli", [0.0, 2.0], r"bernoulli targets must be whole numbers in 0..1, got values in 0..2"),
        ("categorical", [0.0, 3.0], r"categorical targets must be whole numbers in 0..2"),
    ],
)
def test_targets_outside_of_the_support_are_refused(family: str, y: list[float], message: str) -> None:
    task = zoo.GLMRegressor(4, 3 if family == "categorical" else 1, family)
    with pytest.raises(ValueError, match=message):
        task.update_metrics(task.build_metrics(), (torch.rand(2, 4), torch.tensor(y)))


def test_bad_arguments_and_shapes() -> None:
    with pytest.raises(ValueError, match=r"family must be one of gaussian, .*, got 'gamma'"):
        GLM(family="gamma")
    with pytest.raises(ValueError, match="got 1 for the categorical family"):
        GLM(family="categorical")
    with pytest.raises(ValueError, match=r"targets must have shape \(B, 2\) for num_outputs=2, got \(8,\)"):
        zoo.GLMRegressor(4, 2).training_losses((torch.rand(8, 4), torch.rand(8)))
    with pytest.raises(ValueError, match=r"class numbers \(B,\), got shape \(8, 3\)"):
        zoo.GLMRegressor(4, 3, "categorical").training_losses((torch.rand(8, 4), torch.rand(8, 3)))


def test_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    for name in ("heatmap", "predicted_against_true"):
        monkeypatch.setattr(f"zoo.drawing.figures.{name}", lambda *args: seen.append(args) or args[0])
    task = zoo.create_model("glm_categorical", in_features=3)
    task.class_names = ["a", "b", "c"]
    with torch.no_grad():
        task.net.fc.weight.copy_(torch.eye(3))
        task.net.fc.bias.zero_()
    x, y = torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 0, 2])
    assert set(task.render((x, y))) == {"confusion"}
    assert seen[0][0].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]  # a row is a true class
    assert seen[0][1] == ["a", "b", "c"]
    assert seen[0][4] == "3 of 4 shown are right"
    counts = zoo.create_model("glm_poisson", in_features=3)
    assert set(counts.render((x, y))) == {"scatter"}
    true, predicted = seen[1]
    assert torch.equal(true, y[:, None])
    torch.testing.assert_close(predicted, counts.predict_step((x, y))["value"][:, None])
