"""``zoo baselines``: plain methods, most of scikit-learn, on exactly the splits that a recipe trains and tests on."""

import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from recipes.cli import catalog
from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import UserError
from recipes.cli.run.options import Parser, split_word
from recipes.cli.run.process import exiting_at_once, restored_process_state
from recipes.cli.studies import captions, memory, naive, ngrams

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from numpy import ndarray

HELP = """zoo baselines RECIPE [options]: measure plain methods on a recipe's data, next to what the recipe expects.

  RECIPE                a name that `zoo recipes` lists, or a YAML of your own; the same as -c, --config
  --debug               show the traceback of any error

The splits and the standardization are the recipe's own, and so are its options (--data.val_fraction 0.2); images and
series are flattened and not augmented. For classes and numbers, the methods are scikit-learn's with its defaults, not tuned:
  classes   k-means with as many clusters as classes (each predicts the class of most of its training examples),
            PCA that keeps 95% of the variance + logistic regression, 1 and 3 nearest neighbors, SVC with an RBF kernel
  numbers   least squares, ridge with alpha 1, 5 nearest neighbors, SVR with an RBF kernel on the standardized target
  series    the last value; the season before, as it was, and raised by what the last season has risen over the one before
            (from two seasons on); then the methods for numbers, on the values of a context less its last one. The season is
            the recipe's (--data.season 12), errors are in the series' own unit, and targets that are missing do not count
  texts     counts of tokens (unigram) and of pairs (bigram) with add-one smoothing: the loss in nats a token
  pairs     the source itself; the most frequent target; the target of the training source that is most similar (tf-idf of 1
            to 3 characters): the share of targets that are met, and chrF
  captions  the most frequent caption; that of the training image with the nearest pixels, at 32 x 32; for drawn shapes also what
            the class and the color of each pixel tell, an upper bound: the share of captions that are met, and of those with
            the right colors, shapes and relation; for other data BLEU-4 and CIDEr-D instead
The time of SVC and SVR grows faster than the square of the number of examples: minutes for MNIST.

Examples:
  zoo baselines linear/mlp_digits
  zoo baselines linear/linear_diabetes
  zoo baselines recurrent/gru_co2
  zoo baselines seq2seq/gru_attention_dates
"""

_MAX_NUMBERS = 2**31  # in a split, 8 GiB


def run(args: list[str]) -> int:
    """Run the verb ``baselines``."""
    parser = Parser("zoo baselines")
    parser.add_argument("-c", "--config", action="append", default=[])
    word, args = split_word(args)
    options, overrides = parser.parse_known_args(args)
    recipes = [catalog.find(text) for text in ([] if word is None else [word]) + options.config]
    if not recipes:
        raise UserError("no recipe given: zoo baselines RECIPE (`zoo recipes` lists them)")
    with restored_process_state():
        with NoCaches(), exiting_at_once():
            from recipes.cli.run.building import RecipeCLI
        with captured_logs(Console()):
            cli = RecipeCLI([*(f"--config={recipe.path}" for recipe in recipes), *overrides], overrides)
            if cli.datamodule is None:
                raise UserError(
                    f"the recipe {recipes[0].name} has no data section: the baselines need data to learn from"
                )
            _compare(recipes[0], *_prepared(cli.datamodule))
    return 0


def splits_of(data: "LightningDataModule") -> dict[str, "tuple[ndarray, ndarray] | None"]:
    """Return the splits "train", "val" and "test" as training sees them, standardized but not augmented; None if empty.

    Shape:
        inputs float32 ``(N, D)``; targets int64 ``(N,)``, or floats ``(N, K)`` in their own unit, nan where they do not count,
        whose type the inputs then have. Steps of series are flattened: ``(N, T D)``, ``(N, H K)``.

    Raises:
        UserError: A split is too large for memory, or has several classes per example.
    """
    from lightning.pytorch import Trainer

    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.prepare_data()
    for stage in ("fit", "test"):
        data.setup(stage)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    return {name: _read(data, name, loader) for name, loader in loaders.items()}


