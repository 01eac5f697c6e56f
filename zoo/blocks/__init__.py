"""Pieces of nets that two or more families use."""

from zoo.blocks.activations import Activation, ActivationName, build_activation, expansion
from zoo.blocks.adversaries import Adversaries, WithClass
from zoo.blocks.attention import MultiHeadAttention
from zoo.blocks.classifier import Classifier
from zoo.blocks.convnet import ConvNet, Features, FullyConvolutional
from zoo.blocks.flat import flatten_features
from zoo.blocks.highway import HighwayLayer
from zoo.blocks.kernels import kernel
from zoo.blocks.layers import layer_groups
from zoo.blocks.norm import Dropout, Norm, Style, build_dropout, build_norm, map_activation
from zoo.blocks.pairs import SentencePair
from zoo.blocks.receptive_field import FeatureMap, conv_out_size, feature_maps
from zoo.blocks.recurrent import Cell, InitialState, Recurrent, Series, at_end, real_steps, reverse, split_series
from zoo.blocks.state import reorder_rows
from zoo.blocks.vocabulary import Vocabulary

__all__ = [
    "Activation",
    "ActivationName",
    "Adversaries",
    "Cell",
    "Classifier",
    "ConvNet",
    "Dropout",
    "FeatureMap",
    "Features",
    "FullyConvolutional",
    "HighwayLayer",
    "InitialState",
    "MultiHeadAttention",
    "Norm",
    "Recurrent",
    "SentencePair",
    "Series",
    "Style",
    "Vocabulary",
    "WithClass",
    "at_end",
    "build_activation",
    "build_dropout",
    "build_norm",
    "conv_out_size",
    "expansion",
    "feature_maps",
    "flatten_features",
    "kernel",
    "layer_groups",
    "map_activation",
    "real_steps",
    "reorder_rows",
    "reverse",
    "split_series",
]
