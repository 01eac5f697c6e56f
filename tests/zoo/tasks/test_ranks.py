"""What a task logs on several ranks: exact means over all examples, the same as on one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from zoo.tasks import ClassificationTask


class Log(Callback):
    """Write what rank ``rank`` logged into a file, and checkpoints in the middle of the epoch."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step in (5, 6):
            trainer.save_checkpoint(self.folder / f"step{trainer.global_step}.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == self.rank:
            values = {name: value.item() for name, value in trainer.callback_metrics.items()}
            (self.folder / "log.json").write_text(json.dumps(values))


def fit(folder: Path, ranks: int, watch: int = 0) -> dict[str, float]:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    x, y = torch.randn(64, 5), torch.arange(64) % 3
    task = ClassificationTask(nn.Linear(5, 3), 3, optimizer="SGD", lr=0.1)
    train, held = TensorDataset(x, y), TensorDataset(x[:30], y[:30])

    def loader(data: TensorDataset, rank: int) -> DataLoader:
        return DataLoader(data, 8 // ranks, sampler=DistributedSampler(data, ranks, rank, shuffle=False))

    task.train_dataloader = lambda: loader(train, task.global_rank)
    task.val_dataloader = lambda: loader(held, task.global_rank)
    log = Log(folder, watch)
    trainer = quiet_trainer(log, ranks=ranks, max_epochs=2, log_every_n_steps=3, default_root_dir=folder)
    trainer.fit(task)
    return json.loads((folder / "log.json").read_text())


@pytest.mark.parametrize("watch", [0, 1])
def test_two_ranks_log_what_one_logs(tmp_path: Path, watch: int) -> None:
    one = fit(tmp_path / "one", 1)
    assert {"train/loss", "train/loss_step", "train/acc", "val/loss", "val/acc", "val/f1"} <= one.keys()
    assert fit(tmp_path / "two", 2, watch=watch) == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_epochs_mean_survives_a_checkpoint_in_the_middle(tmp_path: Path, ranks: int) -> None:
    """The first epoch's examples before the checkpoint count once after it, on one rank."""
    fit(tmp_path / "whole", ranks)
    content = torch.load(tmp_path / "whole" / "step5.ckpt", weights_only=True)["zoo"]["means"]
    assert content["epoch"][-1] == 24  # three steps of eight, in the window that was logged
    assert content["window"][-1] == 16  # two more since
    resumed = ClassificationTask(nn.Linear(5, 3), 3)
    resumed._means.load_state_dict(content, torch.device("cpu"), first_rank=True)
    second = ClassificationTask(nn.Linear(5, 3), 3)
    second._means.load_state_dict(content, torch.device("cpu"), first_rank=False)
    assert (resumed._means._count, second._means._count) == (16, 0)
    assert not second._means._window.any()
    # step 6 is logged just after callbacks save: the checkpoint must not hold its window once more
    due = torch.load(tmp_path / "whole" / "step6.ckpt", weights_only=True)["zoo"]
    assert (due["means"]["window"], due["means"]["epoch"][-1], due["last_logged"]) == (None, 48, 6)
