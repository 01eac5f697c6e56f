"""Nets that write captions of images."""

from zoo.captioning.captioner import Captioner
from zoo.captioning.recurrent import RecurrentCaptioner, RecurrentCaptioning
from zoo.captioning.transformer import TransformerCaptioner, TransformerCaptioning

__all__ = ["Captioner", "RecurrentCaptioner", "RecurrentCaptioning", "TransformerCaptioner", "TransformerCaptioning"]
