"""What a model makes of the same examples, epoch after epoch."""

import csv
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

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


class Samples(Callback):
    """Write what ``pl_module.render(batch)`` shows, every few epochs and when fit ends, of always the same examples.

    ``render`` returns a dict by name: images (uint8 tensors ``(3, H, W)``), texts (str) and tables (lists of rows, the first
    one the column names). They are written into the run folder, as ``samples/epoch_0010_<name>.png``, ``.txt`` or ``.csv``
    (the number counts the epochs done), and handed to the loggers that take such things: TensorBoard and W&B. A module
    without ``render`` is left alone.

    The examples are drawn once and for all from the validation data, without validation from the training data, by a seed
    of their own: data are often sorted by class, and the first ones would be all of one class. They pass the same hooks as
    a validation batch, so the datamodule does not augment them. Data that have no numbers (``IterableDataset``) give the
    first of their validation batch; without validation there is nothing to show.

    ``render`` runs on the first process alone, in evaluation, without gradients, on fixed random numbers; training goes on
    as if nothing had been. What fails is a warning.

    Args:
        every_n_epochs: epochs from one look to the next, >= 1.
        num_examples: examples in the batch, >= 1.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> Samples(every_n_epochs=5).num_examples
        32
    """

    def __init__(self, every_n_epochs: int = 1, num_examples: int = 32) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("num_examples", num_examples)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.every_n_epochs = every_n_epochs
        self.num_examples = num_examples
        self._ended = self._shown = 0  # the last epoch that has ended, and the last one shown; from 1
        self._folder: Path | None = None
        self._batch: Any = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        folder = run_folder(trainer)
        self._folder = None if folder is None or not hasattr(pl_module, "render") else folder / "samples"
        self._batch = None
        self._ended = self._shown = 0  # what is resumed is loaded after this

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if (
            self._folder is not None
            and self._batch is None
            and is_fitting(trainer)
            and not _numbered(_first(trainer.val_dataloaders))
        ):
            self._batch = map_leaves(
                lambda part: part[: self.num_examples] if isinstance(part, Tensor) and part.ndim else part, batch
            )

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # here, and not at the end of the epoch, if the epoch's last batch is done: checkpoints are saved next
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
        # the step of the row with the epoch's metrics: it is counted when validation is over
        step = logged_step(trainer) - (not trainer.validating)
        cuda = pl_module.device.type == "cuda"
        with isolate_rng(include_cuda=cuda):
            try:
                _seed(cuda)
                with evaluating(trainer, pl_module):
                    if self._batch is None:
                        self._batch = self._examples(trainer)
                    render: Any = pl_module.render
                    with forward_context(trainer):
                        shown = {} if self._batch is None else render(self._batch)
                    for name, value in shown.items():
                        value = _checked(name, value)
                        write(self._folder, f"epoch_{self._ended:04d}_" + re.sub(r"[^\w.-]+", "_", name), value)
                        for logger in trainer.loggers:
                            _log(logger, f"samples/{name}", value, step)
            except Exception as error:  # a picture is not worth a run
                rank_zero_warn(f"Samples could not show epoch {self._ended}: {type(error).__name__}: {error}")

    def _examples(self, trainer: Trainer) -> Any:
        """The batch, as a validation step would get it; None if there is none."""
        loaders = [_first(trainer.val_dataloaders)] if trainer.val_dataloaders else leaves(trainer.train_dataloader)
        if not all(_numbered(loader) for loader in loaders):
            return None
        batch = map_leaves(self._read, loaders[0] if trainer.val_dataloaders else trainer.train_dataloader)
        return as_step_gets_it(trainer, batch)

    def _read(self, loader: DataLoader) -> Any:
        data: Any = loader.dataset
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        places = order[: self.num_examples].sort().values.tolist()
        several = getattr(data, "__getitems__", None)
        return loader.collate_fn(several(places) if several else [data[place] for place in places])


def _first(loaders: Any) -> Any:
    return next(iter(leaves(loaders)), None)


def _numbered(loader: Any) -> bool:
    """Whether examples can be asked for by their number."""
    data = getattr(loader, "dataset", None)
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _seed(cuda: bool) -> None:
    """The same random numbers every time; torch.manual_seed would also seed devices that nobody puts back."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global generator is meant)
    torch.default_generator.manual_seed(0)
    if cuda:
        torch.cuda.manual_seed(0)


def _checked(name: str, value: Any) -> Any:
    """An image as a tensor on the CPU, a text, or a table; nothing else."""
    if isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 3 and value.shape[0] == 3:
        return value.cpu()
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(row, list) for row in value)):
        return value
    got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise TypeError(
        f"render() must give uint8 images (3, H, W), texts, or tables (lists of rows, the first one the column names), "
        f"got {name!r}: {got}"
    )


def write(folder: Path, name: str, value: Any) -> None:
    """Write an image, a text or a table into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(value, Tensor):
        _picture(value).save(folder / f"{name}.png")
    elif isinstance(value, str):
        (folder / f"{name}.txt").write_text(value, encoding="utf-8")
    else:
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(value)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())  # (3, H, W) -> (H, W, 3)


def _log(logger: Logger, name: str, value: Any, step: int) -> None:
    """Hand over to a logger what it can take."""
    if isinstance(logger, TensorBoardLogger):
        if isinstance(value, Tensor):
            logger.experiment.add_image(name, value, step)
        else:  # it reads Markdown: four spaces keep a text as it is
            text = _markdown(value) if isinstance(value, list) else re.sub("^", "    ", value, flags=re.MULTILINE)
            logger.experiment.add_text(name, text, step)
    elif isinstance(value, Tensor) and hasattr(logger, "log_image"):  # W&B, by its own methods: they know its axis
        logger.log_image(name, [_picture(value)], step=step)
    elif isinstance(value, str) and hasattr(logger, "log_text"):
        logger.log_text(name, columns=["text"], data=[[value]], step=step)
    elif isinstance(value, list) and hasattr(logger, "log_table"):
        logger.log_table(name, columns=value[0], data=value[1:], step=step)


def _markdown(table: list[list[Any]]) -> str:
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in table]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
