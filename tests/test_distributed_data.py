"""Several processes evaluate exactly, and train like one with the same global batch (trap 13)."""

import json
import os
import signal
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from kit import quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import SumMetric

from callbacks import GracefulStop, RandomState
from datamodules import ArrayDataModule, ImageDataModule
from zoo import GLMRegressor, MLPRegressor, Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # a fork after torch has started threads can hang


def images_of(count: int) -> tuple[Tensor, Tensor]:
    """Example i has every pixel i, so that a batch tells which examples it holds."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone(), torch.arange(count) % 2


class Counted(ImageDataModule):
    """``train`` and ``test`` examples; of the training part the first ``val`` validate."""

    class_names = list("ab")
    native_shape = (1, 4, 4)

    def __init__(self, train: int = 20, test: int = 101, val: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counts, self.val = {"train": train, "test": test}, val

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        return images_of(self.counts[part])

    def validation_mask(self, examples: Any) -> Tensor:
        return torch.arange(len(examples)) < self.val


class Counter(LightningModule):
    """Counts examples, and how often a rule is right: it is wrong on the examples 0, 7, 14 ..."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(16, 2)
        self.norm = nn.BatchNorm1d(16, affine=False)  # its buffers make the data-parallel wrapper synchronize
        self.right, self.seen = SumMetric(), SumMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(self.norm(batch[0].flatten(1))), batch[1])

    def count(self, batch: Any) -> None:
        x, y, *rest = batch
        number = (x[:, 0, 0, 0] * 255).round().long()
        weight = rest[0] if rest else torch.ones(len(y))
        guess = torch.where(number % 7 == 0, 1 - y, y)
        self.right.update(((guess == y) * weight).sum())
        self.seen.update(weight.sum())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.count(batch)

    def on_test_epoch_end(self) -> None:
        result = {"right": int(self.right.compute()), "seen": int(self.seen.compute())}
        if self.trainer.is_global_zero:
            Path(os.environ["RESULT"]).write_text(json.dumps(result))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.norm(batch[0].flatten(1))
        self.count(batch)

    def on_validation_epoch_end(self) -> None:
        self.on_test_epoch_end()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rank zero writes what it found."""
    monkeypatch.setenv("RESULT", str(tmp_path / "result.json"))
    return tmp_path / "result.json"


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 16), (2, 16), (4, 8)])
def test_every_process_count_gives_the_same_accuracy(result: Path, devices: int, batch_size: int) -> None:
    quiet_trainer(ranks=devices).test(Counter(), datamodule=Counted(batch_size=batch_size), verbose=False)
    assert json.loads(result.read_text()) == {"right": 101 - 15, "seen": 101}


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_examples_than_processes(result: Path, count: int) -> None:
    quiet_trainer(ranks=4).test(Counter(), datamodule=Counted(test=count, batch_size=8), verbose=False)
    assert json.loads(result.read_text()) == {"right": count - 1, "seen": count}


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
def test_the_stock_sampler_counts_examples_twice(result: Path) -> None:
    images, labels = images_of(101)
    loader = DataLoader(TensorDataset(images / 255, labels), batch_size=16)
    quiet_trainer(ranks=2).test(Counter(), loader, verbose=False)
    assert json.loads(result.read_text())["seen"] == 102


@pytest.mark.parametrize("count", [33, 1])  # one batch more on rank 0, which would wait for rank 1 in it for ever
def test_validation_within_a_fit_when_a_rank_has_fewer_examples(result: Path, count: int) -> None:
    trainer = quiet_trainer(ranks=2, max_epochs=1)
    trainer.fit(Counter(), datamodule=Counted(train=60, val=count, batch_size=4))
    assert json.loads(result.read_text()) == {"right": count - (count + 6) // 7, "seen": count}


# Training ---------------------------------------------------------------------------------------------------------------


class Patterns(ImageDataModule):
    class_names = list("abc")
    native_shape = (2, 6, 6)

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(3)
        return torch.randint(0, 256, (53, 2, 6, 6), generator=g, dtype=torch.uint8), torch.arange(53) % 3


class Student(LightningModule):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * 4 * 4, 3)
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)


class WriteWeights(Callback):
    """Each rank writes the weights it ends with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(exist_ok=True)
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")


def train(folder: Path, devices: int, batch_size: int, **augmentation: Any) -> dict[str, Tensor]:
    seed_everything(5, verbose=False)
    data = Patterns(batch_size=batch_size, val_fraction=0.0, **augmentation)
    quiet_trainer(WriteWeights(folder), ranks=devices, max_epochs=3).fit(Student(), datamodule=data)
    ends = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(devices)]
    assert all(torch.equal(end[name], ends[0][name]) for end in ends for name in end)
    return ends[0]


