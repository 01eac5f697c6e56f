"""The convolutional highway network: the authors' parameter count, a float64 formula, open and closed gates."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from zoo.blocks import HighwayLayer
from zoo.cnn import ConvHighway


def test_published_parameter_count() -> None:
    """Table 1 of arXiv:1507.06228 rounds the net of 19 layers to 2.3 million."""
    with torch.device("meta"):
        net = zoo.create_model("conv_highway19").net
    assert sum(p.numel() for p in net.parameters()) == 2_256_838
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) - 14 + 1 == 19  # 14 gates are not counted


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """By unfolding: patches times weights."""
    patches = F.unfold(x, weight.shape[-1], padding=weight.shape[-1] // 2)  # (B, C*k*k, L)
    return (weight.flatten(1) @ patches + bias[:, None]).unflatten(2, x.shape[2:])


def test_equals_the_formula() -> None:
    net, x = ConvHighway((1, 0, 1), -1.0, 4, 2, 8).double(), torch.rand(2, 2, 8, 8, dtype=torch.float64)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    w, y = net.state_dict(), x
    for stage, layers in (("layer1", 1), ("layer2", 0), ("layer3", 1)):
        if stage != "layer1":
            y = y.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5))
        y = convolve(y, w[f"{stage}.0.0.weight"], w[f"{stage}.0.0.bias"]).clamp(min=0)
        for i in range(1, layers + 1):
            h = convolve(y, w[f"{stage}.{i}.transform.0.weight"], w[f"{stage}.{i}.transform.0.bias"]).clamp(min=0)
            t = 1 / (1 + torch.exp(-convolve(y, w[f"{stage}.{i}.gate.weight"], w[f"{stage}.{i}.gate_bias"])))
            y = h * t + y * (1 - t)
    y = convolve(y, w["layer4.0.weight"], w["layer4.0.bias"]).clamp(min=0).mean(dim=(2, 3))
    torch.testing.assert_close(net(x), y @ w["fc.weight"].T + w["fc.bias"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("bias", "what"), [(-torch.inf, "identity"), (torch.inf, "plain")])
def test_closed_and_open_gates(bias: float, what: str) -> None:
    net, x = ConvHighway((2, 1, 3), bias, width=8), torch.rand(2, 3, 16, 16)
    y = net(x)
    for stage in (net.layer1, net.layer2, net.layer3):
        for i, layer in enumerate(stage):
            if isinstance(layer, HighwayLayer):
                stage[i] = nn.Identity() if what == "identity" else layer.transform
    assert torch.equal(net(x), y)


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group", "instance"])
def test_norms_are_part_of_the_transform(norm: str) -> None:
    net = ConvHighway((1, 1, 1), width=8, norm=norm)
    maps = net.features(torch.rand(2, 3, 16, 16))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 16), (20, 8, 8), (25, 4, 4)]
    assert (net.layer1[1].transform[0].bias is None) == (norm != "none")


def test_whole_maps_are_dropped_in_training_only() -> None:
    net, x = ConvHighway((0, 0, 0), width=8, dropout=0.5, dropout_kind="spatial"), torch.rand(2, 3, 16, 16)
    assert torch.equal(net.eval()(x), net(x))
    dropped = net.train().dropout1(torch.ones(100, 8, 4, 4))
    assert set(dropped.mean(dim=(2, 3)).unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(net(x), net(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": [1, 2]}, r"blocks must be three numbers, 0 or more each, got \[1, 2\]"),
        ({"blocks": [1, 2, -1]}, "blocks must be three numbers"),
        ({"width": 0}, "width must be 1 or more, got 0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.ConvHighwayClassifier(**arguments)
