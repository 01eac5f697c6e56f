"""DCGAN: parameter counts of PyTorch's example, the rules of sections 3 and 4 of the paper, images of any size."""

from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.gan import DCGANNet


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_the_example_in_pytorch() -> None:
    """examples/dcgan/main.py at nz=100, ngf=ndf=64, nc=3."""
    with torch.device("meta"):
        net = DCGANNet(width=64)
    assert (count(net.generator), count(net.discriminator)) == (3_576_704, 2_765_568)


def test_parameter_counts_of_the_paper() -> None:
    """Figure 1: 100 -> 1024 x 4 x 4 -> 512 x 8 x 8 -> 256 x 16 x 16 -> 128 x 32 x 32 -> 3 x 64 x 64."""
    with torch.device("meta"):
        net = DCGANNet()
    maps = [1024, 512, 256, 128]
    layers = zip([100, *maps], [*maps, 3], strict=True)
    assert count(net.generator) == sum(16 * a * b for a, b in layers) + 2 * sum(maps)
    shapes = []
    for layer in net.generator.net:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape[1:])))
    net(torch.zeros(2, 100, device="meta"))
    assert shapes == [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]


@pytest.mark.parametrize(
    ("shape", "smallest", "maps"),
    [
        ((1, 8, 8), 4, [(4, 4)]),
        ((1, 8, 8), 2, [(2, 2), (4, 4)]),
        ((1, 28, 28), 4, [(7, 7), (14, 14)]),
        ((3, 32, 32), 4, [(4, 4), (8, 8), (16, 16)]),
        ((3, 24, 40), 4, [(3, 5), (6, 10), (12, 20)]),
    ],
)
@pytest.mark.parametrize("conditional", [False, True])
def test_shapes(shape: tuple[int, int, int], smallest: int, maps: list[Any], conditional: bool) -> None:
    net = DCGANNet(shape, 6, 2, smallest, conditional=conditional, num_classes=3)
    sizes: list[Any] = []
    for layer in net.generator.net:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(lambda *args: sizes.append(tuple(args[2].shape[2:])))
    y = torch.tensor([0, 2, 1]) if conditional else None
    x = net(torch.randn(3, 6), y)
    assert x.shape == (3, *shape)
    assert sizes == [*maps, shape[1:]]
    assert net.discriminator(x, y).shape == (3,)
    if conditional:
        assert not torch.equal(net.discriminator(x, y), net.discriminator(x, y.flip(0)))


def test_the_rules_of_section_3() -> None:
    """Norms except at the generator's output and at both ends of the discriminator; ReLU and leaky ReLU 0.2."""
    net = DCGANNet((3, 64, 64), 20, 16)
    kinds = [type(layer).__name__ for layer in net.generator.net]
    assert kinds == ["Unflatten", *["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 4, "ConvTranspose2d"]
    kinds = [type(layer).__name__ for layer in net.discriminator.net]
    assert kinds == ["Conv2d", "LeakyReLU", *["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3, "Conv2d"]
    assert {m.negative_slope for m in net.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}


def test_without_norms_the_layers_have_biases() -> None:
    net = DCGANNet((1, 16, 16), 4, 2, norm="none", discriminator_norm="layer")
    assert [layer.bias is not None for layer in net.generator.net if isinstance(layer, nn.ConvTranspose2d)] == [
        True,
        True,
        False,
    ]
    assert any(isinstance(layer, nn.GroupNorm) for layer in net.discriminator.net)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": [3, 9, 9]}, "sides are even and larger than smallest=4, got 9x9"),
        ({"input_shape": [3, 4, 4]}, "larger than smallest=4, got 4x4"),
        ({"input_shape": [64]}, r"DCGAN generates images, .* got input_shape \[64\]: take the GAN"),
        ({"latent_dim": 0}, "latent_dim must be 1 or more, got 0"),
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"loss": "wasserstein", "gradient_penalty": 10.0, "width": 2}, "this one has batch norm"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model("dcgan", **arguments)
