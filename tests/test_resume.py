"""Stop anywhere, resume, and end with the bits of the run that was never stopped. Stock Lightning does not (traps 6, 7, 8)."""

import os
import random
import signal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit import Memory, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import GracefulStop, IntervalCheckpoint, RandomState
from callbacks.graceful_stop import Stopped
from datamodules import ImageDataModule

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

EPOCHS, BATCHES = 3, 6


def toy_images(count: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 200, (count, 1, 6, 6), generator=g, dtype=torch.uint8)
    images[torch.arange(count), 0, labels * 2, 2] = 255
    return images, labels


class ToyData(ImageDataModule):
    class_names = list("abc")
    native_shape = (1, 6, 6)

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        return toy_images(61 if part == "train" else 9)  # 49 train: six batches of 8, and one example left over


class ToyModel(LightningModule):
    """Dropout, two optimizer moments, and draws of its own from all three generators."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        self.validations = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        x = x.flatten(1) + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("epoch", float(self.current_epoch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", F.cross_entropy(self.net(batch[0]), batch[1]), batch_size=len(batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Signal(Callback):
    """Send this process a signal at the end of batch ``at``, counted over the whole run."""

    def __init__(self, at: int, signum: int = signal.SIGTERM) -> None:
        self.at, self.signum = at, signum

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.at:
            os.kill(os.getpid(), self.signum)


class StepCount(Callback):
    """Asks for the number of steps, as a schedule does, before the trainer's own progress is restored."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert trainer.estimated_stepping_batches > 0


class End:
    """How a run ended: weights, optimizer, the generators' next numbers and the rows that were logged."""

    def __init__(self, trainer: Trainer) -> None:
        self.weights = trainer.lightning_module.state_dict()
        self.optimizer = trainer.optimizers[0].state_dict()["state"]
        self.draws = (torch.rand(()).item(), random.random(), np.random.rand())  # noqa: NPY002
        self.rows = trainer.logger.rows  # type: ignore[union-attr]
        self.steps = trainer.global_step


