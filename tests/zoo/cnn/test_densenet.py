"""DenseNet against torchvision, a formula in float64, and the statements of the paper."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import zoo
from zoo.blocks import FeatureMap, Style, layer_groups
from zoo.cnn import CIFARDenseNet, DenseNet
from zoo.cnn.densenet import BLOCKS, DenseBlock

COUNTS = {121: 7_978_856, 161: 28_681_000, 169: 14_149_480, 201: 20_013_928}  # torchvision's meta["num_params"]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("depth", COUNTS)
def test_published_parameter_count_and_keys(depth: int) -> None:
    name = f"densenet{depth}"
    with torch.device("meta"):
        ours, theirs = zoo.create_model(name).net, getattr(torchvision.models, name)()
    assert parameters(ours) == COUNTS[depth] == torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in ours.modules()) == depth  # the paper counts these
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize(("depth", "published"), [(100, 0.8), (250, 15.3), (190, 25.6)])
def test_cifar_parameter_count(depth: int, published: float) -> None:
    with torch.device("meta"):
        net = zoo.create_model(f"densenet_bc{depth}").net
    k, n = {100: 12, 250: 24, 190: 40}[depth], (depth - 4) // 6
    channels, count = 2 * k, 27 * 2 * k
    for block in range(3):
        for _ in range(n):
            count += 2 * channels + channels * 4 * k + 2 * 4 * k + 4 * k * k * 9
            channels += k
        count += 2 * channels  # the norm of the transition, or the last one
        if block < 2:
            count += channels * (channels // 2)
            channels //= 2
    assert parameters(net) == count + channels * 10 + 10
    assert round(parameters(net) / 1e6, 1) == published  # table 2
    assert depth != 100 or parameters(net) == 769_162
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == depth


@pytest.mark.parametrize("depth", COUNTS)
def test_logits_and_gradients_equal_torchvision(depth: int) -> None:
    theirs = torchvision.models.DenseNet(8, tuple(BLOCKS[depth]), 16, drop_rate=0.2, num_classes=7)
    for p in theirs.parameters():  # random norms and biases too
        p.data += 0.02 * torch.randn_like(p)
    ours = DenseNet(BLOCKS[depth], num_classes=7, growth_rate=8, dropout=0.2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, y = torch.rand(2, 3, 64, 32), torch.tensor([1, 5])
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)
    for net in (ours, theirs):
        torch.manual_seed(0)  # the same values are dropped
        F.cross_entropy(net.train()(x), y).backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b), name


def kept_for_backward(net: nn.Module, x: Tensor) -> int:
    """Bytes of the tensors that are kept for the backward pass."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = net(x)
    assert output.requires_grad
    return sum(kept.values())


def test_no_more_memory_is_kept_than_in_torchvision() -> None:
    ours, theirs = DenseNet([2, 2, 2, 2], 7, growth_rate=8), torchvision.models.DenseNet(8, (2, 2, 2, 2), 16)
    theirs.classifier = nn.Linear(ours.num_features, 7)
    x = torch.rand(2, 3, 64, 64)
    assert kept_for_backward(ours, x) <= kept_for_backward(theirs, x)


def test_the_cifar_net_equals_the_formula() -> None:
    net = CIFARDenseNet(16, growth_rate=4).double()
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = torch.rand(3, 3, 12, 12, dtype=torch.float64)
    net.train()(x)  # running statistics of their own
    w = net.eval().state_dict()

    def norm_relu(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            w[f"features.{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    h = F.conv2d(x, w["features.conv0.weight"], padding=1)
    for block in (1, 2, 3):
        for layer in (1, 2):
            name = f"denseblock{block}.denselayer{layer}"
            y = torch.einsum("bchw,ocij->bohw", norm_relu(h, f"{name}.norm1"), w[f"features.{name}.conv1.weight"])
            y = F.conv2d(norm_relu(y, f"{name}.norm2"), w[f"features.{name}.conv2.weight"], padding=1)
            h = torch.cat([h, y], dim=1)
        if block < 3:
            name = f"transition{block}"
            h = torch.einsum("bchw,ocij->bohw", norm_relu(h, f"{name}.norm"), w[f"features.{name}.conv.weight"])
            h = h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5))
    h = norm_relu(h, "norm4").mean(dim=(2, 3))
    torch.testing.assert_close(net(x), h @ w["classifier.weight"].T + w["classifier.bias"], rtol=1e-10, atol=1e-12)


