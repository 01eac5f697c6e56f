"""Pieces that two families or more are made of."""

from zoo.blocks.classifier import Classifier

__all__ = ["Classifier"]
