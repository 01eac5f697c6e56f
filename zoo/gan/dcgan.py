"""DCGAN: Radford et al. 2016, arXiv:1511.06434, "Unsupervised Representation Learning with Deep Convolutional Generative
Adversarial Networks".

Deviations from the paper: normal noise; the generator ends in logits, which the task's output "sigmoid" maps to [0, 1] (the paper's
tanh, shifted and scaled); the discriminator takes standardized images. Layers and biases are those of the authors' code: with
``width=64`` there are as many parameters as in PyTorch's example; figure 1 of the paper has ``width=128``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

from torch import nn

from zoo.blocks import Adversaries, WithClass, build_norm
from zoo.blocks.adversaries import check_shapes
from zoo.blocks.norm import Norm
from zoo.registry import register
from zoo.tasks import AdversarialArguments, AdversarialTask

ADAM = {"betas": [0.5, 0.999]}  # section 4


class DCGANNet(Adversaries):
    """A generator of transposed convolutions that double the map, and its mirror image as the discriminator.

    The sides of an image are halved as long as both are even and the smaller one is above ``smallest``. The largest hidden map has
    ``width`` channels, each smaller one twice as many. There is no norm after the last layer of the generator, nor after the first
    and the last of the discriminator (section 3).

    Args:
        input_shape: Shape of an image, [C, H, W], H and W even.
        latent_dim: Number of noise values of an example, >= 1.
        width: Channels of the largest hidden map, >= 1.
        smallest: Side from which maps are not halved any more, >= 1; 4 in the paper.
        norm: Normalization in the generator, see :func:`zoo.blocks.build_norm`.
        discriminator_norm: Normalization in the discriminator; "none" or "layer" for a gradient penalty.
        conditional: Whether both nets take the class: one-hot, as K values beside the noise and as K maps beside the image.
        num_classes: Number of classes K; not used by an unconditional net.

    Shape:
        Generator: ``(B, latent_dim)`` -> ``(B, C, H, W)``; discriminator: ``(B, C, H, W)`` -> ``(B,)``.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (3, 64, 64),
        latent_dim: int = 100,
        width: int = 128,
        smallest: int = 4,
        norm: Norm = "batch",
        discriminator_norm: Norm = "batch",
        conditional: bool = False,
        num_classes: int = 10,
    ) -> None:
        classes = num_classes if conditional else 0
        shape = check_shapes(input_shape, latent_dim, classes)
        for name, value in (("width", width), ("smallest", smallest)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if len(shape) != 3:
            raise ValueError(
                f"DCGAN generates images, [C, H, W], got input_shape {list(shape)}: take the GAN of dense layers"
            )
        channels, height, columns = shape
        halvings = 0
        while min(height, columns) > smallest and height % 2 == columns % 2 == 0:
            height, columns, halvings = height // 2, columns // 2, halvings + 1
        if not halvings:
            raise ValueError(
                f"DCGAN needs images whose sides are even and larger than smallest={smallest}, got {shape[1]}x{shape[2]}: set the "
                f"size of the datamodule, or a lower value for smallest"
            )
        maps = [width * 2**i for i in range(halvings)]  # from the largest map to the smallest
        super().__init__(
            WithClass(_generator(latent_dim + classes, channels, maps[::-1], (height, columns), norm), classes),
            WithClass(_discriminator(channels + classes, maps, (height, columns), discriminator_norm), classes, ()),
            shape,
            latent_dim,
            classes,
        )
        self.apply(_initialize)


def _generator(inputs: int, channels: int, maps: list[int], smallest: tuple[int, int], norm: Norm) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Unflatten(1, (inputs, 1, 1))]  # (B, Z) -> (B, Z, 1, 1)
    sizes = [inputs, *maps]
    for i, (size, out) in enumerate(zip(sizes, maps, strict=False)):
        kernel, stride, padding = (smallest, 1, 0) if i == 0 else (4, 2, 1)
        layers += [
            nn.ConvTranspose2d(size, out, kernel, stride, padding, bias=norm == "none"),
            build_norm(norm, out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(maps[-1], channels, 4, 2, 1, bias=False))


def _discriminator(channels: int, maps: list[int], smallest: tuple[int, int], norm: Norm) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, maps[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for size, out in pairwise(maps):
        layers += [
            nn.Conv2d(size, out, 4, 2, 1, bias=norm == "none"),
            build_norm(norm, out),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(maps[-1], 1, smallest, bias=False))


def _initialize(module: nn.Module) -> None:
    """Draw all weights from N(0, 0.02) (section 4), the scales of norms from N(1, 0.02) (the authors' code)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class DCGAN(AdversarialTask):
    """A :class:`DCGANNet` with its adversarial training. Arguments: those of the net, then ``**task``.

    For images in [0, 1] set ``output="sigmoid"``, as all registered presets do.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (3, 64, 64),
        latent_dim: int = 100,
        width: int = 128,
        smallest: int = 4,
        norm: Norm = "batch",
        discriminator_norm: Norm = "batch",
        conditional: bool = False,
        num_classes: int = 10,
        **task: Unpack[AdversarialArguments],
    ) -> None:
        input_shape = list(input_shape)  # hyperparameters are what JSON gives back
        net = DCGANNet(
            input_shape=input_shape,
            latent_dim=latent_dim,
            width=width,
            smallest=smallest,
            norm=norm,
            discriminator_norm=discriminator_norm,
            conditional=conditional,
            num_classes=num_classes,
        )
        super().__init__(net, **task)


for name, more in {"dcgan": {}, "dcgan_conditional": {"conditional": True}}.items():
    register(name, DCGAN, output="sigmoid", optimizer="Adam", lr=2e-4, optimizer_args=ADAM, **more)
register(  # arXiv:1704.00028, its algorithm 1 and section 4: no batch norm in the critic
    "wgan_gp_dcgan",
    DCGAN,
    discriminator_norm="layer",
    output="sigmoid",
    loss="wasserstein",
    gradient_penalty=10.0,
    n_critic=5,
    optimizer="Adam",
    lr=1e-4,
    optimizer_args={"betas": [0.0, 0.9]},
)
