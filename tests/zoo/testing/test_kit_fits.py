"""Accumulated batches and two processes train what whole batches on one do; the bugs that make a difference are caught."""

import os
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo import testing
from zoo.tasks import ClassificationTask, Task
from zoo.testing import NotApplicable
from zoo.testing.frozen_draws import FrozenDraws

CHECKS = {"accumulation": testing.check_accumulation, "processes": testing.check_processes}
BATCH = (torch.rand(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9))  # an odd number of examples
DIFFERENT = "train other weights than whole batches on one process"


@pytest.fixture(params=CHECKS)
def check(request: pytest.FixtureRequest) -> Any:
    return CHECKS[request.param]


class Module(LightningModule):
    """A plain module, right as it is."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*(layers or (nn.Linear(4, 10),)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def hidden(*layers: nn.Module) -> list[nn.Module]:
    return [nn.Linear(4, 8), *layers, nn.Linear(8, 10)]


@pytest.mark.parametrize(
    "build",
    [
        Module,
        lambda: Module(*hidden(nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))),
        lambda: ClassificationTask(nn.Sequential(*hidden(nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)))),
        lambda: ClassificationTask(nn.Linear(4, 10), optimizer="SGD"),
    ],
    ids=["plain", "plain_dropout", "task_dropout", "task"],
)
def test_what_is_right_passes(build: Any, check: Any) -> None:
    environment = dict(os.environ)
    check(build(), BATCH)
    assert dict(os.environ) == environment


# What a loss is a mean over ---------------------------------------------------------------------------------------------


class Sum(Module):
    """Twice as many examples give twice the gradient."""

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) * len(batch[0])


class SquaredMean(Module):
    """A function of the batch's mean."""

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch).square()


class Pixels(Task):
    """A mean over what has a target, some of ``(B, 3)``; ``counted`` says what it takes the loss to be a mean over."""

    def __init__(self, counted: str, **task: Any) -> None:
        super().__init__(nn.Linear(4, 3), **task)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
        x, y = batch
        valid = ~y.isnan()
        squares = (self(x) - y.nan_to_num()).square() * valid
        counts = {"pixels": valid.sum(), "examples": len(x)}
        loss = squares.sum() / valid.sum()
        if self.hparams["counted"] == "means":  # a mean of the examples' means, weighted as one of pixels
            loss, counts["means"] = (squares.sum(1) / valid.sum(1)).mean(), valid.sum()
        return loss, {"loss": loss}, counts[self.hparams["counted"]]


def pixels() -> tuple[Tensor, Tensor]:
    y = torch.rand(9, 3)
    y[[1, 1, 3, 3, 4, 5], [0, 1, 0, 2, 0, 0]] = torch.nan
    return BATCH[0], y


@pytest.mark.parametrize("build", [Sum, SquaredMean])
def test_a_loss_that_is_no_mean_is_caught(build: Any, check: Any) -> None:
    with pytest.raises(AssertionError, match=DIFFERENT):
        check(build(), BATCH)


@pytest.mark.parametrize("counted", ["examples", "means"])
def test_a_mean_of_means_is_caught(counted: str, check: Any) -> None:
    check(Pixels("pixels"), pixels())
    with pytest.raises(AssertionError, match=DIFFERENT):
        check(Pixels(counted), pixels())


class LateStep(Module):
    """Changes with each batch, not with each step."""

    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            self.net[0].weight.mul_(0.9)


def test_what_is_done_for_each_batch_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"accumulated batches train other .*net.0.weight differs by .* after 3"):
        testing.check_accumulation(LateStep(), BATCH)
    testing.check_processes(LateStep(), BATCH)


def test_what_cannot_be_trained_is_caught(check: Any) -> None:
    class Constant(Module):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) * 0

    with pytest.raises(AssertionError, match=r"the gradient's norm is 0.0: there is nothing to train"):
        check(Constant(), BATCH)


# Random numbers ---------------------------------------------------------------------------------------------------------


class NoisyTask(ClassificationTask):
    """Adds noise to its input, in ``training_losses`` or before, where processes do not share it."""

    def __init__(self, shared: bool, **task: Any) -> None:
        super().__init__(nn.Linear(4, 10), 10, **task)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
        x, y = batch
        return super().training_losses((x + torch.randn_like(x) if self.hparams["shared"] else x, y))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return super().training_step((x if self.hparams["shared"] else x + torch.randn_like(x), y), batch_idx)


