"""A run of Weights & Biases: one axis for everything, one id from its first session to its last, and a state that is true."""

import contextlib
import math
import os
import secrets
import string
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from recipes.cli.errors import UserError, one_line
from recipes.cli.run.folder import CHECKPOINTS, Run, group_of
from recipes.cli.run.internals import kill_wandb_process
from recipes.cli.run.record import State
from recipes.cli.run.wandb_watch import Watch

AXIS = "trainer/global_step"  # of every chart: the optimizer step, as in metrics.csv
KEY = "wandb"  # in a checkpoint
BEST_STEP = "best_step"  # in the summary: of the best validation
_RESERVED = {AXIS, "_step", "_runtime", "_timestamp", "_wandb"}  # W&B would lose a metric of such a name, or the axis
_FLUSH = 1.0  # seconds until a row is in the file that a kill leaves; W&B itself takes 15
_ANSWER, _UPLOAD, _UPLOAD_FILES = (
    30,
    60,
    600,
)  # seconds that are waited for a service: to begin, and to take the rest at the end
_FROZEN = 30  # seconds after which W&B's own process is killed that takes nothing
_EXIT_CODES: dict[State, int] = {"done": 0, "failed": 1, "stopped": 143}
_CTRL_C = 255  # W&B calls a run "killed" that ends with it


