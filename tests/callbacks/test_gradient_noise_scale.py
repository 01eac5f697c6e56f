"""The noise scale of gradients whose mean and covariance are known."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, SaveEverywhere, quiet_trainer
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import LBFGS, SGD
from torch.utils.data import DataLoader

from callbacks import GradientNoiseScale

DIM = 5


class Known(LightningModule):
    """An example's gradient is its x."""

    def __init__(self, optimizer: Any = SGD) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(DIM))
        self.optimizer = optimizer

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (batch * self.w).sum(1).mean()

    def configure_optimizers(self) -> Any:
        return self.optimizer([self.w], lr=0.1)


def draw(count: int) -> Tensor:
    """Mean 0.5 in each of the dimensions, variance 4: |G|^2 = 1.25, tr(S) = 20, the scale 16."""
    return 0.5 + 2 * torch.randn(count, DIM, generator=torch.Generator().manual_seed(3))


def fit(callback: Any, data: Tensor, batch_size: int, *more: Any, module: Any = None, **options: Any) -> Memory:
    logger, ckpt = Memory(), options.pop("ckpt", None)
    trainer = quiet_trainer(callback, *more, **({"max_epochs": 1, "logger": logger} | options))
    loader = DataLoader(data, batch_size=batch_size)
    trainer.fit(module or Known(), loader, ckpt_path=ckpt, weights_only=True if ckpt else None)
    return logger


def by_hand(grads: list[Tensor], size: float, smoothing: float, k: int) -> list[float]:
    """The paper's appendix A.1 in float64: its B_small is an optimizer step, its B_big is ``k`` of them."""
    noise = signal = 0.0
    values = []
    for i in range(0, len(grads) - k + 1, k):
        group = torch.stack(grads[i : i + k]).double()
        small, big = float(group.square().sum(1).mean()), float(group.mean(0).square().sum())
        b_small, b_big = size, k * size
        g2 = (b_big * big - b_small * small) / (b_big - b_small)
        s = (small - big) / (1 / b_small - 1 / b_big)
        noise, signal = smoothing * noise + (1 - smoothing) * s, smoothing * signal + (1 - smoothing) * g2
        values.append(noise / signal if signal > 0 else math.inf)
    return values


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_value_is_the_papers_estimate(accumulate: int) -> None:
    data = draw(96)
    logger = fit(GradientNoiseScale(3, 0.5), data, 4 // accumulate, accumulate_grad_batches=accumulate)
    wanted = by_hand([x.mean(0) for x in data.split(4)], 4, 0.5, 3)
    assert len(wanted) == 8
    steps = [3 * i + 2 for i in range(8)]
    assert logger.values("gradient_noise_scale") == [
        (i, pytest.approx(v, rel=1e-4)) for i, v in zip(steps, wanted, strict=True)
    ]


def test_it_comes_to_the_ratio_of_the_distribution() -> None:
    logger = fit(GradientNoiseScale(smoothing=0.995), draw(6000), 8, log_every_n_steps=2)
    assert logger.values("gradient_noise_scale")[-1][1] == pytest.approx(16, rel=0.15)


def test_it_measures_the_steps_before_a_row() -> None:
    data = draw(24)
    logger = fit(GradientNoiseScale(2, 0.0, every_n_steps=4), data, 2)
    grads = [x.mean(0) for x in data.split(2)]
    wanted = [by_hand(grads[i : i + 2], 2, 0.0, 2)[0] for i in (2, 6, 10)]
    assert logger.values("gradient_noise_scale") == [
        (i, pytest.approx(v, rel=1e-4)) for i, v in zip((3, 7, 11), wanted, strict=True)
    ]


def test_an_optimizer_that_calls_its_closure_again_has_one_gradient_a_step() -> None:
    data = draw(8)
    module = Known(lambda p, lr: LBFGS(p, lr=lr, max_iter=3))
    logger = fit(GradientNoiseScale(2, 0.0), data, 2, module=module)
    wanted = by_hand([x.mean(0) for x in data.split(2)], 2, 0.0, 2)
    assert [v for _, v in logger.values("gradient_noise_scale")] == pytest.approx(wanted, rel=1e-4)


def test_a_gradient_that_is_not_finite_is_left_out() -> None:
    data = draw(16)
    broken = data.clone()
    broken[9] = math.inf
    whole, rest = (fit(GradientNoiseScale(2, 0.5), x, 2).values("gradient_noise_scale") for x in (data, broken))
    assert rest[:2] == whole[:2]
    assert rest[2][1] == rest[1][1]
    assert math.isfinite(rest[3][1]) or rest[3][1] == math.inf
    assert not math.isnan(rest[3][1])


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_resumed_run_goes_on_with_its_averages(tmp_path: Path) -> None:
    data = draw(32)
    whole = fit(GradientNoiseScale(), data, 4, SaveEverywhere(tmp_path), max_epochs=2)
    rest = fit(GradientNoiseScale(), data, 4, ckpt=tmp_path / "epoch-8.ckpt", max_epochs=2)
    wanted = [(step, pytest.approx(value, rel=1e-6)) for step, value in whole.values("gradient_noise_scale")]
    assert rest.values("gradient_noise_scale") == wanted[4:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1}, "steps must be >= 2, got 1"),
        ({"smoothing": 1}, r"smoothing must lie in \[0, 1\), got 1"),
        ({"steps": 4, "every_n_steps": 3}, "every_n_steps must be >= steps=4, got 3"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientNoiseScale(**arguments)
