"""Nets that write captions of images."""

from zoo.captioning.captioner import Captioner
from zoo.captioning.transformer import TransformerCaptioner, TransformerCaptioning

__all__ = ["Captioner", "TransformerCaptioner", "TransformerCaptioning"]
