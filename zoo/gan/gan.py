"""Generative adversarial nets of dense layers: Goodfellow et al. 2014, "Generative Adversarial Nets", arXiv:1406.2661.

Deviations from the paper: rectifiers in both nets, where the paper's discriminator has maxout units and dropout, and normal
noise. The conditional form is that of Mirza and Osindero 2014, "Conditional Generative Adversarial Nets", arXiv:1411.1784.
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
        input_shape: of an example, [D] or [C, H, W].
        latent_dim: numbers of noise an example, >= 1.
        widths: units of each hidden layer, of the generator from the noise on, of the discriminator from the example on.
        activation: of the hidden units of both.
        norm: of the generator's hidden layers; the discriminator has none. Images want "batch": without it the generator soon
            paints one picture only.
        conditional: whether both are told the class, as a one among ``num_classes`` numbers beside their input.
        num_classes: K; of no use to an unconditional net.

    Shape:
        ``(B, latent_dim)`` -> ``(B, *input_shape)``; the discriminator: ``(B, *input_shape)`` -> ``(B,)``.

    Raises:
        ValueError: an argument out of its range.
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
    """:class:`GANNet`, trained. Arguments: those of the net, then ``**task``."""

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
        input_shape, widths = list(input_shape), list(widths)  # a hyperparameter is as JSON gives it back
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
