"""``zoo baselines``: the recipe's own splits and standardization, the row of each method, and errors."""

import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import Zoo, assert_one_line
from lightning.pytorch import LightningDataModule, Trainer
from sklearn.cluster import KMeans
from sklearn.metrics import accuracy_score, root_mean_squared_error
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch.utils.data import DataLoader, TensorDataset

from datamodules import (
    ArrayDataModule,
    DiabetesDataModule,
    DigitsDataModule,
    IrisDataModule,
    SentencePairsDataModule,
    SequenceDataModule,
    Series,
    SymbolPairsDataModule,
    TextDataModule,
)
from recipes.cli.errors import UserError
from recipes.cli.studies.baselines import baselines, regressors, splits_of
from recipes.cli.studies.ngrams import Bigram, Unigram
from zoo import LinearRegressor, SoftmaxRegressionClassifier
from zoo.metrics import CHRF

SCORES_OF_PAIRS = ("val/exact", "val/chrf", "test/exact", "test/chrf")


def rows(out: str) -> dict[str, list[str]]:
    """Return the rows of the table by method."""
    matches = re.findall(r"(?m)^(\S.*?) {2,}(\S+) +(\S+) +[\d.]+$", out)
    return {name: values for name, *values in matches}


@pytest.mark.parametrize(
    ("data", "task", "counts"),
    [
        (DigitsDataModule(flip=True, crop=2, batch_size=50), SoftmaxRegressionClassifier(64, 10), [1293, 144, 360]),
        (IrisDataModule(batch_size=50), SoftmaxRegressionClassifier(4, 3), [108, 12, 30]),
        (DiabetesDataModule(val_fraction=0), LinearRegressor(10), [353, 0, 89]),
    ],
    ids=["images", "table", "regression"],
)
def test_the_splits_are_those_that_the_task_sees(data: Any, task: Any, counts: list[int]) -> None:
    splits = splits_of(data)
    assert [0 if split is None else len(split[1]) for split in splits.values()] == counts
    task.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    task.trainer.datamodule = data
    task.setup("fit")
    for name, split in splits.items():
        part = data._parts[name]
        if split is not None:
            x = part.x.float() / 255 if part.x.ndim == 4 else part.x
            np.testing.assert_allclose(split[0], task.standardize(x).flatten(1), atol=1e-6)
            assert torch.equal(torch.from_numpy(split[1]), part.y)


class Waves(SequenceDataModule):
    """40 series of pairs, of 1 to 5 times."""

    class_names = ["a", "b"]
    input_shape = (5, 2)

    def sequences(self) -> tuple[Any, Any]:
        lengths = 1 + torch.arange(40) % 5
        values = torch.arange(40.0)[:, None, None] + torch.arange(10.0).view(5, 2) ** 2
        return Series(values, lengths), torch.arange(40) % 2


class WavesInStep(Waves):
    in_step = True

    def sequences(self) -> tuple[Any, Any]:
        x, _ = super().sequences()
        return x, torch.zeros(40, 5)


def test_series_are_standardized_by_column_padded_and_flattened() -> None:
    data = Waves(batch_size=4)
    splits = splits_of(data)
    for name, split in splits.items():
        assert split is not None
        part = data._parts[name].x
        x = ((part.values - data.mean) / data.std).numpy()  # (N, T, D) and (D,)
        x[np.arange(5) >= part.lengths.numpy()[:, None]] = 0
        np.testing.assert_allclose(split[0], x.reshape(-1, 10), atol=1e-6)
    with pytest.raises(
        UserError, match="WavesInStep has a target at each time: the baselines need one for each example"
    ):
        splits_of(WavesInStep())


def test_classification_scores_equal_scikit_learns(zoo: Zoo) -> None:
    result = zoo("baselines", "-c", "linear/glm_iris")
    assert (result.code, result.err) == (0, "")
    assert "linear/glm_iris: 108 train, 12 val, 30 test examples of 4 numbers" in result.out
    scores = rows(result.out)
    names = ["k-means, 3 clusters", "PCA + logistic regression", "1 nearest neighbor", "3 nearest neighbors", "SVC"]
    assert [*scores] == names
    assert re.search(r"(?m)^method +val/acc +test/acc +seconds$", result.out)
    splits = splits_of(IrisDataModule())
    for name, method in (("SVC", SVC()), ("3 nearest neighbors", KNeighborsClassifier(3))):
        method.fit(*splits["train"])
        for text, part in zip(scores[name], ("val", "test"), strict=True):
            x, y = splits[part]
            assert text == f"{accuracy_score(y, method.predict(x)):.4f}"
    assert float(scores["k-means, 3 clusters"][1]) > 0.6  # a third by chance
    assert "\nthe recipe: test/loss <= " in result.out