def plain(rows: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    return [(step, {name: float(value) for name, value in row.items()}) for step, row in rows]


def differences(one: End, two: End) -> list[str]:
    found = [name for name, value in one.weights.items() if not torch.equal(value, two.weights[name])]
    for key, state in one.optimizer.items():
        found += [f"{key}.{name}" for name, value in state.items() if not torch.equal(value, two.optimizer[key][name])]
    return found + [n for n in ("draws", "steps") if getattr(one, n) != getattr(two, n)]


def fit(
    folder: Path,
    *extra: Callback,
    ckpt: Path | None = None,
    data: Any = None,
    model: LightningModule | None = None,
    exact: bool = True,
    workers: int = 0,
    **trainer_args: Any,
) -> Trainer:
    """One run with a seed of its own for each process, as a new process would have."""
    seed_everything(1 if ckpt is None else 2, verbose=False)
    arguments: dict[str, Any] = {"max_epochs": EPOCHS, "num_sanity_val_steps": 2, **trainer_args}
    ours = [RandomState(), GracefulStop(folder)] if exact else []
    trainer = quiet_trainer(*ours, *extra, logger=Memory(), **arguments)
    data = data or ToyData(batch_size=8, num_workers=workers, val_fraction=0.2, shift=1, flip=True, cutout=2)
    trainer.fit(model or ToyModel(), datamodule=data, ckpt_path=ckpt, weights_only=True)
    return trainer


class KeepRows(Callback):
    """The rows of a run that is stopped."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.rows += trainer.logger.rows  # type: ignore[union-attr]


def stop_and_resume(folder: Path, sender: Callback, **kwargs: Any) -> tuple[End, list[Any], dict[str, Any]]:
    """How the resumed run ended, the rows of both parts, and the checkpoint between them."""
    keep = KeepRows()
    with pytest.raises(Stopped) as stopped:
        fit(folder, sender, keep, **kwargs)
    assert stopped.value.code == 143
    assert stopped.value.path == folder / "last.ckpt"
    end = End(fit(folder, StepCount(), ckpt=stopped.value.path, **kwargs))
    return end, keep.rows + end.rows, torch.load(stopped.value.path, weights_only=True)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


CASES = [
    # trainer's arguments, the batch at whose end the signal comes, optimizer steps done when it is saved
    ({}, 0, 1),
    ({}, 2, 3),
    ({}, BATCHES - 1, 6),  # the last batch of an epoch
    ({}, BATCHES, 7),  # the first of the next
    ({}, EPOCHS * BATCHES - 1, 18),  # the last of all
    ({"workers": 2}, 2, 3),
    ({"workers": 2}, BATCHES - 1, 6),
    ({"workers": 2}, BATCHES, 7),
    ({"accumulate_grad_batches": 4}, 1, 1),  # inside a window: at its end
    ({"accumulate_grad_batches": 4}, 3, 1),
    ({"accumulate_grad_batches": 4}, 4, 2),  # the last window of an epoch is short
    ({"accumulate_grad_batches": 4, "workers": 2}, 7, 3),
    ({"val_check_interval": 0.5}, 1, 2),
    ({"val_check_interval": 0.5}, 2, 4),  # a validation is due: after it
    ({"val_check_interval": 0.5}, 5, 6),
    ({"val_check_interval": 4, "check_val_every_n_epoch": None}, 7, 9),
    ({"limit_train_batches": 4}, 3, 4),
    ({"limit_train_batches": 1}, 1, 2),
    ({"max_steps": 14}, 3, 4),
    ({"max_steps": 14}, BATCHES - 1, 6),  # stock Lightning leaves out the next epoch
    ({"max_steps": 14}, 13, 14),
    ({"limit_train_batches": 1, "max_steps": 3}, 1, 2),
]


@pytest.mark.parametrize(("kwargs", "at", "steps"), CASES, ids=lambda v: str(v).replace(" ", ""))
def test_stopping_at_any_step_and_resuming_ends_with_the_same_bits(
    tmp_path: Path, kwargs: dict[str, Any], at: int, steps: int
) -> None:
    end, rows, saved = stop_and_resume(tmp_path / "b", Signal(at), **kwargs)
    uninterrupted = End(fit(tmp_path / "a", **kwargs))
    assert saved["global_step"] == steps
    assert differences(uninterrupted, end) == []
    assert plain(uninterrupted.rows) == plain(rows)  # nothing is logged twice, nothing is missing


@pytest.mark.parametrize("at", [BATCHES - 1, BATCHES, 2 * BATCHES + 1])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopping_beside_the_short_last_batch(tmp_path: Path, at: int, accumulate: int) -> None:
    """Right before it, right after it, and after it in another epoch."""

    def data() -> ToyData:  # six batches of 8 and one of 6
        return ToyData(batch_size=8, val_fraction=0.1, shift=1, flip=True, cutout=2, drop_last=False)

    kwargs = {"accumulate_grad_batches": accumulate}
    end, rows, _ = stop_and_resume(tmp_path / "b", Signal(at), data=data(), **kwargs)
    uninterrupted = End(fit(tmp_path / "a", data=data(), **kwargs))
    assert uninterrupted.steps == EPOCHS * -(-(BATCHES + 1) // accumulate)
    assert differences(uninterrupted, end) == []
    assert plain(uninterrupted.rows) == plain(rows)


class SignalIn(Callback):
    """Send SIGTERM to this process in the n-th call of a hook."""

    def __init__(self, hook: str, call: int) -> None:
        self.left = call

        def send(*args: Any) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        setattr(self, hook, send)


@pytest.mark.parametrize(
    ("hook", "call", "steps"),
    [
        ("on_train_start", 1, 1),
        ("on_sanity_check_end", 1, 1),
        ("on_train_batch_start", 3, 3),
        ("on_before_optimizer_step", 6, 6),
        ("on_validation_batch_start", 3, 6),  # after two of the sanity check: in the first real validation
        ("on_train_epoch_end", 2, 12),
        ("on_train_epoch_start", 2, 7),
    ],
)
def test_a_signal_may_come_at_any_moment(tmp_path: Path, hook: str, call: int, steps: int) -> None:
    end, rows, saved = stop_and_resume(tmp_path / "b", SignalIn(hook, call))
    uninterrupted = End(fit(tmp_path / "a"))
    assert saved["global_step"] == steps
    assert differences(uninterrupted, end) == []
    assert plain(uninterrupted.rows) == plain(rows)


def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    ckpt, stops = None, 0
    while True:
        try:
            end = End(fit(tmp_path / "b", SignalIn("on_train_batch_start", 4), ckpt=ckpt))
            break
        except Stopped as stopped:
            ckpt, stops = stopped.path, stops + 1
    assert stops == 4
    assert differences(End(fit(tmp_path / "a")), end) == []


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_checkpoint_of_a_stock_callback_resumes_exactly_too(tmp_path: Path, step: int) -> None:
    """Saved after a validation: in mid-epoch, or at the end of an epoch before it counts as done."""

    def keep(folder: Path) -> ModelCheckpoint:
        return ModelCheckpoint(folder, "{step}", save_top_k=-1, save_on_train_epoch_end=False)

    uninterrupted = End(fit(tmp_path, keep(tmp_path), val_check_interval=0.5))
    saved = tmp_path / f"step={step}.ckpt"
    assert differences(uninterrupted, End(fit(tmp_path, keep(tmp_path), ckpt=saved, val_check_interval=0.5))) == []


class KeepAll(IntervalCheckpoint):
    """Saves after each step, into one file each."""

    def _save_if_due(self, trainer: Trainer) -> None:
        self.path = self.path.with_name(f"step_{trainer.global_step}.ckpt")
        super()._save_if_due(trainer)


@pytest.mark.parametrize(
    ("kwargs", "steps"),
    [
        ({}, [1, 5, 7]),
        ({"val_check_interval": 0.5}, [3, 4]),  # after a validation, and after it the next step
        ({"val_check_interval": 1}, [1, 2]),
        ({"accumulate_grad_batches": 4}, [1, 3]),
        ({"accumulate_grad_batches": 2, "val_check_interval": 2}, [1, 2]),
        ({"accumulate_grad_batches": 2, "val_check_interval": 3}, [1, 2]),
        ({"workers": 2}, [2]),
        ({"max_steps": 14}, [13]),
    ],
    ids=str,
)
def test_a_checkpoint_within_an_epoch_resumes_exactly(tmp_path: Path, kwargs: dict[str, Any], steps: list[int]) -> None:
    uninterrupted = End(fit(tmp_path, KeepAll(tmp_path, steps=1), **kwargs))
    for step in steps:
        saved = tmp_path / f"step_{step}.ckpt"
        resumed = End(fit(tmp_path / "again", KeepAll(tmp_path / "again", steps=1), ckpt=saved, **kwargs))
        assert differences(uninterrupted, resumed) == [], step
        done = torch.load(saved, weights_only=True)["loops"]["fit_loop"]["epoch_loop.state_dict"][
            "_batches_that_stepped"
        ]
        assert plain(resumed.rows) == [row for row in plain(uninterrupted.rows) if row[0] > done], step


@pytest.mark.parametrize("step", [6, 12])
def test_max_steps_does_not_lose_an_epoch_after_a_kill(tmp_path: Path, step: int) -> None:
    """Stock Lightning, resumed from the end of an epoch with max_steps, takes that epoch for an unfinished one."""

    def keep(folder: Path) -> ModelCheckpoint:
        return ModelCheckpoint(folder, "{step}", save_top_k=-1, save_on_train_epoch_end=True)

    uninterrupted = End(fit(tmp_path, keep(tmp_path), max_steps=14))
    saved = tmp_path / f"step={step}.ckpt"
    assert differences(uninterrupted, End(fit(tmp_path, keep(tmp_path), ckpt=saved, max_steps=14))) == []


def stock_data(shuffle: bool) -> Any:
    images, labels = toy_images(48)
    return DataLoader(TensorDataset(images.float() / 255, labels), batch_size=8, shuffle=shuffle)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("step", [3, 6])
def test_stock_lightning_does_not_resume_exactly(tmp_path: Path, step: int) -> None:
    """What the tests above hold fails without our parts: in mid-epoch by data and random numbers, at its end by the latter."""

    def stock_fit(ckpt: Path | None = None) -> End:
        seed_everything(1 if ckpt is None else 2, verbose=False)
        keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
        trainer = quiet_trainer(keep, max_epochs=EPOCHS, num_sanity_val_steps=2, logger=Memory())
        trainer.fit(ToyModel(), stock_data(True), stock_data(False), ckpt_path=ckpt, weights_only=True)
        return End(trainer)

    assert differences(stock_fit(), stock_fit()) == []
    assert "net.1.weight" in differences(stock_fit(), stock_fit(tmp_path / f"step={step}.ckpt"))


def test_lightning_takes_sigterm_for_success(tmp_path: Path) -> None:
    """Trap 8: without GracefulStop the run ends with exit code 0 and nothing is saved."""
    with pytest.raises(SystemExit) as end:
        fit(tmp_path, Signal(2), exact=False)
    assert not end.value.code
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("without", ["seed of the run", "position", "random numbers"])
def test_each_part_is_needed(tmp_path: Path, without: str) -> None:
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path, Signal(2))
    saved = torch.load(stopped.value.path, weights_only=True)
    if without == "seed of the run":
        saved["ToyData"]["seed"] += 1
    elif without == "position":
        saved["ToyData"]["batch"] -= 1
    else:
        del saved["random_state"]
    torch.save(saved, tmp_path / "changed.ckpt")
    end = End(fit(tmp_path, ckpt=tmp_path / "changed.ckpt"))
    assert "net.1.weight" in differences(End(fit(tmp_path / "a")), end)


def test_mid_epoch_resume_with_another_global_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path, Signal(2))
    other = ToyData(batch_size=4, val_fraction=0.2)
    with pytest.raises(ValueError, match=r"global batch \(batch_size x processes\) of 8, now it is 4"):
        fit(tmp_path, ckpt=stopped.value.path, data=other)


def test_evaluating_a_mid_epoch_checkpoint_asks_for_no_batch_size(tmp_path: Path) -> None:
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path, Signal(2))
    trainer = quiet_trainer(RandomState(), GracefulStop(tmp_path))
    data = ToyData(batch_size=4, val_fraction=0.2)
    trainer.validate(ToyModel(), data, ckpt_path=stopped.value.path, weights_only=True, verbose=False)


def test_where_a_run_was_resumed_counts_for_that_epoch_only(tmp_path: Path) -> None:
    data = ToyData(batch_size=8, val_fraction=0.2)
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path, Signal(2), data=data)
    resumed = fit(tmp_path, ckpt=stopped.value.path, data=data)
    sampler = resumed.datamodule.train_dataloader().sampler  # type: ignore[attr-defined]
    assert (sampler.epoch, sampler.start) == (EPOCHS, 0)
    again = End(fit(tmp_path, data=data))  # a new fit with the same datamodule
    assert differences(End(fit(tmp_path, data=ToyData(batch_size=8, val_fraction=0.2))), again) == []


@pytest.mark.parametrize(
    ("name", "arguments", "images"),
    [
        ("lenet5", {"lr": 3e-3, "weight_decay": 1e-4}, {"size": 32, "shift": 1}),
        ("autoencoder_denoising", {"input_shape": [1, 8, 8], "widths": [16], "corruption": "gaussian"}, {}),
        ("vae_mlp", {"input_shape": [1, 8, 8], "widths": [16], "kl_warmup": 0.7}, {"binarize": 0.5}),
    ],
)
def test_a_digits_model_of_the_zoo_resumes_exactly(
    tmp_path: Path, name: str, arguments: dict[str, Any], images: dict[str, Any]
) -> None:
    from datamodules import DigitsDataModule
    from zoo import create_model

    def parts(folder: Path) -> dict[str, Any]:
        return {
            "data": DigitsDataModule(batch_size=128, **images),
            "model": create_model(name, **arguments),
            "limit_train_batches": 4,
            "max_epochs": 2,
            "limit_val_batches": 1,
        }

    torch.manual_seed(0)
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path / "b", Signal(1), **parts(tmp_path))
    end = End(fit(tmp_path / "b", ckpt=stopped.value.path, **parts(tmp_path)))
    torch.manual_seed(0)
    assert differences(End(fit(tmp_path / "a", **parts(tmp_path))), end) == []
