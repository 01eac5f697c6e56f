"""Pieces of nets that two or more families use."""

from zoo.blocks.activations import Activation, ActivationName, build_activation, expansion
from zoo.blocks.adversaries import Adversaries, WithClass
from zoo.blocks.attention import KeysValues, MultiHeadAttention
from zoo.blocks.classifier import Classifier
from zoo.blocks.convnet import ConvNet, Features, FullyConvolutional
from zoo.blocks.dropout import DropoutKind, VanillaDropout
from zoo.blocks.flat import flatten_features
from zoo.blocks.highway import HighwayLayer
from zoo.blocks.kernels import kernel
from zoo.blocks.layers import layer_groups
from zoo.blocks.norm import Dropout, Norm, Style, build_dropout, build_norm, map_activation
from zoo.blocks.pairs import CaptionedImage, SentencePair
from zoo.blocks.positions import (
    Angles,
    LearnedPositions,
    Positions,
    RotaryPositions,
    SinusoidalPositions,
    SinusoidalPositions2D,
    build_positions,
    rotate,
)
from zoo.blocks.receptive_field import FeatureMap, conv_out_size, feature_maps
from zoo.blocks.recurrent import Cell, InitialState, Recurrent, Series, at_end, real_steps, reverse, split_series
from zoo.blocks.scored_attention import Score, ScoredAttention
from zoo.blocks.state import reorder_rows
from zoo.blocks.transformer import FeedForward, LayerState, TokenNorm, TransformerLayer, build_token_norm, hidden_size
from zoo.blocks.vocabulary import Vocabulary

__all__ = [
    "Activation",
    "ActivationName",
    "Adversaries",
    "Angles",
    "CaptionedImage",
    "Cell",
    "Classifier",
    "ConvNet",
    "Dropout",
    "DropoutKind",
    "FeatureMap",
    "Features",
    "FeedForward",
    "FullyConvolutional",
    "HighwayLayer",
    "InitialState",
    "KeysValues",
    "LayerState",
    "LearnedPositions",
    "MultiHeadAttention",
    "Norm",
    "Positions",
    "Recurrent",
    "RotaryPositions",
    "Score",
    "ScoredAttention",
    "SentencePair",
    "Series",
    "SinusoidalPositions",
    "SinusoidalPositions2D",
    "Style",
    "TokenNorm",
    "TransformerLayer",
    "VanillaDropout",
    "Vocabulary",
    "WithClass",
    "at_end",
    "build_activation",
    "build_dropout",
    "build_norm",
    "build_positions",
    "build_token_norm",
    "conv_out_size",
    "expansion",
    "feature_maps",
    "flatten_features",
    "hidden_size",
    "kernel",
    "layer_groups",
    "map_activation",
    "real_steps",
    "reorder_rows",
    "reverse",
    "rotate",
    "split_series",
]
