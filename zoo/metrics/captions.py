"""Metrics of captions: CIDEr-D, and the share of texts that name what is in the image as a reference does.

Each is updated with written captions and, for each of them, the reference, or a list of several, as the metrics of
:mod:`zoo.metrics.texts` are, and is the same to the last bit however images are spread over batches and processes.
"""

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.metrics.texts import BLEU, ExactMatch, References, TextMetric, checked_texts, ngrams, words

ORDER = 4  # words of the longest n-grams of CIDEr-D
SIGMA = 6.0  # words: width of its penalty of lengths
SCALE = 10.0  # the largest score
_TAKEN = ("loss", "perplexity", "acc", "exact", "bleu1", "bleu2", "bleu3", "bleu4", "ciderd")  # names of other metrics


class CIDErD(Metric):
    """CIDEr-D, in [0, 10]: Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation", arXiv:1411.5726.

    An n-gram counts the more, the fewer images have it in a reference: of N images it occurs in d, and its weight is
    ``ln(N / max(1, d))``. With g the vector of the counts of a text's n-grams times their weights, a written caption c is compared
    with each of its references r, of n = 1 to 4 words:

        10 exp(-(l_c - l_r)^2 / (2 * 6^2)) min(g_c, g_r) . g_r / (|g_c| |g_r|)

    with l the numbers of words, and the smaller number taken for each n-gram, so that a word again and again gains nothing; 0 where
    a vector is 0. The score is the mean over n, the references of an image and the images. A caption that equals its only reference
    has 10, but 0 for those n of which it has no n-gram, or none but those of all images: so of a single image the score is always
    0, and scores of different sets cannot be compared. It equals what the authors' program gives (``ciderD`` of coco-caption, whose
    document frequencies are those of the references that are evaluated), whose scores are often published times 100.

    Words are lower case, separated by the tokenizer 13a, see :func:`caption_words`; that program takes Penn Treebank's, which also
    separates "isn't" into two words. Nothing is stemmed, as in CIDEr-D. The state holds the texts: an image's score depends on all.
    """

    full_state_update = False
    captions: list[Tensor]  # bytes: a line an image, JSON of its caption and its references

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("captions", [], dist_reduce_fx="cat")
        self.captions.append(self._nothing())

    def update(self, predictions: Sequence[str], references: References) -> None:
        """Add written captions, and what they should be.

        Raises:
            TypeError: A text alone, which is no list.
            ValueError: Numbers of texts that differ, or a text without a reference.
        """
        # of ASCII alone, so that a line ends nowhere else and each text, whatever it holds, has its bytes
        lines = "".join(f"{json.dumps(pair)}\n" for pair in checked_texts(predictions, references))
        if lines:
            self.captions.append(torch.frombuffer(bytearray(lines, "ascii"), dtype=torch.uint8).to(self.device))

    def compute(self) -> Tensor:
        parts = self.captions if isinstance(self.captions, list) else [self.captions]  # one tensor once gathered
        lines = b"".join(part.cpu().numpy().tobytes() for part in parts).splitlines()
        images = [(_counts(text), [*map(_counts, true)]) for text, true in map(json.loads, lines)]
        if not images:
            return torch.tensor(math.nan, device=self.device)
        documents = Counter(gram for _, true in images for gram in set().union(*(g for each in true for g in each)))
        total = math.log(len(images))
        weights = {gram: total - math.log(count) for gram, count in documents.items()}
        scores = [_score(*image, weights, total) for image in images]
        return torch.tensor(math.fsum(scores) / len(scores), device=self.device)

    def reset(self) -> None:
        super().reset()
        self.captions.append(self._nothing())

    def _nothing(self) -> Tensor:
        """No bytes; torchmetrics would take no float32 numbers for a process without texts, which it cannot join to bytes."""
        return torch.zeros(0, dtype=torch.uint8, device=self.device)


