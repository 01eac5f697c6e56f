"""One run of ``fit``, ``validate`` or ``test``: run folder, trainer, errors, summary."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGINT
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks import GracefulStop, IntervalCheckpoint, LearningCurves, RandomState
from callbacks.graceful_stop import SIGNALS, Stopped
from datamodules.decode import BadImageError
from recipes.cli.console import Console
from recipes.cli.errors import Crash, MachineError, UserError, causes, disk_full, message, one_line
from recipes.cli.pages.report import write_report
from recipes.cli.run import loggers, wandb_run
from recipes.cli.run.building import RecipeCLI, as_list
from recipes.cli.run.changes import recorded_changes
from recipes.cli.run.checkpoints import AtomicCheckpointIO, Best, Last, check_fits, load, load_resumable
from recipes.cli.run.checks import MonitorCheck, missing_monitors
from recipes.cli.run.confusion import Confusion
from recipes.cli.run.durations import interval_of
from recipes.cli.run.environment import environment
from recipes.cli.run.fast import fast_options
from recipes.cli.run.flops import flops_per_example
from recipes.cli.run.folder import (
    CHECKPOINTS,
    CONFIG,
    CONFUSION,
    FOLDER_VARIABLE,
    LOG,
    METRICS,
    RESULTS,
    Run,
    create_run,
    is_main_process,
    kept,
    resumable,
    write_results,
)
from recipes.cli.run.hooks import NoProfiler, leave_out_empty_hooks, look_for_cuda_once
from recipes.cli.run.internals import attach_loggers, pass_sigterm_on, return_progress
from recipes.cli.run.lock import Lock
from recipes.cli.run.loggers import MetricsLogger, RowCount, read_rows
from recipes.cli.run.options import OPTIONS_OF, Options, logger_line, saving_line
from recipes.cli.run.progress import EpochLines, LogInterval, Progress, StartDetector
from recipes.cli.run.ranks import Killed, Ranks
from recipes.cli.run.record import State, begun, ended, is_gone, read_record, write_record
from recipes.cli.run.summary import evaluation_table, fit_summary
from zoo.writing import replacing


def train_or_evaluate(options: Options, console: Console) -> int:
    """Build the parts that the options select, run them and print the result.

    Raises:
        Crash: Training failed after it had begun; the cause is the failure.
        Exception: Parsing, building or setup failed.
    """
    lock = None
    if options.resumed is not None and is_main_process():
        record = read_record(options.resumed)
        lock = Lock(options.resumed, killed=record is not None and is_gone(record))
    try:
        return _train_or_evaluate(options, console)
    finally:
        if lock is not None:
            lock.release()


def _train_or_evaluate(options: Options, console: Console) -> int:
    look_for_cuda_once()
    if "." in (options.logger or ""):
        loggers.class_of(str(options.logger))
    checkpoint, fallback = None, ""
    if options.resumed is not None and options.checkpoint is not None:
        checkpoint, options.checkpoint, fallback = load_resumable(options.checkpoint, options.named)
    elif options.checkpoint is not None:
        checkpoint = load(options.checkpoint)
    fast = fast_options() if options.fast else []
    if options.fast and not fast:
        console.print("--fast has no effect: this machine has no instructions for 16-bit arithmetic")
    args = [*(f"--config={path}" for path in options.configs), *fast, *options.overrides]
    resume = options.resumed is not None
    cli = RecipeCLI(args, options.overrides, checkpoint, resume, verb_options=OPTIONS_OF[options.verb])
    if checkpoint is not None and options.checkpoint is not None:
        check_fits(checkpoint, cli.model, options.checkpoint)
    resumed_at = ResumedAt.of(checkpoint, fallback) if checkpoint and resume else None
    measured = None if checkpoint is None or resume else _facts_of(checkpoint, cli.datamodule)
    del checkpoint
    cli.checkpoint = {}
    session = Session(options, cli, console, resumed_at, measured)
    with session.cleaning_up():
        return session.fit() if options.verb == "fit" else session.evaluate()


def _facts_of(checkpoint: dict[str, Any], data: Any) -> dict[str, Any]:
    """Return when a checkpoint was saved, and the fingerprint of the data that it was trained on."""
    facts = {name: checkpoint.get(name) for name in ("epoch", "global_step")}
    return {**facts, "data_fingerprint": (checkpoint.get(type(data).__qualname__) or {}).get("data")}


@dataclass(frozen=True)
class ResumedAt:
    """Where a run is resumed.

    Args:
        step: Optimizer step of the checkpoint.
        rows: Number of rows that ``metrics.csv`` had then; None if the checkpoint does not tell.
        fallback: Why it is not the last checkpoint; "" if it is.
        wandb: Which W&B run it is, see :meth:`recipes.cli.run.wandb_run.WandbRun.state`; None for none.
    """

    step: int
    rows: int | None
    fallback: str = ""
    wandb: dict[str, Any] | None = None

    @classmethod
    def of(cls, checkpoint: dict[str, Any], fallback: str) -> "ResumedAt":
        """Return where a checkpoint resumes."""
        rows, run = checkpoint.get(RowCount.KEY), checkpoint.get(wandb_run.KEY)
        return cls(checkpoint["global_step"], rows, fallback, run)


class Session:
    """One fit, validation or test.

    Args:
        options: Options of the command line.
        cli: The datamodule, the model and the trainer's arguments.
        console: Output.
        resumed_at: Where the run is resumed; None for a new run. Nothing of a resumed run is written, and nothing that is printed
            goes into its log, before the first batch is done: until then the start may be refused.
        measured: Facts of the checkpoint that is validated or tested, for W&B.
    """

    def __init__(
        self,
        options: Options,
        cli: RecipeCLI,
        console: Console,
        resumed_at: ResumedAt | None,
        measured: dict[str, Any] | None = None,
    ) -> None:
        self.options = options
        self.cli = cli
        self.console = console
        self.resumed_at = resumed_at
        self.measured = measured
        self.module: LightningModule = cli.model
        self.detector = StartDetector(self._attach_loggers, self._record)
        self._recorded = False
        self._begin = time.monotonic()
        self._lock: Lock | None = None  # of a new run
        self._changed = recorded_changes(options.recipe, cli.changes)
        self._loggers: list[Logger] = []
        self.run = self._run_folder()
        try:
            self.metrics, self._loggers = self._build_loggers()
            self.trainer = self._trainer()
            self.ranks = Ranks(self.trainer)
            return_progress(self.trainer)
            pass_sigterm_on(self.trainer)
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
        elif options.folder is not None:
            run = Run(options.folder, options.recipe.name)
        else:
            run = create_run(options.runs, options.recipe.name)
        os.environ[FOLDER_VARIABLE] = str(run.folder.resolve())
        before = None if self.resumed_at is None else read_record(run.folder)
        monitor = getattr(self.module, "monitor", None) or ()
        self._entry = begun(before, options.command, environment(), monitor)
        if self.resumed_at is None:
            try:
                self._lock = Lock(run.folder)
                self.console.open_log(run.folder / LOG)
                self._write_config(run)
                write_record(run.folder, self._entry)
            except BaseException:
                self._release()
                run.discard()
                raise
        return run

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _write_config(self, run: Run, data: str | None = None) -> None:
        recipe = replace(
            self.options.recipe,
            data=data or "",
            changed=", ".join(self._changed),
            logger=logger_line(self.options.logger, self.options.artifacts),
            saving=saving_line(self.options.save_every, self.options.keep),
        )
        with replacing(run.folder / CONFIG) as temporary:
            temporary.write_text(recipe.header() + self.cli.config_text(), encoding="utf-8")

    def _record(self) -> None:
        """Write config.yaml with the data's fingerprint; on resume, also open the log and warn of lost rows."""
        if self.run is None or self._recorded or not self.trainer.is_global_zero:
            return
        self._recorded = True
        # with the fingerprint of the data; on resume it is checked against the checkpoint's by now
        data = getattr(self.cli.datamodule, "data_identity", None)
        self._write_config(self.run, data)
        for logger in loggers.wandb_runs(self._loggers):
            logger.describe(self._described(data))
        if self.resumed_at is None:
            return
        for name in (RESULTS, CONFUSION):
            (self.run.folder / name).unlink(missing_ok=True)  # it goes on
        write_record(self.run.folder, self._entry)
        self.console.open_log(self.run.folder / LOG)
        for orphan in self.run.folder.rglob(".*.tmp"):  # left by a kill while a file was written
            orphan.unlink()
        for path in kept(self.run.folder):  # of steps that the run makes again
            if int(path.stem.partition("_")[2]) > self.resumed_at.step:
                path.unlink()
        self._warn_of_lost_rows(self.run.folder / METRICS)

    def _described(self, data: str | None) -> dict[str, Any]:
        """Return the resolved recipe, and what else tells one run from another, as W&B's config."""
        described = {
            "recipe": self.options.recipe.name,
            **self.cli.resolved(),
            "environment": self._entry.environment,
            "data_fingerprint": data,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "flops_per_example": flops_per_example(self.module),
        }
        if self.measured is not None:
            # a test does not read the data of the training, which the fingerprint is of
            described["data_fingerprint"] = data or self.measured["data_fingerprint"]
            described["checkpoint"] = {"path": str(self.options.checkpoint), **self.measured}
        return described

    def _warn_of_lost_rows(self, path: Path) -> None:
        assert self.resumed_at is not None
        assert self.metrics is not None
        file, expected, step = self.metrics.experiment, self.resumed_at.rows, self.resumed_at.step
        lost = ""
        if file.missing and expected != 0 and step:
            lost = f"{path} is missing: its rows before step {step} are lost, a new file begins"
        elif file.kept < (expected or 0):
            lost = f"{path} has {file.kept} of the {expected} rows before step {step}: the others are lost"
        elif file.damaged:
            lost = f"{path} ended in the middle of a line, or had one that is damaged: it is left out"
        if lost:
            self.console.print(f"warning: {lost}", error=True)

    def _trainer(self) -> Trainer:
        given: dict[str, Any] = dict(self.cli.config_init.trainer)
        given.pop("logger", None)
        given.pop("default_root_dir", None)
        users: list[Callback] = as_list(given.pop("callbacks", None))
        plugins: list[Any] = as_list(given.pop("plugins", None))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO(self.options.keep))
        elif self.options.keep > 1:
            raise UserError(
                "--keep is for checkpoints that zoo writes: leave it out, or the CheckpointIO of trainer.plugins"
            )
        if SLURMEnvironment.detect() and not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
            plugins.append(SLURMEnvironment(auto_requeue=False))  # GracefulStop saves on its signal
        wants = given.get("enable_checkpointing") is not False
        if not wants and (self.options.save_every or self.options.keep > 1 or self.options.deadline is not None):
            raise UserError(
                "--save-every, --keep and --time-limit save checkpoints, and trainer.enable_checkpointing is false: leave one out"
            )
        saves = self.options.verb == "fit" and self.run is not None and wants
        ours = self._callbacks(saves, bars=given.get("enable_progress_bar") is not False)
        kinds = tuple(type(callback) for callback in users)
        ours = [callback for callback in ours if type(callback) not in kinds]
        public = [callback for callback in users if type(callback).__module__.startswith("callbacks.")]
        leave_out_empty_hooks([self.detector, *ours, *public])
        return Trainer(
            **{
                **given,
                "profiler": given.get("profiler") or NoProfiler(),
                "enable_checkpointing": saves,
                "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in [*users, *ours]),
                "enable_model_summary": bool(given.get("enable_model_summary")),
            },
            callbacks=[self.detector, *users, *ours],
            plugins=plugins,
            logger=self._loggers[:1] if self.resumed_at is not None else self._loggers,
            default_root_dir=self.run.folder if self.run else None,
        )

    def _callbacks(self, saves: bool, bars: bool) -> list[Callback]:
        callbacks: list[Callback] = []
        if bars and not (self.console.silent or self.console.quiet) and self.console.is_terminal():
            callbacks.append(Progress())
        if self.options.verb != "fit":
            return callbacks
        callbacks += [MonitorCheck(), EpochLines(self.console), RandomState()]
        callbacks += self.options.callbacks
        if self.cli.config_init.trainer.log_every_n_steps is None:
            callbacks.append(LogInterval())
        if self.run is not None:
            callbacks += [LearningCurves(), Confusion(self.run.folder)]
        if saves and self.run is not None:
            folder = self.run.folder / CHECKPOINTS
            if (monitor := getattr(self.module, "monitor", None)) is not None:
                callbacks.append(Best(folder, *monitor))
            callbacks.append(Last(folder))
            if self.options.save_every:
                seconds, steps = interval_of("--save-every", self.options.save_every)
                callbacks.append(IntervalCheckpoint(folder, seconds, steps))
            deadline = self.options.deadline
            left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
            callbacks.append(GracefulStop(folder, left))
            if self.metrics is not None:
                callbacks.append(RowCount(self.metrics))
            callbacks += [wandb_run.RunId(logger) for logger in loggers.wandb_runs(self._loggers)]
        return callbacks

    def _build_loggers(self) -> tuple[MetricsLogger | None, list[Logger]]:
        if self.run is None:
            return None, []
        step = None if self.resumed_at is None else self.resumed_at.step
        metrics = MetricsLogger(self.run.folder, step)
        before = None if self.resumed_at is None else self.resumed_at.wandb
        monitor = getattr(self.module, "monitor", None)
        choice = self.options.logger or "csv"
        built = loggers.build(choice, self.run, step, monitor, before, self.options.artifacts, self._warn)
        return metrics, [metrics, *built]

    def _warn(self, text: str) -> None:
        self.console.print(text, error=True)

    def _attach_loggers(self) -> None:
        """Add the loggers of a resumed run that write as soon as they are used, and begin the W&B run."""
        if self.resumed_at is not None and self.trainer.loggers != self._loggers:
            attach_loggers(self.trainer, self._loggers)
        if self.trainer.is_global_zero:
            for logger in loggers.wandb_runs(self._loggers):
                logger.start()

    # The verbs ------------------------------------------------------------------------------------------------------

    def fit(self) -> int:
        """Train, test the best checkpoint and print the summary."""
        self._print_start()
        begin = time.monotonic()
        with self.ranks.joined():
            self.trainer.fit(
                self.module, datamodule=self.cli.datamodule, ckpt_path=self.options.checkpoint, weights_only=True
            )
        if self.run is not None and self.metrics is not None and self.ranks.forked:
            # the first of the processes has recorded the run
            self.console.open_log(self.run.folder / LOG, keep=False)
            self.metrics.reopen()
            self._recorded = True
        else:
            self._attach_loggers()  # a finished run has not trained, but is tested again
            self._record()
        seconds = time.monotonic() - begin
        best = self._best()
        results = self._test(best) if self.options.tests else {}
        if self.run is not None and self.trainer.is_global_zero:
            write_results(self.run.folder, self._ended(results, seconds))
        self.console.print(fit_summary(self.options, self.run, self.trainer, best, results, seconds, self._changed))
        return 0

    def _ended(self, results: dict[str, float], seconds: float) -> dict[str, Any]:
        """Return how the fit has ended, as plain data."""
        best = next((c for c in self.trainer.checkpoint_callbacks if isinstance(c, Best)), None)
        score = None if best is None or best.best_model_score is None else float(best.best_model_score)
        return {
            "metrics": results,
            "best": None
            if best is None or score is None
            else {"name": best.monitor, "value": score, "mode": best.mode},
            "epochs": self.trainer.current_epoch,
            "steps": self.trainer.global_step,
            "seconds": round(seconds, 3),
        }

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
        return next(iter(resumable(self.run.folder)), None) if self.run else None

    def _good(self) -> str:
        """Tell what is left of a run that has failed."""
        checkpoint = self._last_good()
        return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"

    def _test(self, checkpoint: Path | None) -> dict[str, float]:
        data = self.cli.datamodule
        if not is_overridden("test_step", self.module) or not (
            is_overridden("test_dataloader", self.module) or (data and is_overridden("test_dataloader", data))
        ):
            return {}
        run = self.trainer.test if getattr(data, "has_test", True) else self.trainer.validate
        with self.ranks.joined():
            results = run(self.module, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        return {name: value for result in results for name, value in result.items()}

    def evaluate(self) -> int:
        """Validate or test a checkpoint and print the metrics."""
        for note in self.options.notes:
            self.console.print(f"note: {note}")
        run = self.trainer.validate if self.options.verb == "validate" else self.trainer.test
        with self.ranks.joined():
            results = run(
                self.module,
                datamodule=self.cli.datamodule,
                ckpt_path=self.options.checkpoint,
                weights_only=True,
                verbose=False,
            )
        metrics = {name: value for result in results for name, value in result.items()}
        self.console.print(evaluation_table(self.options, metrics, self._changed))
        return 0

    def _print_start(self) -> None:
        count = sum(p.numel() for p in self.module.parameters())
        where = f", into {self.run.folder}" if self.run else ", nothing is saved"
        how = "starts" if self.resumed_at is None else f"resumes at step {self.resumed_at.step} with its config.yaml"
        for note in self.options.notes:
            self.console.print(f"note: {note}")
        self.console.print(
            f"{self.options.recipe.name} {how}: {type(self.module).__name__}, {count:,} parameters, on "
            f"{self.trainer.world_size} x {self.trainer.strategy.root_device.type}{where}"
        )
        if self.resumed_at is not None and self.resumed_at.fallback:
            self.console.print(f"warning: {self.resumed_at.fallback}{self._again()}", error=True)
        if self.resumed_at is not None:
            for key, (old, new) in self.cli.changes.items():
                self.console.print(f"  {key}: {one_line(str(old))} -> {one_line(str(new))}, from here on")

    def _again(self) -> str:
        """Tell what of a run is trained again that goes on from an earlier checkpoint."""
        assert self.resumed_at is not None
        assert self.run is not None
        _, rows, _ = read_rows(self.run.folder / METRICS)
        last = max((int(row["step"]) for row in rows), default=-1)
        first = self.resumed_at.step  # rows are counted from 0
        return f"; steps {first + 1} to {last + 1} are trained again" if last >= first else ""

    # The end --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def cleaning_up(self) -> Iterator[None]:
        """Leave no empty run folder, no lock, no process group and no W&B run behind, and tell in the run folder how it ended."""
        end: tuple[State, str] = ("done", "")
        try:
            with self._explained():
                yield
        except BaseException as error:
            end = how_ended(error)
            raise
        finally:
            self._write_end(*end)
            loggers.finish(self._loggers, *end)
            self._release()
            os.environ.pop(FOLDER_VARIABLE, None)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    def _write_end(self, state: State, message: str) -> None:
        if self.run is None or not is_main_process() or not (self._recorded or self.detector.started):
            return
        with contextlib.suppress(OSError):  # a full disk: the failure itself is reported
            write_record(self.run.folder, ended(self._entry, state, message, time.monotonic() - self._begin))
        problem = write_report(self.run.folder)
        if problem and state != "failed":
            self.console.print(f"warning: {problem}", error=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Report known failures in one line, and discard a run that has not begun."""
        try:
            yield
        except Exception as error:
            # on a full disk the end of a fit may fail too: the first failure counts
            if (machine := next((e for e in causes(error) if isinstance(e, MachineError)), None)) is not None:
                if isinstance(machine, Killed) and self.detector.started:
                    raise MachineError(f"{machine}; {self._good()}") from None
                if isinstance(machine, Killed):
                    self._discard()
                raise machine from None
            if self.detector.started and (failed := disk_full(error) or self._in_run_folder(error)) is not None:
                raise MachineError(
                    f"cannot write {failed.filename or 'into the run folder'}: {failed.strerror}; {self._good()}"
                ) from error
            known = (BadImageError, FloatingPointError)  # failures during training that one line explains
            if self.detector.started and (bad := next((e for e in causes(error) if isinstance(e, known)), None)):
                if self._last_good() is None and isinstance(bad, BadImageError):
                    self._discard()
                    raise UserError(message(bad)) from error
                text = f"{message(bad)}; {self._good()}"
                self.console.log(f"zoo: error: {text}")
                raise UserError(text) from error
            if self.detector.started:
                self._explain_monitor(error)
                raise Crash from error
            self._discard()
            raise
        except BaseException:
            if not self.detector.started:
                self._discard()
            raise

    def _in_run_folder(self, error: Exception) -> OSError | None:
        """Return the first error among the causes that is about a file of the run, which something else has taken away."""
        if self.run is None:
            return None
        folder = self.run.folder.resolve()
        errors = [cause for cause in causes(error) if isinstance(cause, OSError) and isinstance(cause.filename, str)]
        return next((cause for cause in errors if Path(cause.filename).resolve().is_relative_to(folder)), None)

    def _explain_monitor(self, error: Exception) -> None:
        """Name the monitored metric that an error is about, and those that are logged.

        Raises:
            UserError: The error is about one.
        """
        for name, text in missing_monitors(self.trainer):
            if any(repr(name) in str(e) or f"`{name}`" in str(e) for e in causes(error)):
                self.console.log(f"zoo: error: {text}")
                raise UserError(text) from error

    def _discard(self) -> None:
        if self.run is not None:
            loggers.finish(self._loggers, "failed", "it was refused before the first batch")
            self.console.close_log()
            self._release()
            self.run.discard()


def how_ended(error: BaseException) -> tuple[State, str]:
    """Return the state of a run that an exception has ended, and what to say of it."""
    if isinstance(error, Crash):
        cause = error.__cause__ or error
        return "failed", one_line(f"{type(cause).__name__}: {cause}")
    if isinstance(error, Exception):
        return "failed", one_line(str(error))
    if isinstance(error, Stopped):
        return "stopped", f"by {error.how}"
    names: dict[Any, str] = {128 + signum: signum.name for signum in SIGNALS}
    names |= {128 + SIGINT: "Ctrl-C", 1: "Ctrl-C"}  # 1: as Lightning ends after an interrupt
    if isinstance(error, SystemExit) and error.code not in names:
        return "failed", f"it ended itself with code {error.code}"
    return "stopped", f"by {names[error.code] if isinstance(error, SystemExit) else 'Ctrl-C'}, not saved"