def test_regression_scores_are_in_the_unit_of_the_target(zoo: Zoo) -> None:
    out = zoo("baselines", "-c", "linear/linear_diabetes").out
    assert re.search(r"(?m)^method +val/rmse +test/rmse +seconds$", out)
    scores = rows(out)
    assert [*scores] == ["least squares", "ridge", "5 nearest neighbors", "SVR"]
    splits = splits_of(DiabetesDataModule(val_fraction=0))
    (x, y), (x_test, y_test) = splits["train"], splits["test"]
    one = np.ones((len(x_test), 1))
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    assert scores["least squares"] == ["-", f"{root_mean_squared_error(y_test, np.c_[x_test, one] @ weights):.4f}"]
    assert all(50 < float(values[1]) < 70 for values in scores.values())


def test_options_of_the_recipe_are_used(zoo: Zoo) -> None:
    out = zoo("baselines", "-c", "linear/mlp_moons", "--data.count=100", "--data.test_fraction=0.5").out
    assert "45 train, 5 val, 50 test examples of 2 numbers" in out


def test_errors_are_one_line(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_one_line(zoo("baselines"), "no recipe given", "zoo baselines RECIPE")
    assert_one_line(zoo("baselines", "-c", "linear/mlp_digit"), "did you mean 'linear/mlp_digits'?")
    assert_one_line(zoo("baselines", "-c", "linear/mlp_digits", "--data.sze=3"), "did you mean 'size'?")
    monkeypatch.setattr("recipes.cli.studies.baselines._MAX_NUMBERS", 1000)
    assert_one_line(zoo("baselines", "-c", "linear/mlp_digits"), "1,293 examples of 64 numbers", "less data")


class Plain(LightningDataModule):
    """A user's datamodule with tensors and loaders only."""

    def __init__(self, y: torch.Tensor) -> None:
        super().__init__()
        self.dataset = TensorDataset(torch.arange(10.0).view(5, 2), y)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.dataset, 2, shuffle=True, drop_last=True)

    val_dataloader = test_dataloader = train_dataloader


def test_any_datamodule_with_one_class_or_numbers_per_example() -> None:
    x, y = splits_of(Plain(torch.arange(5.0)))["train"]
    assert x.tolist() == torch.arange(10.0).view(5, 2).tolist()
    assert y.tolist() == [[0], [1], [2], [3], [4]]
    with pytest.raises(UserError, match=r"shape \(5, 3\).* one class per example"):
        splits_of(Plain(torch.ones(5, 3, dtype=torch.int64)))


