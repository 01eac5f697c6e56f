"""The net that carries on: against torch's modules over the whole series, and what taking off levels is for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo import RecurrentForecaster, create_model
from zoo.recurrent import ForecastNet

MODULES = {"rnn_tanh": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def oracle(net: ForecastNet, x: Tensor, forecast: Tensor) -> Tensor:
    """What torch's module makes of the context and the net's own forecasts, read at once: all but the last are its input."""
    cell, layers = net.recurrent.cell, net.recurrent.layers
    module = MODULES[cell](x.shape[2], net.recurrent.width, num_layers=len(layers), batch_first=True).double()
    for i, layer in enumerate(layers):
        for name, value in layer.state_dict().items():
            getattr(module, name.replace("_l0", f"_l{i}")).data = value
    kept = x[:, -1:, net.num_outputs :].expand(-1, net.horizon, -1)
    inputs = torch.cat([x, torch.cat([forecast, kept], dim=2)[:, :-1]], dim=1)  # (B, T + H - 1, D)
    outputs = module(inputs)[0][:, x.shape[1] - 1 :]  # (B, H, W)
    before = torch.cat([x[:, -1:, : net.num_outputs], forecast[:, :-1]], dim=1)
    return before + net.head(outputs)


@pytest.mark.parametrize("cell", MODULES)
@pytest.mark.parametrize(("layers", "horizon"), [(1, 1), (1, 4), (2, 3)])
def test_it_goes_on_from_its_last_state_with_its_own_forecasts(cell: Any, layers: int, horizon: int) -> None:
    net = ForecastNet(3, 2, horizon, cell, width=5, num_layers=layers, normalization="none").double()
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    with torch.no_grad():
        forecast = net(x)
        assert forecast.shape == (4, horizon, 2)
        torch.testing.assert_close(oracle(net, x, forecast), forecast, rtol=1e-12, atol=1e-12)


def test_a_level_or_a_scale_that_training_never_saw_makes_no_difference() -> None:
    x = torch.randn(4, 8, 2, dtype=torch.float64)
    scale, level = torch.tensor([50.0, 0.3]), torch.tensor([1000.0, -7.0])

    def difference(normalization: Any, scale: Tensor) -> float:
        torch.manual_seed(0)
        net = ForecastNet(2, 1, 3, width=6, normalization=normalization).double()
        with torch.no_grad():
            return (net(x * scale + level) - (net(x) * scale[:1] + level[:1])).abs().max().item()

    one = torch.ones(2, dtype=torch.float64)
    assert difference("last", one) < 1e-9
    assert difference("window", one) < 1e-9
    assert difference("window", scale) < 1e-3 * 50  # but for the constant that keeps a flat window from dividing by 0
    assert difference("window", scale * 1e-4) < 1e-9  # a small series among large ones, whose mean and std it shares
    assert difference("none", one) > 0.1
    assert difference("last", scale) > 0.1


def test_a_flat_window_goes_on_flat() -> None:
    net = ForecastNet(1, 1, 3, width=4)
    forecast = net(torch.full((2, 5, 1), 3.0))
    assert (forecast - 3).abs().max() < 0.05


def test_number_of_parameters() -> None:
    """Three gates over an input, a state of 64 and two biases; a linear map to one number."""
    gru = create_model("gru_forecaster")
    assert sum(p.numel() for p in gru.net.parameters()) == 3 * (64 * 1 + 64 * 64 + 2 * 64) + 65
    assert {create_model(f"{name}_forecaster").hparams["cell"] for name in ("rnn", "lstm", "gru")} == set(MODULES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_outputs": 2}, r"num_outputs must lie in 1..input_size, 1, got 2"),
        ({"horizon": 0}, r"horizon must be 1 or more, got 0"),
        ({"normalization": "revin"}, r"normalization must be one of window, last, none, got 'revin'"),
        ({"cell": "gru2"}, r"cell must be one of rnn_tanh, rnn_relu, lstm, gru, got 'gru2'"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RecurrentForecaster(**arguments)
