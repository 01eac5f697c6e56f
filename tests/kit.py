"""What tests in several folders share: a quiet trainer, loggers and callbacks that record, small data, and fits of them."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import zoo
from callbacks import RandomState
from datamodules import ImageDataModule
from zoo import ClassificationTask

# Trainers --------------------------------------------------------------------------------------------------------------


def quiet_trainer(*callbacks: Callback, ranks: int = 1, **options: Any) -> Trainer:
    """A trainer on the CPU that prints, logs and checks nothing of its own; checkpoints are those of the callbacks given.

    Several ranks are forked processes; if they wait for each other for ever, they fail after a while.
    """
    defaults: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    defaults |= {"accelerator": "cpu", "devices": ranks, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    defaults["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
    if ranks > 1:
        defaults["strategy"] = DDPStrategy(start_method="fork", timeout=timedelta(seconds=60))
    trainer = Trainer(callbacks=list(callbacks), **(defaults | options))
    for logger in trainer.loggers:
        if isinstance(logger, Memory):
            logger.trainer = trainer
    return trainer


def after_a_fit(trainer: Trainer) -> Trainer:
    """The trainer as it is after a fit, without one."""
    trainer.fit_loop.epoch_loop.batch_progress.total.processed = 1
    return trainer


class Memory(Logger):
    """Keeps every row, and the trainer's global_step when it was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.logged_at: list[int] = []
        self.trainer: Trainer | None = None

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((int(step or 0), dict(metrics)))
        self.logged_at.append(self.trainer.global_step if self.trainer else -1)

    def values(self, name: str) -> list[tuple[int, float]]:
        """The (step, value) pairs of one name."""
        return [(step, float(row[name])) for step, row in self.rows if name in row]


# Checkpoints -----------------------------------------------------------------------------------------------------------


class SaveEverywhere(Checkpoint):
    """A checkpoint after every step, every validation and every epoch, saved where Lightning's own are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: Trainer, kind: str) -> None:
        trainer.save_checkpoint(self.folder / f"{kind}-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.save(trainer, "step")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.save(trainer, "epoch")


class SaveOnce(Callback):
    """Saves a checkpoint after a step, and trains on."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


# Batches that are seen -------------------------------------------------------------------------------------------------


class BatchRecorder(LightningModule):
    """Keeps the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Any]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen["train"].append(batch)
        return self.weight * tree_leaves(batch)[0].float().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["val"].append(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["test"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def record_batches(
    data: LightningDataModule, *callbacks: Callback, seed: int = 0, ckpt_path: Path | None = None, **options: Any
) -> BatchRecorder:
    """The batches of a fit, of one epoch by default."""
    seed_everything(seed, verbose=False)
    recorder = BatchRecorder()
    trainer = quiet_trainer(*callbacks, **{"max_epochs": 1, **options})
    trainer.fit(recorder, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return recorder


def same_batches(batches: list[Any], others: list[Any]) -> bool:
    """Whether two lists of batches are equal to the bit."""
    pairs = zip(tree_leaves(batches), tree_leaves(others), strict=True)
    return len(batches) == len(others) and all(torch.equal(a, b) for a, b in pairs)


def assert_resumes(tmp_path: Path, make: Callable[[], LightningDataModule], step: int, **options: Any) -> list[Any]:
    """A run that continues after ``step`` sees the very batches that an uninterrupted one does; returns these."""
    path, options = tmp_path / "resumable.ckpt", {"max_epochs": 2, **options}
    whole = record_batches(make(), SaveOnce(path, step), **options).seen["train"]
    rest = record_batches(make(), seed=1, ckpt_path=path, **options).seen["train"]
    assert len(rest) == len(whole) - step
    assert same_batches(rest, whole[step:])
    assert not same_batches(whole[:1], whole[len(whole) // 2 :][:1])  # or it would not tell
    return whole


# A small task ----------------------------------------------------------------------------------------------------------

PATTERN_BATCHES = 5  # of an epoch of Patterns(batch_size=12)


class Patterns(ImageDataModule):
    """69 training images of 6 x 6: five batches of 12, and some to validate."""

    class_names = list("abc")
    native_shape = (1, 6, 6)

    def __init__(self, batch_size: int = 12, **images: Any) -> None:
        super().__init__(batch_size=batch_size, **images)

    def read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(3)
        images = torch.randint(0, 120, (69, 1, 6, 6), generator=g, dtype=torch.uint8)
        images[torch.arange(69), 0, torch.arange(69) % 3 * 2, 2] = 255
        return images, torch.arange(69) % 3


class PatternNet(nn.Sequential):
    """Three groups below the head: convolutions with a norm and dropout."""

    def __init__(self, norm: bool = True, dropout: float = 0.2) -> None:
        def layer(channels: int, width: int) -> list[nn.Module]:
            middle = [nn.BatchNorm2d(width)] if norm else []
            return [nn.Conv2d(channels, width, 3, padding=1), *middle, nn.ReLU(), nn.Dropout(dropout)]

        super().__init__(*layer(1, 4), *layer(4, 4), *layer(4, 4), nn.Flatten(), nn.Linear(144, 3))


class PatternTask(ClassificationTask):
    """Records the learning rates that every step used (``rates``) and the state after it (``weights``)."""

    def __init__(self, norm: bool = True, dropout: float = 0.2, num_classes: int = 3, **task: Any) -> None:
        super().__init__(
            PatternNet(norm, dropout), num_classes, **{"lr": 0.01, "weight_decay": 0.1, "monitor": "val/loss", **task}
        )
        self.rates: list[dict[str, float]] = []
        self.weights: list[dict[str, Tensor]] = []

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        self.rates.append({group.get("name", "added later"): float(group["lr"]) for group in optimizer.param_groups})
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        self.weights.append({name: value.clone() for name, value in self.state_dict().items()})


def fit_patterns(
    *callbacks: Callback,
    task: PatternTask | None = None,
    epochs: int = 4,
    ckpt: Path | None = None,
    seed: int = 5,
    **options: Any,
) -> tuple[PatternTask, Trainer]:
    seed_everything(seed, verbose=False)
    task = task or PatternTask()
    trainer = quiet_trainer(RandomState(), *callbacks, max_epochs=epochs, **options)
    trainer.fit(task, datamodule=Patterns(shift=1), ckpt_path=ckpt, weights_only=True)
    return task, trainer


def same_weights(one: LightningModule, two: LightningModule) -> bool:
    return all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


# Exported files --------------------------------------------------------------------------------------------------------


def run_onnx(path: Path, *inputs: Tensor) -> list[Any]:
    """Return the outputs of a file as NumPy arrays, by onnxruntime alone."""
    import onnxruntime  # only where it is needed: it takes time to import

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


def checkpoint(task: zoo.Task, path: Path) -> Path:
    """Save a checkpoint of a task that was not trained."""
    task.trainer = trainer = quiet_trainer()
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    task.trainer = None
    return path


def assert_reloads(task: zoo.Task, x: Tensor, folder: Path) -> None:
    """A folder and a checkpoint give the same task without naming its net, and leave the random generator alone."""
    saved = [task.save_pretrained(folder / "folder"), checkpoint(task, folder / "model.ckpt")]
    state = torch.get_rng_state()
    twins: list[Any] = [zoo.load(path) for path in saved]
    assert torch.equal(torch.get_rng_state(), state)
    twins.append(type(task).load_from_checkpoint(saved[1], weights_only=True).eval())
    for twin in twins:
        assert dict(twin.hparams) == dict(task.hparams)
        assert torch.equal(twin(x), task(x))
