"""Metrics of written texts, from counts over all of them: exact match, BLEU and chrF.

BLEU and chrF are sacrebleu's with its defaults (Post 2018, "A Call for Clarity in Reporting BLEU Scores", arXiv:1804.08771), as
shares in [0, 1], where sacrebleu gives percent. All states are sums of integers, so the result is the same to the last bit however
texts are spread over batches and processes; a mean of the scores of sentences would be another number.

Each is updated with predicted texts and, for each of them, its reference, or a list of several.
"""

import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

References = Sequence[str | Sequence[str]]

CHARACTERS = 6  # longest n-gram of chrF
BETA = 2  # weight of recall against precision in chrF
_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
_MARKS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),  # period and comma, unless they follow a digit
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),  # or one follows them
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


class TextMetric(Metric):
    """Base of metrics of texts: a row of counts for each text, which are summed; nan without texts.

    Args:
        size: Number of counts.
    """

    full_state_update = False
    counts: Tensor  # (size,)
    texts: Tensor

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("texts", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: References) -> None:
        """Add texts, and what they should be.

        Raises:
            TypeError: A text alone, which is no list.
            ValueError: Numbers of texts that differ, or a text without a reference.
        """
        rows = [self._count(text, true) for text, true in checked_texts(predictions, references)]
        if rows:
            self.counts = self.counts + torch.tensor(rows, device=self.counts.device).sum(dim=0)
            self.texts = self.texts + len(rows)

    def compute(self) -> Tensor:
        score = self._score(self.counts.tolist()) if self.texts else math.nan
        return torch.tensor(score, device=self.counts.device)

    @abstractmethod
    def _count(self, text: str, references: list[str]) -> list[int]: ...

    @abstractmethod
    def _score(self, counts: list[int]) -> float: ...


class ExactMatch(TextMetric):
    """Share of the texts that equal a reference, character by character; nan without texts."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(1, **kwargs)

    def _count(self, text: str, references: list[str]) -> list[int]:
        return [text in references]

    def _score(self, counts: list[int]) -> float:
        return counts[0] / int(self.texts)


class BLEU(TextMetric):
    """BLEU of all texts together, in [0, 1]: Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine
    Translation".

    The geometric mean of the precisions of n-grams of 1 to ``order`` words, times the brevity penalty ``exp(1 - r / c)`` where all
    texts together, of c words, are shorter than their references, of r. It equals a hundredth of sacrebleu's ``corpus_bleu``:
    words of the tokenizer 13a, with case; where no n-gram of a length agrees, their precision is smoothed exponentially, to a half
    of one n-gram, a fourth for the next such length; 0 if no text has ``order`` words, or no word agrees. The tokenizer 13a
    separates words at spaces, so in Chinese or Japanese, say, :class:`CHRF` tells more.

    Args:
        order: Number of words of the longest n-grams, >= 1.

    Raises:
        ValueError: An order below 1.
    """

    def __init__(self, order: int = 4, **kwargs: Any) -> None:
        if order < 1:
            raise ValueError(f"order must be 1 or more, got {order}")
        super().__init__(2 + 2 * order, **kwargs)  # words, words of references, n-grams that agree, n-grams
        self.order = order

    def _count(self, text: str, references: list[str]) -> list[int]:
        written = words(text)
        known = [words(reference) for reference in references]
        nearest = min((len(true) for true in known), key=lambda length: (abs(length - len(written)), length))
        agree, total = [], []
        for n in range(1, self.order + 1):
            true: Counter[Any] = Counter()
            for reference in known:
                true |= ngrams(reference, n)  # the largest count of any reference
            agree.append((ngrams(written, n) & true).total())
            total.append(max(0, len(written) - n + 1))
        return [len(written), nearest, *agree, *total]

    def _score(self, counts: list[int]) -> float:
        length, true_length, *both = counts
        agree, total = both[: self.order], both[self.order :]
        if agree[0] == 0 or 0 in total:
            return 0.0
        logarithms, smoothing = 0.0, 1.0
        for right, number in zip(agree, total, strict=True):
            smoothing *= 1 if right else 2
            logarithms += math.log((right or 1 / smoothing) / number)
        return math.exp(min(0.0, 1 - true_length / length) + logarithms / self.order)


class CHRF(TextMetric):
    """chrF of all texts together, in [0, 1]: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".

    Precision and recall of n-grams of 1 to 6 characters, without white space, each the mean over their lengths, and of both the
    F-score with beta = 2: recall counts twice as much. It equals a hundredth of sacrebleu's ``corpus_chrf``: chrF2 without words,
    the mean taken over those lengths that occur in the texts and in the references. Of several references of a text the one
    with the highest score counts.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            3 * CHARACTERS, **kwargs
        )  # n-grams, n-grams of the references, n-grams that agree, for each length

    def _count(self, text: str, references: list[str]) -> list[int]:
        written = "".join(text.split())
        rows = []
        for reference in references:
            true, row = "".join(reference.split()), []
            for n in range(1, CHARACTERS + 1):
                own, known = ngrams(written, n), ngrams(true, n)
                # without an n-gram in the reference none of the text counts, as in sacrebleu
                row += [own.total() if known else 0, known.total(), (own & known).total()]
            rows.append(row)
        return max(rows, key=self._score)

    def _score(self, counts: list[int]) -> float:
        lengths = list(zip(counts[::3], counts[1::3], counts[2::3], strict=True))
        shares = [(both / own, both / known) for own, known, both in lengths if own and known]
        precision, recall = (
            (sum(column) / len(shares) for column in zip(*shares, strict=True)) if shares else (0.0, 0.0)
        )
        if not precision + recall:
            return 0.0
        return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def text_metrics() -> dict[str, Metric]:
    """Return fresh metrics of texts by name: ``exact``, ``bleu1`` to ``bleu4``, ``chrf``."""
    return {"exact": ExactMatch(), **{f"bleu{n}": BLEU(n) for n in (1, 2, 3, 4)}, "chrf": CHRF()}


def checked_texts(predictions: Sequence[str], references: References) -> list[tuple[str, list[str]]]:
    """Return texts, each with the list of its references.

    Raises:
        TypeError: A text alone, which is no list.
        ValueError: Numbers of texts that differ, or a text without a reference.
    """
    if isinstance(predictions, str) or isinstance(references, str):
        raise TypeError("predictions and references must be lists of texts, got a single text: put it into a list")
    if len(predictions) != len(references):
        raise ValueError(
            f"each text needs its reference, got {len(predictions)} texts and {len(references)} references"
        )
    pairs = []
    for i, (text, given) in enumerate(zip(predictions, references, strict=True), start=1):
        true = [given] if isinstance(given, str) else list(given)
        if not true:
            raise ValueError(f"text {i} has no reference: leave it out")
        pairs.append((text, true))
    return pairs


def words(text: str) -> list[str]:
    """Return the words and punctuation marks of a text as the tokenizer 13a separates them (mteval-v13a, used by WMT).

    Example:
        >>> words('Costs: $1,000.50 -- "a bit" more than in 1999-2000.')
        ['Costs', ':', '$', '1,000.50', '--', '"', 'a', 'bit', '"', 'more', 'than', 'in', '1999', '-', '2000', '.']
    """
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, char in _ENTITIES.items():
        text = text.replace(entity, char)
    text = f" {text} "
    for pattern, separated in _MARKS:
        text = pattern.sub(separated, text)
    return text.split()


def ngrams(units: Sequence[str], n: int) -> Counter[Any]:
    """Count the n-grams of words or characters."""
    return Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1))
