"""Pairs of texts: what is read, and what is written."""

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
