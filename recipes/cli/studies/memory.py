"""Translations without a net, the baselines of pairs of texts: what was seen in training is given again, or the source itself."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

Texts = tuple[list[str], list[str]]  # sources, and the target of each


class Copy:
    """The source itself is the translation."""

    def fit(self, sources: Sequence[str], targets: Sequence[str]) -> Self:
        """Learn nothing."""
        return self

    def predict(self, sources: Sequence[str]) -> list[str]:
        """Return a translation of each source."""
        return list(sources)


class MostFrequent(Copy):
    """The target that is the most frequent one in training, of several the first one, is the translation of every source.

    Example:
        >>> MostFrequent().fit(["a", "b", "c"], ["y", "x", "x"]).predict(["a", "d"])
        ['x', 'x']
    """

    def fit(self, sources: Sequence[str], targets: Sequence[str]) -> Self:
        """Count the targets."""
        ((self.target, _),) = Counter(targets).most_common(1)
        return self

    def predict(self, sources: Sequence[str]) -> list[str]:
        return [self.target] * len(sources)


class Memory(Copy):
    """The translation of the most similar source of training: of 1 to 3 characters, weighted by tf-idf, the cosine decides.

    Example:
        >>> Memory().fit(["one dog", "two cats"], ["ein Hund", "zwei Katzen"]).predict(["a dog", "my cats"])
        ['ein Hund', 'zwei Katzen']
    """

    def fit(self, sources: Sequence[str], targets: Sequence[str]) -> Self:
        """Keep the pairs."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False)
        self.known, self.targets = self.vectors.fit_transform(sources), list(targets)
        return self

    def predict(self, sources: Sequence[str]) -> list[str]:
        import numpy as np

        wanted = self.vectors.transform(sources)
        nearest = [
            np.asarray((wanted[start : start + 64] @ self.known.T).todense()).argmax(
                axis=1
            )  # not all at once, in memory
            for start in range(0, wanted.shape[0], 64)
        ]
        return [self.targets[i] for i in np.concatenate(nearest)]


def texts_of(data: Any) -> dict[str, Texts]:
    """Return the texts of each part of pairs: "train", and "val" and "test" where there are such parts."""
    from zoo.blocks import Vocabulary

    data.prepare_data()
    for stage in ("fit", "test")[: 1 + data.has_test]:
        data.setup(stage)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader()}
    if data.has_test:
        loaders["test"] = data.test_dataloader()
    read, write = Vocabulary(data.source_vocabulary), Vocabulary(data.vocabulary)
    parts: dict[str, Texts] = {}
    for name, loader in loaders.items():
        if loader:
            pairs = [loader.dataset[i] for i in range(len(loader.dataset))]
            parts[name] = (
                [read.decode(x.source.tolist()) for x, _ in pairs],
                [write.decode(y.tolist()) for _, y in pairs],
            )
    return parts


def methods() -> dict[str, Copy]:
    """Return the methods by name."""
    return {"the source itself": Copy(), "most frequent target": MostFrequent(), "most similar source": Memory()}


def measured(parts: dict[str, Texts], methods: dict[str, Copy]) -> Iterator[tuple[str, dict[str, float], float]]:
    """Yield name, scores and seconds of each method: the share of targets that are met, and chrF."""
    from zoo.metrics import CHRF, ExactMatch

    for name, method in methods.items():
        begin = time.monotonic()
        method.fit(*parts["train"])
        scores = {}
        for part in ("val", "test"):
            if part in parts:
                sources, targets = parts[part]
                made = method.predict(sources)
                for label, metric in (("exact", ExactMatch()), ("chrf", CHRF())):
                    metric.update(made, targets)
                    scores[f"{part}/{label}"] = float(metric.compute())
        yield name, scores, time.monotonic() - begin
