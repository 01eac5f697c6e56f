"""Counts of tokens as language models, the baselines of texts: what a net that reads further back must stay below."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from recipes.cli.errors import UserError

if TYPE_CHECKING:
    from numpy import ndarray


class Unigram:
    """Each token has its share in the training part, with add-one smoothing: ``(count + 1) / (N + V)``.

    Args:
        vocab_size: Number of tokens V of the vocabulary.

    Example:
        >>> import numpy as np
        >>> Unigram(3).fit(np.array([0, 1, 0])).losses(np.array([2, 0, 1])).round(4).tolist()  # -log of 3/6 and 2/6
        [0.6931, 1.0986]
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def fit(self, tokens: "ndarray") -> Self:
        """Count the tokens ``(N,)``."""
        import numpy as np

        self.counts = np.bincount(tokens, minlength=self.vocab_size)
        return self

    def losses(self, tokens: "ndarray") -> "ndarray":
        """Return the loss in nats of each token but the first: ``(N,)`` -> ``(N - 1,)``."""
        import numpy as np

        return -np.log((self.counts[tokens[1:]] + 1) / (self.counts.sum() + self.vocab_size))


class Bigram(Unigram):
    """Each token has its share among those after the one before it, with add-one smoothing: ``(count + 1) / (N_before + V)``.

    Args:
        vocab_size: Number of tokens V of the vocabulary.

    Example:
        >>> import numpy as np
        >>> Bigram(3).fit(np.array([0, 1, 0, 1])).losses(np.array([0, 1, 2])).round(4).tolist()  # -log of 3/5 and 1/4
        [0.5108, 1.3863]
    """

    def fit(self, tokens: "ndarray") -> Self:
        import numpy as np

        super().fit(tokens[:-1])
        self.pairs, self.pair_counts = np.unique(
            self._pairs(tokens), return_counts=True
        )  # V * V of them would be too many
        return self

    def losses(self, tokens: "ndarray") -> "ndarray":
        import numpy as np

        pairs = self._pairs(tokens)
        place = np.searchsorted(self.pairs, pairs).clip(max=len(self.pairs) - 1)
        count = np.where(self.pairs[place] == pairs, self.pair_counts[place], 0)
        return -np.log((count + 1) / (self.counts[tokens[:-1]] + self.vocab_size))

    def _pairs(self, tokens: "ndarray") -> "ndarray":
        return tokens[:-1].astype("int64") * self.vocab_size + tokens[1:]


def blocks_of(data: Any) -> "dict[str, ndarray]":
    """Return the tokens ``(N,)`` of each part of a text: "train", and "val" and "test" where there are such parts.

    Raises:
        UserError: The data are no blocks of text.
    """
    data.prepare_data()
    for stage in ("fit", "test")[: 1 + data.has_test]:
        data.setup(stage)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader()}
    if data.has_test:
        loaders["test"] = data.test_dataloader()
    blocks: dict[str, Any] = {
        name: getattr(loader.dataset, "tokens", None) for name, loader in loaders.items() if loader
    }
    if any(tokens is None for tokens in blocks.values()):
        raise UserError(
            f"{type(data).__name__} is no text that goes on: the baselines are for data such as datamodules.TextFileDataModule"
        )
    return {name: tokens.long().numpy() for name, tokens in blocks.items()}


def methods(vocab_size: int) -> dict[str, Any]:
    """Return the methods by name."""
    return {"unigram": Unigram(vocab_size), "bigram": Bigram(vocab_size)}


def measured(blocks: "dict[str, ndarray]", methods: dict[str, Any]) -> Iterator[tuple[str, dict[str, float], float]]:
    """Yield name, scores and seconds of each method: the mean loss in nats a token, over all of a part but the first."""
    for name, method in methods.items():
        begin = time.monotonic()
        method.fit(blocks["train"])
        scores = {
            f"{part}/loss": float(method.losses(tokens).mean()) for part, tokens in blocks.items() if part != "train"
        }
        yield name, scores, time.monotonic() - begin
