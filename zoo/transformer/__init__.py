"""Transformers."""

from zoo.transformer.classifier import TextTransformer, TransformerClassifier
from zoo.transformer.encoder import TransformerEncoder
from zoo.transformer.hybrid import HybridClassifier, HybridTransformer, MapTransformer
from zoo.transformer.language_model import TransformerLanguageModel, TransformerLM
from zoo.transformer.seq2seq import Transformer, TransformerDecoder, TransformerSeq2Seq, TransformerState
from zoo.transformer.vit import ViT, ViTClassifier

__all__ = [
    "HybridClassifier",
    "HybridTransformer",
    "MapTransformer",
    "TextTransformer",
    "Transformer",
    "TransformerClassifier",
    "TransformerDecoder",
    "TransformerEncoder",
    "TransformerLM",
    "TransformerLanguageModel",
    "TransformerSeq2Seq",
    "TransformerState",
    "ViT",
    "ViTClassifier",
]
