"""All monitors in whole runs: training stays the same to the bit, and several ranks log what one does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import PATTERN_BATCHES, Memory, Patterns, PatternTask, SaveOnce, fit_patterns, quiet_trainer
from lightning.pytorch import Callback, Trainer, seed_everything

from callbacks import (
    ActivationStats,
    DataWait,
    GradientNoiseScale,
    GradNorm,
    PeakMemory,
    Throughput,
    TrainingDiagnostics,
    UpdateRatio,
    WeightNorm,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a trainer without a folder writes into the current one


def monitors(**options: Any) -> list[Callback]:
    kinds = [ActivationStats, DataWait, GradientNoiseScale, GradNorm, PeakMemory, Throughput, UpdateRatio, WeightNorm]
    return [*(kind(**options) for kind in kinds), TrainingDiagnostics(**options)]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_run_with_all_monitors_is_that_without_to_the_bit_and_so_is_a_resumed_one(tmp_path: Path) -> None:
    """With dropout and batch norms, whose draws and statistics a monitor must not touch."""
    path = tmp_path / "middle.ckpt"
    plain, _ = fit_patterns(epochs=2)
    watched, _ = fit_patterns(*monitors(), SaveOnce(path, PATTERN_BATCHES + 2), epochs=2, logger=Memory())
    resumed, _ = fit_patterns(*monitors(every_n_steps=3), ckpt=path, epochs=2, seed=1, logger=Memory())
    assert len(watched.weights) == len(plain.weights) == 2 * PATTERN_BATCHES
    for one, other in (*zip(watched.weights, plain.weights, strict=True), (resumed.weights[-1], plain.weights[-1])):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


class Write(Callback):
    """Writes the rows of each rank's logger when training has ended."""

    def __init__(self, folder: Path, logger: Memory) -> None:
        self.folder, self.memory = folder, logger

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            torch.save(self.memory.rows, self.folder / f"{trainer.world_size}-{trainer.accumulate_grad_batches}.pt")


def rows(folder: Path, ranks: int, accumulate: int) -> list[tuple[int, dict[str, float]]]:
    seed_everything(0, verbose=False)
    logger = Memory()
    watch = [*monitors(), Write(folder, logger)]
    trainer = quiet_trainer(*watch, ranks=ranks, max_epochs=1, logger=logger, accumulate_grad_batches=accumulate)
    size = 12 // ranks // accumulate
    trainer.fit(PatternTask(norm=False, dropout=0.0), datamodule=Patterns(batch_size=size, num_workers=0))
    return torch.load(folder / f"{ranks}-{accumulate}.pt", weights_only=True)


def test_two_ranks_and_accumulated_batches_log_what_one_batch_does(tmp_path: Path) -> None:
    timed = {"throughput", "data_wait", "peak_memory"}

    def numbers(ranks: int, accumulate: int) -> dict[tuple[int, str], float]:
        found = [(s, name, value) for s, row in rows(tmp_path, ranks, accumulate) for name, value in row.items()]
        assert timed <= {name for _, name, _ in found}
        steps = PATTERN_BATCHES - 1  # the last batch of an epoch may be a shorter one
        return {(s, n): v for s, n, v in found if n not in timed and not n.startswith(("train", "val")) and s < steps}

    whole = numbers(1, 1)
    assert {"update_ratio", "weight_norm", "grad_norm", "gradient_noise_scale", "dead_units"} <= {n for _, n in whole}
    for ranks, accumulate in ((2, 1), (1, 2)):
        assert numbers(ranks, accumulate) == {key: pytest.approx(value, rel=1e-3) for key, value in whole.items()}