def _read(data: Any, name: str, loader: Any) -> "tuple[ndarray, ndarray] | None":
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    if not loader:
        return None
    if getattr(data, "in_step", False):
        raise UserError(f"{type(data).__name__} has a target at each time: the baselines need one for each example")
    examples, first = len(loader.dataset), loader.dataset[0][0]
    numbers = (first.values if hasattr(first, "lengths") else first).numel()
    if examples * numbers > _MAX_NUMBERS:
        raise UserError(
            f"the {name} split has {examples:,} examples of {numbers:,} numbers, too many for scikit-learn, which needs "
            f"them all in memory: use a recipe with less data"
        )
    mean, std = getattr(data, "mean", None), getattr(data, "std", None)
    inputs, targets = [], []
    # the training loader shuffles and drops the last incomplete batch
    for batch in DataLoader(loader.dataset, 256, num_workers=loader.num_workers, collate_fn=loader.collate_fn):
        x, y, *weight = data.on_after_batch_transfer(batch, 0)
        x, lengths = (x.values, x.lengths) if hasattr(x, "lengths") else (x, None)
        if mean is not None and std is not None:
            shape = (
                (-1,) if x.ndim == 3 else (-1, *[1] * (x.ndim - 2))
            )  # of series (B, T, D), or of images (B, C, H, W)
            x = ((x - mean.view(shape)) / std.view(shape)).float()
        if lengths is not None:
            x = x.masked_fill((torch.arange(x.shape[1]) >= lengths[:, None])[..., None], 0)
            x = F.pad(x, (0, 0, 0, data.input_shape[0] - x.shape[1]))
        inputs.append(x.flatten(1))  # (B, C, H, W) -> (B, D)
        counts = weight[0] if weight and weight[0].shape == y.shape else None
        targets.append(y if counts is None else y.where(counts > 0, float("nan")))
    y = torch.cat(targets)
    if not y.is_floating_point() and y.ndim != 1:
        raise UserError(
            f"the targets have shape {tuple(y.shape)}: the baselines need one class per example, or numbers"
        )
    if not y.is_floating_point():
        return torch.cat(inputs).numpy(), y.numpy()
    return torch.cat(inputs).to(y.dtype).numpy(), y.view(
        len(y), -1
    ).numpy()  # scikit-learn computes in the type of the inputs


def baselines(data: "LightningDataModule", methods: str = "*") -> dict[str, dict[str, float]]:
    """Fit the methods on a data module's training split, and score them on its validation and test splits.

    Args:
        data: Any data module of classes or numbers, of series to forecast, of a text, of pairs of texts, or of images with
            captions.
        methods: Shell pattern of the methods' names, such as ``"k-means*"``.

    Returns:
        By method, "val/acc" and "test/acc" (of numbers "val/rmse" and "test/rmse", of series to forecast "val/mae" and
        "test/mae", of texts "val/loss" and "test/loss", of pairs "val/exact", "val/chrf" and the same of "test", of captions
        "val/exact", those of the attributes, and the same of "test"), each where there is such a split.

    Raises:
        UserError: See :func:`splits_of`; or no method has such a name.

    Example:
        >>> from datamodules import IrisDataModule
        >>> [*baselines(IrisDataModule(), "k-means*")]
        ['k-means, 3 clusters']
    """
    return {name: scores for name, scores, _ in _prepared(data, methods)[1]}


def _prepared(
    data: Any, pattern: str = "*"
) -> tuple[tuple[str, list[str]], Iterator[tuple[str, dict[str, float], float]]]:
    """Return what the examples are and the names of the scores, and the rows of the table, which take their time."""
    if getattr(data, "kind", None) == "translation":
        parts = memory.texts_of(data)
        counts = _counts({name: len(sources) for name, (sources, _) in parts.items()})
        return (f"{counts} pairs", ["exact", "chrf"]), memory.measured(parts, _chosen(memory.methods(), pattern))
    if getattr(data, "kind", None) == "captioning":
        captioned, attributes = captions.parts_of(data), dict(getattr(data, "attributes", None) or {})
        counts = _counts({name: len(part.captions) for name, part in captioned.items()})
        chosen = _chosen(captions.methods(data), pattern)
        return (f"{counts} images", captions.scores_of(attributes)), captions.measured(captioned, chosen, attributes)
    if getattr(data, "kind", None) == "text":
        blocks = ngrams.blocks_of(data)
        counts = _counts({name: len(tokens) for name, tokens in blocks.items()})
        rows = ngrams.measured(blocks, _chosen(ngrams.methods(data.vocab_size), pattern))
        return (f"{counts} tokens of {data.vocab_size:,} different ones", ["loss"]), rows
    splits: dict[str, Any] = splits_of(data)
    x, y = splits["train"]
    counts = _counts({name: len(split[1]) for name, split in splits.items() if split})
    examples = f"{counts} examples of {x.shape[1]:,} number{'s' * (x.shape[1] > 1)}, standardized"
    if getattr(data, "kind", None) == "forecasting":
        known, metric = naive.forecasters(data, regressors()), "mae"
    elif y.ndim == 1:
        known, metric = classifiers(int(y.max()) + 1), "acc"
    else:
        known, metric = regressors(), "rmse"
    return (examples, [metric]), _measured(splits, _chosen(known, pattern), metric)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _chosen(known: dict[str, Any], pattern: str) -> dict[str, Any]:
    if not (chosen := {name: method for name, method in known.items() if fnmatchcase(name, pattern)}):
        raise UserError(f"no method is called {pattern!r}: they are {', '.join(known)}")
    return chosen


