"""Diagnoses of whole runs: what is recorded, what is said, once, and that nothing else changes."""

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import PATTERN_BATCHES, SaveOnce, fit_patterns, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import TrainingDiagnostics
from callbacks.input_statistics import InputStatistics

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :2].sum(1, keepdim=True)


class Net(LightningModule):
    """A user's own module: a hidden layer and one output."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 1)
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x).relu() * self.factor)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", (self(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a trainer without a logger writes into the current folder


def loader(x: Tensor = X, y: Tensor = Y, size: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), size)


def fit(
    module: LightningModule, *callbacks: Callback, x: Tensor = X, val: Any = None, **options: Any
) -> TrainingDiagnostics:
    diagnostics = TrainingDiagnostics(every_n_steps=1)
    options = {"max_epochs": 4} | options
    trainer = quiet_trainer(diagnostics, *callbacks, **options)
    trainer.fit(module, loader(x, Y[: len(x)]), loader(X + 3, Y) if val is None else val)
    return diagnostics


def said(diagnostics: TrainingDiagnostics) -> list[str]:
    return [diagnosis.name for diagnosis in diagnostics.diagnoses]


class Keep(Callback):
    """Keeps what the record shall say, by the plain arithmetic of each batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[list[float]] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        self.gradients.append(
            [float(w.grad.square().mean().sqrt()) for w in (module.hidden.weight, module.head.weight)]
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))


def test_the_record_is_what_happened() -> None:
    torch.manual_seed(0)
    net, keep = Net(), Keep()
    weights = [w.detach().clone() for w in (net.hidden.weight, net.head.weight)]
    record = fit(net, keep, log_every_n_steps=2, max_epochs=3).record
    assert [row.step for row in record.rows] == [*range(2, 25, 2)]
    assert [row.epoch for row in record.rows] == pytest.approx([s / 8 for s in range(2, 25, 2)])
    assert record.start_loss == pytest.approx(keep.losses[0])
    pairs = np.array(keep.losses).reshape(-1, 2)
    assert [row.loss for row in record.rows] == pytest.approx(pairs.mean(1))
    assert [list(row.gradients) for row in record.rows[1:-10]] == [[]] * (len(record.rows) - 11)
    for row, gradients in zip(record.rows[-10:], keep.gradients[-19::2], strict=True):
        assert list(row.gradients.values()) == pytest.approx(gradients, rel=1e-5)
    assert record.gains == pytest.approx(
        {
            "hidden.weight": float(weights[0].square().mean().sqrt()) * math.sqrt(6),
            "head.weight": float(weights[1].square().mean().sqrt()) * math.sqrt(8),
        }
    )
    assert record.share_done == 1.0
    epochs = np.array(keep.losses).reshape(3, 8).mean(1)
    assert [v.train_loss for v in record.validations] == pytest.approx(epochs)
    assert [v.epoch for v in record.validations] == [1.0, 2.0, 3.0]
    assert all(math.isfinite(v.val_loss) and math.isnan(v.seen_loss) for v in record.validations)
    assert all(0 < row.update < 0.1 and row.lr == 0.01 for row in record.rows)