def test_draws_that_are_equal_on_both_processes_are_caught() -> None:
    testing.check_processes(NoisyTask(shared=True), BATCH)
    with pytest.raises(AssertionError, match=f"two processes {DIFFERENT}"):
        testing.check_processes(NoisyTask(shared=False), BATCH)
    for shared in (True, False):
        testing.check_accumulation(NoisyTask(shared), BATCH)  # there they are frozen


def test_draws_inside_an_operation_skip_the_check(check: Any) -> None:
    class Recurrent(Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.LSTM(4, 10, 2, dropout=0.5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.unsqueeze(1))[0].squeeze(1)

    with pytest.raises(NotApplicable, match="it draws random numbers in lstm, which cannot be drawn for one example"):
        check(Recurrent(), BATCH)


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_draws_of_others_skip_the_check(draw: Any, check: Any) -> None:
    class Noisy(Module):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * torch.tensor([[draw()] for _ in x], dtype=x.dtype))

    with pytest.raises(NotApplicable, match="random numbers that are not torch's"):
        check(Noisy(), BATCH)


# Processes --------------------------------------------------------------------------------------------------------------


class OwnWay(Module):
    """Each process goes its own way."""

    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            self.net[0].weight.add_(self.global_rank)


class Unused(Module):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 10))
        self.idle = nn.Linear(4, 4)


class Failing(Module):
    def on_train_start(self) -> None:
        if self.trainer.world_size > 1:
            raise ValueError("one device only")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (OwnWay, "two processes end with different weights: net.0.weight"),
        (Failing, "training on two processes fails: ValueError: one device only"),
        (Unused, "training on two processes fails"),
    ],
)
def test_processes_that_part_are_caught(build: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_processes(build(), BATCH)


# Frozen draws -----------------------------------------------------------------------------------------------------------


DRAWS = {
    "rand": lambda x: torch.rand(x.shape),
    "randn_like": torch.randn_like,
    "randint": lambda x: torch.randint(100, x.shape),
    "normal_": lambda x: torch.empty_like(x).normal_(),
    "exponential_": lambda x: torch.empty_like(x).exponential_(),
    "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.5)),
    "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(torch.full_like(x, 0.5)),
    "dropout": lambda x: F.dropout(torch.ones_like(x), 0.5),
    "distribution": lambda x: torch.distributions.Gamma(torch.ones_like(x), 1.0).sample() * 0 + torch.rand_like(x),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("shape", [(5, 33), (5, 3, 7), (1, 6)])
def test_each_example_gets_the_same_numbers(name: str, shape: tuple[int, ...]) -> None:
    draw, x = DRAWS[name], torch.zeros(shape)
    with FrozenDraws():
        values = draw(x)
        longer = draw(torch.zeros(shape[0] + 2, shape[1] + 5, *shape[2:]))
    assert values.shape == shape
    assert len(values.unique()) > 1
    assert torch.equal(values, values[:1].expand_as(values))
    assert torch.equal(longer[: shape[0], : shape[1]], values)  # neither batch nor length change them


def test_maps_are_dropped_whole() -> None:
    with FrozenDraws():
        kept = F.dropout2d(torch.ones(4, 9, 3, 3), 0.5)
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept, kept[:1, :, :1, :1].expand_as(kept))


def test_one_number_and_one_for_each_example() -> None:
    with FrozenDraws():
        assert torch.equal(torch.rand(()), torch.rand(()))
        assert len(torch.rand(6).unique()) == 1


@pytest.mark.parametrize("size", [(3, 4), (4,)])
def test_the_generator_is_left_alone(size: tuple[int, ...]) -> None:
    state = torch.get_rng_state()
    with FrozenDraws(watch=True) as draws:
        torch.rand(size)
        F.dropout(torch.ones(size), 0.5)
        torch.bernoulli(torch.full(size, 0.5))
    assert torch.equal(torch.get_rng_state(), state)
    assert not draws.missed
    with FrozenDraws(watch=True) as draws:
        torch.randperm(3)
    assert draws.missed == {"randperm"}
