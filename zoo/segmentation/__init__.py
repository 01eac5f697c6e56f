"""Nets that predict a class for each pixel."""

from zoo.segmentation.fcn import FCN, FCNSegmenter
from zoo.segmentation.pyramid import EncoderDecoder
from zoo.segmentation.unet import UNet, UNetEncoder, UNetSegmenter

__all__ = ["FCN", "EncoderDecoder", "FCNSegmenter", "UNet", "UNetEncoder", "UNetSegmenter"]
