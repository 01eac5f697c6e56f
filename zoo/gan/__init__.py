"""Generative adversarial nets."""

from zoo.gan.dcgan import DCGAN, DCGANNet
from zoo.gan.gan import GAN, GANNet

__all__ = ["DCGAN", "GAN", "DCGANNet", "GANNet"]