def _measured(
    splits: dict[str, Any], methods: dict[str, Any], metric: str
) -> Iterator[tuple[str, dict[str, float], float]]:
    """Yield name, scores and seconds of each method as soon as it is done."""
    x, y = splits["train"]
    counts = slice(None) if y.ndim == 1 else (y == y).all(axis=1)  # an example with a nan teaches scikit-learn nothing
    for name, method in methods.items():
        begin = time.monotonic()
        method.fit(x[counts], y[counts])
        there = {part: splits[part] for part in ("val", "test") if splits[part]}
        scores = {f"{part}/{metric}": _score(method, *split, metric=metric) for part, split in there.items()}
        yield name, scores, time.monotonic() - begin


def _compare(
    recipe: catalog.Recipe, about: tuple[str, list[str]], rows: Iterator[tuple[str, dict[str, float], float]]
) -> None:
    """Fit every method on the training split and print its row as soon as it is done."""
    examples, metrics = about
    names = [f"{part}/{metric}" for metric in metrics for part in ("val", "test")]
    print(f"{recipe.name}: {examples}\n")
    widths = [max(10 + i % 2, len(name) + 2) for i, name in enumerate(names)]
    header = f"{'method':<34}" + "".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True)) + f"{'seconds':>9}"
    print(f"{header}\n{'-' * len(header)}", flush=True)
    for method, scores, seconds in rows:
        cells = [f"{scores[name]:.4f}" if name in scores else "-" for name in names]
        numbers = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        print(f"{method:<34}{numbers}{seconds:>9.1f}", flush=True)
    print(f"\nthe recipe: {recipe.expect or 'expects nothing'}")


def _score(method: Any, x: "ndarray", y: "ndarray", *, metric: str) -> float:
    """Return the accuracy, or the root mean squared or the mean absolute error over all residuals that count."""
    predicted = method.predict(x).reshape(y.shape)  # some return (N,) for (N, 1)
    if metric == "acc":
        return float((predicted == y).mean())
    errors = (predicted - y)[y == y].astype(float)
    return float((errors**2).mean() ** 0.5 if metric == "rmse" else abs(errors).mean())


def classifiers(classes: int) -> dict[str, Any]:
    """Return the methods for classification by name."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    return {
        f"k-means, {classes} clusters": KMeansClassifier(classes),
        "PCA + logistic regression": make_pipeline(PCA(0.95), LogisticRegression(max_iter=1000)),
        "1 nearest neighbor": KNeighborsClassifier(1),
        "3 nearest neighbors": KNeighborsClassifier(3),
        "SVC": SVC(),
    }


def regressors() -> dict[str, Any]:
    """Return the methods for regression by name."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    return {
        "least squares": LinearRegression(),
        "ridge": Ridge(),
        "5 nearest neighbors": KNeighborsRegressor(5),
        "SVR": TransformedTargetRegressor(MultiOutputRegressor(SVR()), transformer=StandardScaler()),
    }


class KMeansClassifier:
    """k-means as a classifier: a cluster predicts the class of most of its training examples.

    Args:
        num_clusters: Number of clusters.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
        >>> KMeansClassifier(2).fit(x, np.array([1, 1, 0, 0, 0])).predict(x).tolist()
        [1, 1, 1, 0, 0]
    """

    def __init__(self, num_clusters: int) -> None:
        from sklearn.cluster import KMeans

        self.means = KMeans(num_clusters, n_init=10, random_state=0)

    def fit(self, x: "ndarray", y: "ndarray") -> "KMeansClassifier":
        """Fit the clusters and assign a class to each."""
        import numpy as np

        labels = self.means.fit_predict(x)
        counts = np.zeros((self.means.n_clusters, y.max() + 1), int)
        np.add.at(counts, (labels, y), 1)
        self.classes = counts.argmax(1)
        return self

    def predict(self, x: "ndarray") -> "ndarray":
        """Return the class of the nearest cluster."""
        return self.classes[self.means.predict(x)]
