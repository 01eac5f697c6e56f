"""Pieces of nets that two or more families use."""

from zoo.blocks.activations import Activation, build_activation, expansion
from zoo.blocks.adversaries import Adversaries, WithClass
from zoo.blocks.attention import MultiHeadAttention
from zoo.blocks.classifier import Classifier
from zoo.blocks.convnet import ConvNet, Features, FullyConvolutional
from zoo.blocks.flat import flatten_features
from zoo.blocks.highway import HighwayLayer
from zoo.blocks.kernels import kernel
from zoo.blocks.layers import layer_groups
from zoo.blocks.norm import Dropout, Norm, Style, build_dropout, build_norm, map_activation
from zoo.blocks.receptive_field import FeatureMap, feature_maps

__all__ = [
    "Activation",
    "Adversaries",
    "Classifier",
    "ConvNet",
    "Dropout",
    "FeatureMap",
    "Features",
    "FullyConvolutional",
    "HighwayLayer",
    "MultiHeadAttention",
    "Norm",
    "Style",
    "WithClass",
    "build_activation",
    "build_dropout",
    "build_norm",
    "expansion",
    "feature_maps",
    "flatten_features",
    "kernel",
    "layer_groups",
    "map_activation",
]
