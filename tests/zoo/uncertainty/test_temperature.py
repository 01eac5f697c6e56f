"""Temperature scaling against a minimizer of SciPy, and what it must leave as it is."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from zoo.uncertainty import fit_temperature

N, K = 400, 5


def multiclass(scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(K, (N,), generator=generator)
    return scale * (torch.randn(N, K, generator=generator) + 1.5 * F.one_hot(y, K)), y


def binary() -> tuple[Tensor, Tensor]:
    z, y = multiclass()
    return z[:, :1] - z[:, 1:2], (y == 0).long()


def multilabel() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(2, (N, K), generator=generator)
    return 4 * (torch.randn(N, K, generator=generator) + y - 0.5), y


def nll(z: Tensor, y: Tensor, temperature: float) -> float:
    z = z.double() / temperature
    if y.ndim == 2:
        return F.binary_cross_entropy_with_logits(z, y.double()).item()
    if z.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(z[:, 0], y.double()).item()
    return F.cross_entropy(z, y).item()


@pytest.mark.parametrize("make", [multiclass, binary, multilabel])
def test_it_has_the_smallest_loss(make: Any) -> None:
    z, y = make()
    found = fit_temperature(z, y)
    wanted = minimize_scalar(lambda t: nll(z, y, t), bounds=(0.05, 50), method="bounded", options={"xatol": 1e-9}).x
    assert found == pytest.approx(wanted, rel=1e-5)
    assert nll(z, y, found) < nll(z, y, 1.0) - 0.05
    assert fit_temperature(z, y) == found
    if z.shape[1] == 1:
        assert fit_temperature(z[:, 0], y) == found


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_it_grows_with_the_logits(scale: float) -> None:
    z, y = multiclass()
    assert fit_temperature(z * scale, y) == pytest.approx(fit_temperature(z, y) * scale, rel=1e-5)


def test_no_decision_changes() -> None:
    z, y = multiclass()
    assert torch.equal((z / fit_temperature(z, y)).argmax(dim=1), z.argmax(dim=1))


def test_calibrated_logits_stay() -> None:
    """Labels drawn from the probabilities themselves: 1, but for chance."""
    z = torch.randn(20_000, K)
    y = z.softmax(dim=1).multinomial(1)[:, 0]
    assert fit_temperature(z, y) == pytest.approx(1.0, abs=0.05)


def test_where_no_temperature_is_best() -> None:
    z, _ = multiclass()
    with pytest.raises(ValueError, match="each of the 400 examples is classified right"):
        fit_temperature(z, z.argmax(dim=1))
    for wrong in (z, torch.zeros(N, K)):
        with pytest.raises(ValueError, match="no better than chance"):
            fit_temperature(wrong, z.argmin(dim=1))


@pytest.mark.parametrize(
    ("z", "y", "message"),
    [
        (torch.rand(3, 2), torch.tensor([0, 1]), r"got \(3, 2\) and \(2,\)"),
        (torch.rand(0, 2), torch.zeros(0, dtype=torch.long), "one example or more"),
        (torch.rand(3, 2), torch.tensor([0, 1, 2]), r"in 0..1, got 0..2"),
        (torch.rand(3, 1), torch.tensor([0, -1, 1]), r"in 0..1, got -1..1"),
        (torch.rand(3, 2), torch.rand(3), r"whole numbers"),
        (torch.full((3, 2), float("inf")), torch.tensor([0, 1, 1]), "not finite"),
    ],
)
def test_bad_values(z: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(z, y)


def test_a_hard_search_ends() -> None:
    """One wrong example among many that are right by far: the optimum is at a small temperature, far from the scale."""
    z = nn.functional.one_hot(torch.zeros(5000, dtype=torch.long), 2).double()
    z[0] = torch.tensor([0.0, 1e-7])
    y = torch.zeros(5000, dtype=torch.long)
    found = fit_temperature(z, y)
    losses = [nll(z, y, t) for t in (found * 0.999, found, found * 1.001)]
    assert losses[1] <= min(losses[0], losses[2])
