"""Dense highway networks: a float64 formula, open and closed gates, and a depth at which plain nets do not learn."""

import pytest
import torch
from torch import nn

import zoo
from datamodules import DigitsDataModule
from zoo.linear import MLP, Highway


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("depth", "bias", "parameters"), [(10, -1, 85_660), (20, -2, 136_660), (50, -3, 289_660), (100, -4, 544_660)]
)
def test_published_sizes(depth: int, bias: float, parameters: int) -> None:
    """50 units, a highway layer of 5,100 parameters; the plain one of 71 units has about as many (section 3.1)."""
    with torch.device("meta"):
        net = zoo.create_model(f"highway{depth}").net
    assert count(net) == parameters == 785 * 50 + (depth - 1) * 2 * 51 * 50 + 510
    assert count(net.layers[1]) == 5_100
    assert abs(count(MLP(widths=[71, 71]).layers[1]) - 5_100) < 50
    assert zoo.create_model(f"highway{depth}").net.layers[1].gate_bias.tolist() == [bias] * 50


def test_equals_the_formula() -> None:
    net, x = Highway(3, -1.0, 6, 4, 5, "tanh").double(), torch.randn(7, 6, dtype=torch.float64)
    for p in net.parameters():
        nn.init.normal_(p)
    w = net.state_dict()
    y = torch.tanh(x @ w["layers.0.0.weight"].T + w["layers.0.0.bias"])
    for i in (1, 2):
        h = torch.tanh(y @ w[f"layers.{i}.transform.0.weight"].T + w[f"layers.{i}.transform.0.bias"])
        t = 1 / (1 + torch.exp(-(y @ w[f"layers.{i}.gate.weight"].T + w[f"layers.{i}.gate_bias"])))
        y = h * t + y * (1 - t)
    torch.testing.assert_close(net(x), y @ w["fc.weight"].T + w["fc.bias"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("bias", "what"), [(-torch.inf, "identity"), (torch.inf, "plain")])
def test_closed_and_open_gates(bias: float, what: str) -> None:
    net, x = Highway(4, bias, 6, 3, 5), torch.randn(7, 6)
    first = net.layers[0](x)
    if what == "identity":
        wanted = first
    else:
        wanted = nn.Sequential(*(layer.transform for layer in net.layers[1:]))(first)
    assert torch.equal(net(x), net.fc(wanted))


def test_fifty_layers_learn_where_plain_ones_do_not() -> None:
    """40 steps on a batch of digits: a plain net with as many parameters learns no more than how frequent each class is."""
    data = DigitsDataModule(batch_size=64)
    data.setup("fit")
    x, y = next(iter(data.train_dataloader()))[:2]
    share = torch.bincount(y) / len(y)
    chance = -(share * share.log()).sum().item()
    losses = {}
    for name, task in (
        ("highway", zoo.HighwayClassifier(50, -3.0, 64)),
        ("plain", zoo.MLPClassifier(64, widths=[71] * 50)),
    ):
        optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
        for _ in range(40):
            optimizer.zero_grad()
            loss = task.training_losses((x, y))[0]
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
    assert losses["highway"] < 0.5 * chance
    assert losses["plain"] > 0.99 * chance


def test_an_initialization_keeps_the_bias_of_the_gates() -> None:
    net = zoo.create_model("highway20", init="kaiming_normal").net
    assert (net.layers[1].gate_bias == -2).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be 1 or more, got 0"),
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"activation": "maxout"}, "'maxout' takes several units for one"),
        ({"activation": "rely"}, "unknown activation 'rely', did you mean 'relu'"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.HighwayClassifier(**arguments)
