"""What the callbacks' tests share: a bare trainer, a logger that remembers, and a checkpoint at every possible place."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import Logger


class Memory(Logger):
    """Keeps every row, and the trainer's global_step when it came."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.came_at: list[int] = []
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
        self.came_at.append(self.trainer.global_step if self.trainer else -1)

    def values(self, name: str) -> list[tuple[int, float]]:
        """The (step, value) pairs of one name."""
        return [(step, float(row[name])) for step, row in self.rows if name in row]


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


def make_trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """A trainer on the CPU that prints, writes and checks nothing of its own; logs and validates when told to."""
    defaults = {"limit_val_batches": 0, "num_sanity_val_steps": 0, "log_every_n_steps": 1, "accelerator": "cpu"}
    defaults |= {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults["enable_checkpointing"] = any(isinstance(c, Checkpoint) for c in callbacks)
    trainer = Trainer(callbacks=list(callbacks), **(defaults | options))
    for logger in trainer.loggers:
        if isinstance(logger, Memory):
            logger.trainer = trainer
    return trainer