class Explode(Callback):
    """Makes the outputs of a layer infinite, or its weights, at a step."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 5:
            if self.what == "layer":
                pl_module.hidden.register_forward_hook(lambda m, x, y: y / 0)
            elif self.what == "weights":
                with torch.no_grad():
                    pl_module.hidden.bias[0] = torch.inf
            elif self.what == "batch":
                batch[0][0, 0] = torch.nan
            else:
                pl_module.factor = torch.nan  # of the module's own arithmetic


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("layer", "the output of hidden is the first that is not finite"),
        ("weights", r"the weights of hidden.bias are not finite, as its gradient was first \(1 of 4 are not\)"),
        ("batch", "the batch has values that are not finite"),
        ("factor", "the output of head is the first that is not finite"),
    ],
)
def test_where_a_value_was_first_not_finite(what: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        diagnostics = fit(Net(), Explode(what), max_epochs=1, log_every_n_steps=50)
    assert said(diagnostics)[0] == "not finite"
    lines = [r.message for r in caplog.records if r.message.startswith("TrainingDiagnostics: not finite")]
    assert len(lines) == 1
    assert re.search(words, lines[0]), lines[0]


def test_the_search_changes_nothing() -> None:
    """The batch that is run once more neither moves statistics nor draws random numbers."""

    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))  # type: ignore[assignment]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * (torch.inf if self.trainer.global_step == 3 else 1.0)

    states = []
    for callbacks in ([], [TrainingDiagnostics()]):
        torch.manual_seed(1)
        net = Normed()
        trainer = quiet_trainer(*callbacks, max_steps=4)
        trainer.fit(net, loader(), loader())
        states.append((net.hidden[1].running_mean.clone(), torch.rand(3)))
        for callback in callbacks:
            assert "not finite" in said(callback)
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_it_is_said_once_and_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        diagnostics = fit(Net(), default_root_dir=tmp_path)
    assert said(diagnostics) == ["distribution mismatch"]
    lines = [r.message for r in caplog.records if "distribution mismatch" in r.message]
    assert len(lines) == 1
    (written,) = json.loads((tmp_path / "diagnoses.json").read_text())
    assert written["name"] == "distribution mismatch"
    assert lines[0] == f"TrainingDiagnostics: {diagnostics.diagnoses[0]}"
    assert written["evidence"] in lines[0]
    assert written["cure"] in lines[0]
    assert (written["epoch"], written["step"]) == (1, 8)


def test_a_resumed_run_knows_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    whole = TrainingDiagnostics(every_n_steps=1)
    fit_patterns(whole, SaveOnce(path, PATTERN_BATCHES + 2), epochs=3, log_every_n_steps=2)  # in the middle of a row
    rest = TrainingDiagnostics(every_n_steps=1)
    state = torch.load(path, weights_only=True)["callbacks"]
    (key,) = [key for key in state if "TrainingDiagnostics" in key]
    state[key]["diagnoses"] = [{"name": "overfit", "evidence": "e", "cure": "c", "epoch": 1, "step": 1}]
    rest.load_state_dict(state[key])
    assert said(rest) == ["overfit"]
    resumed = TrainingDiagnostics(every_n_steps=1)
    fit_patterns(resumed, ckpt=path, epochs=3, seed=1, log_every_n_steps=2)
    assert [r.loss for r in resumed.record.rows] == pytest.approx([r.loss for r in whole.record.rows])
    assert [v.train_loss for v in resumed.record.validations] == pytest.approx(
        [v.train_loss for v in whole.record.validations]
    )
    assert resumed.record.overlap == whole.record.overlap
    assert resumed.record.gains == whole.record.gains


def test_without_validation_it_says_what_it_cannot_see(caplog: pytest.LogCaptureFixture) -> None:
    class Bare(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (self.layer(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    diagnostics = TrainingDiagnostics(leave_out=["mode collapse"])
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        quiet_trainer(diagnostics, max_epochs=3).fit(Bare(), loader())
    assert said(diagnostics) == []
    (line,) = [r.message for r in caplog.records if r.message.startswith("TrainingDiagnostics")]
    assert line.startswith(
        "TrainingDiagnostics: without validation, it does not look for overfit, validation too easy, "
    )
    assert "mode collapse" not in line


def test_what_a_module_offers_is_used() -> None:
    class Offers(Net):
        unfit_diagnoses = ("distribution mismatch",)

        def expected_initial_loss(self) -> float:
            return 100.0

        def loss_floor(self) -> float:
            return 0.5

        def diagnostic_numbers(self, batch: Any) -> dict[str, float]:
            assert not self.training
            assert not torch.is_grad_enabled()
            torch.rand(3)  # its draws are its own
            return {"active_share": float(len(batch[0])) / 100}

        def loss_in_evaluation(self, batch: Any) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return (self(batch[0]) - batch[1]).square().mean()

    torch.manual_seed(0)
    diagnostics = fit(net := Offers(), max_epochs=4)
    record = diagnostics.record
    assert (record.expected_loss, record.loss_floor) == (100.0, 0.5)
    assert [v.numbers for v in record.validations] == [{"active_share": 0.08}] * 4
    assert said(diagnostics) == ["posterior collapse"]
    with torch.no_grad():
        wanted = (net(X[32:]) - Y[32:]).square().mean()  # of the last four batches
    assert record.validations[-1].seen_loss == pytest.approx(float(wanted), rel=1e-5)


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match=r"leave_out names some of not finite, loss exploded, .*, got 'overfitting'"):
        TrainingDiagnostics(leave_out=["overfitting"])
    with pytest.raises(ValueError, match="every_n_steps must be >= 1, got 0"):
        TrainingDiagnostics(every_n_steps=0)


def test_inputs_are_compared_by_what_they_hold() -> None:
    statistics = InputStatistics()
    generator = np.random.default_rng(0)
    train, val = generator.normal(1, 2, (50, 3, 4)), generator.normal(3, 1, (20, 3, 4))
    val[:5] = train[10:15]
    train[49] = train[0]
    for part in np.split(train, 5):
        statistics.add_training((torch.from_numpy(part), torch.zeros(10)))
    statistics.add_validation((torch.from_numpy(val[:7]), torch.zeros(7)))
    statistics.add_validation((torch.from_numpy(val[7:]), torch.zeros(13)))
    found = statistics.compare()
    assert found["overlap"] == pytest.approx(5 / 20)
    assert found["repeats"] == pytest.approx(1 / 50)
    distance = ((train.mean(0) - val.mean(0)) ** 2).sum() / train.var(0).sum()
    assert found["shift"] == pytest.approx(math.sqrt(distance - 1 / 50 - 1 / 20))
    assert found["spread"] == pytest.approx(val.var(0).sum() / train.var(0).sum())


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_digests_tell_examples_apart_and_order_and_padding_too(dtype: torch.dtype) -> None:
    x = torch.arange(24).reshape(4, 6).to(dtype)
    swapped = x.flip(1)
    one = InputStatistics()
    one.add_training((x, None))
    one.add_validation((torch.cat([swapped, x[1:2]]), None))
    assert one.compare()["overlap"] == pytest.approx(1 / 5)
    padded = InputStatistics()  # texts of another length, whose padding is 0
    padded.add_training((torch.cat([x, torch.zeros(4, 2, dtype=dtype)], 1), None))
    padded.add_validation((x, None))
    assert padded.compare() == {"overlap": 1.0, "repeats": 0.0}


def test_inputs_that_cannot_be_compared_are_left_out() -> None:
    nothing = InputStatistics()
    nothing.add_training(([],))
    nothing.add_validation(([],))
    assert nothing.compare() == {}
    one = InputStatistics()
    one.add_training(torch.ones(4, 3))  # a batch that is an input, all the same
    one.add_validation(torch.ones(2, 3))
    assert one.compare() == {"overlap": 1.0, "repeats": 0.75}
