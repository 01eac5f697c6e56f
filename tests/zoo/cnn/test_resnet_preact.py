"""Pre-activation ResNet: parameter counts of the paper, a float64 formula, and the identity from end to end."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from zoo.blocks import Style
from zoo.cnn import PreActResNet
from zoo.cnn.resnet_preact import PreActUnit


@pytest.mark.parametrize(
    ("depth", "count", "weights"), [(110, 1_727_962, 1.7), (164, 1_703_258, 1.7), (1001, 10_327_706, 10.2)]
)
def test_published_parameter_count(depth: int, count: int, weights: float) -> None:
    """The 1.7 and 10.2 million of the paper are weights; norms and the bias of the head are not counted."""
    with torch.device("meta"):
        net = zoo.create_model(f"preresnet{depth}").net
    assert sum(p.numel() for p in net.parameters()) == count
    assert round(sum(p.numel() for p in net.parameters() if p.ndim > 1) / 1e6, 1) == weights
    trunk = sum(len(unit.convs) for name in ("layer1", "layer2", "layer3") for unit in net.get_submodule(name))
    assert trunk + 2 == depth  # the stem and the head; the shortcuts do not count


@pytest.mark.parametrize("first", [True, False])
def test_equals_the_formula(first: bool) -> None:
    """A bottleneck: three times norm, relu, convolution, and the sum; in the first unit the shortcut takes the activated input."""
    unit, x = PreActUnit(8, 2, 1, "bottleneck", first, Style()).double().eval(), torch.randn(2, 8, 5, 5).double()
    for name, value in unit.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 2) if "var" in name else value.normal_()
    w, y, activated = unit.state_dict(), x, []
    for i in range(3):
        mean, var, weight, bias = (
            w[f"norms.{i}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        activated.append(((y - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0))
        y = F.conv2d(activated[i], w[f"convs.{i}.weight"], padding=1 if i == 1 else 0)
    shortcut = activated[0] if first else x
    torch.testing.assert_close(unit(x), shortcut + y, rtol=1e-12, atol=1e-12)


def zero_residuals(net: PreActResNet) -> PreActResNet:
    for module in net.modules():
        if isinstance(module, PreActUnit):
            nn.init.zeros_(module.convs[-1].weight)
    return net


def test_with_zeroed_units_the_trunk_is_the_identity() -> None:
    """From the first activation to the last sum, except for every second pixel and new channels of zeros at each new stage."""
    net, x = zero_residuals(PreActResNet(20, "basic", width=4)).eval(), torch.rand(2, 3, 8, 8)
    start = torch.relu(net.layer1[0].norms[0](net.conv1(x)))
    one, two, _ = net.features(x)
    assert torch.equal(one, start)
    assert torch.equal(two[:, 2:6], start[:, :, ::2, ::2])
    assert not two[:, :2].any()
    assert not two[:, 6:].any()
    three = net.layer3(two)
    assert torch.equal(three[:, 6:10], start[:, :, ::4, ::4])
    assert torch.equal(net.features(x)[2], torch.relu(net.norm(three)))


def test_with_zeroed_bottlenecks_a_stage_is_the_identity() -> None:
    net, x = zero_residuals(PreActResNet(29, "bottleneck", width=4)).eval(), torch.rand(2, 16, 8, 8)
    assert torch.equal(net.layer1[1:](x), x)


@pytest.mark.parametrize("activation", ["relu", "elu"])
@pytest.mark.parametrize("norm", ["batch", "layer", "group", "instance", "none"])
def test_nothing_works_in_place_on_the_trunk(norm: str, activation: str) -> None:
    unit, x = PreActUnit(8, 2, 1, "bottleneck", False, Style(norm, activation)), torch.randn(2, 8, 5, 5)
    before = x.clone()
    y = unit(x)
    assert torch.equal(x, before)
    nn.init.zeros_(unit.convs[-1].weight)
    if norm == "none":
        nn.init.zeros_(unit.convs[-1].bias)
    assert torch.equal(unit(x), x)
    assert not torch.equal(y, x)


def test_a_gradient_reaches_the_start_undiminished() -> None:
    """Equation 5: through zeroed units it is unchanged, at any depth."""
    trunk, x = zero_residuals(PreActResNet(164)).eval().layer1[1:], torch.randn(1, 64, 4, 4, requires_grad=True)
    trunk(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_features_halve() -> None:
    for block, depth, channels in (("basic", 8, (8, 16, 32)), ("bottleneck", 11, (32, 64, 128))):
        maps = PreActResNet(depth, block, width=8).features(torch.rand(1, 3, 15, 15))
        assert [tuple(m.shape[1:]) for m in maps] == [
            (c, side, side) for c, side in zip(channels, (15, 8, 4), strict=True)
        ]


def test_layer_groups() -> None:
    groups = zoo.create_model("preresnet164", depth=11, width=2).layer_groups()
    assert groups == [["conv1"], ["layer1"], ["layer2"], ["layer3", "norm", "activation"], ["fc"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 110, "block": "basic", "width": 0}, "width must be 1 or more, got 0"),
        ({"depth": 2}, r"depth of bottleneck units must be 9n \+ 2 \(11, 20, 29, 38 \.\.\.\), got 2"),
        ({"depth": 18, "block": "basic"}, r"depth of basic units must be 6n \+ 2 \(8, 14, 20, 26 \.\.\.\), got 18"),
        ({"depth": 23, "block": "basic"}, r"must be 6n \+ 2 .* got 23"),
        ({"depth": 14}, r"must be 9n \+ 2 .* got 14"),
        ({"block": "wide"}, "block must be 'basic' or 'bottleneck', got 'wide'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.PreActResNetClassifier(**arguments)
