"""A batch that grows: its sizes, the steps of the run, resuming, several processes, and what is refused."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, Patterns, PatternTask, SaveEverywhere, fit_patterns, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from callbacks import BatchSizeSchedule, LRSchedule, RandomState
from callbacks.run_length import run_length
from datamodules import DatasetDataModule, TextFileDataModule

EXAMPLES = 62  # of 69, the others validate


class Keep(Callback):
    """Keeps the size of each batch and the rates, by epoch."""

    def __init__(self) -> None:
        self.sizes: list[list[int]] = []
        self.val: list[int] = []
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sizes.append([])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.sizes[-1].append(len(batch[0]))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        self.val.append(len(batch[0]))


def fit(
    *callbacks: Callback, data: Any = None, task: Any = None, seed: int = 0, **options: Any
) -> tuple[PatternTask, Keep]:
    seed_everything(seed, verbose=False)
    keep, task = Keep(), task or PatternTask(norm=False, dropout=0.0)
    trainer = quiet_trainer(*callbacks, keep, **({"max_epochs": 6} | options))
    trainer.fit(task, datamodule=data or Patterns(batch_size=5))
    return task, keep


def test_the_batch_grows_at_the_milestones() -> None:
    _, keep = fit(BatchSizeSchedule([2, 4], factor=3))
    assert keep.sizes == [[5] * 12, [5] * 12, [15] * 4, [15] * 4, [45], [45]]
    assert keep.val == [5, 2] * 6


def test_shares_of_the_run_are_milestones_too() -> None:
    _, keep = fit(BatchSizeSchedule([0.5], factor=2), data=Patterns(batch_size=5, drop_last=False))
    assert keep.sizes == [[5] * 12 + [2]] * 3 + [[10] * 6 + [2]] * 3


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"limit_train_batches": 3}, {"max_steps": 33}])
def test_the_schedule_knows_the_real_number_of_steps(options: dict[str, Any]) -> None:
    seed_everything(0, verbose=False)
    growth, keep, task = BatchSizeSchedule([2, 4], factor=3), Keep(), PatternTask(norm=False, dropout=0.0)
    found: list[float] = []

    class Length(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            found.append(run_length(trainer, "step"))

    trainer = quiet_trainer(growth, LRSchedule("linear"), Length(), keep, **({"max_epochs": 6} | options))
    trainer.fit(task, datamodule=Patterns(batch_size=5))
    every = options.get("accumulate_grad_batches", 1)
    epochs = [min(n, options.get("limit_train_batches", 99)) for n in (12, 12, 4, 4, 1, 1)]
    steps = min(sum(math.ceil(n / every) for n in epochs), options.get("max_steps", 999))
    assert trainer.global_step == steps
    assert set(found) == {steps}
    used = [rates["head.weight"] if "head.weight" in rates else next(iter(rates.values())) for rates in task.rates]
    assert used == pytest.approx([0.01 * (1 - n / steps) for n in range(steps)])


def test_all_examples_are_seen_in_each_epoch_and_in_the_same_order() -> None:
    """The order of an epoch does not depend on the size of its batches."""
    orders = []
    for callbacks in ([], [BatchSizeSchedule([1], factor=4)]):
        seen: list[Any] = []

        class See(Callback):
            def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, *_: Any) -> None:
                seen.extend(batch[0].flatten(1).double().sum(1).tolist())  # noqa: B023

        fit(*callbacks, See(), max_epochs=3, data=Patterns(batch_size=5, drop_last=False))
        orders.append(seen)
    assert len(orders[0]) == 3 * EXAMPLES
    assert orders[0] == orders[1]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    """From a checkpoint of each step, validation and epoch: in the middle and at the end of one, before, at and after a change."""

    def watch() -> list[Callback]:
        return [BatchSizeSchedule([1, 2], factor=2), LRSchedule("cosine", warmup=0.1)]

    whole, _ = fit_growing(*watch(), SaveEverywhere(tmp_path), data=Patterns(batch_size=12, shift=1))
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == 5 + 2 + 1 + 1 + 4 + 4  # steps of four epochs, and as many validations and ends
    for path in paths:
        resumed, growth = fit_growing(*watch(), ckpt=path, data=Patterns(batch_size=12, shift=1), seed=3)
        assert same_weights(whole, resumed), path.name
        assert growth.examples == 60 + 48 + 48 + 48


def fit_growing(
    *callbacks: Any, data: Any, ckpt: Path | None = None, seed: int = 5
) -> tuple[PatternTask, BatchSizeSchedule]:
    seed_everything(seed, verbose=False)
    task = PatternTask()
    trainer = quiet_trainer(RandomState(), *callbacks, max_epochs=4)
    trainer.fit(task, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return task, callbacks[0]


def test_two_processes_grow_as_one(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.is_global_zero:
                torch.save((pl_module.state_dict(), trainer.global_step), tmp_path / f"{trainer.world_size}.pt")

    for ranks in (1, 2):
        fit(
            BatchSizeSchedule([1, 2], factor=2),
            LRSchedule("linear"),
            Save(),
            data=Patterns(batch_size=8 // ranks),
            ranks=ranks,
            max_epochs=3,
        )
    (one, steps), (two, others) = (torch.load(tmp_path / f"{ranks}.pt", weights_only=True) for ranks in (1, 2))
    assert steps == others == 7 + 3 + 1
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)


def test_what_is_logged_and_said(caplog: pytest.LogCaptureFixture) -> None:
    logger = Memory()
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        fit(BatchSizeSchedule([1], factor=2), max_epochs=3, logger=logger)
    assert [value for _, value in logger.values("batch_size")] == [5, 10, 10]
    assert [value for _, value in logger.values("examples")] == [60, 120, 180]
    lines = [r.message for r in caplog.records if r.message.startswith("BatchSizeSchedule")]
    assert lines == ["BatchSizeSchedule: 10 examples in a batch after epoch 1"]


def test_the_next_fit_has_its_own_sizes() -> None:
    data = Patterns(batch_size=5)
    fit(BatchSizeSchedule([1], factor=2), max_epochs=2, data=data)
    _, keep = fit(max_epochs=2, data=data, reload_dataloaders_every_n_epochs=1)
    assert keep.sizes == [[5] * 12] * 2
    assert data.batch_size == 5


@pytest.mark.parametrize(
    ("milestones", "factor", "options", "message"),
    [
        (
            [2, 6],
            2,
            {},
            "the milestone of 6 epochs is never reached in a run of 6: give a share of the run such as 0.5",
        ),
        ([3], 2, {"max_epochs": -1, "max_steps": 30}, "the milestone of 3 epochs is never reached in a run of 3"),
        (
            [0.5],
            2,
            {"max_epochs": -1, "max_steps": 30},
            "a milestone of 0.5 is a share of a run that has no max_epochs",
        ),
        ([1, 2], 4, {}, "the batch would grow to 80, and there are 62 training examples: give fewer milestones than 2"),
        (
            [2],
            4,
            {"val_check_interval": 6},
            "val_check_interval is 6 batches, and an epoch will have 3 when the batch has grown",
        ),
        (
            [2],
            8,
            {"limit_train_batches": 0.9},
            "limit_train_batches=0.9 leaves no batch of an epoch when the batch has grown to 40",
        ),
        ([2], 2, {"overfit_batches": 2}, "overfit_batches repeats the same batches, which cannot grow"),
        ([0.5, 0.55], 2, {}, r"milestones \[0.5, 0.55\] are epochs \[3, 3\] of a run of 6, some of them the same"),
    ],
)
def test_a_schedule_that_cannot_be_honored_is_refused_before_a_step(
    milestones: list[float], factor: int, options: dict[str, Any], message: str
) -> None:
    task = PatternTask(norm=False, dropout=0.0)
    with pytest.raises(ValueError, match=message):
        fit(BatchSizeSchedule(milestones, factor), task=task, **options)
    assert task.weights == []


def test_lanes_of_a_text_cannot_grow(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be " * 40)
    data = TextFileDataModule(str(tmp_path / "text.txt"), order="lanes", batch_size=4, context=8)
    with pytest.raises(ValueError, match="cuts a text into as many lanes as a batch has rows, so batches cannot grow"):
        data.use_batch_sizes(lambda epoch: 8)
    data.use_batch_sizes(None)
    TextFileDataModule(str(tmp_path / "text.txt"), batch_size=4, context=8).use_batch_sizes(lambda epoch: 8)


def test_a_look_at_one_batch_needs_no_milestone() -> None:
    _, keep = fit(BatchSizeSchedule([3], factor=2), fast_dev_run=True)
    assert keep.sizes == [[5]]


class Examples(Callback):
    """Writes what the schedule counted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.write_text(str(next(c for c in trainer.callbacks if isinstance(c, BatchSizeSchedule)).examples))  # type: ignore[attr-defined]


