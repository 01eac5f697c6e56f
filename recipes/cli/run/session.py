"""One run of ``fit``, ``validate`` or ``test``: run folder, trainer, errors, summary."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks import GracefulStop, LearningCurves, RandomState
from datamodules.decode import BadImageError
from recipes.cli.catalog import Recipe
from recipes.cli.console import Console
from recipes.cli.errors import Crash, MachineError, UserError, causes, disk_full, message
from recipes.cli.run import loggers
from recipes.cli.run.building import RecipeCLI, as_list
from recipes.cli.run.checkpoints import AtomicCheckpointIO, Best, Last, check_fits, load
from recipes.cli.run.fast import fast_options
from recipes.cli.run.folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    FOLDER_VARIABLE,
    LAST,
    LOG,
    METRICS,
    Run,
    create_run,
    drop_rows_from,
    is_main_process,
)
from recipes.cli.run.options import OPTIONS_OF, Options
from recipes.cli.run.progress import EpochLines, LogInterval, Progress, StartDetector
from recipes.cli.run.summary import evaluation_table, fit_summary
from zoo.writing import replacing


def train_or_evaluate(options: Options, console: Console) -> int:
    """Build the parts that the options select, run them and print the result.

    Raises:
        Crash: Training failed after it had begun; the cause is the failure.
        Exception: Parsing, building or setup failed.
    """
    checkpoint = load(options.checkpoint) if options.checkpoint else None
    hparams = (checkpoint or {}).get("hyper_parameters")
    fast = fast_options() if options.fast else []
    if options.fast and not fast:
        console.print("--fast has no effect: this machine has no instructions for 16-bit arithmetic")
    args = [*(f"--config={path}" for path in options.configs), *fast, *options.overrides]
    cli = RecipeCLI(
        args, options.overrides, hparams, prefer_saved=options.verb != "fit", verb_options=OPTIONS_OF[options.verb]
    )
    if checkpoint is not None and options.checkpoint is not None:
        check_fits(checkpoint, cli.model, options.checkpoint)
    resumed_at = checkpoint["global_step"] if checkpoint is not None and options.verb == "fit" else None
    del checkpoint
    session = Session(options, cli, console, resumed_at)
    with session.cleaning_up():
        return session.fit() if options.verb == "fit" else session.evaluate()


class Session:
    """One fit, validation or test.

    Args:
        options: Options of the command line.
        cli: The datamodule, the model and the trainer's arguments.
        console: Output.
        resumed_at: Optimizer step of the checkpoint to resume from; None for a new run.
    """

    def __init__(self, options: Options, cli: RecipeCLI, console: Console, resumed_at: int | None) -> None:
        self.options = options
        self.cli = cli
        self.console = console
        self.resumed_at = resumed_at
        self.module: LightningModule = cli.model
        self.detector = StartDetector(self._record_data)
        self.run = self._run_folder()
        try:
            self.trainer = self._trainer()
        except BaseException:
            self._discard()
            raise

    # Preparation ----------------------------------------------------------------------------------------------------

    def _run_folder(self) -> Run | None:
        """Return the folder of this run; None if nothing is to be saved."""
        options = self.options
        evaluation = options.verb != "fit"
        if self.cli.config_init.trainer.fast_dev_run or (evaluation and options.logger in (None, "none")):
            return None
        if not is_main_process():  # only rank zero writes; it passes the folder to the processes that it starts
            folder = os.environ.get(FOLDER_VARIABLE, options.runs / options.recipe.name / "of_rank_zero")
            return Run(Path(folder), options.recipe.name)
        if options.resumed is not None:
            run = Run(options.resumed, options.recipe.name)
        else:
            run = create_run(options.runs, options.recipe.name)
        os.environ[FOLDER_VARIABLE] = str(run.folder.resolve())
        try:
            self._write_folder(run)
        except BaseException:
            run.discard()
            raise
        return run

    def _write_folder(self, run: Run) -> None:
        self.console.open_log(run.folder / LOG)
        if self.options.resumed is None:  # a resumed run keeps its config until the setup has succeeded
            self._write_config(run, self.options.recipe)
        if self.resumed_at is not None:
            drop_rows_from(run.folder / METRICS, self.resumed_at)
            for orphan in (run.folder / CHECKPOINTS).glob(".*.tmp"):  # left by a kill while saving
                orphan.unlink()

    def _write_config(self, run: Run, recipe: Recipe) -> None:
        with replacing(run.folder / CONFIG) as temporary:
            temporary.write_text(recipe.header() + self.cli.config_text(), encoding="utf-8")

    def _record_data(self) -> None:
        """Write the fingerprint of the data into ``config.yaml``; on resume it is checked against the checkpoint's by now."""
        if self.run is not None and self.trainer.is_global_zero:
            data = getattr(self.cli.datamodule, "data_identity", None)
            self._write_config(self.run, replace(self.options.recipe, data=data or ""))

    def _trainer(self) -> Trainer:
        given: dict[str, Any] = dict(self.cli.config_init.trainer)
        given.pop("logger", None)
        given.pop("default_root_dir", None)
        users: list[Callback] = as_list(given.pop("callbacks", None))
        plugins: list[Any] = as_list(given.pop("plugins", None))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        saves = self.options.verb == "fit" and self.run is not None and given.get("enable_checkpointing") is not False
        ours = self._callbacks(saves, bars=given.get("enable_progress_bar") is not False)
        kinds = tuple(type(callback) for callback in users)
        return Trainer(
            **{
                **given,
                "enable_checkpointing": saves,
                "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in [*users, *ours]),
                "enable_model_summary": bool(given.get("enable_model_summary")),
            },
            callbacks=[*users, *(c for c in ours if type(c) not in kinds)],
            plugins=plugins,
            logger=self._loggers(),
            default_root_dir=self.run.folder if self.run else None,
        )

    def _callbacks(self, saves: bool, bars: bool) -> list[Callback]:
        callbacks: list[Callback] = [self.detector]
        if bars and not self.console.silent and self.console.is_terminal():
            callbacks.append(Progress())
        if self.options.verb != "fit":
            return callbacks
        callbacks += [EpochLines(self.console), RandomState()]
        if self.cli.config_init.trainer.log_every_n_steps is None:
            callbacks.append(LogInterval())
        if self.run is not None:
            callbacks.append(LearningCurves())
        if saves and self.run is not None:
            folder = self.run.folder / CHECKPOINTS
            if (monitor := getattr(self.module, "monitor", None)) is not None:
                callbacks.append(Best(folder, *monitor))
            callbacks += [Last(folder), GracefulStop(folder)]
        return callbacks

    def _loggers(self) -> list[Logger] | bool:
        if self.run is None:
            return False
        return loggers.build(self.options.logger or "csv", self.run, self.resumed_at)

    # The verbs ------------------------------------------------------------------------------------------------------

    def fit(self) -> int:
        """Train, test the best checkpoint and print the summary."""
        self._print_start()
        begin = time.monotonic()
        self.trainer.fit(
            self.module, datamodule=self.cli.datamodule, ckpt_path=self.options.checkpoint, weights_only=True
        )
        seconds = time.monotonic() - begin
        best = self._best()
        results = self._test(best)
        self.console.print(fit_summary(self.options, self.run, self.trainer, best, results, seconds))
        return 0

    def _best(self) -> Path | None:
        """Return the checkpoint to test: the best one, or without validation the last; None if nothing was saved."""
        for kind in (Best, Last):
            for callback in self.trainer.checkpoint_callbacks:
                if isinstance(callback, kind) and isinstance(callback, ModelCheckpoint):
                    path = Path(str(callback.dirpath), f"{callback.filename}.ckpt")
                    if callback.best_model_path and path.is_file():
                        return path
        return None

    def _last_good(self) -> Path | None:
        folder = None if self.run is None else self.run.folder / CHECKPOINTS
        return next((folder / n for n in (LAST, BEST) if (folder / n).is_file()), None) if folder else None

    def _test(self, checkpoint: Path | None) -> dict[str, float]:
        data = self.cli.datamodule
        if not is_overridden("test_step", self.module) or not (
            is_overridden("test_dataloader", self.module) or (data and is_overridden("test_dataloader", data))
        ):
            return {}
        run = self.trainer.test if getattr(data, "has_test", True) else self.trainer.validate
        results = run(self.module, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        return {name: value for result in results for name, value in result.items()}

    def evaluate(self) -> int:
        """Validate or test a checkpoint and print the metrics."""
        run = self.trainer.validate if self.options.verb == "validate" else self.trainer.test
        results = run(
            self.module,
            datamodule=self.cli.datamodule,
            ckpt_path=self.options.checkpoint,
            weights_only=True,
            verbose=False,
        )
        metrics = {name: value for result in results for name, value in result.items()}
        self.console.print(evaluation_table(self.options, metrics))
        return 0

    def _print_start(self) -> None:
        count = sum(p.numel() for p in self.module.parameters())
        where = f", into {self.run.folder}" if self.run else ", nothing is saved"
        how = "starts" if self.resumed_at is None else f"resumes at step {self.resumed_at} with its config.yaml"
        self.console.print(
            f"{self.options.recipe.name} {how}: {type(self.module).__name__}, {count:,} parameters, on "
            f"{self.trainer.world_size} x {self.trainer.strategy.root_device.type}{where}"
        )

    # The end --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def cleaning_up(self) -> Iterator[None]:
        """Leave no empty run folder, no process group and no W&B run behind, and report known failures in one line."""
        try:
            yield
        except Exception as error:
            # on a full disk the end of a fit may fail too: the first failure counts
            if (machine := next((e for e in causes(error) if isinstance(e, MachineError)), None)) is not None:
                raise machine from None
            if self.detector.started and (full := disk_full(error)) is not None:
                raise MachineError(
                    f"cannot write {full.filename or 'into the run folder'}: {full.strerror}; the last good checkpoint is "
                    f"{self._last_good() or 'missing: there was none yet'}"
                ) from error
            known = (BadImageError, FloatingPointError)  # failures during training that one line explains
            if self.detector.started and (bad := next((e for e in causes(error) if isinstance(e, known)), None)):
                checkpoint = self._last_good()
                if checkpoint is None and isinstance(bad, BadImageError):
                    self._discard()
                    raise UserError(message(bad)) from error
                text = f"{message(bad)}; " + (
                    f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
                )
                self.console.log(f"zoo: error: {text}")
                raise UserError(text) from error
            if self.detector.started:
                raise Crash from error
            self._discard()
            raise
        except BaseException:
            if not self.detector.started:
                self._discard()
            raise
        finally:
            loggers.finish()
            os.environ.pop(FOLDER_VARIABLE, None)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    def _discard(self) -> None:
        if self.run is not None:
            loggers.finish()
            self.console.close_log()
            self.run.discard()
