"""Nets that write captions of images."""

from zoo.captioning.captioner import Captioner

__all__ = ["Captioner"]