class WandbRun(WandbLogger):
    """Logger of a W&B run. What it sends is in a file of the run folder, too, and uploaded later if it cannot be now.

    Lightning's own logger reuses a run that is in progress, sets ``WANDB_MODE`` for the whole process, marks no failure, and stops
    the training if W&B's process dies.

    Args:
        run: The run folder, which takes W&B's files.
        offline: Whether nothing is uploaded.
        monitor: The metric and the mode, "min" or "max", of the best checkpoint, whose validation becomes W&B's summary.
        before: What the checkpoint of a resumed run has of its W&B run, see :meth:`state`.
        artifacts: The checkpoints that are sent at the end, "none", "best" or "best+last".
        say: Prints a line.
    """

    def __init__(
        self,
        run: Run,
        offline: bool,
        monitor: tuple[str, str] | None = None,
        before: Mapping[str, Any] | None = None,
        artifacts: str = "none",
        say: Callable[[str], None] = print,
    ) -> None:
        folder = run.folder.resolve()  # W&B runs in another process, whose current folder may differ
        group = group_of(run.folder)
        name = folder.name if group is None else f"{group}/{folder.name}"
        before = before or {}
        self._given: dict[str, Any] = {
            "name": f"{run.recipe}/{name}",
            "dir": folder,
            "id": before.get("id") or _last_id(folder) or _new_id(),
            "project": os.environ.get("WANDB_PROJECT", "lightning-zoo"),
            "group": None if group is None else f"{run.recipe}/{group}",
            "resume": "allow",
        }
        super().__init__(id=self._given["id"], project=self._given["project"], save_dir=folder, offline=offline)
        self._artifacts = [] if artifacts == "none" else artifacts.split("+")
        self._folder, self._is_offline, self._say, self._monitor = folder, offline, say, monitor
        self._best: dict[str, Any] = dict(before.get("best") or {})
        self._config: dict[str, Any] = {}
        self._recent: deque[tuple[float, dict[str, Any]]] = deque()  # rows that may not be in the file yet
        self._process = os.getpid()
        self._run: Any = None
        self._watch: Watch | None = None  # as long as there is a run
        self._deaths = 0

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_run": None,
            "_watch": None,
        }  # a process that is started with a copy continues the run by its id

    @property
    @rank_zero_experiment
    @override
    def experiment(self) -> Any:
        if self._run is None:
            self._run = self._start(self._is_offline)
        return self._run

    def _start(self, offline: bool) -> Any:
        import wandb

        for kind in ("CACHE", "CONFIG", "DATA"):
            os.environ.setdefault(f"WANDB_{kind}_DIR", str(self._folder / "wandb" / kind.lower()))
        os.environ.setdefault("WANDB_SILENT", "true")  # what goes wrong is said here, in one line
        waits = {"init_timeout": _ANSWER, "finish_timeout": _UPLOAD_FILES if self._artifacts else _UPLOAD}
        given: dict[str, Any] = {
            name: seconds for name, seconds in waits.items() if f"WANDB_{name.upper()}" not in os.environ
        }
        settings = wandb.Settings(
            silent=True, console="off", finish_timeout_raises=True, x_transaction_log_flush_interval=_FLUSH, **given
        )
        try:
            run = wandb.init(
                **self._given,
                mode="offline" if offline else None,
                settings=settings,
                reinit=None if wandb.run is None else "create_new",  # another one, the user's, goes on by itself
            )
        except (wandb.Error, TimeoutError) as error:
            raise UserError(
                f"W&B does not begin a run ({one_line(str(error))}): use --logger wandb-offline, and `wandb sync` later"
            ) from error
        self._watch = Watch(Path(run.dir).parent / f"run-{run.id}.wandb", kill_wandb_process)
        run.define_metric(AXIS)
        run.define_metric("*", step_metric=AXIS, step_sync=True)
        if self._best:
            self._show_best(run)
        return run

    # What is sent ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the run, so that a service that does not answer is told before anything is trained."""
        _ = self.experiment

    @rank_zero_only
    def describe(self, config: dict[str, Any]) -> None:
        """Set W&B's config."""
        self._config = config
        self._send(lambda run: run.config.update(config, allow_val_change=True))

    @rank_zero_only
    @override
    def log_hyperparams(self, params: Any) -> None:
        """No-op: the whole recipe is in W&B's config."""

    @rank_zero_only
    @override
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {
            f"metric/{name}" if name in _RESERVED else name: value.item() if hasattr(value, "item") else value
            for name, value in metrics.items()
        }
        if step is not None:
            row[AXIS] = step
        best = self._is_best(row)
        if best:
            self._best = best
        written = self._watch.written if self._watch else 0.0
        while self._recent and self._recent[0][0] < written - 3 * _FLUSH:
            self._recent.popleft()
        self._recent.append((time.monotonic(), row))

        def send(run: Any) -> None:
            if best:
                self._show_best(run)
            run.log(row)

        self._send(send)

    @rank_zero_only
    @override
    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        import wandb

        table = wandb.Table(
            columns=None if columns is None else [*columns], data=data, dataframe=dataframe, allow_mixed_types=True
        )
        self.log_metrics({key: table}, step)

    def _is_best(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metrics of a row of the same part of the data as the monitored one, if that is the best so far."""
        name, mode = self._monitor or ("", "")
        if name not in row or math.isnan(row[name]):
            return {}
        if self._best and not (row[name] < self._best[name] if mode == "min" else row[name] > self._best[name]):
            return {}
        part = name.partition("/")[0]
        best = {key: row[key] for key in row if key.partition("/")[0] == part and key != AXIS}
        return {**best, BEST_STEP: row.get(AXIS)}

    def _show_best(self, run: Any) -> None:
        for name in self._best.keys() - {BEST_STEP}:  # else each row would replace it
            run.define_metric(name, step_metric=AXIS, step_sync=True, summary="none")
        run.summary.update(self._best)

    def _send(self, action: Callable[[Any], None]) -> None:
        """Do something with the run; if W&B's own process has died, go on in a new one, offline, and tell so once."""
        if self._deaths == 2:
            return
        run = self.experiment
        assert self._watch is not None
        try:
            with self._watch.waiting(_FROZEN):
                action(run)
        except ConnectionError as error:  # to that process
            self._go_on_offline(error)

    def _go_on_offline(self, error: Exception) -> None:
        """Begin a new process of W&B's after the first one, with the rows that it may have lost; after the second, no more."""
        self._deaths += 1
        killed = self._watch is not None and self._watch.acted
        why = "took nothing any more and was killed" if killed else f"has ended ({one_line(str(error))})"
        if self._deaths == 2:
            self._say(f"warning: W&B's process {why} again: nothing more is sent to it")
            self._tear_down()  # or it would fail again when this process ends
            return
        self._say(
            f"warning: W&B's process {why}: the run goes on offline, in {self._folder / 'wandb'}; upload it with `wandb sync`"
        )
        self._tear_down()
        try:
            self._run = self._start(offline=True)
            self._run.config.update(self._config, allow_val_change=True)
            for _, row in [*self._recent]:
                self._run.log(row)
        except Exception as again:
            self._deaths = 2
            self._say(f"warning: W&B cannot be started again ({one_line(str(again))}): nothing more is sent to it")

    def _tear_down(self) -> None:
        """Forget W&B's process, which has ended, or ends now."""
        import wandb

        if self._watch is not None:
            self._watch.stop()
        with contextlib.suppress(Exception):
            wandb.teardown()

    # The beginning and the end ----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the id, and the metrics of the best validation so far."""
        return {"id": self.version, "best": self._best}

    @rank_zero_only
    @override
    def finalize(self, status: str) -> None:
        if os.getpid() != self._process:  # of a process that was forked, which ends without W&B's notice
            self.finish("done" if status == "success" else "failed", "")

    def finish(self, state: State, message: str) -> None:
        """End the run, if it has begun.

        Args:
            state: How it has ended.
            message: How it was stopped, or the error in one line.
        """
        run, self._run = self._run, None
        if run is None or self._deaths == 2:
            return
        code = _CTRL_C if state == "stopped" and "Ctrl-C" in message else _EXIT_CODES[state]
        assert self._watch is not None
        upload: float = run.settings.finish_timeout or math.inf  # while it lasts, the file stays as it is
        try:
            with self._watch.waiting(upload + _FROZEN):
                self._end(run, state, message, code)
        except Exception as error:  # of its process, or of the service: the run itself has ended as it has
            if self._watch.acted and not self._deaths:
                self._go_on_offline(error)
                self.finish(state, message)
                return
            if not isinstance(error, TimeoutError):
                self._tear_down()
            what = one_line(str(error))
            self._say(
                f"warning: W&B has not got all of the run ({what}): upload the rest with `wandb sync {Path(run.dir).parent}`"
            )
        finally:
            self._watch.stop()

    def _end(self, run: Any, state: State, message: str, code: int) -> None:
        run.summary.update({"state": state, "message": message})  # "": a run that goes on no longer fails as it did
        for kind in self._artifacts:
            self._send_checkpoint(run, kind)
        if code == _EXIT_CODES["stopped"]:
            run.mark_preempting()  # its state is then "preempted", and not "failed"
        run.finish(exit_code=code)

    def _send_checkpoint(self, run: Any, kind: str) -> None:
        """Add ``best.ckpt`` or ``last.ckpt`` to the artifact of the run, with its kind as an alias; the file is copied."""
        import wandb

        path = self._folder / CHECKPOINTS / f"{kind}.ckpt"
        if not path.is_file():
            return
        described = {"state": run.summary.get("state"), **(self._best if kind == "best" else {})}
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=described)
        try:
            artifact.add_file(str(path))
            run.log_artifact(artifact, aliases=[kind, "latest"])
        except Exception as error:  # a full disk, say
            self._say(f"warning: W&B does not get {path} ({one_line(str(error))})")


class RunId(Callback):
    """Save in checkpoints which W&B run it is, so that a resumed run continues it wherever W&B's files are."""

    def __init__(self, logger: WandbRun) -> None:
        self.logger = logger

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.logger.state()


def _last_id(folder: Path) -> str | None:
    """Return the id of the last W&B run in a run folder, whose checkpoint does not tell it; None without one."""
    before = sorted((folder / "wandb").glob("*run-*-*"))
    return before[-1].name.rpartition("-")[2] if before else None


def _new_id() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
