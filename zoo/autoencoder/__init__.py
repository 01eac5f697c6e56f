"""Autoencoders, plain and variational."""

from zoo.autoencoder.autoencoder import Autoencoder, AutoencoderNet, ConvAutoencoder, ConvAutoencoderNet
from zoo.autoencoder.coders import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
from zoo.autoencoder.recurrent import RecurrentAutoencoder, RecurrentAutoencoderNet
from zoo.autoencoder.vae import VAE, ConvVAE, ConvVAENet, VAENet

__all__ = [
    "VAE",
    "Autoencoder",
    "AutoencoderNet",
    "ConvAutoencoder",
    "ConvAutoencoderNet",
    "ConvDecoder",
    "ConvEncoder",
    "ConvVAE",
    "ConvVAENet",
    "DenseDecoder",
    "DenseEncoder",
    "RecurrentAutoencoder",
    "RecurrentAutoencoderNet",
    "VAENet",
]
