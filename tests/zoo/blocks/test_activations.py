"""Activations against formulas, and the gradients that go straight through."""

import math
from typing import get_args

import pytest
import torch

from zoo.blocks import Activation, build_activation, expansion
from zoo.blocks.activations import Maxout, Softmax, StochasticBinary, Threshold

FORMULAS = {
    "identity": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": lambda x: (math.exp(2 * x) - 1) / (math.exp(2 * x) + 1),
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: max(x, 0.01 * x),
    "prelu": lambda x: max(x, 0.25 * x),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "threshold": lambda x: float(x >= 0),
    "stochastic_binary": lambda x: float(x >= 0),  # in evaluation
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str) -> None:
    values = [-3.0, -0.5, 0.0, 0.7, 2.0]
    got = build_activation(name).double().eval()(torch.tensor([values], dtype=torch.float64))
    assert got[0].tolist() == pytest.approx([FORMULAS[name](v) for v in values], abs=1e-12)


def test_every_name_has_a_test_and_builds() -> None:
    assert set(get_args(Activation)) == {*FORMULAS, "maxout", "softmax"}
    for name in get_args(Activation):
        units = 3 * expansion(name, pieces=4)
        assert build_activation(name, pieces=4)(torch.randn(2, units)).shape == (2, 3)


def test_maxout_takes_the_largest_of_each_units_pieces() -> None:
    x = torch.tensor([[1.0, 5.0, -2.0, -3.0]])
    assert Maxout(2)(x).tolist() == [[5.0, -2.0]]
    maps = torch.randn(2, 6, 4, 4)
    assert torch.equal(Maxout(3)(maps)[:, 1], maps[:, 3:].amax(1))


def test_softmax_has_a_temperature() -> None:
    x = torch.tensor([[0.0, math.log(4.0)]])
    torch.testing.assert_close(Softmax(1.0)(x), torch.tensor([[0.2, 0.8]]))
    torch.testing.assert_close(Softmax(2.0)(x), torch.tensor([[1 / 3, 2 / 3]]))


def test_the_thresholds_gradient_goes_straight_through() -> None:
    x = torch.tensor([-2.0, -0.1, 0.0, 3.0], requires_grad=True)
    y = Threshold()(x)
    assert y.tolist() == [0.0, 0.0, 1.0, 1.0]
    (y * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_the_stochastic_unit_is_one_with_probability_sigmoid() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0]).repeat(20_000, 1).requires_grad_()
    unit = StochasticBinary()
    y = unit(x)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    p = x.detach().sigmoid()
    torch.testing.assert_close(y.mean(0), p[0], atol=0.015, rtol=0)  # four standard errors
    y.sum().backward()
    torch.testing.assert_close(x.grad, p * (1 - p))
    assert unit.eval()(x)[0].tolist() == [0.0, 1.0, 1.0]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="unknown activation 'relo', did you mean 'relu'"):
        build_activation("relo")
    with pytest.raises(ValueError, match="pieces must be 2 or more, got 1"):
        build_activation("maxout", pieces=1)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        build_activation("softmax", temperature=0.0)
