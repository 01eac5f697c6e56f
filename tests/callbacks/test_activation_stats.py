"""Statistics of activations, against the activations themselves."""

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import Memory, quiet_trainer
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from callbacks import ActivationStats

DATA = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(2))


class Net(LightningModule):
    """A convolution and ReLU, means, a layer and tanh, a layer and a sigmoid; two of four maps are dead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 2)
        self.seen: list[dict[str, Tensor]] = []
        with torch.no_grad():
            self.conv.bias.copy_(torch.tensor([-100.0, 0.1, -100.0, 0.2]))
            self.hidden.weight.mul_(30)
        self.checkpointed = False

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        a = checkpoint(self.features, x, use_reentrant=False) if self.checkpointed else self.features(x)
        b = self.hidden(a.mean((2, 3))).tanh()
        c = torch.sigmoid(self.head(b))
        if torch.is_grad_enabled():
            self.seen.append({"conv.relu": a.detach(), "hidden.tanh": b.detach(), "head.sigmoid": c.detach()})
        return c

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self(batch * 100)  # such as a teacher: not counted
        return self(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(module: LightningModule, callback: Any, batch_size: int = 4, **options: Any) -> Memory:
    logger = Memory()
    trainer = quiet_trainer(callback, **({"max_epochs": 1, "logger": logger} | options))
    trainer.fit(module, DataLoader(DATA, batch_size=batch_size))
    return logger


def expected(seen: list[dict[str, Tensor]]) -> dict[str, float]:
    """What the activations of a step's batches give, in float64."""
    row: dict[str, float] = {}
    for name in seen[0]:
        y = torch.cat([each[name] for each in seen]).double()
        row |= {f"activation_mean/{name}": float(y.mean()), f"activation_std/{name}": float(y.std(correction=0))}
        if name == "conv.relu":
            row[f"dead_units/{name}"] = row["dead_units"] = float((y == 0).all(3).all(2).all(0).double().mean())
        else:
            slope = 1 - y.square() if name == "hidden.tanh" else 4 * y * (1 - y)
            row[f"saturation/{name}"] = float((slope < 0.05).double().mean())
    sizes = [sum(each[name].numel() for each in seen) for name in ("hidden.tanh", "head.sigmoid")]
    shares = [row[f"saturation/{name}"] for name in ("hidden.tanh", "head.sigmoid")]
    row["saturation"] = sum(n * share for n, share in zip(sizes, shares, strict=True)) / sum(sizes)
    return row


@pytest.mark.parametrize("checkpointed", [False, True])
def test_each_activation_has_its_numbers(checkpointed: bool) -> None:
    module = Net()
    module.checkpointed = checkpointed
    logger = fit(module, ActivationStats())
    if checkpointed:
        module.seen = module.seen[:2]
    assert [step for step, _ in logger.rows] == [0, 1]
    for (_, row), seen in zip(logger.rows, module.seen, strict=True):
        assert row == pytest.approx(expected([seen]), rel=1e-5)
        assert row["dead_units/conv.relu"] == 0.5
        assert 0 < row["saturation/hidden.tanh"] < 1


def test_a_step_is_its_whole_window() -> None:
    module = Net()
    logger = fit(module, ActivationStats(), batch_size=2, accumulate_grad_batches=2)
    wanted = [expected(module.seen[:2]), expected(module.seen[2:])]
    assert [row for _, row in logger.rows] == [pytest.approx(row, rel=1e-5) for row in wanted]


def test_only_the_shares_over_all_layers() -> None:
    logger = fit(Net(), ActivationStats(per_layer=False))
    assert set(logger.rows[0][1]) == {"dead_units", "saturation"}


def test_between_measurements_nothing_is_watched() -> None:
    module = Net()
    hooks: list[int] = []
    module.on_train_batch_end = lambda *_: hooks.append(len(module.conv._forward_pre_hooks))  # type: ignore[method-assign]
    during: list[int] = []
    module.conv.register_forward_hook(lambda m, *_: during.append(len(m._forward_pre_hooks)))
    fit(module, ActivationStats(every_n_steps=2), batch_size=2)
    assert hooks == [0] * 4
    assert during == [0, 0, 1, 1, 0, 0, 1, 1]


class Layers(LightningModule):
    """``(B, T, D)``, ``(B, H, W, C)`` and ``(B, C, T)``: of each, one of two units is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(6, 2), nn.Conv1d(6, 2, 1)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([-100.0, 100.0]))
            self.first.bias.copy_(torch.tensor([-100.0, 100.0]))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        x = batch[:, 0]
        return self.last(x).relu().sum() + self.last(batch).relu().sum() + self.first(x).relu().sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_units_are_on_the_axis_of_their_layer() -> None:
    row = fit(Layers(), ActivationStats()).rows[0][1]
    assert row["dead_units/last.relu"] == row["dead_units/first.relu"] == row["dead_units"] == 0.5


class Straight(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.fc(batch).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_net_without_activations_has_one_line_and_trains_on(
    compiled: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lightning", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    module = Straight()
    if compiled:
        module.fc._compiled_call_impl = module.fc._call_impl  # as nn.Module.compile leaves it, without a compiler
    with caplog.at_level(logging.INFO):
        logger = fit(module, ActivationStats())
    lines = [line for line in caplog.messages if "ActivationStats" in line]
    why = "the net is compiled" if compiled else "the net has no activation"
    assert len(lines) == 1
    assert lines[0].startswith(f"ActivationStats logs nothing: {why}")
    assert not logger.rows


def test_a_run_that_breaks_leaves_no_watch_behind() -> None:
    class Breaks(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            raise OSError("disk")

    module = Breaks()
    callback = ActivationStats()
    with pytest.raises(OSError, match="disk"):
        fit(module, callback)
    assert callback._mode is None
    assert not module.conv._forward_pre_hooks
    assert not torch.overrides._get_current_function_mode_stack()
