"""Random features: the solution is numpy's pseudo-inverse, and the threshold lies at as many features as examples."""

from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import Trainer, seed_everything
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import zoo
from datamodules import MNIST1DDataModule
from zoo.linear import RandomFeatures, RandomFeaturesClassifier, least_squares

COUNT = 60  # training examples of the fits


def fitted(
    num_features: int, ridge: float = 0.0, seed: int = 0, **data: Any
) -> tuple[RandomFeaturesClassifier, Trainer]:
    seed_everything(seed, verbose=False)
    model = RandomFeaturesClassifier(num_features=num_features, ridge=ridge)
    options = {"batch_size": COUNT, "label_noise": 0.15, "val_fraction": 0, **data}
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=MNIST1DDataModule(count=COUNT, **options))
    return model, trainer


def rows_of(model: RandomFeaturesClassifier, trainer: Trainer) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets of the training examples by the formula, in float64."""
    x, y = trainer.datamodule.sequences()  # type: ignore[attr-defined]
    x = x[:, :, 0].double().numpy()
    x = (x - x.mean()) / x.std()
    features = np.maximum(x @ model.net.directions.double().numpy().T, 0) / np.sqrt(model.net.num_features)
    return features, np.eye(10)[y.numpy()]


# The net ----------------------------------------------------------------------------------------------------------------


def test_the_net_is_its_formula() -> None:
    net = RandomFeatures(6, 3, 50).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    v, w = net.directions, net.fc.weight
    wanted = torch.stack([sum(w[:, k] * max(float(v[k] @ row.flatten()), 0.0) for k in range(50)) for row in x])  # type: ignore[misc]
    torch.testing.assert_close(net(x), wanted / 50**0.5)
    torch.testing.assert_close(v.norm(dim=1), torch.ones(50, dtype=torch.float64), rtol=1e-6, atol=0)
    assert [name for name, _ in net.named_parameters()] == ["fc.weight"]
    assert set(net.state_dict()) == {"directions", "fc.weight"}
    with pytest.raises(ValueError, match="RandomFeatures takes 6 numbers an example, got 5: set in_features=5"):
        net(torch.randn(4, 5))


def test_directions_are_uniform_on_the_sphere_and_drawn_by_the_seed() -> None:
    seed_everything(0, verbose=False)
    first = RandomFeatures(3, 2, 20000).directions
    torch.testing.assert_close(first.mean(dim=0), torch.zeros(3), rtol=0, atol=0.02)
    # Archimedes: each coordinate of a point on the sphere in three dimensions is uniform in -1..1
    torch.testing.assert_close(
        first.quantile(torch.tensor([0.1, 0.25, 0.75]), dim=0)[:, 0], torch.tensor([-0.8, -0.5, 0.5]), rtol=0, atol=0.02
    )
    assert torch.equal(first @ first[0] > 0.999, (first - first[0]).norm(dim=1) < 0.0448)
    seed_everything(0, verbose=False)
    assert torch.equal(RandomFeatures(3, 2, 20000).directions, first)
    assert not torch.equal(RandomFeatures(3, 2, 20000).directions, first)


# The solution -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 8), (30, 30), (8, 30)])
def test_the_solution_is_that_of_the_pseudo_inverse(shape: tuple[int, int]) -> None:
    features, targets = torch.randn(shape, dtype=torch.float64), torch.randn(shape[0], 3, dtype=torch.float64)
    features[:, -1] = features[:, 0]  # dependent columns, so that the norm decides
    got = least_squares(features, targets).numpy()
    np.testing.assert_allclose(got, np.linalg.pinv(features.numpy()) @ targets.numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_a_ridge_is_scikit_learns(shape: tuple[int, int]) -> None:
    features, targets = torch.randn(shape, dtype=torch.float64), torch.randn(shape[0], 3, dtype=torch.float64)
    theirs = Ridge(alpha=0.7, fit_intercept=False, solver="svd").fit(features.numpy(), targets.numpy())
    np.testing.assert_allclose(least_squares(features, targets, 0.7).T, theirs.coef_, rtol=1e-8)


@pytest.mark.parametrize("num_features", [20, 60, 300])
def test_a_fit_gives_the_solution_of_the_smallest_norm(num_features: int) -> None:
    model, trainer = fitted(num_features)
    features, targets = rows_of(model, trainer)
    wanted = np.linalg.pinv(features) @ targets
    np.testing.assert_allclose(
        model.net.fc.weight.detach().numpy().T, wanted, rtol=1e-2, atol=1e-4 * np.abs(wanted).max()
    )
    assert trainer.global_step == 1
    logged = trainer.callback_metrics
    residual = features @ wanted - targets
    assert logged["train/loss"].item() == pytest.approx(np.square(residual).sum(1).mean(), rel=1e-3, abs=1e-6)
    hits = (features @ wanted).argmax(1) == targets.argmax(1)
    assert logged["train/acc"].item() == pytest.approx(hits.mean())


def test_the_solution_has_the_digits_of_float64_at_the_peak() -> None:
    model = fitted(COUNT)[0].double()
    x, y = torch.randn(COUNT, 40, dtype=torch.float64), torch.arange(COUNT) % 10
    rows = ((x - model.mean) / model.std).numpy()
    features = np.maximum(rows @ model.net.directions.numpy().T, 0) / np.sqrt(COUNT)
    assert np.linalg.cond(features) > 100
    got = model.solve(x, y, torch.ones(COUNT)).T
    np.testing.assert_allclose(got, np.linalg.pinv(features) @ np.eye(10)[y], rtol=1e-7, atol=1e-7)


def test_batches_of_any_size_and_weights_give_the_same_solution() -> None:
    whole, once = fitted(100, ridge=0.1)
    parts, trainer = fitted(100, ridge=0.1, batch_size=16, drop_last=False)  # four batches, the last one smaller
    torch.testing.assert_close(parts.net.fc.weight, whole.net.fc.weight, rtol=1e-4, atol=1e-5)
    assert trainer.callback_metrics["train/acc"] == once.callback_metrics["train/acc"]
    x, y = torch.randn(40, 40), torch.arange(40) % 10
    weight = torch.ones(40)
    weight[30:] = 0
    twice = torch.cat([torch.ones(30), torch.zeros(10)])
    twice[:10] = 2
    wanted = whole.solve(x[:30], y[:30], weight[:30])
    torch.testing.assert_close(whole.solve(x, y, weight), wanted)
    wanted = whole.solve(torch.cat([x[:30], x[:10]]), torch.cat([y[:30], y[:10]]), torch.ones(40))
    torch.testing.assert_close(whole.solve(x, y, twice), wanted)


def test_a_second_epoch_changes_nothing() -> None:
    seed_everything(0, verbose=False)
    model = RandomFeaturesClassifier(num_features=30)
    data = MNIST1DDataModule(count=COUNT, val_fraction=0, batch_size=20)
    quiet_trainer(max_epochs=1).fit(model, datamodule=data)
    once = model.net.fc.weight.clone()
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(model, datamodule=data)
    torch.testing.assert_close(model.net.fc.weight, once, rtol=1e-3, atol=1e-4)
    assert trainer.global_step == 3


# Double descent ---------------------------------------------------------------------------------------------------------


def test_the_threshold_lies_at_as_many_features_as_examples() -> None:
    """Below it no solution passes through all targets; from it on each does, and the error of the test is the largest there."""
    train, test = {}, {}
    for width in (20, 40, COUNT, 120, 1000):
        runs = [fitted(width, seed=seed, data_seed=seed) for seed in range(3)]
        train[width] = [trainer.callback_metrics["train/loss"].item() for _, trainer in runs]
        test[width] = [
            trainer.test(model, datamodule=trainer.datamodule, verbose=False)[0]["test/loss"]  # type: ignore[attr-defined]
            for model, trainer in runs
        ]
    assert min(train[20]) > 0.1
    assert min(train[40]) > 0.01
    for width in (COUNT, 120, 1000):
        assert max(train[width]) < 1e-6
    assert min(test[COUNT]) > 5 * max(max(test[width]) for width in test if width != COUNT)
    assert max(test[20]) < min(test[40])
    assert max(test[1000]) < min(test[120])


def test_with_a_ridge_there_is_no_peak() -> None:
    losses = []
    for width in (40, COUNT, 120):
        model, trainer = fitted(width, ridge=0.1)
        losses.append(trainer.test(model, datamodule=trainer.datamodule, verbose=False)[0]["test/loss"])  # type: ignore[attr-defined]
    assert losses[1] < 1.1 * max(losses[0], losses[2])


# What one gets ----------------------------------------------------------------------------------------------------------


def test_prediction_is_a_decision_and_the_loss_the_squared_error() -> None:
    model = RandomFeaturesClassifier(4, 3, 8)
    scores, y = torch.tensor([[0.2, 0.9, -0.3], [1.0, 0.0, 0.0]]), torch.tensor([2, 0])
    assert model.probabilities(scores).tolist() == [[0, 1, 0], [1, 0, 0]]
    losses = model.example_losses(scores, y, training=True)
    torch.testing.assert_close(losses, torch.tensor([0.04 + 0.81 + 1.69, 0.0]))
    soft = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(model.example_losses(scores, soft, training=True)[0], torch.tensor(0.09 + 0.16 + 0.09))
    assert (model.expected_initial_loss(), model.loss_floor()) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ridge": -0.1}, "ridge must be 0 or more, got -0.1"),
        ({"lr": 0.1}, r"not trained by gradient, so lr does not apply: leave it at 0.001"),
        ({"optimizer": "SGD"}, "optimizer does not apply: leave it at 'AdamW'"),
        ({"weight_decay": 0.1}, "weight_decay does not apply"),
        ({"penalties": {"l2": 0.1}}, "penalties does not apply"),
        ({"class_weight": "balanced"}, "class_weight does not apply"),
        ({"mode": "multilabel"}, "mode does not apply: leave it at 'multiclass'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.RandomFeaturesClassifier(**arguments)


class Endless(IterableDataset):
    """Batches without an end."""

    def __iter__(self) -> Any:
        while True:
            yield torch.randn(4, 40), torch.arange(4)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_data_without_an_end_are_refused() -> None:
    with pytest.raises(ValueError, match="do not say where it is: take a data module with a length"):
        quiet_trainer(max_steps=3).fit(RandomFeaturesClassifier(), DataLoader(Endless(), batch_size=None))


def test_an_epoch_whose_first_examples_are_lost_is_refused() -> None:
    class Resumed(RandomFeaturesClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            if batch_idx == 1:
                self._seen.clear()  # what a process that starts in the middle of an epoch has
            return super().training_step(batch, batch_idx)

    data = MNIST1DDataModule(count=COUNT, val_fraction=0, batch_size=20)
    with pytest.raises(ValueError, match="this one was resumed after 1 of 3 batches: start a new run"):
        quiet_trainer(max_epochs=1).fit(Resumed(num_features=8), datamodule=data)
