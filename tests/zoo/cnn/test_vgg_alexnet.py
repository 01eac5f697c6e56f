"""VGG and AlexNet against torchvision and the statements of the papers."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import zoo
from zoo.blocks import build_norm, layer_groups
from zoo.blocks.tower import Tower

COUNTS = {  # torchvision's weights, meta["num_params"]; the paper's table 2 rounds VGG's to 133, 133, 138 and 144 million
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
}
every_net = pytest.mark.parametrize("name", COUNTS)


def on_meta(name: str) -> tuple[Tower, nn.Module]:
    with torch.device("meta"):
        return zoo.create_model(name).net, getattr(torchvision.models, name)()


def with_few_hidden_units(net: nn.Module) -> nn.Module:
    """A net built on the meta device, with 32 hidden units instead of 4096, which would take most of the time, and 7 classes."""
    units = iter([32, 32, 7])
    width = 0
    for i, layer in enumerate(net.classifier):
        if isinstance(layer, nn.Linear):
            out = next(units)
            net.classifier[i] = nn.Linear(width or layer.in_features, out, device="meta")
            width = out
    return net.to_empty(device="cpu")


@every_net
def test_published_parameter_count_and_keys(name: str) -> None:
    ours, theirs = on_meta(name)
    assert sum(p.numel() for p in ours.parameters()) == COUNTS[name]
    assert torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] == COUNTS[name]
    got, wanted = ours.state_dict(), theirs.state_dict()
    assert list(got) == list(wanted)
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in wanted.items()}


@every_net
def test_logits_and_gradients_equal_torchvision(name: str) -> None:
    ours, theirs = (with_few_hidden_units(net) for net in on_meta(name))
    for key, value in theirs.state_dict().items():
        if value.ndim > 1:
            nn.init.kaiming_normal_(value)
        elif value.is_floating_point():  # biases and norms random too
            nn.init.uniform_(value, *(0.5, 1.5) if "running_var" in key else (-0.1, 0.1))
        else:
            value.zero_()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    side = 64 if name == "alexnet" else 32
    x, y = torch.rand(2, 3, side, 2 * side), torch.tensor([1, 5])
    with torch.no_grad():
        wanted = theirs.eval()(x)
        assert wanted.std() > 0.01
        torch.testing.assert_close(ours.eval()(x), wanted, rtol=0, atol=0)
    for net in (ours, theirs):
        torch.manual_seed(0)  # the same units are dropped
        F.cross_entropy(net.train()(x), y).backward()
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), key
    for (key, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b), key


def test_alexnet_is_initialized_as_in_torchvision() -> None:
    """PyTorch's default initialization, drawn in the same order."""
    torch.manual_seed(0)
    ours = zoo.create_model("alexnet").net
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "side", "shapes"),
    [
        ("vgg13", 64, [(4, 32), (8, 16), (16, 8), (32, 4), (32, 2)]),
        ("vgg13_bn", 32, [(4, 16), (8, 8), (16, 4), (32, 2), (32, 1)]),
        ("alexnet", 224, [(4, 27), (12, 13), (16, 6)]),
        ("alexnet", 63, [(4, 7), (12, 3), (16, 1)]),
    ],
)
def test_features_are_the_maps_after_each_pooling(name: str, side: int, shapes: list[tuple[int, int]]) -> None:
    net = zoo.create_model(name, width=4, num_classes=7).net.eval()
    x = torch.rand(2, 3, side, side)
    maps = net.features(x)
    assert [(m.shape[1], m.shape[2], m.shape[3]) for m in maps] == [(c, s, s) for c, s in shapes]
    assert torch.equal(maps[-1], net.features[:](x))
    places = [i for i, layer in enumerate(net.features) if isinstance(layer, nn.MaxPool2d)]
    for place, y in zip(places, maps, strict=True):
        assert torch.equal(y, net.features[: place + 1](x))  # no later layer overwrites it
    strides = [2, 4, 8, 16, 32] if "vgg" in name else [8, 16, 32]
    assert [m.stride for m in net.feature_maps()] == strides
    assert [m.channels for m in net.feature_maps()] == [c for c, _ in shapes]


@pytest.mark.parametrize("name", ["vgg11", "alexnet"])
def test_as_a_convolution_it_is_the_same_net(name: str) -> None:
    net = zoo.create_model(name, width=2, num_classes=7, init="kaiming_normal").net.eval()
    x = torch.rand(2, 3, 224, 224)
    assert net(x).std() > 0.01
    torch.testing.assert_close(net.as_convolution()(x)[:, :, 0, 0], net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["vgg11", "alexnet"])
def test_it_slides(name: str) -> None:
    """Without padding, a place of the output is the net's output for the crop in its receptive field."""
    net = zoo.create_model(name, width=2, num_classes=7, init="kaiming_normal").net.eval()
    for layer in net.features:
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
    side = net.receptive_field()[-1] + (net.map_size - 1) * 32
    x = torch.rand(1, 3, side + 64, side + 32)
    y = net.as_convolution()(x)
    assert y.shape == (1, 7, 3, 2)
    for i, j in [(0, 0), (1, 0), (2, 1)]:
        crop = x[:, :, 32 * i : 32 * i + side, 32 * j : 32 * j + side]
        torch.testing.assert_close(y[:, :, i, j], net(crop), atol=1e-5, rtol=1e-4)
    assert y.std(dim=(2, 3)).max() > 1e-3


