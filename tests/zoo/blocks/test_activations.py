"""Activations against formulas, and the gradients that go straight through."""

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

import zoo
from zoo.blocks import ActivationName, build_activation, expansion
from zoo.blocks.activations import Maxout, Softmax, StochasticBinary, Threshold
from zoo.blocks.skeleton import skeleton
from zoo.registry import arguments_of, get

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
    assert set(get_args(ActivationName)) == {*FORMULAS, "maxout", "softmax"}
    for name in get_args(ActivationName):
        units = 3 * expansion(name, pieces=4)
        assert build_activation(name, pieces=4)(torch.randn(2, units)).shape == (2, 3)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ({"name": "leaky_relu", "negative_slope": 0.2}, lambda x: max(x, 0.2 * x)),
        ({"name": "prelu", "init": 0.5}, lambda x: max(x, 0.5 * x)),
        ({"name": "elu", "alpha": 2}, lambda x: x if x > 0 else 2 * (math.exp(x) - 1)),
        (
            {"name": "gelu", "approximate": "tanh"},
            lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        ),
        ({"name": "relu"}, lambda x: max(x, 0.0)),
    ],
)
def test_arguments(activation: dict[str, Any], formula: Any) -> None:
    given, values = dict(activation), [-3.0, -0.5, 0.0, 0.7, 2.0]
    got = build_activation(activation).double()(torch.tensor([values], dtype=torch.float64))
    assert got[0].tolist() == pytest.approx([formula(v) for v in values], abs=1e-7)
    assert activation == given
    assert expansion({"name": "maxout", "pieces": 5}) == 5


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (
            {"name": "leaky_relu", "slope": 0.2},
            "activation 'leaky_relu' has no argument 'slope'.*it has negative_slope",
        ),
        ({"name": "relu", "alpha": 1.0}, "activation 'relu' has no argument 'alpha'; it has none"),
        ({"name": "elu", "alpha": "x"}, "alpha of activation 'elu' must be a number, got 'x'"),
        ({"name": "elu", "alpha": math.nan}, "must be a number, got nan"),
        ({"name": "maxout", "pieces": 2.5}, "must be a whole number, got 2.5"),
        ({"name": "gelu", "approximate": "exact"}, "must be 'none' or 'tanh', got 'exact'"),
        ({"negative_slope": 0.2}, "without a name"),
        ({"name": "leaky"}, "unknown activation 'leaky', did you mean|unknown activation 'leaky'"),
    ],
)
def test_wrong_arguments(activation: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_activation(activation)


@pytest.mark.parametrize("name", [n for n in zoo.list_models() if "activation" in arguments_of(get(n).cls)])
def test_every_model_that_takes_an_activation_takes_its_arguments(name: str) -> None:
    activation = {"name": "elu", "alpha": 0.5}
    with skeleton():
        model = zoo.create_model(name, activation=activation)
    found = [part for part in model.net.modules() if isinstance(part, nn.ELU)]
    assert bool(found) == (name != "autoencoder_linear")  # which has no hidden layer
    assert all(part.alpha == 0.5 for part in found)
    assert model.hparams["activation"] == activation


def test_an_activation_with_arguments_comes_back(tmp_path: Path) -> None:
    model = zoo.create_model("mlp", in_features=4, widths=[3], activation={"name": "leaky_relu", "negative_slope": 0.2})
    again = zoo.load(model.save_pretrained(tmp_path / "mlp"))
    assert again.hparams["activation"] == {"name": "leaky_relu", "negative_slope": 0.2}
    x = torch.randn(5, 4)
    assert torch.equal(again.eval()(x), model.eval()(x))


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
