"""Forecasting: losses and metrics in the series' own unit, against numpy; what counts; what does not fit."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import assert_reloads, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import zoo
from datamodules import DigitsDataModule, TimeSeriesDataModule
from zoo import ForecastingTask, RecurrentForecaster

MEAN, STD = torch.tensor([300.0, -2.0]), torch.tensor([10.0, 0.5])


class Level(nn.Module):
    """Forecasts the mean of each target's context, times a weight, in standardized units."""

    def __init__(self, horizon: int = 3, targets: int = 2) -> None:
        super().__init__()
        self.horizon, self.targets = horizon, targets
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : self.targets].mean(dim=1, keepdim=True).expand(-1, self.horizon, -1) * self.scale


def task(**arguments: Any) -> ForecastingTask:
    made = ForecastingTask(Level(), num_outputs=2, horizon=3, season=2, **arguments)
    made.set_standardization([*MEAN.tolist(), 5.0], [*STD.tolist(), 1.0])
    made.target_mean, made.target_std = MEAN.clone(), STD.clone()
    return made


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Two targets and a further column, far from zero: (8, 4, 3) and (8, 3, 2)."""
    scale, level = torch.cat([STD, torch.ones(1)]), torch.cat([MEAN, torch.full((1,), 5.0)])
    return torch.randn(8, 4, 3) * scale + level, torch.randn(8, 3, 2) * STD + MEAN


def numbers(x: Tensor, y: Tensor, counts: np.ndarray) -> dict[str, float]:
    """The metrics by numpy, in float64, from the units of the data."""
    known, truth = x[..., :2].double().numpy(), y.double().numpy()
    forecast = known.mean(axis=1, keepdims=True).repeat(3, axis=1)
    naive = known[:, [2, 3, 2]]
    errors = np.where(counts, forecast - truth, 0)
    quotient = np.abs(errors).sum(axis=(0, 1)) / np.abs(np.where(counts, naive - truth, 0)).sum(axis=(0, 1))
    return {
        "loss": float(((errors / STD.numpy()) ** 2).sum() / counts.sum()),
        "rmse": float((errors**2).sum() / counts.sum()) ** 0.5,
        "mae": float(np.abs(errors).sum() / counts.sum()),
        "relative_mae": float(quotient.mean()),
    }


@pytest.mark.parametrize("weights", ["none", "rows", "values"])
def test_metrics_and_loss_count_what_counts(batch: tuple[Tensor, Tensor], weights: str) -> None:
    made, (x, y) = task().eval(), batch
    counts = torch.ones(8, 3, 2)
    if weights == "rows":
        counts[5] = 0
    elif weights == "values":
        counts = (torch.rand(8, 3, 2) < 0.6).float()
    weight = {"none": [], "rows": [counts[:, 0, 0]], "values": [counts]}[weights]
    y = y.where(counts > 0, 1e6)  # a value that does not count would be seen
    wanted = numbers(x, y, counts.bool().numpy())
    metrics = made.build_metrics()
    for part in (slice(0, 3), slice(3, 8)):
        made.update_metrics(metrics, (x[part], y[part], *(w[part] for w in weight)))
    assert {name: float(metric.compute()) for name, metric in metrics.items()} == pytest.approx(wanted, rel=1e-4)
    loss, means, count = made.training_losses((x, y, *weight))
    assert loss.item() == pytest.approx(wanted["loss"], rel=1e-4)
    assert {name: value.item() for name, value in means.items()} == pytest.approx(
        {"loss": wanted["loss"], "mae": wanted["mae"]}, rel=1e-4
    )
    assert float(count) == {"none": 8, "rows": 7, "values": counts.sum().item()}[weights]


def test_forecasts_are_in_the_series_own_unit(batch: tuple[Tensor, Tensor]) -> None:
    made, (x, _) = task().eval(), batch
    forecast = made.predict_step(batch)["value"]
    assert forecast.shape == (8, 3, 2)
    torch.testing.assert_close(forecast, x[..., :2].mean(dim=1, keepdim=True).expand(-1, 3, -1), rtol=1e-5, atol=1e-4)
    assert torch.equal(made(x), forecast)
    torch.testing.assert_close(made.standardize(x), (x - torch.tensor([300, -2, 5.0])) / torch.tensor([10, 0.5, 1.0]))
    assert torch.equal(made.naive(x), x[:, [2, 3, 2], :2])
    assert (made.reads, made.makes, made.learns) == ("series", "series", ("forecasting",))


def test_pictures_leave_out_what_does_not_count(batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("zoo.tasks.forecasting.figures.forecasts", lambda *args: shown.append(args))
    made, (x, y) = task().eval(), batch
    made.preparation = {"targets": ["co2", "ch4"]}
    weight = torch.ones_like(y)
    weight[2, 1, 0] = 0
    made.render((x, y, weight))
    context, truth, forecast, naive, names = shown[0]
    assert truth.isnan().nonzero().tolist() == [[2, 1, 0]]
    assert torch.equal(context, x[..., :2])
    assert torch.equal(forecast, made(x))
    assert torch.equal(naive, made.naive(x))
    assert names == ["co2", "ch4"]


def series(path: Path, columns: str = "a,b,c") -> str:
    names = columns.split(",")
    rows = [",".join([str(i), *(str(100 * k + np.sin(i * (k + 1))) for k in range(len(names)))]) for i in range(60)]
    path.write_text("\n".join([f"t,{columns}", *rows]) + "\n")
    return str(path)


def test_a_fit_takes_what_the_data_know(tmp_path: Path) -> None:
    data = TimeSeriesDataModule(series(tmp_path / "a.csv"), "t", ["b", "a"], ["c"], context=6, horizon=3, season=4)
    model = RecurrentForecaster(input_size=3, num_outputs=2, horizon=3, season=4, width=4)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=data)
    assert torch.equal(model.mean, data.mean)
    assert torch.equal(model.target_std, data.std[:2])  # type: ignore[index]
    assert (model.input_shape, model.preparation) == ((6, 3), data.preparation)
    assert {"val/loss", "val/rmse", "val/mae", "val/relative_mae"} <= trainer.callback_metrics.keys()
    assert_reloads(model.eval(), torch.rand(2, 6, 3), tmp_path)


class Log(Callback):
    """Write what was logged into a file: ranks are processes of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            values = {name: value.item() for name, value in trainer.callback_metrics.items()}
            self.path.write_text(json.dumps(values))


