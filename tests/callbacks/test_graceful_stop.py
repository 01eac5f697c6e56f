"""Signals: who handles them, when, and how a run ends (exact resuming as a whole: tests/test_resume.py)."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import GracefulStop
from callbacks.graceful_stop import Stopped

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


@pytest.fixture(autouse=True)
def _handlers_come_back() -> Any:
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    yield
    assert {s: signal.getsignal(s) for s in before} == before


class Model(LightningModule):
    """Five steps an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.weight * batch.sum()
        self.log("loss", loss.detach() * 0)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(5.0))

    val_dataloader = train_dataloader


class At(Callback):
    """Do something at the end of a batch, counted over the whole run."""

    def __init__(self, batch: int, what: Callable[[Trainer], Any]) -> None:
        self.batch, self.what = batch, what

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            self.what(trainer)


def kill(signum: int) -> Callable[[Trainer], None]:
    return lambda trainer: os.kill(os.getpid(), signum)


def fit(*callbacks: Callback, **kwargs: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=list(callbacks), **{"max_epochs": 2, **quiet, **kwargs})
    trainer.fit(Model())
    return trainer


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_code_tells_the_signal(tmp_path: Path, signum: int, code: int) -> None:
    with pytest.raises(Stopped) as stopped:
        fit(GracefulStop(tmp_path), At(2, kill(signum)))
    assert isinstance(stopped.value, SystemExit)
    assert stopped.value.code == code
    assert stopped.value.path == tmp_path / "last.ckpt"
    assert torch.load(stopped.value.path, weights_only=True)["global_step"] == 3


def test_a_second_sigint_interrupts_at_once(tmp_path: Path) -> None:
    def impatient(trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:  # Lightning turns the KeyboardInterrupt into this
        fit(GracefulStop(tmp_path), At(1, impatient))
    signal.signal(signal.SIGINT, before)  # and ignores further ones
    assert not isinstance(end.value, Stopped)
    assert isinstance(end.value.__context__, KeyboardInterrupt)
    assert not (tmp_path / "last.ckpt").exists()


def test_a_sigint_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    try:
        assert fit(GracefulStop(tmp_path), At(2, kill(signal.SIGINT))).global_step == 10
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "last.ckpt").exists()


def test_further_sigterms_change_nothing(tmp_path: Path) -> None:
    def twice(trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        fit(GracefulStop(tmp_path), At(1, twice))


def test_a_run_without_a_signal_saves_nothing_and_gives_the_handlers_back(tmp_path: Path) -> None:
    def ours(signum: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, ours)
    try:
        fit(GracefulStop(tmp_path))
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_training_gives_the_handlers_back(tmp_path: Path) -> None:
    def fail(trainer: Trainer) -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fit(GracefulStop(tmp_path), At(1, fail))


def test_what_others_save_at_the_end_of_an_epoch_is_saved_first(tmp_path: Path) -> None:
    """Wherever it stands in the list: on resume that end is not run again, and the best checkpoint would be lost."""
    best = ModelCheckpoint(tmp_path, "best", monitor="val", save_on_train_epoch_end=True)
    with pytest.raises(Stopped) as stopped:
        fit(GracefulStop(tmp_path), best, At(4, kill(signal.SIGTERM)))
    saved = torch.load(stopped.value.path, weights_only=True)
    assert (tmp_path / "best.ckpt").is_file()
    (state,) = (state for name, state in saved["callbacks"].items() if "ModelCheckpoint" in name)
    assert state["best_model_path"] == str(tmp_path / "best.ckpt")


def test_when_early_stopping_ends_training_it_ends_normally(tmp_path: Path) -> None:
    """A resumed run would train on: it does not know that it was over."""
    stop = EarlyStopping("val", patience=1)  # after the second epoch
    trainer = fit(GracefulStop(tmp_path), stop, At(9, kill(signal.SIGTERM)), max_epochs=5)
    assert trainer.current_epoch == 2
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kwargs", [{}, {"limit_val_batches": 0}])
def test_it_saves_once(tmp_path: Path, batch: int, kwargs: dict[str, Any]) -> None:
    class Count(Callback):
        saved = 0

        def on_save_checkpoint(self, *args: Any) -> None:
            self.saved += 1

    count = Count()
    with pytest.raises(Stopped):
        fit(GracefulStop(tmp_path), count, At(batch, kill(signal.SIGTERM)), **kwargs)
    assert count.saved == 1


def test_the_same_callback_serves_another_fit(tmp_path: Path) -> None:
    callback = GracefulStop(tmp_path)
    with pytest.raises(Stopped):
        fit(callback, At(2, kill(signal.SIGTERM)))
    assert fit(callback).global_step == 10
    assert fit(callback, max_epochs=0).global_step == 0
    with pytest.raises(Stopped):
        fit(callback, At(2, kill(signal.SIGTERM)))


def test_a_fit_in_another_thread_takes_no_signals(tmp_path: Path) -> None:
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(fit(GracefulStop(tmp_path)).global_step))
    thread.start()
    thread.join()
    assert done == [10]


def test_bad_argument() -> None:
    with pytest.raises(TypeError, match=r"dirpath must be the path of a folder for last\.ckpt, got None"):
        GracefulStop(None)  # type: ignore[arg-type]
