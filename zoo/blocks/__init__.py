"""Pieces that two families or more are made of."""

from zoo.blocks.classifier import Classifier
from zoo.blocks.flat import flatten_features

__all__ = ["Classifier", "flatten_features"]
