"""A batch that grows."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.contract import Growable
from callbacks.internals import limited, reload_training_batches, sum_over_ranks
from callbacks.monitor import batch_size_of
from callbacks.reading import counted
from callbacks.run_length import run_length


class BatchSizeSchedule(Callback):
    """Multiply the batch size at some epochs, where a schedule would divide the learning rate.

    The noise of a step's gradient is about lr N / B for N training examples and a batch of B, so growing B by a factor lowers it
    as dividing the rate by that factor does, in fewer steps (Smith et al. 2018, "Don't Decay the Learning Rate, Increase the Batch
    Size", arXiv:1711.00489, section 2). The rate stays: combine it with a warm-up, not with a decay at the same epochs. It holds as
    long as the batch is small beside the training set.

    A batch is ``data.batch_size`` examples of each process at first, and that times ``factor`` to the power of the number of
    milestones that are reached, so the global batch is a multiple of the processes at any time; accumulation multiplies it as
    ever. It changes only between two epochs, and validation keeps its batches. Epochs have fewer steps from then on:
    :class:`~callbacks.LRSchedule` knows how many the run has. What asks ``trainer.estimated_stepping_batches``, such as a
    ``kl_warmup`` that is a share of the run, is told the number of steps without growth.

    Logs ``batch_size``, the global one, and ``examples``, the training examples done so far, at the end of each epoch, and says
    when the batch grows. The number of examples is saved in checkpoints; the size itself is a function of the epoch, so a resumed
    run goes on exactly.

    Args:
        milestones: Epochs from which on the batch is larger, increasing: each a fraction of the run below 1, otherwise a number of
            epochs done.
        factor: How many times larger each time, >= 2.

    Raises:
        ValueError: An argument is out of its range; a milestone that the run does not reach, or a fraction of a run without
            ``max_epochs``; a batch larger than the training set; validation after more batches than an epoch will have;
            ``overfit_batches``; lanes of a text.
        TypeError: Data whose batches cannot grow (:class:`callbacks.contract.Growable`), such as a DataLoader, or a stream.

    Example:
        >>> BatchSizeSchedule([0.5, 0.75], factor=4).factor
        4
    """

    def __init__(self, milestones: Sequence[float], factor: int = 2) -> None:
        check_integer("factor", factor, 2)
        times = [*milestones]
        right = [
            t
            for t in times
            if not isinstance(t, bool) and isinstance(t, int | float) and (0 < t < 1 or t == int(t) > 0)
        ]
        if not times or len(right) < len(times) or sorted(set(times)) != times:
            raise ValueError(
                f"milestones must be increasing, each a fraction of the run in (0, 1) or a number of epochs >= 1, got {times}"
            )
        self.milestones, self.factor = times, factor
        self.examples = 0
        self._mine = 0  # of this rank, not counted yet
        self._epochs: list[int] = []  # the milestones, once the length of the run is known
        self._base = 0
        self._batches: dict[int, int] = {}  # of an epoch, by batch size

    def size_of(self, epoch: int) -> int:
        """Return the number of examples in a batch of each process in an epoch, from 0."""
        return self._base * self.factor ** bisect_right(self._epochs, epoch)

    def batches_of(self, trainer: Trainer, epoch: int) -> int:
        """Return the number of batches that each process trains in an epoch, from 0."""
        size, data = self.size_of(epoch), _data(trainer)
        if size not in self._batches:
            self._batches[size] = limited(trainer, data.count_batches(size))
        return self._batches[size]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.global_step == 0:  # a checkpoint to resume from is loaded after this
            self.examples = 0
        self._mine = 0
        data = _data(trainer)
        epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf
        shares = [time for time in self.milestones if time < 1]
        if shares and math.isinf(epochs):
            raise ValueError(
                f"a milestone of {shares[0]} is a share of a run that has no max_epochs: give it, or whole epochs"
            )
        if getattr(trainer, "overfit_batches", 0):
            raise ValueError("overfit_batches repeats the same batches, which cannot grow: leave BatchSizeSchedule out")
        self._base, self._batches = data.batch_size, {}
        self._epochs = [max(1, round(time * epochs)) if time < 1 else int(time) for time in self.milestones]
        if len(set(self._epochs)) < len(self._epochs):
            raise ValueError(
                f"milestones {self.milestones} are epochs {self._epochs} of a run of {epochs}, some of them the same: train "
                "longer, or give fewer"
            )
        ranks = trainer.world_size
        try:
            examples = data.count_batches(1) * ranks
        except TypeError:
            raise TypeError(
                f"the batches of {type(data).__name__} are a stream without an end, and have no epochs between which they could "
                "grow"
            ) from None
        largest = self.size_of(self._epochs[-1])
        if largest * ranks > examples:
            raise ValueError(
                f"the batch would grow to {largest * ranks}, and there are {examples} training examples: give fewer milestones "
                f"than {len(self._epochs)}, a factor below {self.factor}, or a smaller data.batch_size than {self._base}"
            )
        data.use_batch_sizes(self.size_of)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        length = run_length(trainer, "epoch")
        if late := [epoch for epoch in self._epochs if epoch >= length]:
            raise ValueError(
                f"the milestone of {late[0]} epochs is never reached in a run of {length:g}: give a share of the run such as 0.5, "
                "or train longer"
            )
        fewest, every = self.batches_of(trainer, self._epochs[-1]), trainer.val_check_interval
        if not fewest:
            limit = trainer.limit_train_batches
            raise ValueError(
                f"limit_train_batches={limit} leaves no batch of an epoch when the batch has grown to "
                f"{self.size_of(self._epochs[-1]) * trainer.world_size} examples: give a larger share, or fewer milestones"
            )
        if isinstance(every, int) and trainer.check_val_every_n_epoch is not None and every > fewest:
            raise ValueError(
                f"val_check_interval is {every} batches, and an epoch will have {fewest} when the batch has grown: give a share "
                "of an epoch such as 0.5"
            )
        if trainer.global_step:
            # resumed; saved after the last batch of an epoch, a run goes on with the next one, whose batches may be larger
            reload_training_batches(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        weight = batch[2] if type(batch) in (tuple, list) and len(batch) > 2 else None
        self._mine += batch_size_of(batch) if weight is None else int(counted(weight).sum())

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        now, after = (self.size_of(e) for e in (epoch, epoch + 1))
        size = now * trainer.world_size
        self._count(trainer)
        # the same on all ranks: their maximum is the value
        values = {"batch_size": float(size), "examples": float(self.examples)}
        pl_module.log_dict(values, batch_size=1, sync_dist=True, reduce_fx="max")
        if after != now:
            reload_training_batches(trainer)
            rank_zero_info(
                f"BatchSizeSchedule: {after * trainer.world_size} examples in a batch after epoch {epoch + 1}"
            )

    def _count(self, trainer: Trainer) -> None:
        """Add the examples of this rank, since the last time, and of the others. Collective."""
        self.examples += int(sum_over_ranks(trainer, torch.tensor(self._mine, device=trainer.strategy.root_device)))
        self._mine = 0

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._count(trainer)
        checkpoint["callbacks"][self.state_key] = self.state_dict()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self._base:
            _data(trainer).use_batch_sizes(None)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"examples": self.examples}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.examples = state_dict["examples"]


def _data(trainer: Trainer) -> Growable:
    data: Any = getattr(trainer, "datamodule", None)
    if not isinstance(data, Growable):
        what = "a DataLoader" if data is None else type(data).__name__
        raise TypeError(
            "BatchSizeSchedule needs a datamodule that defines use_batch_sizes(of_epoch) and count_batches(batch_size), got "
            f"{what}: take one of ours (datamodules.DatasetDataModule for a dataset of your own), or see "
            "callbacks.contract.Growable"
        )
    return data
