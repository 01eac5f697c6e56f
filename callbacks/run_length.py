"""Length of a run."""

import math
from typing import Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from callbacks.internals import callbacks_of


def run_length(trainer: Trainer, interval: Literal["step", "epoch"]) -> float:
    """Return the number of optimizer steps (in manual optimization: batches) or epochs of the run, infinite without an end."""
    accumulation = next((c for c in callbacks_of(trainer) if isinstance(c, GradientAccumulationScheduler)), None)
    max_steps, max_epochs = (math.inf if m in (-1, None) else m for m in (trainer.max_steps, trainer.max_epochs))
    batches = trainer.num_training_batches
    if math.isinf(batches) or max_steps == max_epochs == math.inf:
        return max_steps if interval == "step" else max_epochs
    growth = next((c.batches_of for c in callbacks_of(trainer) if hasattr(c, "batches_of")), None)  # BatchSizeSchedule
    epochs = steps = 0
    while epochs < max_epochs and steps < max_steps:
        every = accumulation.get_accumulate_grad_batches(epochs) if accumulation else trainer.accumulate_grad_batches
        of_epoch = batches if growth is None else growth(trainer, epochs)
        steps += math.ceil(of_epoch / every)  # the last window of an epoch steps even if it is shorter
        epochs += 1
    return min(steps, max_steps) if interval == "step" else epochs