def test_every_layer_takes_all_maps_before_it() -> None:
    """The point of the paper: maps are passed on unchanged, and every later layer depends on them."""
    block = DenseBlock(3, 4, 2, Style()).eval()
    x = torch.rand(1, 4, 5, 5, requires_grad=True)
    inputs: list[list[Tensor]] = []
    for layer in block.children():
        layer.register_forward_pre_hook(lambda module, args: inputs.append(list(args[0])))
    y = block(x)
    assert torch.equal(y[:, :4], x)
    assert [len(maps) for maps in inputs] == [1, 2, 3]
    for i, maps in enumerate(inputs[-1][1:]):
        assert torch.equal(y[:, 4 + 2 * i : 6 + 2 * i], maps)
    for new in (y[:, 4:6], y[:, 6:8], y[:, 8:]):
        (gradient,) = torch.autograd.grad(new.sum(), x, retain_graph=True)
        assert gradient.abs().amax(dim=(0, 2, 3)).gt(0).all()


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(
    ("name", "arguments", "layers"),
    [
        ("densenet121", {"blocks": [1, 2, 1, 2]}, ["relu0", "denseblock1", "denseblock2", "denseblock3", "relu5"]),
        ("densenet_bc100", {"depth": 10}, ["denseblock1", "denseblock2", "relu4"]),
    ],
)
def test_features_are_the_outputs_of_the_layers(name: str, arguments: dict, layers: list[str], norm: str) -> None:
    """No later layer overwrites a map, not even the activation of a transition without a norm."""
    net = zoo.create_model(name, growth_rate=4, norm=norm, **arguments).net.eval()
    x = torch.rand(1, 3, 64, 64)
    names = [n for n, _ in net.features.named_children()]
    for layer, y in zip(layers, net.features(x), strict=True):
        assert torch.equal(y, net.features[: names.index(layer) + 1](x)), layer


def test_strides_channels_and_receptive_fields() -> None:
    field, stride, maps = 7 + 2 * 2, 4, [FeatureMap(64, 2, 7)]  # 7x7/2, then pooled 3x3/2
    for i, (count, channels) in enumerate(zip([6, 12, 24, 16], [256, 512, 1024, 1024], strict=True)):
        if i:
            field, stride = field + stride, 2 * stride
        field += 2 * stride * count
        maps.append(FeatureMap(channels, stride, field))
    with torch.device("meta"):
        assert zoo.create_model("densenet121").net.feature_maps() == maps
        assert CIFARDenseNet(10, growth_rate=4).feature_maps() == [
            FeatureMap(12, 1, 5), FeatureMap(10, 2, 10), FeatureMap(9, 4, 20),
        ]  # fmt: skip


def test_as_a_convolution_it_is_the_same_net() -> None:
    net, x = CIFARDenseNet(10, 7, growth_rate=4).eval(), torch.rand(2, 3, 24, 16)
    y = net.as_convolution()(x)
    assert y.shape == (2, 7, 6, 4)
    torch.testing.assert_close(y.mean(dim=(2, 3)), net(x), atol=1e-6, rtol=1e-5)


def test_layer_groups() -> None:
    assert layer_groups(DenseNet([1, 1, 1, 1], growth_rate=2)) == [
        ["features.conv0", "features.norm0", "features.relu0", "features.pool0"],
        ["features.denseblock1"], ["features.transition1"],
        ["features.denseblock2"], ["features.transition2"],
        ["features.denseblock3"], ["features.transition3"],
        ["features.denseblock4", "features.norm5", "features.relu5"],
        ["classifier"],
    ]  # fmt: skip


@pytest.mark.parametrize("norm", ["layer", "group", "instance", "none"])
def test_norm_activation_and_dropout_by_name(norm: str) -> None:
    net = CIFARDenseNet(10, 7, 3, 8, norm, "elu", dropout=0.5, dropout_kind="spatial")
    kinds = {type(m) for m in net.modules() if "Norm" in type(m).__name__}
    assert kinds == {"instance": {nn.InstanceNorm2d}, "none": set()}.get(norm, {nn.GroupNorm})
    assert not any(isinstance(m, nn.ReLU | nn.Dropout) for m in net.modules())
    assert sum(isinstance(m, nn.Dropout2d) and m.p == 0.5 for m in net.modules()) == 3
    assert net(torch.rand(2, 3, 8, 8)).isfinite().all()


def test_images_that_leave_no_map_are_refused() -> None:
    net = DenseNet([1, 1, 1, 1], growth_rate=2).eval()
    assert net(torch.rand(1, 3, 29, 29)).shape == (1, 1000)
    with pytest.raises(ValueError, match="DenseNet takes images of 29x29 pixels or more, got 28x40"):
        net(torch.rand(1, 3, 28, 40))
    with pytest.raises(ValueError, match=r"CIFARDenseNet takes images of 4x4 pixels or more, got 3x3"):
        CIFARDenseNet(10)(torch.rand(2, 3, 3, 3))
    with pytest.raises(ValueError, match="set in_channels=1"):
        CIFARDenseNet(10)(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("densenet121", {"blocks": [6, 12, 24]}, r"blocks must be four numbers of layers.* got \[6, 12, 24\]"),
        ("densenet121", {"blocks": [6, 0, 24, 16]}, "each 1 or more"),
        ("densenet121", {"growth_rate": 0}, "growth_rate must be 1 or more, got 0"),
        ("densenet_bc100", {"growth_rate": 0}, "growth_rate must be 1 or more, got 0"),
        ("densenet_bc100", {"depth": 103}, r"depth must be 6n \+ 4 .* got 103"),
        ("densenet_bc100", {"depth": 4}, "got 4"),
    ],
)
def test_bad_arguments(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name, **arguments)
