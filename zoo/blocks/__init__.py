"""Pieces that two families or more are made of."""

from zoo.blocks.activations import Activation, build_activation, expansion
from zoo.blocks.classifier import Classifier
from zoo.blocks.flat import flatten_features

__all__ = ["Activation", "Classifier", "build_activation", "expansion", "flatten_features"]
