"""Private parts of other libraries that the command line needs; no other file of ``recipes`` uses any."""

import contextlib
import functools
import inspect
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, get_args

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import Logger
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class WandbAccount:
    """The W&B account that a run would be sent to.

    Attributes:
        online: whether runs are sent at all (``WANDB_MODE``, or ``wandb offline`` in this folder).
        server: URL of the server.
        has_credentials: whether there is a key or an identity token for the server.
    """

    online: bool
    server: str
    has_credentials: bool


def wandb_account() -> WandbAccount | None:
    """Look up the W&B account as W&B does when a run starts, without prompting and without the network.

    Returns:
        The account; None if this version of W&B has no such lookup: it then reports a missing key when the run starts.

    Raises:
        ValueError: The key has an invalid format.
    """
    try:
        from wandb.errors import AuthenticationError
        from wandb.sdk.lib.wbauth import authenticate_session
        from wandb.sdk.wandb_setup import singleton

        settings = singleton().settings
        auth = authenticate_session(host=settings.base_url, source="zoo", prompt=False, update_session=False)
    except (ImportError, AttributeError, TypeError):
        return None
    except AuthenticationError as error:
        raise ValueError(str(error)) from error
    return WandbAccount(settings.mode in ("online", "shared", "run"), settings.base_url, auth is not None)


def kill_wandb_process() -> None:
    """Kill W&B's own process, so that what waits for it fails; nothing is done if another process has begun it."""
    from wandb.sdk.wandb_setup import singleton

    with contextlib.suppress(AttributeError, OSError):
        connection: Any = singleton()._connection
        process = connection._proc._process
        process.kill()
        process.wait()


def attach_loggers(trainer: "Trainer", loggers: "list[Logger]") -> None:
    """Give a trainer other loggers after its setup, and them the hyperparameters that it has logged by then."""
    from lightning.pytorch.loggers.utilities import _log_hyperparams

    trainer.loggers = loggers
    if trainer.enable_autolog_hparams:
        _log_hyperparams(trainer)


def coming_row(trainer: "Trainer") -> int | None:
    """Return the step whose row of metrics the trainer is about to write, after a batch's last hooks; None for no row."""
    loop: Any = trainer.fit_loop.epoch_loop
    progress = loop.batch_progress.current
    if progress.processed == progress.completed or not trainer._logger_connector.should_update_logs:
        return None
    results: Any = trainer._results or {}
    logs = any(item.meta.on_step and item.meta.logger for item in results.values())
    return int(loop._batches_that_stepped) if logs else None


