"""Loggers: always ``metrics.csv`` in the run folder, and optionally TensorBoard, W&B, or a class of the user's."""

import csv
import inspect
import io
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from recipes.cli.errors import UserError
from recipes.cli.run.folder import METRICS, Run, write_rows
from recipes.cli.run.internals import coming_row, row_of_epoch
from recipes.cli.run.record import State
from recipes.cli.run.wandb_run import WandbRun
from zoo.spelling import suggest


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

    def has(self, step: int) -> bool:
        """Return whether the last row is that of a step."""
        return bool(self._row) and str(self._row["step"]) == str(step)

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
    """Save the number of rows of ``metrics.csv`` in checkpoints, so that a resumed run can tell whether some are missing.

    A row that is about to be written counts: a checkpoint within an epoch is saved a moment before the row of its step. The row of
    an epoch, which the resumed run does not train again, is written before.
    """

    KEY = "metrics_rows"  # in a checkpoint

    def __init__(self, logger: MetricsLogger) -> None:
        self.logger = logger

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        row = row_of_epoch(trainer)
        if trainer.is_global_zero:
            if row is not None:
                step, metrics = row
                self.logger.log_metrics(metrics, step)
                self.logger.save()
            file, coming = self.logger.experiment, coming_row(trainer)
            checkpoint[self.KEY] = file.rows + (coming is not None and not file.has(coming))


class _TensorBoard(TensorBoardLogger):
    """Event files in the run folder, without ``hparams.yaml``: ``config.yaml`` has the hyperparameters."""

    @rank_zero_only
    @override
    def save(self) -> None:
        Logger.save(self)


def build(
    choice: str,
    run: Run,
    resumed_at: int | None,
    monitor: tuple[str, str] | None = None,
    wandb: Mapping[str, Any] | None = None,
    artifacts: str = "none",
    say: Callable[[str], None] = print,
) -> list[Logger]:
    """Build the loggers of a run besides :class:`MetricsLogger`.

    Args:
        choice: "csv", "tensorboard", "wandb", "wandb-offline", "none", or the import path of a class.
        run: The run whose folder takes all files.
        resumed_at: Optimizer step that a resumed run starts from; None for a new run.
        monitor: The metric and the mode of the best checkpoint.
        wandb: What the checkpoint of a resumed run has of its W&B run.
        artifacts: The checkpoints that W&B gets, "none", "best" or "best+last".
        say: Prints a line.
    """
    if choice == "tensorboard":
        return [_TensorBoard(run.folder, name="", version="", default_hp_metric=False, purge_step=resumed_at)]
    if choice.startswith("wandb"):
        return [WandbRun(run, choice == "wandb-offline", monitor, wandb, artifacts, say)]
    return [_own(choice, run)] if "." in choice else []


def class_of(path: str) -> type[Logger]:
    """Return the class of a logger by its import path, of a module in the current folder, too.

    Raises:
        UserError: There is no such class, it is no logger, or it needs arguments.
    """
    module, _, name = path.rpartition(".")
    try:
        names = vars(import_module(module))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"--logger {path} cannot be imported: {error}") from error
        raise UserError(f"--logger {path}: there is no module {error.name!r}, nor a file of that name here") from error
    except Exception as error:
        raise UserError(f"--logger {path} cannot be imported: {type(error).__name__}: {error}") from error
    known = [key for key, value in names.items() if isinstance(value, type) and issubclass(value, Logger)]
    cls = names.get(name)
    if cls is None:
        raise UserError(f"--logger {path}: {module} has no {name!r}{suggest(name, known)}")
    if not (isinstance(cls, type) and issubclass(cls, Logger)):
        raise UserError(f"--logger {path} is no class of lightning.pytorch.loggers.Logger{suggest(name, known)}")
    needed = [
        key
        for key, p in inspect.signature(cls).parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and key != "save_dir"
    ]
    if needed or inspect.isabstract(cls):
        what = "is abstract" if not needed else f"needs {', '.join(needed)}"
        raise UserError(
            f"--logger {path} {what}: give a class of your own below it that sets all but save_dir, which is the run folder"
        )
    return cls


def _own(path: str, run: Run) -> Logger:
    cls: Any = class_of(path)
    try:
        logger: Logger = cls(**{"save_dir": run.folder} if "save_dir" in inspect.signature(cls).parameters else {})
    except Exception as error:
        raise UserError(f"--logger {path} cannot be built: {type(error).__name__}: {error}") from error
    return logger


# W&B ----------------------------------------------------------------------------------------------------------------


def wandb_runs(loggers: Iterable[Logger]) -> list[WandbRun]:
    """Return the loggers that are W&B runs."""
    return [logger for logger in loggers if isinstance(logger, WandbRun)]


def finish(loggers: Iterable[Logger], state: State, message: str) -> None:
    """End the W&B runs, as the run has ended: the next one in this process would write into them."""
    for logger in wandb_runs(loggers):
        logger.finish(state, message)