def test_examples_are_counted_once_where_the_last_batch_is_short(tmp_path: Path) -> None:
    """65 examples in batches of 8 for two processes: the last one is one example, and one that does not count."""
    path = tmp_path / "examples.txt"
    data = Patterns(batch_size=4, drop_last=False, val_fraction=0.05)
    fit(BatchSizeSchedule([1], factor=2), Examples(path), data=data, ranks=2, max_epochs=2)
    data.setup("fit")  # the processes had their own
    count = len(data._parts["train"])
    assert count % 2 == 1
    assert int(path.read_text()) == 2 * count


def test_a_global_batch_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(Exception, match="the batch would grow to 72, and there are 62 training examples"):
        fit(BatchSizeSchedule([1, 2], factor=3), data=Patterns(batch_size=4), ranks=2)


@pytest.mark.parametrize("milestones", [[], [0], [2, 1], [1, 1], [1.5], ["2"], [True], [-1]])
def test_milestones_are_checked(milestones: Any) -> None:
    with pytest.raises(ValueError, match="milestones must be increasing, each a fraction of the run in"):
        BatchSizeSchedule(milestones)


def test_factors_are_checked() -> None:
    with pytest.raises(ValueError, match="factor must be >= 2, got 1"):
        BatchSizeSchedule([1], factor=1)
    with pytest.raises(TypeError, match="factor must be an integer"):
        BatchSizeSchedule([1], factor=1.5)  # type: ignore[arg-type]


def test_loaders_cannot_grow() -> None:
    trainer = quiet_trainer(BatchSizeSchedule([1]), max_epochs=2)
    with pytest.raises(
        TypeError, match=r"needs a datamodule that defines use_batch_sizes\(of_epoch\) .*, got a DataLoader"
    ):
        trainer.fit(PatternTask(), *[DataLoader([(torch.rand(1, 6, 6), 0)] * 12, 4)] * 2)


def test_datasets_of_ones_own_can() -> None:
    examples = [(torch.rand(1, 6, 6), i % 3) for i in range(40)]
    data = DatasetDataModule(examples, examples[:6], batch_size=8)  # type: ignore[arg-type]
    _, keep = fit(BatchSizeSchedule([1], factor=2), max_epochs=2, data=data)
    assert keep.sizes == [[8] * 5, [16] * 2]


def test_patterns_are_what_the_tests_think() -> None:
    task, _ = fit_patterns(epochs=1)
    assert len(task.weights) == EXAMPLES // 12
