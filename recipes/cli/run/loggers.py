"""Loggers: always ``metrics.csv`` in the run folder, and optionally TensorBoard or W&B."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from recipes.cli.run.folder import METRICS, Run, write_rows
from recipes.cli.run.internals import omit_anonymous


class MetricsFile:
    """A CSV file with one row per optimizer step; metrics logged later for the last step join its row.

    Args:
        path: The file; existing rows are kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = ["step", "epoch"]
        self._row: dict[str, Any] = {}
        self._tail = 0  # offset of the last row in the file
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
                self.names = list(reader.fieldnames or self.names)
            self._rewrite(rows[:-1])
            if rows:
                self._row = {name: value for name, value in rows[-1].items() if value}
                self.save()

    def add(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add metrics of a step."""
        if self._row and str(self._row["step"]) != str(step):
            self.save()
            self._tail = self.path.stat().st_size
            self._row = {}
        values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        self._row.update(values, step=step)

    def save(self) -> None:
        """Write the last row to the file."""
        if not self._row:
            return
        if not self.path.is_file() or not self._row.keys() <= set(self.names):
            rows = self._rows_before_last()
            self.names = [*self.names[:2], *sorted({*self.names[2:], *self._row} - {"step", "epoch"})]
            self._rewrite(rows)
        try:
            with self.path.open("r+", newline="", encoding="utf-8") as file:
                file.seek(self._tail)
                csv.DictWriter(file, self.names).writerow(self._row)
                file.truncate()
        except OSError as error:
            error.filename = error.filename or str(self.path)  # the error of a full disk lacks the name
            raise

    def _rows_before_last(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            text = file.read(self._tail)
        return list(csv.DictReader(text.splitlines()))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        write_rows(self.path, self.names, rows)
        self._tail = self.path.stat().st_size


class MetricsLogger(CSVLogger):
    """Logger of ``metrics.csv``; ``CSVLogger`` itself deletes the rows of a resumed run and writes hparams.yaml."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="")
        self._folder = folder
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
            self._file = MetricsFile(self._folder / METRICS)
        return self._file

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


class _TensorBoard(TensorBoardLogger):
    """Event files in the run folder, without ``hparams.yaml``: ``config.yaml`` has the hyperparameters."""

    @rank_zero_only
    @override
    def save(self) -> None:
        Logger.save(self)


def build(choice: str, run: Run, resumed_at: int | None) -> list[Logger]:
    """Build the loggers of a run.

    Args:
        choice: "csv", "tensorboard", "wandb", "wandb-offline" or "none".
        run: The run whose folder takes all files.
        resumed_at: Optimizer step that a resumed run starts from; None for a new run.
    """
    loggers: list[Logger] = [MetricsLogger(run.folder)]
    if choice == "tensorboard":
        loggers.append(_TensorBoard(run.folder, name="", version="", default_hp_metric=False, purge_step=resumed_at))
    elif choice.startswith("wandb"):
        loggers.append(_wandb(run, offline=choice == "wandb-offline"))
    return loggers


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
