"""What a run does not pay for: hooks that do nothing, a profiler, a second serialization of the same checkpoint."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import RECIPE, SHORT, Zoo
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import SimpleProfiler

from recipes.cli.run.checkpoints import AtomicCheckpointIO, Best
from recipes.cli.run.hooks import NoProfiler, leave_out_empty_hooks
from recipes.cli.run.loggers import MetricsLogger
from recipes.cli.run.session import Session

VERSION = Path("runs") / RECIPE / "version_0"
CHECKPOINTS = VERSION / "checkpoints"
OWN = """
from lightning.pytorch import Callback

class Base(Callback):
    def on_train_start(self, trainer, pl_module):
        self.on_train_epoch_start(trainer, pl_module)  # a hook that it only inherits

class Own(Base):
    def on_train_end(self, trainer, pl_module):
        print("own hook")
"""


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainers of the runs that are made."""
    made: list[Trainer] = []
    build = Session._trainer
    monkeypatch.setattr(Session, "_trainer", lambda session: made.append(trainer := build(session)) or trainer)
    return made


def inherited(callback: Callback) -> set[str]:
    """The hooks that a callback only inherits and that the trainer would call."""
    names = {name for name in dir(Callback) if name.startswith("on_")} - {"on_save_checkpoint", "on_load_checkpoint"}
    return {
        name
        for name in names
        if getattr(type(callback), name) is getattr(Callback, name) and callable(getattr(callback, name))
    }


def test_callbacks_of_a_run_have_no_empty_hooks_and_those_of_the_user_are_left_alone(
    zoo: Zoo, tmp_cwd: Path, trainers: list[Trainer]
) -> None:
    Path("own.py").write_text(OWN)
    more = "--trainer.callbacks+=own.Own", "--trainer.callbacks+=callbacks.EMA"
    result = zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1", *more)
    assert result.code == 0, result.err
    assert "own hook" in result.out
    callbacks = {type(c).__name__: c for c in trainers[0].callbacks}
    assert {"StartDetector", "LearningCurves", "GradNorm", "EMA", "Best", "Last", "Own"} <= callbacks.keys()
    assert inherited(callbacks.pop("Own"))
    assert not {name: inherited(callback) for name, callback in callbacks.items() if inherited(callback)}
    # those that save after epochs alone are not called in each step
    assert not any(callable(callbacks[name].on_train_batch_end) for name in ("Best", "Last"))


def test_hooks_that_a_callback_defines_are_still_called_whoever_defines_them() -> None:
    class Base(Callback):
        def setup(self, *args: Any, **kwargs: Any) -> None: ...

    class Derived(Base):
        def on_train_start(self, *args: Any) -> None: ...

    callback = Derived()
    leave_out_empty_hooks([callback])
    left = {name for name in dir(Callback) if name.startswith(("on_", "setup", "teardown")) and getattr(callback, name)}
    assert left == {"setup", "on_train_start", "on_save_checkpoint", "on_load_checkpoint"}
    assert callback.state_dict() == {}


def test_a_profiler_is_used_only_where_the_user_asks_for_one(zoo: Zoo, tmp_cwd: Path, trainers: list[Trainer]) -> None:
    for more in ([], ["--trainer.profiler=simple"]):
        assert zoo("fit", "-c", RECIPE, *SHORT, "--trainer.max_epochs=1", *more).code == 0
    assert type(trainers[0].profiler) is NoProfiler
    assert type(trainers[1].profiler) is SimpleProfiler
    assert len(trainers[1].profiler.recorded_durations["run_training_batch"]) == 3


