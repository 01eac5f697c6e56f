"""Losses and metrics in the target's own unit, against numpy and scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import LightningDataModule, Trainer
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.tasks import RegressionTask
from zoo.testing import check_module

MEAN, STD = torch.tensor([2000.0, -3.0]), torch.tensor([5.0, 0.1])


class Table(nn.Module):
    """Gives its input back."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Data(LightningDataModule):
    """Batches of 7 that describe themselves."""

    def __init__(self, x: Tensor, y: Tensor, **attributes: Any) -> None:
        super().__init__()
        self.set = TensorDataset(x, y)
        for name, value in attributes.items():
            setattr(self, name, value)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.set, 7)

    val_dataloader = train_dataloader


def trainer(tmp_path: Any) -> Trainer:
    return quiet_trainer(default_root_dir=tmp_path, max_epochs=1)


def task(loss: str = "mse", **kwargs: Any) -> RegressionTask:
    made = RegressionTask(Table(), 2, loss=loss, **kwargs)
    made.target_mean, made.target_std = MEAN.clone(), STD.clone()
    return made


@pytest.fixture
def x() -> Tensor:
    return torch.randn(50, 2)


@pytest.fixture
def y() -> Tensor:
    return torch.randn(50, 2) * STD + MEAN


@pytest.mark.parametrize("loss", ["mse", "half_mse", "mae", "huber"])
def test_loss_is_the_mean_over_all_standardized_residuals(loss: str, x: Tensor, y: Tensor) -> None:
    r = (x.double() - (y.double() - MEAN) / STD).numpy()
    d = 0.7
    huber = np.where(abs(r) <= d, r**2 / 2, d * (abs(r) - d / 2))
    wanted = {"mse": r**2, "half_mse": r**2 / 2, "mae": abs(r), "huber": huber}[loss].mean()
    got, means, count = task(loss, huber_delta=d).training_losses((x, y))
    assert got.item() == pytest.approx(wanted, rel=1e-4)
    assert means["mae"].item() == pytest.approx(abs(r * STD.numpy()).mean(), rel=1e-4)
    assert count == 50


@pytest.mark.parametrize("loss", ["mse", "half_mse", "mae", "huber"])
def test_metrics_are_in_the_targets_unit(loss: str, x: Tensor, y: Tensor, tmp_path: Any) -> None:
    model = task(loss)
    got = trainer(tmp_path).validate(model, DataLoader(TensorDataset(x, y), 7), verbose=False)[0]
    guess = x.double() * STD + MEAN
    error = (guess - y).numpy()
    assert got == pytest.approx(
        {
            "val/loss": model.training_losses((x, y))[0].item(),
            "val/rmse": math.sqrt((error**2).mean()),
            "val/mae": abs(error).mean(),
            "val/r2": sk.r2_score(y.numpy(), guess.numpy()),
        },
        rel=1e-4,
    )


def test_a_large_mean_costs_no_digits() -> None:
    """Targets of 1e6 +- 1: squaring them in float32 would leave nothing of R2."""
    y = 1e6 + torch.randn(200, 1, dtype=torch.float64).mul(4).round() / 4  # exact in float32
    model = RegressionTask(Table(), 1)
    model.target_mean, model.target_std = torch.tensor([1e6]), torch.tensor([1.0])
    metrics = model.build_metrics()
    guess = y - 1e6 + 0.5
    model.update_metrics(metrics, (guess.float(), y.float()))
    assert metrics["r2"].compute().item() == pytest.approx(sk.r2_score(y.numpy(), guess.numpy() + 1e6), rel=1e-4)
    assert metrics["rmse"].compute().item() == pytest.approx(0.5, rel=1e-5)


def test_rows_of_weight_zero_count_nowhere(x: Tensor, y: Tensor) -> None:
    weight = (torch.arange(50) % 3 > 0).float()
    kept, both = weight.bool(), []
    for batches in [[(x, y, weight), (x[:1], y[:1], torch.zeros(1))], [(x[kept], y[kept])]]:
        metrics = task().build_metrics()
        for batch in batches:
            task().update_metrics(metrics, batch)
        both.append({name: metric.compute() for name, metric in metrics.items()})
    for name, value in both[0].items():
        torch.testing.assert_close(value, both[1][name])


def test_each_output_of_an_example_may_have_a_weight(x: Tensor, y: Tensor) -> None:
    """Means are over the residuals that count; R2 is of the examples whose outputs all do."""
    weight = (torch.arange(100).view(50, 2) % 3 > 0).float()
    counts, whole = weight.bool(), weight.bool().all(dim=1)
    assert 0 < whole.sum() < counts.any(dim=1).sum()
    error = (x.double() * STD + MEAN - y)[counts].numpy()
    metrics = task().build_metrics()
    task().update_metrics(metrics, (x, y, weight))
    got = {name: metric.compute().item() for name, metric in metrics.items()}
    assert got["rmse"] == pytest.approx(math.sqrt((error**2).mean()), rel=1e-4)
    assert got["mae"] == pytest.approx(abs(error).mean(), rel=1e-4)
    assert got["loss"] == pytest.approx((x.double() - (y - MEAN) / STD).square()[counts].mean().item(), rel=1e-4)
    guess = x.double() * STD + MEAN
    assert got["r2"] == pytest.approx(sk.r2_score(y[whole].numpy(), guess[whole].numpy()), rel=1e-4)
    loss, means, count = task().training_losses((x, y, weight))
    assert (loss.item(), means["mae"].item()) == pytest.approx((got["loss"], got["mae"]), rel=1e-5)
    assert count == counts.sum()


