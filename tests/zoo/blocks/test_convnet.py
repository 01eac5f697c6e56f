"""A classifier as a convolution."""

import pytest
import torch
from torch import nn

import zoo
from zoo.blocks.convnet import slide


def test_lenet_slides() -> None:
    net = zoo.create_model("lenet5").net.eval()
    slid, x = net.as_convolution(), torch.rand(2, 1, 40, 36)
    y = slid(x)
    assert y.shape == (2, 10, 3, 2)
    for i in range(3):
        for j in range(2):
            window = x[:, :, 4 * i : 4 * i + 32, 4 * j : 4 * j + 32]
            torch.testing.assert_close(y[:, :, i, j], net(window), atol=1e-6, rtol=1e-5)


def test_the_mean_over_the_places_is_the_averaging_nets_own_output() -> None:
    net, x = zoo.create_model("resnet18", width=4, num_classes=7).net.eval(), torch.rand(2, 3, 96, 64)
    y = net.as_convolution()(x)
    assert y.shape == (2, 7, 3, 2)
    torch.testing.assert_close(y.mean(dim=(2, 3)), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "side", "before", "behind"), [("alexnet", 6, 2, 3), ("vgg11", 7, 3, 3)])
def test_a_padded_map_keeps_its_size(name: str, side: int, before: int, behind: int) -> None:
    """The first dense layer reads the cells from ``before`` above and left of a place to ``behind`` below and right of it."""
    net = zoo.create_model(name, width=1, num_classes=7, dropout=0.0).net.eval()
    first = next(layer for layer in net.classifier if isinstance(layer, nn.Linear))
    maps = torch.rand(2, first.in_features // side**2, 8, 9)
    padded = nn.functional.pad(maps, (before, behind, before, behind))
    windows = nn.functional.unfold(padded, side).transpose(1, 2)  # (B, places, C side side), row by row
    wanted = net.classifier(windows).transpose(1, 2).unflatten(2, (8, 9))
    torch.testing.assert_close(slide(net, maps, pad=True), wanted)


def test_the_parameters_stay_the_nets_own() -> None:
    net = zoo.create_model("lenet5").net
    net.as_convolution()(torch.rand(1, 1, 36, 36)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_lenet_itself_still_refuses_larger_images() -> None:
    with pytest.raises(ValueError, match="datamodule's size=32"):
        zoo.create_model("lenet5").net(torch.rand(1, 1, 40, 40))


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_an_image_alone_is_no_batch(name: str) -> None:
    net = zoo.create_model(name).net
    with pytest.raises(ValueError, match=r"got \(\d, 32, 32\): pass a batch; for one image, image\[None\]"):
        net(torch.rand(net.in_channels, 32, 32))


def test_a_task_hands_images_with_their_channels_last() -> None:
    """What convolutions are fastest with; the values are those of the usual order to rounding."""
    task, x = zoo.create_model("resnet20", width=4).eval(), torch.rand(2, 3, 16, 16)
    assert task.standardize(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(task(x), task.net((x - task.mean) / task.std), atol=1e-5, rtol=1e-4)
    assert zoo.create_model("mlp").standardize(torch.rand(2, 1, 28, 28)).is_contiguous()
