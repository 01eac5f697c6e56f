"""A loss that is no number ends the fit, by its name, and leaves the last good checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.tasks import ClassificationTask


class Fails(ClassificationTask):
    """Goes wrong at step 6 (the second epoch's second): in its loss, in its gradient alone, or in validation."""

    def __init__(self, where: str, value: Any = float("nan")) -> None:  # no float: models refuse nan there
        super().__init__(nn.Linear(5, 3), 3, lr=1e-2)
        self.where, self.value = where, value

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        loss, means, count = super().training_losses(batch)
        if self.trainer.global_step == 5 and self.where == "loss":
            means["acc"] = means["acc"] * self.value
        if self.trainer.global_step == 7 and self.where == "gradient":  # the epoch's last: no loss sees it
            loss.register_hook(lambda gradient: gradient * self.value)
        return loss, means, count

    def update_metrics(self, metrics: dict[str, Any], batch: Any) -> None:
        bad = self.where == "validation" and self.trainer.current_epoch == 1
        super().update_metrics(metrics, (batch[0] * self.value if bad else batch[0], batch[1]))


def fit(folder: Path, task: Fails, every: int) -> None:
    data = TensorDataset(torch.randn(32, 5), torch.arange(32) % 3)
    quiet_trainer(
        ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1),
        max_epochs=3,
        log_every_n_steps=every,
        default_root_dir=folder,
        limit_val_batches=None if task.where == "validation" else 0,
    ).fit(task, DataLoader(data, 8), DataLoader(data, 8))


@pytest.mark.parametrize(
    ("where", "value", "every", "message"),
    [
        ("loss", float("nan"), 50, r"train/acc is nan after step 8 in epoch 1.*lower lr \(it is 0.01\)"),
        ("loss", float("inf"), 2, "train/acc is inf after step 6 in epoch 1"),
        ("gradient", float("nan"), 50, "the norm of the weights is nan after step 8"),
        ("validation", float("nan"), 50, "val/loss is nan after step 8"),
    ],
)
@pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers", "ignore:.*tensorboard")
def test_a_fit_ends_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, where: str, value: float, every: int, message: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(FloatingPointError, match=message):
        fit(tmp_path, Fails(where, value), every)
    (kept,) = tmp_path.glob("*.ckpt")
    assert kept.name == "epoch=0.ckpt"
    state = torch.load(kept, weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.filterwarnings("ignore:The '\\w+_dataloader' does not have many workers")
def test_evaluation_alone_tells_what_it_finds(tmp_path: Path) -> None:
    task = ClassificationTask(nn.Linear(5, 3), 3)
    nn.init.constant_(task.net.weight, float("nan"))
    data = DataLoader(TensorDataset(torch.randn(8, 5), torch.arange(8) % 3), 8)
    trainer = quiet_trainer(default_root_dir=tmp_path)
    (found,) = trainer.validate(task, data, verbose=False)
    assert found["val/loss"] != found["val/loss"]
