"""What a model makes of fixed examples during training."""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.contract import check_defines
from callbacks.internals import (
    as_step_gets_it,
    evaluating,
    forward_context,
    is_fit_validation,
    is_fitting,
    is_last_batch,
    leaves,
    logged_step,
    map_leaves,
    run_folder,
)
from callbacks.reading import first_loader, has_indices, read
from callbacks.writing import checked, log, warning_only, write


class Samples(Callback):
    """Write what ``pl_module.render(batch)`` shows of fixed examples, every few epochs and when fit ends.

    ``render`` (:class:`~callbacks.Renderable`) returns images, texts and tables by name. They are written into the run folder as
    ``samples/epoch_0010_<name>.png``, ``.txt`` or ``.csv`` (the number counts the epochs done), and logged to TensorBoard and
    W&B. A module without ``render`` is refused.

    The examples are drawn once from the validation data, or without validation from the training data, with a seed of their own:
    data are often sorted by class, and the first examples would be of one class. They pass the hooks of a validation batch and
    are not augmented. Of data without indices (``IterableDataset``), the first examples of the first validation batch are taken;
    without validation, nothing is shown. Of each tensor in that batch, parts of several tensors included, the first
    ``num_examples`` rows are kept.

    ``render`` runs on the first process alone, in evaluation mode, without gradients, with fixed random numbers that leave those of
    training alone. An error in it is a warning.

    Args:
        every_n_epochs: Epochs from one time to the next, >= 1.
        num_examples: Number of examples in the batch, >= 1.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> Samples(every_n_epochs=5).num_examples
        32
    """

    def __init__(self, every_n_epochs: int = 1, num_examples: int = 32) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("num_examples", num_examples)):
            check_integer(name, value, 1)
        self.every_n_epochs = every_n_epochs
        self.num_examples = num_examples
        self._ended = self._shown = 0  # the last epoch that has ended, and the last one shown, from 1
        self._folder: Path | None = None
        self._batch: Any = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        check_defines(pl_module, "Samples", "render(batch)")
        folder = run_folder(trainer)
        self._folder = None if folder is None else folder / "samples"
        self._batch = None
        self._ended = self._shown = 0  # a checkpoint to resume from is loaded after this

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if (
            self._folder is not None
            and self._batch is None
            and is_fitting(trainer)
            and not has_indices(first_loader(trainer.val_dataloaders))
        ):
            self._batch = map_leaves(
                lambda part: part[: self.num_examples] if isinstance(part, Tensor) and part.ndim else part, batch
            )

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # after the last batch of an epoch it is done here, not in on_train_epoch_end: checkpoints are saved in between
        if is_fit_validation(trainer) and is_last_batch(trainer):
            self._end_epoch(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_epoch(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"ended": self._ended, "shown": self._shown}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ended, self._shown = state_dict["ended"], state_dict["shown"]

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = trainer.current_epoch + 1
        if self._ended % self.every_n_epochs == 0:
            self._show(trainer, pl_module)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shown == self._ended:
            return
        self._shown = self._ended
        if self._folder is None or not trainer.is_global_zero:
            return
        # the step of the row with the epoch's metrics, which is counted on after validation
        step = logged_step(trainer) - (not trainer.validating)
        cuda = pl_module.device.type == "cuda"
        failure = warning_only(f"Samples could not show epoch {self._ended}")
        with isolate_rng(include_cuda=cuda), failure, evaluating(trainer, pl_module):
            _seed(cuda)
            if self._batch is None:
                self._batch = self._examples(trainer)
            if self._batch is None:
                return
            render: Any = pl_module.render
            with forward_context(trainer):
                shown = render(self._batch)
            shown = {name: checked(name, value) for name, value in shown.items()}
            for name, value in shown.items():
                write(self._folder, f"epoch_{self._ended:04d}_" + re.sub(r"[^\w.-]+", "_", name), value)
            for logger in trainer.loggers:
                for name, value in shown.items():
                    log(logger, f"samples/{name}", value, step)

    def _examples(self, trainer: Trainer) -> Any:
        """Return the batch as a validation step would get it; None where examples have no indices."""
        loaders = (
            [first_loader(trainer.val_dataloaders)] if trainer.val_dataloaders else leaves(trainer.train_dataloader)
        )
        if not all(has_indices(loader) for loader in loaders):
            return None
        batch = map_leaves(self._read, loaders[0] if trainer.val_dataloaders else trainer.train_dataloader)
        return as_step_gets_it(trainer, batch)

    def _read(self, loader: Any) -> Any:
        order = torch.randperm(len(loader.dataset), generator=torch.Generator().manual_seed(0))
        return read(loader, order[: self.num_examples].sort().values.tolist())


def _seed(cuda: bool) -> None:
    """Seed all generators; torch.manual_seed would also seed devices whose state is not restored."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global generator is meant)
    torch.default_generator.manual_seed(0)
    if cuda:
        torch.cuda.manual_seed(0)
