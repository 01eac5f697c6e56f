"""GANs of dense layers: parameter counts, shapes of points and images, conditions."""

import pytest
import torch

import zoo
from zoo.blocks import WithClass
from zoo.gan import GANNet


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("classes", [0, 10])
def test_parameter_counts(classes: int) -> None:
    with torch.device("meta"):
        net = GANNet((1, 28, 28), 64, (256, 512), conditional=classes > 0)
    assert count(net.generator) == (64 + classes) * 256 + 256 + 256 * 512 + 512 + 512 * 784 + 784
    assert count(net.discriminator) == (784 + classes) * 512 + 512 + 512 * 256 + 256 + 256 + 1


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 4, 6)])
@pytest.mark.parametrize("conditional", [False, True])
def test_shapes(shape: tuple[int, ...], conditional: bool) -> None:
    net = GANNet(shape, 5, (8,), conditional=conditional, num_classes=3)
    y = torch.tensor([0, 2, 1, 1]) if conditional else None
    x = net(torch.randn(4, 5), y)
    assert x.shape == (4, *shape)
    assert net.discriminator(x, y).shape == (4,)


def test_the_class_is_concatenated_to_the_input() -> None:
    class Same(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    columns = WithClass(Same(), 3)(torch.full((2, 2), 7.0), torch.tensor([2, 0]))
    assert columns.tolist() == [[7, 7, 0, 0, 1], [7, 7, 1, 0, 0]]
    maps = WithClass(Same(), 2)(torch.full((1, 1, 2, 2), 7.0), torch.tensor([1]))
    assert maps[0].flatten(1).tolist() == [[7] * 4, [0] * 4, [1] * 4]
    assert WithClass(Same(), 0)(torch.ones(2, 2), torch.tensor([1, 1])).shape == (2, 2)


def test_registered_models_have_the_loss_of_their_name() -> None:
    losses = {name: zoo.create_model(name, widths=[4]).hparams["loss"] for name in zoo.list_models("*gan*_mlp")}
    assert losses == {
        "gan_mlp": "non_saturating",
        "lsgan_mlp": "least_squares",
        "wgan_gp_mlp": "wasserstein",
        "wgan_mlp": "wasserstein",
    }
    assert zoo.create_model("gan_mlp_conditional", widths=[4]).conditional
