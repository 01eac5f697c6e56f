"""MobileNet: parameters and multiply-adds of the paper, and a block as an ordinary convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.blocks import Style
from zoo.cnn import MobileNet
from zoo.cnn.mobilenet import DepthwiseSeparable


@pytest.mark.parametrize(
    ("name", "count", "multiply_adds"),
    [  # table 6 rounds them to 4.2, 2.6, 1.3, 0.5 and to 569, 325, 149, 41 million
        ("mobilenet_v1", 4_231_976, 568_740_352),
        ("mobilenet_v1_75", 2_585_560, 325_400_448),
        ("mobilenet_v1_50", 1_331_592, 149_497_088),
        ("mobilenet_v1_25", 470_072, 41_030_272),
    ],
)
def test_published_size(name: str, count: int, multiply_adds: int) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = zoo.create_model(name).net
        net(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in net.parameters()) == count
    assert counter.get_total_flops() == 2 * multiply_adds


def test_a_block_without_activations_is_one_ordinary_convolution() -> None:
    """Its kernel is the outer product of each channel's filter and the 1x1 weights (section 3.1)."""
    style = Style(norm="none", activation="identity")
    block, x = DepthwiseSeparable(5, 7, 2, style).double(), torch.rand(2, 5, 9, 9, dtype=torch.float64)
    w = block.state_dict()
    kernel = w["conv2.weight"] * w["conv1.weight"].transpose(0, 1)  # (7, 5, 1, 1) * (1, 5, 3, 3) -> (7, 5, 3, 3)
    bias = w["conv2.weight"].flatten(1) @ w["conv1.bias"] + w["conv2.bias"]
    torch.testing.assert_close(block(x), F.conv2d(x, kernel, bias, stride=2, padding=1), rtol=1e-12, atol=1e-12)


def test_equals_the_formula() -> None:
    """A block with its norms and activations, channel by channel."""
    block, x = DepthwiseSeparable(3, 4, 1, Style()).double().eval(), torch.rand(2, 3, 6, 6, dtype=torch.float64)
    for name, value in block.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 2) if "var" in name else value.normal_()
    w = block.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    filtered = [F.conv2d(x[:, i : i + 1], w["conv1.weight"][i : i + 1], padding=1) for i in range(3)]
    y = norm(torch.cat(filtered, dim=1), "bn1").clamp(min=0)
    y = norm(torch.einsum("oc,bchw->bohw", w["conv2.weight"].flatten(1), y), "bn2").clamp(min=0)
    torch.testing.assert_close(block(x), y, rtol=1e-12, atol=1e-12)


def test_features_are_the_last_maps_of_each_size() -> None:
    net, x = MobileNet(width=0.25).eval(), torch.rand(1, 3, 64, 64)
    maps = net.features(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
    first = net.blocks[0](net.activation(net.bn1(net.conv1(x))))
    assert torch.equal(maps[0], first)  # no later block overwrites it


def test_signals_keep_their_scale_without_norms() -> None:
    """With the fan-in; torch's fan-out would shrink the maps of a depthwise convolution."""
    torch.manual_seed(0)
    sizes = [m.std().item() for m in MobileNet(norm="none").features(torch.randn(2, 3, 64, 64))]
    assert all(0.1 < size < 10 for size in sizes), sizes


def test_dropout_acts_before_each_1x1_convolution_in_training() -> None:
    block = DepthwiseSeparable(64, 64, 1, Style(norm="none", activation="identity", dropout=0.5))
    block.conv1 = nn.Identity()
    block.conv2.weight.data, block.conv2.bias.data = torch.eye(64)[..., None, None], torch.zeros(64)
    x = torch.ones(2, 64, 5, 5)
    assert set(block(x).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(block.eval()(x), x)


@pytest.mark.parametrize("norm", ["layer", "group", "instance", "none"])
def test_norms_by_name(norm: str) -> None:
    net = MobileNet(width=0.25, num_classes=5, norm=norm)
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_each_block_is_a_layer_group() -> None:
    groups = zoo.create_model("mobilenet_v1_25").layer_groups()
    assert groups[0] == ["conv1", "bn1", "activation"]
    assert groups[1:] == [*([f"blocks.{i}"] for i in range(13)), ["fc"]]


def test_bad_width() -> None:
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        zoo.MobileNetClassifier(width=0)
