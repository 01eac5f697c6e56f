"""A net that keeps its batches, and short fits of it, which the tests of the datamodules share."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor, nn


class Net(LightningModule):
    """Keeps the batches it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Any]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen["train"].append(batch)
        return self.weight * batch[0].mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["val"].append(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["test"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet(**kwargs: Any) -> Trainer:
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", **{"max_epochs": 1, "num_sanity_val_steps": 0, **off, **kwargs})


def fitted(data: LightningDataModule, seed: int = 0, ckpt_path: Path | None = None, **kwargs: Any) -> Net:
    seed_everything(seed, verbose=False)
    net = Net()
    quiet(**kwargs).fit(net, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return net


class Save(Callback):
    """Saves a checkpoint after a step, and trains on."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def same(batches: list[Any], others: list[Any]) -> bool:
    """Whether two lists of batches are equal to the bit."""
    pairs = zip(batches, others, strict=True)
    return all(torch.equal(a, b) for batch, other in pairs for a, b in zip(batch, other, strict=True))


def assert_resumes(tmp_path: Path, make: Any, step: int, max_epochs: int = 2) -> list[Any]:
    """A run that continues after ``step`` sees the very batches that an uninterrupted one does; gives these."""
    whole = fitted(make(), callbacks=Save(tmp_path / "a.ckpt", step), max_epochs=max_epochs).seen["train"]
    rest = fitted(make(), seed=1, ckpt_path=tmp_path / "a.ckpt", max_epochs=max_epochs).seen["train"]
    assert len(rest) == len(whole) - step
    assert same(rest, whole[step:])
    assert not same(whole[:1], whole[len(whole) // max_epochs :][:1])  # or it would not tell
    return whole