@pytest.mark.parametrize("gpu", [False, True])
def test_torch_looks_for_nvidias_library_in_each_step_only_where_there_is_a_gpu(
    zoo: Zoo, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    seen = []
    monkeypatch.setattr(Session, "fit", lambda session: seen.append("PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ) or 0)
    assert zoo("fit", "-c", RECIPE, "--trainer.accelerator=cpu").code == 0
    assert seen == [gpu]
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


def falling(*losses: float) -> Any:
    """A ``validation`` that logs these losses, one an epoch."""

    def log(module: Any) -> None:
        module.log("val/loss", losses[module.trainer.current_epoch])

    return log


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are written, with "=" before the name of a copy."""
    names: list[str] = []
    save, copy = AtomicCheckpointIO.save_checkpoint, AtomicCheckpointIO.copy_checkpoint

    def saving(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        names.append(Path(path).name)
        save(self, checkpoint, path, storage_options)

    def copying(self: Any, source: Path, path: Path) -> bool:
        names.append(f"={path.name}")
        return copy(self, source, path)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", saving)
    monkeypatch.setattr(AtomicCheckpointIO, "copy_checkpoint", copying)
    return names


def fit(zoo: Zoo, monkeypatch: pytest.MonkeyPatch, losses: tuple[float, ...], *more: str) -> None:
    from zoo import SoftmaxRegressionClassifier

    monkeypatch.setattr(SoftmaxRegressionClassifier, "on_validation_epoch_end", falling(*losses))
    options = f"--trainer.max_epochs={len(losses)}", "--model.monitor=val/loss", "--trainer.num_sanity_val_steps=0"
    result = zoo("fit", "-c", RECIPE, *SHORT, *options, *more)
    assert result.code == 0, result.err


def test_a_new_best_is_serialized_once_and_the_last_is_what_it_would_be(
    zoo: Zoo, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch, writes: list[str]
) -> None:
    """The oracle is a run that serializes both."""
    losses, told = (0.5, 0.7, 0.3), []
    monkeypatch.setattr(MetricsLogger, "after_save_checkpoint", lambda self, saver: told.append(saver.filename))
    fit(zoo, monkeypatch, losses)
    assert told == ["best", "last", "last", "best", "last"]  # loggers that upload checkpoints wait for it
    assert writes == ["best.ckpt", "=last.ckpt", "last.ckpt", "best.ckpt", "=last.ckpt"]
    best, last = ((CHECKPOINTS / name).read_bytes() for name in ("best.ckpt", "last.ckpt"))
    assert best == last
    assert sorted(os.listdir(CHECKPOINTS)) == ["best.ckpt", "last.ckpt"]
    monkeypatch.setattr(Best, "saved_now", lambda best, trainer: False)
    fit(zoo, monkeypatch, losses, "--runs=twice")
    twice = Path("twice") / VERSION.relative_to("runs") / "checkpoints/last.ckpt"
    mine, theirs = (torch.load(path, weights_only=True) for path in (CHECKPOINTS / "last.ckpt", twice))
    assert repr(mine) == repr(theirs).replace("/twice/", "/runs/")
    assert mine["epoch"] == 2


def test_a_change_of_one_file_in_place_leaves_the_other(
    zoo: Zoo, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch, writes: list[str]
) -> None:
    fit(zoo, monkeypatch, (0.5,))
    assert writes == ["best.ckpt", "=last.ckpt"]
    torch.save({}, CHECKPOINTS / "best.ckpt")
    assert torch.load(CHECKPOINTS / "last.ckpt", weights_only=True)["global_step"] == 3


def test_a_best_that_was_saved_in_the_middle_of_an_epoch_is_not_taken_for_the_last(
    zoo: Zoo, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch, writes: list[str]
) -> None:
    fit(zoo, monkeypatch, (0.5, 0.4), "--trainer.val_check_interval=3")  # batches: saved right after the validation
    assert writes == ["best.ckpt", "last.ckpt"] * 2
    loops = [torch.load(CHECKPOINTS / f"{name}.ckpt", weights_only=True)["loops"] for name in ("best", "last")]
    assert loops[0] != loops[1]


def test_a_plugin_of_the_users_own_saves_both(
    zoo: Zoo, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch, writes: list[str]
) -> None:
    """It may write in another form, or elsewhere."""
    fit(zoo, monkeypatch, (0.5,), "--trainer.plugins=lightning.fabric.plugins.TorchCheckpointIO")
    assert writes == []
    assert sorted(os.listdir(CHECKPOINTS)) == ["best.ckpt", "last.ckpt"]


def test_a_missing_file_is_not_copied(tmp_path: Path) -> None:
    assert not AtomicCheckpointIO().copy_checkpoint(tmp_path / "best.ckpt", tmp_path / "last.ckpt")
    assert os.listdir(tmp_path) == []
