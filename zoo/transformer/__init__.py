"""Transformers."""

from zoo.transformer.vit import ViT, ViTClassifier

__all__ = ["ViT", "ViTClassifier"]
