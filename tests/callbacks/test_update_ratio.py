"""Updates beside weights, against steps made by hand."""

import math
from typing import Any

import pytest
import torch
from kit import Memory, quiet_trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.utils.data import DataLoader

from callbacks import UpdateRatio, WeightNorm

DATA = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


class Known(LightningModule):
    """The gradient is x, whatever the weights are; ``history`` has the weights before each batch."""

    def __init__(self, build: Any = lambda p: SGD(p, lr=0.1)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.arange(1.0, 4.0))
        self.v = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.full((7,), 50.0), requires_grad=False)
        self.build = build
        self.history: list[Tensor] = []

    def flat(self) -> Tensor:
        return torch.cat([self.w, self.v]).detach().double()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if len(self.history) == batch_idx:
            self.history.append(self.flat())
        return (batch @ torch.cat([self.w, self.v])).mean() + 0.5 * self.w.square().sum()

    def configure_optimizers(self) -> Any:
        return self.build(self.parameters())

    def ratios(self) -> list[float]:
        after = [*self.history[1:], self.flat()]
        return [float((a - b).norm() / b.norm()) for a, b in zip(after, self.history, strict=True)]


def fit(module: LightningModule, *callbacks: Any, **options: Any) -> Memory:
    logger = Memory()
    trainer = quiet_trainer(*callbacks, **({"max_epochs": 1, "logger": logger} | options))
    trainer.fit(module, DataLoader(DATA, batch_size=1))
    return logger


class Twice(SGD):
    """A step that calls that of its base class, which runs the hooks of both."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.5)
        super().step()
        return loss


@pytest.mark.parametrize(
    "build",
    [
        lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: Adam(p, lr=0.01),
        lambda p: Adam(p, lr=0.01, fused=True),
        lambda p: LBFGS([q for q in p if q.requires_grad], lr=0.5, max_iter=3),
        lambda p: Twice(p, lr=0.1),
    ],
    ids=["sgd", "adam", "fused", "lbfgs", "twice"],
)
def test_the_update_is_that_which_any_optimizer_applied(build: Any) -> None:
    SGD([torch.zeros(1, requires_grad=True)], lr=0.1)  # its step has hooks from here on
    module = Known(build)
    logger = fit(module, UpdateRatio(), gradient_clip_val=None)
    assert logger.values("update_ratio") == [(i, pytest.approx(r, rel=1e-5)) for i, r in enumerate(module.ratios())]


def test_clipping_is_in_it() -> None:
    module = Known()
    logger = fit(module, UpdateRatio(), gradient_clip_val=1e-3)
    assert logger.values("update_ratio")[0] == (0, pytest.approx(0.1 * 1e-3 / math.sqrt(14), rel=1e-2))


def test_each_parameter_by_its_name() -> None:
    module = Known()
    logger = fit(module, UpdateRatio(per_layer=True), WeightNorm(per_layer=True))
    w, x = torch.arange(1.0, 4.0), DATA[0]
    assert logger.values("update_ratio/w")[0][1] == pytest.approx(float(0.1 * (x[:3] + w).norm() / w.norm()), rel=1e-5)
    first = [value for _, value in logger.values("update_ratio/v")]
    assert math.isinf(first[0])
    assert first[1] == pytest.approx(float(DATA[1, 3:].norm() / DATA[0, 3:].norm()), rel=1e-5)
    assert logger.values("weight_norm/v")[0] == (0, pytest.approx(0.1 * float(x[3:].norm()), rel=1e-5))


def test_the_norm_of_the_weights_is_that_after_the_step_frozen_ones_included() -> None:
    module = Known()
    logger = fit(module, WeightNorm(), accumulate_grad_batches=2)
    assert [step for step, _ in logger.values("weight_norm")] == [0, 1, 2]
    squares = module.flat().square().sum() + 7 * 2500
    assert logger.values("weight_norm")[-1] == (2, pytest.approx(float(squares.sqrt()), rel=1e-6))


def test_accumulation_has_one_update_a_window() -> None:
    module = Known()
    logger = fit(module, UpdateRatio(), accumulate_grad_batches=4)
    start, last = module.history[0], module.flat()
    middle = module.history[4]
    wanted = [float((middle - start).norm() / start.norm()), float((last - middle).norm() / middle.norm())]
    assert logger.values("update_ratio") == [(i, pytest.approx(r, rel=1e-5)) for i, r in enumerate(wanted)]


def test_several_optimizers_and_parameters_that_stand_still() -> None:
    class Manual(Known):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            loss = (batch @ torch.cat([self.w, self.v])).mean()
            for i, optimizer in enumerate(self.optimizers()):
                if i == 0 or batch_idx % 2 == 0:
                    optimizer.zero_grad()
                    self.manual_backward(loss, retain_graph=True, inputs=optimizer.param_groups[0]["params"])
                    optimizer.step()

        def configure_optimizers(self) -> Any:
            return SGD([self.w], lr=0.1), SGD([self.v], lr=0.0)

    logger = fit(Manual(), UpdateRatio())
    assert [step for step, _ in logger.values("update_ratio/0")] == list(range(6))
    assert logger.values("update_ratio/1") == [(0, 0.0), (2, 0.0), (4, 0.0)]
    assert logger.values("update_ratio/0")[0][1] == pytest.approx(float(0.1 * DATA[0, :3].norm() / 14**0.5), rel=1e-5)


def test_a_step_that_the_scaler_skips_has_no_update() -> None:
    class Overflows(Known):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * 3e38 if batch_idx == 3 else loss

    build = lambda p: Adam(p, lr=0.1, fused=True)  # noqa: E731
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    logger = fit(Overflows(build), UpdateRatio(), plugins=MixedPrecision("16-mixed", "cpu", scaler))
    values = dict(logger.values("update_ratio"))
    assert values.pop(3) == 0.0
    assert len(values) == 5
    assert min(values.values()) > 0


def test_the_optimizer_is_left_as_it_was() -> None:
    module = Known()
    kept: list[Optimizer] = []
    module.build = lambda p: kept.append(o := SGD(p, lr=0.1)) or o
    fit(module, UpdateRatio())
    fit(module, UpdateRatio())
    assert [len(o._optimizer_step_pre_hooks) + len(o._optimizer_step_post_hooks) for o in kept] == [0, 0]