def test_layer_groups_are_the_layers() -> None:
    assert layer_groups(zoo.create_model("vgg11", width=2).net) == [
        ["features.0", "features.1", "features.2"],
        ["features.3", "features.4", "features.5"],
        ["features.6", "features.7"],
        ["features.8", "features.9", "features.10"],
        ["features.11", "features.12"],
        ["features.13", "features.14", "features.15"],
        ["features.16", "features.17"],
        ["features.18", "features.19", "features.20", "dropout"],
        ["classifier.0", "classifier.1", "classifier.2"],
        ["classifier.3", "classifier.4", "classifier.5"],
        ["classifier.6"],
    ]
    assert layer_groups(zoo.create_model("vgg11_bn", width=2).net)[:2] == [
        ["features.0", "features.1", "features.2", "features.3"],
        ["features.4", "features.5", "features.6", "features.7"],
    ]
    assert [group[0] for group in layer_groups(zoo.create_model("alexnet", width=2).net)] == [
        "features.0", "features.3", "features.6", "features.8", "features.10", "classifier.1", "classifier.4", "classifier.6",
    ]  # fmt: skip


def test_training_the_head_alone_keeps_the_rest() -> None:
    task = zoo.create_model("vgg11_bn", width=2, num_classes=7).freeze("classifier.6").train()
    x = torch.rand(4, 3, 32, 32)
    before = copy.deepcopy(task.net.state_dict())
    assert torch.equal(task.net(x), task.net(x))  # dropout is off
    task.training_losses((x, torch.arange(4)))[0].backward()
    assert [n for n, p in task.net.named_parameters() if p.grad is not None] == [
        "classifier.6.weight",
        "classifier.6.bias",
    ]
    assert all(torch.equal(value, before[key]) for key, value in task.net.state_dict().items())


@pytest.mark.parametrize("name", ["vgg11", "alexnet"])
@pytest.mark.parametrize("norm", ["batch", "layer", "group", "instance", "none"])
def test_every_norm(name: str, norm: str) -> None:
    net = zoo.create_model(name, width=4, num_classes=7, norm=norm, activation="gelu").net
    kinds = [type(m) for m in net.modules() if "Norm" in type(m).__name__]
    convolutions = 8 if name == "vgg11" else 5
    assert kinds == ([] if norm == "none" else [type(build_norm(norm, 4))] * convolutions)
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
    assert net(torch.rand(2, 3, 96, 96)).isfinite().all()


def dropped(net: Tower, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """The outputs of all active dropouts in training."""
    outputs: list[torch.Tensor] = []
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d) and module.p > 0:
            module.register_forward_hook(lambda module, args, out: outputs.append(out))
    net.train()(x)
    yield from outputs


@pytest.mark.parametrize("name", ["vgg11", "alexnet"])
def test_dropout(name: str) -> None:
    x = torch.rand(2, 3, 64, 64)

    def shapes(**arguments: object) -> list[int]:
        return [d.ndim for d in dropped(zoo.create_model(name, width=8, num_classes=7, **arguments).net, x)]

    assert shapes() == [2, 2]
    assert shapes(dropout=0.0) == []
    # whole maps before the first dense layer: in place of AlexNet's first dropout, and in addition to VGG's
    assert shapes(dropout_kind="spatial") == ([4, 2] if name == "alexnet" else [4, 2, 2])
    net = zoo.create_model(name, width=8, num_classes=7, dropout_kind="spatial").net
    nn.init.constant_(net.features[0].bias, 1.0)
    maps = next(dropped(net, x)).flatten(2)
    gone = (maps == 0).all(2)
    assert 0.1 < gone.float().mean() < 0.9
    assert net.eval().dense_layers()[0] is net.dropout
    ours = zoo.create_model(name, width=2, dropout=0.25).net
    assert [m.p for m in ours.classifier if isinstance(m, nn.Dropout)] == [0.25, 0.25]


def test_reset_head() -> None:
    net, x = zoo.create_model("vgg11", width=2).net, torch.rand(2, 3, 32, 32)
    net.reset_head(0)
    assert net(x).shape == (2, net.num_features) == (2, 128)
    net.reset_head(5)
    assert net(x).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg11", {"depth": 12}, "depth must be one of 11, 13, 16, 19, got 12"),
        ("vgg11", {"width": 0}, "width must be 1 or more, got 0"),
        ("alexnet", {"width": 0}, "width must be 1 or more, got 0"),
        ("vgg11", {"dropout": 1.0}, r"probability in \[0, 1\), got 1.0"),
        ("alexnet", {"dropout": 1.5}, r"probability in \[0, 1\), got 1.5"),
        ("vgg11", {"dropout_kind": "channel"}, "dropout_kind must be 'element' or 'spatial', got 'channel'"),
        ("alexnet", {"dropout_kind": "channel"}, "dropout_kind must be 'element' or 'spatial', got 'channel'"),
        ("vgg16", {"activation": "maxout"}, "takes several channels for one"),
        ("alexnet", {"norm": "bacth"}, "did you mean 'batch'"),
    ],
)
def test_bad_arguments(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name, **{"width": 2, **arguments})


@pytest.mark.parametrize(("name", "least"), [("vgg11", 32), ("alexnet", 63)])
def test_images_that_are_too_small_are_refused(name: str, least: int) -> None:
    net = zoo.create_model(name, width=2, num_classes=7).net.eval()
    assert net(torch.rand(1, 3, least, least)).shape == (1, 7)
    with pytest.raises(
        ValueError,
        match=rf"(VGG|AlexNet) takes images of {least}x{least} pixels or more, got {least}x{least - 1}: set the",
    ):
        net(torch.rand(1, 3, least, least - 1))
    with pytest.raises(ValueError, match=r"(VGG|AlexNet) takes images of shape \(B, 3, H, W\), got .* in_channels=1"):
        net.features(torch.rand(1, 1, least, least))
