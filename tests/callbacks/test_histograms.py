"""Histograms of weights and gradients."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import Histograms
from callbacks.histograms import histogram

WEIGHT = torch.tensor([[0.0, 1.0, 2.0, 4.0]])


class Line(LightningModule):
    """A line whose gradient is its input; its second parameter is frozen, and its third unused."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.unused = torch.nn.Parameter(torch.tensor([1.0, float("nan"), float("inf")]))
        with torch.no_grad():
            self.layer.weight.copy_(WEIGHT)
        self.layer.bias.requires_grad_(False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.layer.weight, self.unused], lr=0.0)


class Run:
    """Takes the place of a W&B run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def fit(tmp_path: Path, logger: Any, every: int, **options: Any) -> None:
    data = DataLoader(torch.tensor([[1.0, 1.0, 1.0, 3.0]] * 4), batch_size=1)  # type: ignore[arg-type]
    callback = Histograms(every_n_steps=every, bins=2)
    quiet_trainer(callback, max_epochs=1, logger=logger, **options).fit(Line(), data)


QUIET = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")


@QUIET
@pytest.mark.parametrize(("accumulate", "steps"), [(1, [1, 3]), (2, [1])])
def test_wandb_gets_counts_and_edges_at_the_interval(tmp_path: Path, accumulate: int, steps: list[int]) -> None:
    run: Any = Run()
    fit(tmp_path, WandbLogger(experiment=run, save_dir=tmp_path), 2, accumulate_grad_batches=accumulate)
    rows = [row for row in run.rows if any("/" in name for name in row if name != "trainer/global_step")]
    found = {
        (name, row["trainer/global_step"]): value
        for row in rows
        for name, value in row.items()
        if "layer" in name or "unused" in name
    }
    assert set(found) == {
        (name, step) for step in steps for name in ("weights/layer.weight", "gradients/layer.weight", "weights/unused")
    }
    for step in steps:
        weights, gradients = found["weights/layer.weight", step], found["gradients/layer.weight", step]
        assert (weights.histogram, weights.bins) == ([2, 2], [0.0, 2.0, 4.0])
        assert (gradients.histogram, gradients.bins) == ([3, 1], [1.0, 2.0, 3.0])
        assert found["weights/unused", step].bins == [0.5, 1.0, 1.5]  # of the only value that is finite


@QUIET
def test_tensorboard_gets_them(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, logger, 4)
    logger.experiment.close()
    (path,) = tmp_path.rglob("events.*")
    values = {v.tag: (event.step, v) for event in EventFileLoader(str(path)).Load() for v in event.summary.value}
    step, value = values["weights/layer.weight"]
    assert step == 3
    assert make_ndarray(value.tensor).tolist() == [[0.0, 2.0, 2.0], [2.0, 4.0, 2.0]]  # left, right, count


@QUIET
def test_a_run_without_such_a_logger_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    fit(tmp_path, CSVLogger(tmp_path), 1)
    assert "Histograms sends nothing: no logger takes them" in caplog.text


def test_counts_are_those_of_the_finite_values() -> None:
    values = torch.cat([torch.randn(1000), torch.tensor([float("nan"), float("-inf")])])
    counts, edges = histogram(values, 7) or (None, None)
    assert counts is not None
    assert edges is not None
    assert counts.sum() == 1000
    expected = [int(((values >= a) & (values < b)).sum()) for a, b in pairwise(edges[:-1])]
    assert (counts[:-1] - torch.tensor(expected)).abs().max() <= 1  # a value on an edge
    assert histogram(torch.tensor([float("nan")]), 3) is None


@pytest.mark.parametrize("arguments", [{"every_n_steps": 0}, {"bins": 0}])
def test_wrong_arguments(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be >= 1, got 0"):
        Histograms(**arguments)
