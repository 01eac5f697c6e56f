"""Loggers: always ``metrics.csv`` in the run folder, and optionally TensorBoard or W&B."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from recipes.cli.run.folder import METRICS, Run, write_rows
from recipes.cli.run.internals import omit_anonymous


class MetricsFile:
    """A CSV file with one row per optimizer step; metrics logged later for the last step join its row.

    Args:
        path: The file; its rows are kept.
        before: Step that a run resumes from, which repeats this step and the later ones: only the rows before it are kept.
            The file itself is not touched before the next row is saved.

    Attributes:
        rows: Number of rows.
        kept: Number of rows that were kept of an existing file.
        missing: Whether there was no file.
        damaged: Number of lines that were left out because they are damaged: the last one, if it was cut off, and lines without a
            step or with another number of values than the header.
    """

    def __init__(self, path: Path, before: int | None = None) -> None:
        self.path = path
        self.names, kept, self.damaged = read_rows(path)
        if before is not None:
            kept = [row for row in kept if int(row["step"]) < before]
        self.missing = not path.is_file()
        self.rows = self.kept = len(kept)
        self._unwritten: list[dict[str, str]] | None = kept  # to be written with the first row that is added
        self._row: dict[str, Any] = {}
        self._tail = 0  # offset of the last row in the file

    def add(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add metrics of a step."""
        if self._row and str(self._row["step"]) != str(step):
            self.save()
            self._tail = self.path.stat().st_size
            self._row = {}
        if not self._row and self._unwritten and self._unwritten[-1]["step"] == str(step):
            self._row.update({name: value for name, value in self._unwritten.pop().items() if value})
        elif not self._row:
            self.rows += 1
        values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        self._row.update(values, step=step)

    def save(self) -> None:
        """Write the last row to the file."""
        if not self._row:
            return
        if self._unwritten is not None or not self.path.is_file() or not self._row.keys() <= set(self.names):
            rows = self._rows_before_last()
            self.names = [*self.names[:2], *sorted({*self.names[2:], *self._row} - {"step", "epoch"})]
            write_rows(self.path, self.names, rows)
            self._unwritten, self._tail = None, self.path.stat().st_size
        try:
            with self.path.open("r+", newline="", encoding="utf-8") as file:
                file.seek(self._tail)
                csv.DictWriter(file, self.names).writerow(self._row)
                file.truncate()
        except OSError as error:
            error.filename = error.filename or str(self.path)  # the error of a full disk lacks the name
            raise

    def _rows_before_last(self) -> list[dict[str, str]]:
        if self._unwritten is not None:
            return self._unwritten
        if not self.path.is_file():
            return []
        text = self.path.read_bytes()[: self._tail].decode("utf-8")
        return list(csv.DictReader(io.StringIO(text, newline="")))


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]], int]:
    """Return the names of the columns, the rows and the number of damaged lines of a metrics file, which may be missing."""
    names: list[str] = ["step", "epoch"]
    rows: list[dict[str, str]] = []
    damaged = 0
    if not path.is_file():
        return names, rows, damaged
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file):
            cells = next(csv.reader([line])) if line.endswith("\n") and "\0" not in line else []  # else it was cut off
            if number == 0 and cells[:2] == names:
                names = cells
            elif number and len(cells) == len(names) and cells[0].isdecimal():
                rows.append(dict(zip(names, cells, strict=True)))
            else:
                damaged += 1
    return names, rows, damaged


class MetricsLogger(CSVLogger):
    """Logger of ``metrics.csv``; ``CSVLogger`` itself deletes the rows of a resumed run and writes hparams.yaml.

    Args:
        folder: The run folder.
        resumed_at: Optimizer step that a resumed run starts from; None for a new run.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        super().__init__(folder, name="", version="")
        self._folder = folder
        self._resumed_at = resumed_at
        self._file: MetricsFile | None = None

    @property
    @override
    def log_dir(self) -> str:
        return str(self._folder)

    @property
    @rank_zero_experiment
    @override
    def experiment(self) -> MetricsFile:
        if self._file is None:
            self._file = MetricsFile(self._folder / METRICS, self._resumed_at)
        return self._file

    def reopen(self) -> None:
        """Continue the file as it is now, because another process has written it."""
        self._file, self._resumed_at = None, None

    @rank_zero_only
    @override
    def log_hyperparams(self, params: Any = None) -> None:
        """No-op: ``config.yaml`` has the hyperparameters."""

    @rank_zero_only
    @override
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.experiment.add(metrics, step or 0)

    @rank_zero_only
    @override
    def save(self) -> None:
        self.experiment.save()

    @rank_zero_only
    @override
    def finalize(self, status: str) -> None:
        if self._file is not None:
            self._file.save()


class RowCount(Callback):
    """Save the number of rows of ``metrics.csv`` in checkpoints, so that a resumed run can tell whether some are missing."""

    KEY = "metrics_rows"  # in a checkpoint

    def __init__(self, logger: MetricsLogger) -> None:
        self.logger = logger

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            checkpoint[self.KEY] = self.logger.experiment.rows


class _TensorBoard(TensorBoardLogger):
    """Event files in the run folder, without ``hparams.yaml``: ``config.yaml`` has the hyperparameters."""

    @rank_zero_only
    @override
    def save(self) -> None:
        Logger.save(self)


def build(choice: str, run: Run, resumed_at: int | None) -> list[Logger]:
    """Build the loggers of a run besides :class:`MetricsLogger`.

    Args:
        choice: "csv", "tensorboard", "wandb", "wandb-offline" or "none".
        run: The run whose folder takes all files.
        resumed_at: Optimizer step that a resumed run starts from; None for a new run.
    """
    if choice == "tensorboard":
        return [_TensorBoard(run.folder, name="", version="", default_hp_metric=False, purge_step=resumed_at)]
    return [_wandb(run, offline=choice == "wandb-offline")] if choice.startswith("wandb") else []


def _wandb(run: Run, offline: bool) -> WandbLogger:
    import wandb

    for kind in ("CACHE", "CONFIG", "DATA"):
        os.environ.setdefault(f"WANDB_{kind}_DIR", str(run.folder.resolve() / "wandb" / kind.lower()))
    before = sorted((run.folder / "wandb").glob("*run-*-*"))
    logger = WandbLogger(
        name=f"{run.recipe}/{run.folder.name}",
        save_dir=run.folder.resolve(),  # W&B runs in another process, whose current folder may differ
        id=before[-1].name.rpartition("-")[2] if before else None,  # a resumed run keeps its id
        project=os.environ.get("WANDB_PROJECT", "lightning-zoo"),
        offline=offline,
        settings=wandb.Settings(silent=True, console="off", init_timeout=30),
    )
    omit_anonymous(logger)
    return logger


def finish() -> None:
    """Finish the W&B run, if there is one: the next one in this process would write into it."""
    import sys

    if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
        wandb.finish()