def test_k_means_in_python() -> None:
    """Against a loop by hand: the class of most examples of each cluster, from the same centers."""
    data = DigitsDataModule(val_fraction=0)
    scores = baselines(data, "k-means*")
    assert [*scores] == ["k-means, 10 clusters"]
    (x, y), (x_test, y_test) = (splits_of(data)[part] for part in ("train", "test"))
    centers = KMeans(10, n_init=10, random_state=0).fit(x).cluster_centers_
    nearest, nearest_test = (((z[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1) for z in (x, x_test))
    label = [np.bincount(y[nearest == k]).argmax() for k in range(10)]
    right = sum(label[k] == true for k, true in zip(nearest_test, y_test, strict=True)) / len(y_test)
    assert scores["k-means, 10 clusters"] == {"test/acc": pytest.approx(right)}
    assert right > 0.6
    with pytest.raises(UserError, match=r"no method is called 'kmeans': they are k-means, 10 clusters, PCA"):
        baselines(data, "kmeans")


def test_a_large_target_keeps_its_digits() -> None:
    """scikit-learn computes in the type of the inputs: float32 has steps of 128 at 1.7e9."""
    x = np.random.default_rng(0).normal(size=(60, 1))
    splits = splits_of(ArrayDataModule(x, 1.7e9 + 3 * x[:, 0], kind="regression", val_fraction=0.0))
    assert splits["train"] is not None
    assert splits["test"] is not None
    method = regressors()["least squares"].fit(*splits["train"])
    assert abs(method.predict(splits["test"][0]) - splits["test"][1]).max() < 1e-3


# Texts ------------------------------------------------------------------------------------------------------------------

TEXT = "she sells sea shells by the sea shore.\n" * 8 + "the shells she sells are sea shells for sure.\n" * 4 + "hush\n"


def counted_losses(train: str, text: str, n: int, vocab_size: int) -> list[float]:
    """The loss of each character but the first, from counts in dictionaries."""
    before = Counter(train[:-1])
    pairs = Counter(pairwise(train))
    single = Counter(train)
    if n == 1:
        return [-math.log((single[c] + 1) / (len(train) + vocab_size)) for c in text[1:]]
    return [-math.log((pairs[b, c] + 1) / (before[b] + vocab_size)) for b, c in pairwise(text)]


@pytest.mark.parametrize("order", ["shuffled", "lanes"])
def test_counts_of_tokens_are_the_baselines_of_texts(order: Any) -> None:
    data = TextDataModule(TEXT, context=8, batch_size=4, order=order)
    found = baselines(data)
    assert [*found] == ["unigram", "bigram"]
    assert data.vocabulary["tokens"] == sorted(set(TEXT))
    train, val, test = ("".join(sorted(set(TEXT))[k] for k in data._parts[p].tokens) for p in ("train", "val", "test"))
    assert train + val + test == TEXT
    for n, name in enumerate(found, 1):
        for part, text in (("val", val), ("test", test)):
            losses = counted_losses(train, text, n, len(set(TEXT)))
            assert found[name][f"{part}/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-12)
    assert found["bigram"]["test/loss"] < found["unigram"]["test/loss"]
    assert [*baselines(TextDataModule(TEXT, context=8), "uni*")] == ["unigram"]


def test_smoothed_shares_are_a_distribution() -> None:
    tokens = np.array([0, 1, 0, 2, 2, 1, 0])
    for method in (Unigram(4).fit(tokens), Bigram(4).fit(tokens)):
        for before in range(4):
            shares = [np.exp(-method.losses(np.array([before, token])))[0] for token in range(4)]
            assert sum(shares) == pytest.approx(1)
            assert min(shares) > 0


def test_the_table_of_a_text_file(zoo: Zoo) -> None:
    Path("text.txt").write_text(TEXT)
    result = zoo(
        "baselines", "recurrent/text_file", "--data.context=8", "--data.batch_size=4", "--data.test_fraction=0"
    )
    assert (result.code, result.err) == (0, "")
    val = math.ceil(len(TEXT) / 10)
    about = f"recurrent/text_file: {len(TEXT) - val} train, {val} val tokens of {len(set(TEXT))} different ones\n"
    assert about in result.out
    scores = rows(result.out)
    assert [*scores] == ["unigram", "bigram"]
    assert all(test == "-" for _, test in scores.values())
    assert "val/loss" in result.out


def test_translations_without_a_net_are_the_baselines_of_pairs(tmp_cwd: Path) -> None:
    files = {
        "train.tsv": [("one dog", "ein Hund"), ("two cats", "zwei Katzen"), ("one Dog", "ein Hund")],
        "val.tsv": [("two dogs", "two dogs"), ("a dog", "ein Hund")],
        "test.tsv": [("my two cats", "zwei Katzen"), ("no dog", "kein Hund"), ("one dog!", "ein Hund"), ("x y", "x y")],
    }
    for name, pairs in files.items():
        Path(name).write_text("".join(f"{one}\t{other}\n" for one, other in pairs))
    found = baselines(SentencePairsDataModule("train.tsv", val="val.tsv", test="test.tsv", batch_size=2))
    shares = {name: (scores["val/exact"], scores["test/exact"]) for name, scores in found.items()}
    assert shares == {
        "the source itself": (0.5, 0.25),
        "most frequent target": (0.5, 0.25),
        "most similar source": (0.5, 0.5),
    }
    assert found["most similar source"]["test/chrf"] > found["most frequent target"]["test/chrf"]
    chrf = CHRF()
    chrf.update([one for one, _ in files["test.tsv"]], [other for _, other in files["test.tsv"]])
    assert found["the source itself"]["test/chrf"] == float(chrf.compute())


def test_strings_of_symbols_have_baselines() -> None:
    data = SymbolPairsDataModule("copy", count=50, batch_size=4)
    assert baselines(data, "the source*") == {"the source itself": dict.fromkeys(SCORES_OF_PAIRS, 1.0)}


def test_the_table_of_pairs(zoo: Zoo) -> None:
    Path("pairs.tsv").write_text("".join(f"{i}\t{i * i}\n" for i in range(40)))
    result = zoo("baselines", "seq2seq/pairs", "--data.test_fraction=0")
    assert (result.code, result.err) == (0, "")
    assert "36 train, 4 val pairs" in result.out
    lines = result.out.splitlines()
    assert lines[2].split() == ["method", "val/exact", "test/exact", "val/chrf", "test/chrf", "seconds"]
    assert [line[:34].strip() for line in lines[4:7]] == [
        "the source itself",
        "most frequent target",
        "most similar source",
    ]
    assert lines[4].split()[-4] == "-"
