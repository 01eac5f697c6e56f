"""All generators come back, at the right moment (exact resuming as a whole: tests/test_resume.py)."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import RandomState

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def draw() -> tuple[float, ...]:
    """Every kind of number, an odd count of normal ones: Python and numpy keep the second of a pair for later."""
    normal = np.random.standard_normal(3)  # noqa: NPY002
    return torch.rand(()).item(), torch.randn(3).sum().item(), random.random(), random.gauss(0, 1), float(normal.sum())


class Drawing(LightningModule):
    """Draws in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.drawn: list[tuple[float, ...]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.drawn.append(draw())
        return self.weight * batch.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(24.0), batch_size=4, shuffle=True)  # six batches; draws when an epoch starts


class Waste(Callback):
    """Draws on the way, as a preparation might, in a resumed run only."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, lambda *args, **kwargs: draw())


def fit(folder: Path, *callbacks: Callback, ckpt: Path | None = None, seed: int = 1, **kwargs: Any) -> Drawing:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    model = Drawing()
    saver = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=3)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, saver],
        **kwargs,
    )
    trainer.fit(model, ckpt_path=ckpt, weights_only=True)
    return model


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("step", [3, 9])  # after an odd number of normal numbers
@pytest.mark.parametrize("hook", ["setup", "on_train_start"])
def test_in_mid_epoch_whatever_is_drawn_before_the_first_batch_does_not_count(
    tmp_path: Path, step: int, hook: str
) -> None:
    uninterrupted = fit(tmp_path, RandomState()).drawn
    resumed = fit(tmp_path, RandomState(), Waste(hook), ckpt=tmp_path / f"step={step}.ckpt", seed=2)
    assert resumed.drawn[:2] == uninterrupted[step : step + 2]


def test_between_epochs_the_loader_starts_from_the_restored_state(tmp_path: Path) -> None:
    """A stock loader draws its shuffle when it starts: restoring in on_train_start would be too late."""
    uninterrupted = fit(tmp_path, RandomState()).drawn
    resumed = fit(tmp_path, RandomState(), Waste("setup"), ckpt=tmp_path / "step=6.ckpt", seed=2).drawn
    assert resumed == uninterrupted[6:]
    assert fit(tmp_path, ckpt=tmp_path / "step=6.ckpt", seed=2).drawn != resumed  # stock Lightning


def test_the_state_is_plain_data_one_entry_a_process(tmp_path: Path) -> None:
    fit(tmp_path, RandomState())
    (state,) = torch.load(tmp_path / "step=3.ckpt", weights_only=True)["random_state"]
    assert set(state) == {"torch", "python", "numpy"}


def test_a_checkpoint_without_a_state_is_taken_as_it_is(tmp_path: Path) -> None:
    fit(tmp_path)
    assert len(fit(tmp_path, RandomState(), ckpt=tmp_path / "step=6.ckpt").drawn) == 6


def of_four_processes(path: Path) -> Path:
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["random_state"] *= 4
    torch.save(checkpoint, path.with_name("four.ckpt"))
    return path.with_name("four.ckpt")


def test_another_number_of_processes_is_told(tmp_path: Path) -> None:
    fit(tmp_path, RandomState())
    with pytest.warns(UserWarning, match="random state of 4 processes, now there are 1"):
        fit(tmp_path, RandomState(), ckpt=of_four_processes(tmp_path / "step=6.ckpt"))


def test_a_later_fit_of_the_same_callback_starts_from_its_own_seed(tmp_path: Path) -> None:
    callback = RandomState()
    first = fit(tmp_path, callback).drawn
    fit(tmp_path, callback, ckpt=tmp_path / "step=12.ckpt")  # nothing is left to do
    assert fit(tmp_path, callback).drawn == first


def test_only_a_fit_restores(tmp_path: Path) -> None:
    class Tested(Drawing):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

        test_dataloader = Drawing.train_dataloader

    fit(tmp_path, RandomState())
    callback = RandomState()
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    trainer = Trainer(callbacks=[callback, saver], logger=False, enable_progress_bar=False, accelerator="cpu")
    path = of_four_processes(tmp_path / "step=3.ckpt")
    with pytest.warns(UserWarning, match="sampler has shuffling enabled"):  # and no other warning
        trainer.test(Tested(), ckpt_path=path, verbose=False, weights_only=True)
    assert callback._states == []
