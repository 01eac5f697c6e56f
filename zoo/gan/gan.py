"""Generative adversarial nets of dense layers: Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.

Deviations from the paper: ReLU in both nets, where the paper's discriminator has maxout units and dropout, and normal noise. The
conditional form is that of Mirza and Osindero 2014, "Conditional Generative Adversarial Nets", arXiv:1411.1784.
"""

import math
from collections.abc import Sequence
from typing import Unpack

from zoo.blocks import Activation, Adversaries, WithClass
from zoo.blocks.adversaries import check_shapes
from zoo.linear.mlp import MLP, Norm
from zoo.registry import register
from zoo.tasks import AdversarialArguments, AdversarialTask

ADAM = {"betas": [0.5, 0.999]}  # Radford et al. 2016, section 4


class GANNet(Adversaries):
    """A generator and a discriminator of dense layers, for points and for images.

    Args:
        input_shape: Shape of an example, [D] or [C, H, W].
        latent_dim: Number of noise values of an example, >= 1.
        widths: Number of units of each hidden layer of the generator; the discriminator has the same in the opposite order.
        activation: Activation of the hidden units of both nets.
        norm: Normalization in the generator; the discriminator has none. Use "batch" for images: without it the generator collapses
            to a single one.
        conditional: Whether both nets take the class, one-hot beside their input.
        num_classes: Number of classes K; not used by an unconditional net.

    Shape:
        Generator: ``(B, latent_dim)`` -> ``(B, *input_shape)``; discriminator: ``(B, *input_shape)`` -> ``(B,)``.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 64,
        widths: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        norm: Norm = "none",
        conditional: bool = False,
        num_classes: int = 10,
    ) -> None:
        classes = num_classes if conditional else 0
        shape = check_shapes(input_shape, latent_dim, classes)
        size = math.prod(shape)
        generator = MLP(latent_dim + classes, size, widths, activation, norm=norm)
        discriminator = MLP(size + classes, 1, [*widths][::-1], activation)
        super().__init__(
            WithClass(generator, classes, shape),
            WithClass(discriminator, classes, (), flatten=True),
            shape,
            latent_dim,
            classes,
        )


class GAN(AdversarialTask):
    """A :class:`GANNet` with its adversarial training. Arguments: those of the net, then ``**task``."""

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 64,
        widths: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        norm: Norm = "none",
        conditional: bool = False,
        num_classes: int = 10,
        **task: Unpack[AdversarialArguments],
    ) -> None:
        input_shape, widths = list(input_shape), list(widths)  # hyperparameters are what JSON gives back
        super().__init__(
            GANNet(
                input_shape=input_shape,
                latent_dim=latent_dim,
                widths=widths,
                activation=activation,
                norm=norm,
                conditional=conditional,
                num_classes=num_classes,
            ),
            **task,
        )


register("gan_mlp", GAN, optimizer="Adam", optimizer_args=ADAM)
register("gan_mlp_conditional", GAN, norm="batch", conditional=True, optimizer="Adam", optimizer_args=ADAM)
register("lsgan_mlp", GAN, loss="least_squares", optimizer="Adam", optimizer_args=ADAM)
register(  # algorithm 1 of arXiv:1701.07875
    "wgan_mlp", GAN, loss="wasserstein", weight_clip=0.01, n_critic=5, optimizer="RMSprop", lr=5e-5
)
register(  # algorithm 1 of arXiv:1704.00028
    "wgan_gp_mlp",
    GAN,
    loss="wasserstein",
    gradient_penalty=10.0,
    n_critic=5,
    optimizer="Adam",
    lr=1e-4,
    optimizer_args={"betas": [0.0, 0.9]},
)