def row_of_epoch(trainer: "Trainer") -> tuple[int, dict[str, Any]] | None:
    """Return the step and the metrics of the row that the trainer is about to write for an epoch; None for no row. Collective.

    At the end of an epoch, checkpoints are saved before.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    if not trainer.training or epochs.processed == epochs.completed:
        return None
    metrics: dict[str, Any] = dict(trainer._logger_connector.metrics["log"])
    step = metrics.pop("step", trainer.fit_loop.epoch_loop._batches_that_stepped - 1)
    return (int(step), {"epoch": trainer.current_epoch, **metrics}) if metrics else None


def batch_number(trainer: "Trainer") -> int:
    """Return the number of the training batch at hand, counted from 0 over the whole run, also after a resume."""
    return trainer.fit_loop.total_batch_idx


def start_method(trainer: "Trainer") -> str | None:
    """Return how the trainer starts processes that do its work, so that this one sees nothing of it: "fork"; None if it is one."""
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    launcher = trainer.strategy.launcher
    return launcher._start_method if isinstance(launcher, _MultiProcessingLauncher) else None


def forked_processes(trainer: "Trainer") -> "list[BaseProcess]":
    """Return the processes that the trainer has forked."""
    launcher: Any = trainer.strategy.launcher
    return list(launcher.procs)


def in_forked_processes(trainer: "Trainer", around: Callable[[Callable[[], None], int], None]) -> None:
    """Let each process that the trainer forks do its work within ``around``, which gets the work and the number of the process."""
    launcher: Any = trainer.strategy.launcher
    work = type(launcher)._wrapping_function

    def wrapped(rank: int, *args: Any) -> None:
        around(functools.partial(work, launcher, rank, *args), rank)

    launcher._wrapping_function = wrapped


def fork_again_without_a_gpu() -> None:
    """Let a forked process fork processes of Lightning's, on a machine without a GPU.

    Torch takes it for a use of CUDA that the process before the fork has asked whether there is a GPU.
    """
    import torch

    torch.cuda._is_in_bad_fork = lambda: False


def pass_sigterm_on(trainer: "Trainer") -> None:
    """Let SIGTERM outside of training reach the processes that this one has started, and nothing more before the handler of ours.

    Lightning's own handler also broadcasts: a process that alone gets the signal then waits for the others for ever. And a forked
    process asks after processes that it has not started.
    """
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    connector = trainer._signal_connector

    def pass_on(signum: int, frame: Any) -> None:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signum)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = pass_on  # type: ignore[assignment,method-assign]


def return_progress(trainer: "Trainer") -> None:
    """Let forked processes return the counters of their fit and the best checkpoints, too: Lightning returns one path alone."""
    if start_method(trainer) is None:
        return
    launcher: Any = trainer.strategy.launcher
    collect, restore = launcher.get_extra_results, launcher.update_main_process_results

    def collect_more(trainer: Any) -> dict[str, Any]:
        best = [
            (getattr(callback, "best_model_path", ""), getattr(callback, "best_model_score", None))
            for callback in trainer.checkpoint_callbacks
        ]
        best = [(path, None if score is None else float(score)) for path, score in best]
        return {**collect(trainer), "fit_loop": trainer.fit_loop.state_dict(), "best": best}

    def restore_more(trainer: Any, extra: dict[str, Any]) -> None:
        restore(trainer, extra)
        trainer.fit_loop.load_state_dict(extra["fit_loop"])
        for callback, (path, score) in zip(trainer.checkpoint_callbacks, extra["best"], strict=True):
            callback.best_model_path, callback.best_model_score = path, score

    launcher.get_extra_results, launcher.update_main_process_results = collect_more, restore_more


def save_after_validation(callback: "ModelCheckpoint") -> None:
    """Let a checkpoint callback save after each validation, not at the end of an epoch."""
    callback._save_on_train_epoch_end = False


def epochs_of(checkpoint: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of epochs that the run of a checkpoint has begun and has done."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return progress.get("started", 0), progress.get("processed", 0)


def exit_at_once(code: int) -> NoReturn:
    """End the process without any clean-up."""
    os._exit(code)


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return nested tuples, lists and dicts with the result of a function for each leaf."""
    from torch.utils._pytree import tree_map

    return tree_map(function, tree)


def tree_leaves(tree: Any) -> list[Any]:
    """Return the leaves of nested tuples, lists and dicts."""
    from torch.utils._pytree import tree_leaves

    return tree_leaves(tree)


def trial_of(study: "Study", number: int) -> "Trial":
    """Return a trial of optuna's to report to, by its number, whichever process has begun it."""
    from optuna import Trial

    return Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def draw_rest(trial: "Trial", distributions: "Mapping[str, BaseDistribution]") -> None:
    """Draw the values that a trial of optuna's lacks, because its process was killed before it had all."""
    for name, distribution in distributions.items():
        trial._suggest(name, distribution)


def whole_numbers_first(function: Callable[..., Any]) -> None:
    """Let a parser of annotations read 3 as a whole number where a function takes numbers of both kinds.

    Python keeps one object for the unions of the same types, whichever order was written first: if another package, such as
    scikit-learn, has written ``float | int`` before Lightning is imported, its ``int | float`` is that, and the parser, which goes
    through the types in their order, makes 3 batches 3.0, and 1 batch a whole epoch.
    """
    function = inspect.unwrap(function)
    for name, annotation in function.__annotations__.items():
        types = [*get_args(annotation)]
        if int in types and float in types and types.index(float) < types.index(int):
            types.remove(int)
            # not one of typing's unions, which Python keeps
            function.__annotations__[name] = functools.reduce(operator.or_, [int, *types])
