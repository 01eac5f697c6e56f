"""ResNet against torchvision and the statements of the paper."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import zoo
from zoo.blocks import Style
from zoo.cnn import CIFARResNet, ResNet
from zoo.cnn.resnet import BasicBlock
from zoo.cnn.resnet_cifar import Block


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)]
)
def test_published_parameter_count_and_keys(depth: int, count: int) -> None:
    with torch.device("meta"):
        ours, theirs = ResNet(depth), getattr(torchvision.models, f"resnet{depth}")()
    assert parameters(ours) == count
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_logits_and_gradients_equal_torchvision(depth: int) -> None:
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    for p in theirs.parameters():  # random norms and biases too
        p.data += 0.02 * torch.randn_like(p)
    ours = ResNet(depth, num_classes=7)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, y = torch.rand(2, 3, 64, 64), torch.tensor([1, 5])
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)
    for net in (ours, theirs):
        F.cross_entropy(net.train()(x), y).backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("depth", "count"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
@pytest.mark.parametrize("shortcut", ["identity", "none"])
def test_cifar_parameter_count(depth: int, count: int, shortcut: str) -> None:
    # table 6 rounds them to 0.27, 0.46, 0.66, 0.85 and 1.7 million; option A adds none to the plain net
    with torch.device("meta"):
        assert parameters(CIFARResNet(depth, shortcut=shortcut)) == count


def test_a_zeroed_residual_is_the_identity() -> None:
    block, x = BasicBlock(4, 4, 1, None, Style()).eval(), torch.rand(2, 4, 5, 5)
    nn.init.zeros_(block.bn2.weight)
    assert torch.equal(block(x), x)
    cifar = Block(4, 8, 2, residual=True, style=Style()).eval()
    nn.init.zeros_(cifar.bn2.weight)
    y = cifar(x)  # every second pixel; the new channels, half in front and half behind, are zero
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()
    plain = Block(4, 4, 1, residual=False, style=Style()).eval()
    nn.init.zeros_(plain.bn2.weight)
    assert not plain(x).any()


def test_features_halve_from_the_stem_on() -> None:
    maps = ResNet(18, width=8).features(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2)]
    maps = CIFARResNet(8).features(torch.rand(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_features_with_gradient_are_not_overwritten() -> None:
    """No in-place relu changes a map that features() returns."""
    net = ResNet(18, width=4).eval()
    x = torch.rand(1, 3, 64, 64)
    stem = net.relu(net.bn1(net.conv1(x)))
    assert torch.equal(net.features(x)[0], stem)


def test_reset_head() -> None:
    net, x = ResNet(50, width=4), torch.rand(2, 3, 32, 32)
    net.reset_head(0)
    assert net(x).shape == (2, net.num_features)
    net.reset_head(5)
    assert net(x).shape == (2, 5)
    with pytest.raises(ValueError, match="must be 0"):
        net.reset_head(-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 19}, "depth must be one of 18, 34, 50, 101, 152, got 19"),
        ({"width": 0}, "width must be 1 or more, got 0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.ResNetClassifier(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"depth": 21}, {"depth": 23}, {"depth": 2}, {"width": 0}, {"shortcut": "projection"}]
)
def test_bad_cifar_arguments(arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        zoo.CIFARResNetClassifier(**arguments)


def test_images_with_other_channels_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"takes images of shape \(B, 3, H, W\), got \(1, 1, 8, 8\): set in_channels=1"
    ):
        CIFARResNet(8)(torch.rand(1, 1, 8, 8))