@pytest.mark.parametrize(("loss", "expected"), [("mse", 1.0), ("half_mse", 0.5), ("mae", None), ("huber", None)])
def test_the_first_loss_is_that_of_the_mean(
    loss: Any, expected: float | None, x: Tensor, y: Tensor, tmp_path: Any
) -> None:
    model = RegressionTask(Table(), 2, loss=loss, optimizer="SGD", lr=1e-12)
    trainer(tmp_path).fit(model, datamodule=Data(x, y, target_mean=y.mean(0), target_std=y.std(0, correction=0)))
    assert model.expected_initial_loss() == expected
    if expected is not None:
        model.net.scale.data.zero_()
        assert model.training_losses((x, y))[0].item() == pytest.approx(expected, rel=1e-4)


def test_r2_of_one_example_is_no_number(tmp_path: Any) -> None:
    loader = DataLoader(TensorDataset(torch.ones(1, 2), torch.ones(1, 2)))
    assert math.isnan(trainer(tmp_path).validate(task(), loader, verbose=False)[0]["val/r2"])


def test_target_statistics_come_from_the_first_fit_and_stay(x: Tensor, y: Tensor, tmp_path: Any) -> None:
    model = RegressionTask(Table(), 2, optimizer="SGD", lr=1e-12)
    assert model.expected_initial_loss() is None
    data = Data(x, y, target_mean=y.mean(0), target_std=y.std(0))
    run = trainer(tmp_path)
    run.fit(model, datamodule=data)
    torch.testing.assert_close(model.target_mean, y.mean(0))
    assert model.expected_initial_loss() == 1.0
    model.net.scale.data.zero_()  # predicts the mean: R2 is 0, RMSE the deviation
    got = trainer(tmp_path).validate(model, datamodule=data, verbose=False)[0]
    assert got["val/loss"] == pytest.approx(49 / 50, rel=1e-4)
    assert got["val/r2"] == pytest.approx(0.0, abs=1e-4)
    torch.testing.assert_close(model(x), y.mean(0).expand(50, 2))
    path = tmp_path / "model.ckpt"
    run.save_checkpoint(path)
    other = RegressionTask(Table(), 2)
    other.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    trainer(tmp_path).fit(other, datamodule=Data(x, y, target_mean=y.mean(0) + 1, target_std=y.std(0)))
    assert torch.equal(other.target_mean, model.target_mean)


def test_prediction_in_the_targets_unit() -> None:
    torch.testing.assert_close(task().predict_step(torch.tensor([[1.0, 2.0]]))["value"], torch.tensor([[2005.0, -2.8]]))
    assert RegressionTask(Table(), 1).predict_step((torch.ones(3, 1), None))["value"].shape == (3,)


def test_shapes_that_would_broadcast_are_refused(x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"targets must have shape \(B, 2\) for num_outputs=2, got \(50,\)"):
        task().training_losses((x, y[:, 0]))
    with pytest.raises(ValueError, match=r"Table gives \(50, 2\) for targets of shape \(50, 1\)"):
        RegressionTask(Table(), 1).training_losses((x, y[:, 0]))


def test_statistics_that_do_not_fit_are_refused(x: Tensor, y: Tensor, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="num_outputs is 1, but Data has 2 numbers in target_mean"):
        trainer(tmp_path).fit(RegressionTask(Table(), 1), datamodule=Data(x, y, target_mean=MEAN, target_std=STD))
    with pytest.raises(ValueError, match="a target that never varies teaches nothing"):
        trainer(tmp_path).fit(RegressionTask(Table(), 2), datamodule=Data(x, y, target_mean=MEAN, target_std=STD * 0))


@pytest.mark.parametrize("loss", ["mse", "half_mse", "mae", "huber"])
def test_contract(loss: str) -> None:
    report = check_module(RegressionTask(nn.Linear(64, 2), 2, loss=loss), (torch.randn(8, 64), torch.randn(8, 2)))
    assert {name for name, result in report.items() if result != "ok"} == {"hyperparameters", "checkpoint", "folder"}


def test_monitor() -> None:
    assert task().monitor == ("val/loss", "min")
    assert task(monitor="val/r2").monitor == ("val/r2", "max")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_outputs": 0}, "num_outputs must be 1 or more, got 0"),
        ({"loss": "rmse"}, "loss must be mse, half_mse, mae or huber, got 'rmse'"),
        ({"huber_delta": 0.0}, "huber_delta must be above 0"),
        ({"monitor": "r2"}, "monitor names a logged metric"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegressionTask(Table(), **arguments)