@pytest.mark.parametrize("augmentation", [{}, {"crop": 2, "flip": True, "cutout": 3}], ids=["plain", "augmented"])
@pytest.mark.parametrize("global_batch", [8, 64])  # 53 examples: six batches and a rest; less than one batch
def test_two_processes_train_like_one(tmp_path: Path, augmentation: dict[str, Any], global_batch: int) -> None:
    one = train(tmp_path / "one", 1, global_batch if global_batch < 53 else 52, **augmentation)
    two = train(tmp_path / "two", 2, global_batch // 2, **augmentation)
    worst = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert worst < 1e-6


def test_the_order_matters_for_the_weights(tmp_path: Path) -> None:
    """The two tests above could not tell one order from another if this did not hold."""
    one = train(tmp_path / "one", 1, 8)
    other = train(tmp_path / "two", 1, 8, flip=True)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-3


def test_fewer_training_examples_than_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="1 training examples are too few for 2 processes"):
        quiet_trainer(ranks=2, max_epochs=1).fit(Counter(), datamodule=Counted(train=1))


# Tasks that predict numbers ---------------------------------------------------------------------------------------------


def numbers(kind: str, batch_size: int) -> ArrayDataModule:
    """60 rows to train and validate, 11 to test: a rest for two processes in each split."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(71, 4, generator=g)
    eta = x[:, :2] + 0.3 * torch.randn(71, 2, generator=g)
    y = {
        "regression": 1000 + 50 * eta,
        "gaussian": eta,
        "bernoulli": (eta > 0).float(),
        "categorical": eta.argmax(1),
        "poisson": eta.exp().round(),
    }[kind]
    what = "classification" if kind == "categorical" else "regression"
    return ArrayDataModule(x[:60], y[:60], x[60:], y[60:], kind=what, batch_size=batch_size, val_fraction=0.15)


def task_for(kind: str) -> Task:
    torch.manual_seed(0)
    how: dict[str, Any] = {"optimizer": "SGD", "lr": 0.02, "optimizer_args": {"momentum": 0.9}}
    return MLPRegressor(4, 2, [8], "tanh", **how) if kind == "regression" else GLMRegressor(4, 2, kind, **how)


@pytest.mark.parametrize("kind", ["regression", "gaussian", "bernoulli", "categorical", "poisson"])
def test_numbers_are_learned_and_measured_by_two_processes_as_by_one(tmp_path: Path, kind: str) -> None:
    weights: list[dict[str, Tensor]] = []
    logged: list[dict[str, float]] = []
    for devices in (1, 2):
        seed_everything(5, verbose=False)
        folder = tmp_path / str(devices)
        trainer = quiet_trainer(WriteWeights(folder), ranks=devices, max_epochs=3, log_every_n_steps=3)
        trainer.fit(task_for(kind), datamodule=numbers(kind, 8 // devices))
        ends = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(devices)]
        assert all(torch.equal(end[name], ends[0][name]) for end in ends for name in end)
        weights.append(ends[0])
        trained = task_for(kind)
        trained.load_state_dict(weights[0])  # the same ones for both
        tested = quiet_trainer(ranks=devices).test(trained, datamodule=numbers(kind, 8 // devices), verbose=False)
        logged.append({name: float(value) for name, value in trainer.callback_metrics.items()} | dict(tested[0]))
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-6
    assert {"train/loss", "train/loss_step", "val/loss", "val/mae", "test/loss", "test/mae"} <= logged[0].keys()
    assert logged[1] == pytest.approx(logged[0], rel=1e-6, abs=1e-6)


# Stopping ---------------------------------------------------------------------------------------------------------------


class SignalOneRank(Callback):
    def __init__(self, rank: int, at: int) -> None:
        self.rank, self.at = rank, at

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if (trainer.global_rank, trainer.fit_loop.total_batch_idx) == (self.rank, self.at):
            os.kill(os.getpid(), signal.SIGTERM)


class OwnRandomNumbers(Callback):
    """Each rank draws other dropout masks: it is RandomState that must bring each its own back."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        torch.manual_seed(trainer.global_rank)


@pytest.mark.parametrize("at", [2, 5])
def test_a_signal_to_one_rank_stops_all_and_resume_is_exact(tmp_path: Path, at: int) -> None:
    def fit(name: str, *extra: Callback, ckpt: Path | None = None, seed: int = 5) -> None:
        seed_everything(seed, verbose=False)
        callbacks = [RandomState(), GracefulStop(tmp_path / "saved"), WriteWeights(tmp_path / name), *extra]
        trainer = quiet_trainer(*callbacks, ranks=2, max_epochs=2)
        data = Patterns(batch_size=4, val_fraction=0.0, shift=1)
        trainer.fit(Student(dropout=0.5), datamodule=data, ckpt_path=ckpt, weights_only=True)

    seed_everything(5, verbose=False)
    fit("uninterrupted", OwnRandomNumbers())
    with pytest.raises(Exception, match="terminated with exit code 143"):
        fit("stopped", OwnRandomNumbers(), SignalOneRank(1, at))
    assert not (tmp_path / "stopped").exists()
    fit("resumed", ckpt=tmp_path / "saved" / "last.ckpt", seed=7)
    for rank in ("0.pt", "1.pt"):
        wanted = torch.load(tmp_path / "uninterrupted" / rank, weights_only=True)
        found = torch.load(tmp_path / "resumed" / rank, weights_only=True)
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
