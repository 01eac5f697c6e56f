"""What is read, and what is written: pairs of texts, images and their captions."""

from typing import NamedTuple

from torch import Tensor


class SentencePair(NamedTuple):
    """Texts and their translations as tokens, padded at the end; both vocabularies have the same padding and the same end token.

    A batch is ``(SentencePair(source, target), y)`` or ``(SentencePair(source, target), y, weight)``. A target begins after the end
    token, so that no token is needed for the beginning: ``target``, which the decoder reads, is END, w1 .. wn, and ``y``, which it
    shall write, is w1 .. wn, END.

    Attributes:
        source: The tokens of the text that is read, then its end token, int64 ``(B, S)``.
        target: What the decoder reads, int64 ``(B, T)``.
    """

    source: Tensor
    target: Tensor


class CaptionedImage(NamedTuple):
    """Images and their captions as tokens, R of each image, padded at the end.

    A batch is ``(CaptionedImage(image, caption), y)`` or ``(CaptionedImage(image, caption), y, weight)``, the weight ``(B,)`` or
    ``(B, R, T)``. A caption begins after the end token, so that no token is needed for the beginning: ``caption``, which the
    decoder reads, is END, w1 .. wn, and ``y``, which it shall write, is w1 .. wn, END. An image with fewer than R captions has rows
    of padding alone, which count nothing.

    Attributes:
        image: Floats in [0, 1], ``(B, C, H, W)``.
        caption: What the decoder reads, int64 ``(B, R, T)``.
    """

    image: Tensor
    caption: Tensor