class AttributesRight(TextMetric):
    """Share of the texts that name the same as a reference does, of one kind of attribute; nan without texts.

    A text is right if the phrases in it, in the order in which they appear, are those of a reference: of colors the text "a red
    circle left of a green square" has "red", "green". Phrases are whole words, in any case; where one begins with another ("left"
    and "left of"), the longest that fits counts. A text that names none is right if a reference names none, either.

    Args:
        phrases: What there is to be named, such as the names of all colors.

    Raises:
        TypeError: A phrase alone, which is no list.
        ValueError: No phrase, or one without words.

    Example:
        >>> color = AttributesRight(["red", "green"])
        >>> color.update(["a red circle", "a circle, green"], ["the red square", "a red circle"])
        >>> float(color.compute())
        0.5
    """

    def __init__(self, phrases: Sequence[str], **kwargs: Any) -> None:
        super().__init__(1, **kwargs)
        if isinstance(phrases, str):
            raise TypeError(f"phrases must be a list of texts, got the text {phrases!r}: put it into a list")
        separated = [tuple(caption_words(phrase)) for phrase in phrases]
        if not separated or not all(separated):
            empty = [phrase for phrase, parts in zip(phrases, separated, strict=True) if not parts]
            raise ValueError(f"phrases must be one or more, each of a word or more, got {empty or 'none'}")
        self._phrases = frozenset(separated)
        self._lengths = sorted({*map(len, separated)}, reverse=True)

    def named(self, text: str) -> list[tuple[str, ...]]:
        """Return the phrases in a text in order, each as its words."""
        parts, found, place = tuple(caption_words(text)), list[tuple[str, ...]](), 0
        while place < len(parts):
            fitting = (parts[place : place + n] for n in self._lengths)
            phrase = next((phrase for phrase in fitting if phrase in self._phrases), None)
            if phrase is not None:
                found.append(phrase)
            place += len(phrase or " ")
        return found

    def _count(self, text: str, references: list[str]) -> list[int]:
        written = self.named(text)
        return [any(self.named(true) == written for true in references)]

    def _score(self, counts: list[int]) -> float:
        return counts[0] / int(self.texts)


def caption_metrics(attributes: Mapping[str, Sequence[str]] | None = None) -> dict[str, Metric]:
    """Return fresh metrics of captions by name: ``exact``, ``bleu1`` to ``bleu4``, ``ciderd``, and one for each attribute.

    Args:
        attributes: Phrases by the name of an attribute, see :class:`AttributesRight`; None: none.

    Raises:
        ValueError: An attribute with the name of another metric, or without phrases.
    """
    if taken := [name for name in attributes or {} if name in _TAKEN]:
        raise ValueError(f"an attribute cannot have the name of a metric, got {taken[0]!r}: name it otherwise")
    written = {"exact": ExactMatch(), **{f"bleu{n}": BLEU(n) for n in (1, 2, 3, 4)}, "ciderd": CIDErD()}
    return {**written, **{name: AttributesRight(phrases) for name, phrases in (attributes or {}).items()}}


def caption_words(text: str) -> list[str]:
    """Return the words of a caption in lower case, without punctuation; those of :func:`zoo.metrics.texts.words`.

    Example:
        >>> caption_words("A red-brown dog, isn't it?")
        ['a', 'red-brown', 'dog', "isn't", 'it']
    """
    return [word for word in words(text.lower()) if not all(unicodedata.category(c).startswith("P") for c in word)]


def _counts(text: str) -> list[Counter[Any]]:
    """Count the n-grams of a caption, of each length."""
    parts = caption_words(text)
    return [ngrams(parts, n) for n in range(1, ORDER + 1)]


def _score(
    written: list[Counter[Any]], references: list[list[Counter[Any]]], weights: Mapping[Any, float], unknown: float
) -> float:
    """CIDEr-D of one image; n-grams that no reference has weigh ``unknown``."""
    own_norms, parts = _norms(written, weights, unknown), []
    for true in references:
        length = math.exp(-((written[0].total() - true[0].total()) ** 2) / (2 * SIGMA**2))
        norms = _norms(true, weights, unknown)
        for own, known, *both in zip(written, true, own_norms, norms, strict=True):
            common = ((weights[gram], min(own[gram], count) * count) for gram, count in known.items() if gram in own)
            product = sum(weight**2 * number for weight, number in common)
            parts.append(length * product / math.prod(both) if all(both) else 0.0)
    return SCALE * math.fsum(parts) / len(parts)


def _norms(text: list[Counter[Any]], weights: Mapping[Any, float], unknown: float) -> list[float]:
    """The length of the vector of n-grams of a text, for each n."""
    return [
        math.sqrt(sum((count * weights.get(gram, unknown)) ** 2 for gram, count in grams.items())) for grams in text
    ]
