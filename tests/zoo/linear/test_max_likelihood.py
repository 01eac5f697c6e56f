"""Maximum likelihood against closed forms, scipy, and the equations that a solution must solve."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import distributions as td

import zoo
from zoo.linear.max_likelihood import FittedDistribution, fit_distribution
from zoo.testing import check_module


def values(fit: FittedDistribution) -> dict[str, Any]:
    return {name: value.detach().squeeze().tolist() for name, value in fit.parameters_of().items()}


def test_gumbel_is_scipys_fit() -> None:
    x = td.Gumbel(torch.tensor(12.0), torch.tensor(3.0)).sample((500,)).double()
    fit = fit_distribution("Gumbel", x)
    loc, scale = scipy.stats.gumbel_r.fit(x.numpy())
    assert values(fit) == pytest.approx({"loc": loc, "scale": scale}, rel=1e-5)
    # the likelihood equations: scale = mean - sum(x e^(-x/s)) / sum(e^(-x/s)), loc = -s ln mean(e^(-x/s))
    got = values(fit)
    weight = torch.exp(-x / got["scale"])
    assert got["scale"] == pytest.approx((x.mean() - (x * weight).sum() / weight.sum()).item(), rel=1e-6)
    assert got["loc"] == pytest.approx((-got["scale"] * weight.mean().log()).item(), rel=1e-6)


def test_closed_forms() -> None:
    x = torch.randn(400, dtype=torch.float64) * 3 + 50
    assert values(fit_distribution("Normal", x)) == pytest.approx(
        {"loc": x.mean().item(), "scale": x.std(correction=0).item()}, rel=1e-6
    )
    count = torch.poisson(torch.full((400,), 3.0))
    assert values(fit_distribution("Poisson", count)) == pytest.approx({"rate": count.mean().item()}, rel=1e-6)
    coin = td.Binomial(10, torch.tensor(0.3)).sample((400,))
    fit = fit_distribution("Binomial", coin, fixed={"total_count": 10})
    assert fit.distribution().mean.item() == pytest.approx(coin.mean().item(), rel=1e-6)
    label = torch.tensor([0, 0, 0, 2, 1, 2, 0, 2])
    assert fit_distribution("Categorical", label).distribution().probs.tolist() == pytest.approx([4 / 8, 1 / 8, 3 / 8])
    label = torch.tensor([0, 0, 2, 0, 2])  # class 1 does not occur
    assert fit_distribution("Categorical", label).distribution().probs.tolist() == pytest.approx(
        [0.6, 0, 0.4], abs=1e-4
    )


def test_each_column_is_fitted_by_itself_and_vectors_as_a_whole() -> None:
    x = torch.randn(400, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 5
    fit = fit_distribution("Laplace", x)
    alone = [fit_distribution("Laplace", x[:, i]) for i in range(3)]
    nll = -fit(x).mean().item()
    assert nll == pytest.approx(sum(-f(x[:, i]).mean().item() for i, f in enumerate(alone)), rel=1e-6)
    together = fit_distribution("MultivariateNormal", x)
    np.testing.assert_allclose(together.parameters_of()["loc"].detach(), x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        together.distribution().covariance_matrix.detach(), np.cov(x.T.numpy(), bias=True), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("family", ["Gamma", "Beta", "StudentT", "Weibull", "LogNormal", "Gumbel"])
def test_the_fit_is_a_maximum(family: str) -> None:
    """No small step in any parameter makes the data more likely, and the true parameters are not more likely either."""
    true = {
        "Gamma": td.Gamma(3.0, 2.0),
        "Beta": td.Beta(2.0, 5.0),
        "StudentT": td.StudentT(4.0, 1.0, 2.0),
        "Weibull": td.Weibull(2.0, 1.5),
        "LogNormal": td.LogNormal(1.0, 0.5),
        "Gumbel": td.Gumbel(1.0, 2.0),
    }[family]
    x = true.sample((300,)).double()
    fit = fit_distribution(family, x)
    best = fit(x).sum().item()
    assert best >= true.log_prob(x).sum().item()
    for parameter in fit.parameters():
        for step in (1e-3, -1e-3):
            parameter.data += step
            assert fit(x).sum().item() < best
            parameter.data -= step


def test_log_likelihood_and_its_mean() -> None:
    task = zoo.MaximumLikelihood("Normal", 2)
    x = torch.randn(9, 2)
    wanted = td.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(task.predict_step(x)["log_likelihood"], wanted)
    assert task.training_losses((x, None))[0].item() == pytest.approx(-wanted.mean().item())
    metrics = task.build_metrics()
    weight = (torch.arange(9) % 3 > 0).float()
    task.update_metrics(metrics, (x, x, weight))
    assert metrics["loss"].compute().item() == pytest.approx(-wanted[weight > 0].mean().item())


@pytest.mark.parametrize(
    ("family", "size", "fixed", "shape"),
    [
        ("Gumbel", 1, None, (1,)),
        ("Normal", 3, None, (3,)),
        ("Gamma", 2, None, (2,)),
        ("Binomial", 2, {"total_count": 10.0}, (2,)),
        ("MultivariateNormal", 3, None, (3,)),
        ("Dirichlet", 3, None, (3,)),
        ("Categorical", 4, None, ()),
    ],
)
def test_example_inputs_are_what_the_family_takes(family: str, size: int, fixed: Any, shape: tuple[int, ...]) -> None:
    task = zoo.MaximumLikelihood(family, size, fixed)
    assert task.example_shape == shape
    inputs = task.example_inputs(5)
    assert [tuple(x.shape) for x in inputs] == [(5, *shape)]
    assert task(*inputs).shape == (5,)
    assert (task.reads, task.makes, task.learns) == ("row", None, ())


def test_another_number_of_columns_is_refused() -> None:
    task = zoo.MaximumLikelihood("Normal", 2)
    task.input_shape = (3,)
    with pytest.raises(ValueError, match=r"Normal was built for examples of shape \(2,\), got \(1, 3\).* size=3"):
        task.try_example()
    task.input_shape = (2,)
    task.try_example()
    one = zoo.MaximumLikelihood("Normal")
    with pytest.raises(ValueError, match=r"shape \(1,\), got \(4, 3\) for a batch: set size=3"):
        one(torch.rand(4, 3))
    assert one(torch.rand(4)).shape == one(torch.rand(4, 1)).shape == (4,)
    labels = zoo.MaximumLikelihood("Categorical", 3)
    assert torch.equal(labels(torch.tensor([0, 2])), labels(torch.tensor([[0], [2]])))


def test_nothing_is_standardized() -> None:
    task = zoo.MaximumLikelihood("Normal").set_standardization(5.0, 2.0)
    x = torch.randn(4, 1)
    torch.testing.assert_close(task(x), td.Normal(0.0, 1.0).log_prob(x).squeeze(1))


@pytest.mark.parametrize("family", ["Normal", "Gamma", "StudentT", "Gumbel"])
def test_contract(family: str) -> None:
    task = zoo.MaximumLikelihood(family)
    reason = "a density has an entropy"
    report = check_module(task, (torch.rand(8, 1) + 0.1,), skip={"memorization": reason})
    assert {name for name, result in report.items() if result != "ok"} == {"memorization"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "Gumbell"}, "unknown family 'Gumbell', did you mean 'Gumbel'"),
        ({"family": "Binomial"}, "total_count of Binomial cannot be learned by gradient: give it in fixed="),
        ({"family": "Normal", "fixed": {"sale": 1.0}}, "Normal has no parameter 'sale', did you mean 'scale'"),
        ({"family": "Poisson", "fixed": {"rate": 1.0}}, r"no parameter \(left\) that a gradient can learn"),
        ({"family": "Uniform"}, "Uniform has no parameter"),
        ({"size": 0}, "size must be 1 or more"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FittedDistribution(**arguments)


def test_data_outside_of_the_support_are_refused() -> None:
    with pytest.raises(ValueError, match="Gamma cannot produce these data: they must be"):
        fit_distribution("Gamma", torch.tensor([1.0, -1.0]))
