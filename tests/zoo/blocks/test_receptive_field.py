"""Receptive fields: by hand, and by changing pixels."""

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.blocks import ConvNet, FeatureMap, conv_out_size, feature_maps

CNNS = [
    name
    for name in zoo.list_models()
    if name in ("lenet5", "lenet5_relu", "resnet18", "resnet50", "resnet20", "plain20")
]


def test_the_worked_example() -> None:
    """conv3, pool2/2, conv1, pool4/2 see 3, 4, 4 and 10 pixels."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, 2), nn.Conv2d(2, 2, 1), nn.AvgPool2d(4, 2))
    maps = [feature_maps(net, net[: i + 1], (1, 64, 64))[0] for i in range(4)]
    assert [f.receptive_field for f in maps] == [3, 4, 4, 10]
    assert [f.stride for f in maps] == [1, 2, 2, 4]


def test_the_first_dense_layer_of_lenet_sees_the_whole_image() -> None:
    net = zoo.create_model("lenet5").net
    assert net.feature_maps() == [FeatureMap(6, 2, 6), FeatureMap(16, 4, 16)]
    dense = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.AvgPool2d(2), nn.Conv2d(16, 9, 5)
    )
    assert feature_maps(dense, dense, (1, 32, 32)) == [FeatureMap(9, 4, 32)]
    assert feature_maps(net, net.as_convolution(), (1, 32, 32)) == [FeatureMap(10, 4, 32)]


def test_published_values() -> None:
    """Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill: AlexNet 195, VGG-16 212."""
    assert zoo.create_model("resnet18").net.receptive_field() == [7, 43, 99, 211, 435]
    assert zoo.create_model("vgg16", width=2).net.receptive_field() == [6, 16, 44, 100, 212]
    assert zoo.create_model("alexnet", width=2).net.receptive_field() == [19, 67, 195]


class Branches(ConvNet):
    """A dilated and a strided branch, padded unevenly."""

    image_size, in_channels = 32, 1

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, stride=2, padding=2, dilation=2)
        self.b = nn.Conv2d(1, 3, 5, padding=2)

    def features(self, x: Tensor) -> list[Tensor]:
        b = self.b(x)[:, :, ::2, ::2]
        return [torch.cat([self.a(x), b], 1), nn.functional.pad(b, (1, 1, 1, 1))[:, :, 1:, 1:]]


def test_a_dilated_pooling_sees_further() -> None:
    net = nn.MaxPool2d(3, 1, dilation=2)
    assert feature_maps(net, net, (1, 32, 32)) == [FeatureMap(1, 1, 5)]


def test_branches_join_to_what_both_see() -> None:
    assert Branches().feature_maps() == [FeatureMap(5, 2, 5), FeatureMap(3, 2, 5)]


@pytest.mark.parametrize("name", ["lenet5_relu", "resnet20", "resnet18"])
def test_changing_pixels_finds_the_same_field(name: str) -> None:
    """With positive weights and average pooling every pixel that can matter does."""
    net = zoo.create_model(name, width=2).net.double().eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    side = 32 if name != "resnet18" else 160
    for i, feature_map in enumerate(net.feature_maps()):
        if feature_map.receptive_field > side // 2:
            continue
        x = torch.full((1, net.in_channels, side, side), 0.1, dtype=torch.float64)
        middle = net.features(x)[i].shape[-1] // 2
        seen = []
        for column in range(side):
            y = x.clone()
            y[:, :, :, column] += 1.0
            if (net.features(y)[i] - net.features(x)[i])[..., middle].abs().max() > 1e-12:
                seen.append(column)
        assert seen[-1] - seen[0] + 1 == feature_map.receptive_field


def test_the_net_is_left_as_it_was() -> None:
    net = zoo.create_model("resnet20", width=2).net
    net.layer1.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    net.feature_maps()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes


def test_a_dense_layer_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match="receptive field behind"):
        feature_maps(net, net, (1, 8, 8))


SIZES = [(7, 3, 1, 0, 1), (32, 5, 2, 2, 1), (33, 4, 3, 1, 2), (5, 5, 2, 0, 1), (9, 2, 4, 1, 3), (1, 1, 1, 0, 1)]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), SIZES)
def test_conv_out_size_is_that_of_torch(size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    x = torch.empty(1, 1, size, device="meta")
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    assert conv_out_size(size, kernel, **options) == nn.Conv1d(1, 1, kernel, **options, device="meta")(x).shape[-1]
    for extra in range(max(stride, dilation)):
        layer = nn.ConvTranspose1d(1, 1, kernel, **options, output_padding=extra, device="meta")
        assert conv_out_size(size, kernel, **options, transposed=True, output_padding=extra) == layer(x).shape[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 4, "kernel": 5}, "a kernel of 5 with dilation 1 reaches over 5 values"),
        ({"size": 4, "kernel": 0}, "kernel must be 1 or more, got 0"),
        ({"size": 4, "kernel": 2, "padding": -1}, "padding must be 0 or more, got -1"),
        ({"size": 1, "kernel": 2, "padding": 1, "transposed": True}, "there is no output"),
        ({"size": 4, "kernel": 2, "output_padding": 1}, "output_padding is of transposed convolutions"),
    ],
)
def test_conv_out_size_refuses_what_has_no_output(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv_out_size(**arguments)