def test_two_ranks_log_what_one_logs(tmp_path: Path) -> None:
    """Missing targets, and an odd number of windows: one rank has an example less."""
    path = tmp_path / "gaps.csv"
    path.write_text("\n".join(["t,v", *(f"{i},{'' if i % 7 == 3 else i % 5}" for i in range(75))]) + "\n")
    found = []
    for ranks in (1, 2):
        torch.manual_seed(0)
        data = TimeSeriesDataModule(
            str(path), "t", context=6, horizon=2, season=5, fill="forward", batch_size=8 // ranks
        )
        model = RecurrentForecaster(horizon=2, season=5, width=4, optimizer="SGD", lr=0.1)
        log = Log(tmp_path / f"{ranks}.json")
        os.environ["PL_GLOBAL_SEED"] = "0"
        quiet_trainer(log, ranks=ranks, max_epochs=1).fit(model, datamodule=data)
        assert ranks == 2 or len(data._parts["val"]) % 2  # of two ranks, they are in other processes
        found.append(json.loads(log.path.read_text()))
    assert {"train/loss", "train/mae", "val/loss", "val/rmse", "val/mae", "val/relative_mae"} <= found[0].keys()
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"horizon": 2}, r"horizon is 2, but TimeSeriesDataModule has 3: build the model with horizon=3"),
        ({"num_outputs": 1}, r"num_outputs is 1, but TimeSeriesDataModule has 2 numbers in target_mean"),
        ({"season": 7}, r"season is 7, but a context has 6 steps: set season lower"),
        ({"input_size": 2}, r"ForecastNet cannot take the data's input of shape \(6, 3\)"),
    ],
)
def test_data_that_do_not_fit(tmp_path: Path, arguments: dict[str, int], words: str) -> None:
    data = TimeSeriesDataModule(series(tmp_path / "a.csv"), "t", ["b", "a"], ["c"], context=6, horizon=3)
    model = RecurrentForecaster(**{"input_size": 3, "num_outputs": 2, "horizon": 3, **arguments})
    with pytest.raises(ValueError, match=words):
        quiet_trainer(max_epochs=1).fit(model, datamodule=data)


def test_arguments_and_targets_that_are_refused(batch: tuple[Tensor, Tensor]) -> None:
    for name in ("horizon", "season"):
        with pytest.raises(ValueError, match=rf"{name} must be 1 or more, got 0"):
            ForecastingTask(Level(), **{name: 0})
    with pytest.raises(
        ValueError, match=r"targets must have shape \(B, 3, 2\) for horizon=3 and num_outputs=2, got \(8, 3\)"
    ):
        task().training_losses((batch[0], batch[1][..., 0]))
    with pytest.raises(ValueError, match=r"monitor names a logged metric"):
        task(monitor="mae")
    assert task(monitor="val/relative_mae").monitor == ("val/relative_mae", "min")


def test_models_and_data_of_another_kind() -> None:
    from recipes.cli.errors import UserError
    from recipes.cli.run.building import check_kind

    class Series:
        kind = "forecasting"

    with pytest.raises(UserError, match=r"SoftmaxRegressionClassifier does not forecast, but the data are time series"):
        check_kind(zoo.SoftmaxRegressionClassifier(), Series())
    digits = DigitsDataModule()
    if getattr(digits, "kind", None) is not None:
        with pytest.raises(UserError, match=r"ForecastingTask forecasts time series, but DigitsDataModule has none"):
            check_kind(task(), digits)


def test_an_example_without_data_is_as_long_as_a_season() -> None:
    assert RecurrentForecaster(input_size=2).example_shape == (24, 2)
    assert RecurrentForecaster(season=52).example_inputs(3)[0].shape == (3, 52, 1)
