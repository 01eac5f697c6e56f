"""Checkpoints: written so that the previous one survives a failure, read so that no file can run code."""

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from weakref import proxy

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from recipes.cli.errors import MachineError, UserError, causes, disk_full, message
from recipes.cli.run.folder import CONFIG, LAST, kept, resumable
from recipes.cli.run.internals import save_after_validation
from zoo.pretrained.files import read_checkpoint
from zoo.writing import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Save to a temporary file in the same folder and replace the checkpoint by it atomically.

    The stock plugin keeps a second copy in memory and moves it from the system's temporary folder, often on another file
    system, where a move is a copy: a full disk or a kill then leaves half a checkpoint. Here the previous checkpoint is
    complete at any time, and a kill leaves at most one ``.tmp`` file, which the next save replaces. File and folder are flushed
    to the disk before training goes on. The file holds a checksum of each tensor.

    Args:
        keep: Number of the last checkpoints that are kept: ``last.ckpt``, and the ones before as ``step_N.ckpt``.
    """

    def __init__(self, keep: int = 1) -> None:
        self.keep = keep

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with self._replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def copy_checkpoint(self, source: Path, path: Path) -> bool:
        """Save a copy of a checkpoint file, as safely; return whether there is such a file.

        No hard link: whoever then changes one of the two files in place would change both.
        """
        if not source.is_file():
            return False
        with source.open("rb") as checkpoint, self._replacing(path) as file:
            shutil.copyfileobj(checkpoint, file, 2**20)
        return True

    @contextlib.contextmanager
    def _replacing(self, path: Path) -> Iterator[IO[bytes]]:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, durable=True) as temporary:
                with temporary.open("wb") as file:
                    yield file
                if self.keep > 1 and path.name == LAST:
                    _keep_previous(path, temporary)
            for old in kept(path.parent.parent)[self.keep - 1 :] if path.name == LAST else ():
                old.unlink(missing_ok=True)
        except BaseException as error:
            if (
                failed := disk_full(error) or next((e for e in causes(error) if isinstance(e, OSError)), None)
            ) is not None:
                left = f"the previous {path.name} is kept" if path.is_file() else "there is no earlier one"
                if isinstance(failed, FileNotFoundError):
                    left = "its folder was taken away"
                raise MachineError(f"cannot save {path}: {failed.strerror or failed}; {left}") from error
            raise

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        if Path(path).name == ".temp.ckpt":  # bare weights, returned by processes that Lightning forks
            weights: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
            return weights
        return load(Path(path))


def _keep_previous(path: Path, new: Path) -> None:
    """Let ``last.ckpt``, which is about to be replaced, stay as ``step_N.ckpt``.

    Not if it is damaged, or of steps that the run makes again because it was resumed from an earlier checkpoint.
    """
    try:
        step, now = (int(read_checkpoint(file, mmap=True, verify=False)["global_step"]) for file in (path, new))
    except (OSError, ValueError, KeyError):
        return
    if step >= now:
        return
    other = path.with_name(f"step_{step}.ckpt")
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)  # the same file for a moment: path is given a new one
    except OSError:  # a file system without links
        shutil.copyfile(path, other)


class Best(ModelCheckpoint):
    """Keep the checkpoint with the best value of a metric as ``best.ckpt``; the run folder may be moved before a resume."""

    on_train_batch_end = None  # type: ignore[assignment]  # saves after epochs alone: the trainer skips a hook that is None

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
        self._validated = False
        self._saved_at: int | None = None  # optimizer step of the last epoch's end at which it saved

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if isinstance(trainer.val_check_interval, int):  # batches; Lightning takes 1 batch for 1.0, a whole epoch
            save_after_validation(self)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True
        super().on_validation_end(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # without validation there is no best one; a metric that is still missing after validation is an error in super()
        if self._validated or self.monitor in trainer.callback_metrics:
            before = self.current_score  # a new tensor for each new best
            super().on_train_epoch_end(trainer, pl_module)
            if self.current_score is not before:
                self._saved_at = trainer.global_step

    def saved_now(self, trainer: Trainer) -> bool:
        """Return whether it has saved at this end of an epoch: what is saved next is the same."""
        return self._saved_at == trainer.global_step

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def relocate(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else ""

        state = {**state_dict, "dirpath": self.dirpath, "last_model_path": relocate(state_dict["last_model_path"])}
        for key in ("best_model_path", "kth_best_model_path"):
            state[key] = relocate(state_dict[key])
        state["best_k_models"] = {relocate(path): value for path, value in state_dict["best_k_models"].items()}
        super().load_state_dict(state)
        self.current_score = state_dict["current_score"]  # saved and not restored by Lightning


class Last(ModelCheckpoint):
    """Save ``last.ckpt`` after every epoch; Lightning's ``save_last`` saves only when there is a new best.

    Where :class:`Best`, which comes before, has just saved, its file is copied.
    """

    on_train_batch_end = None  # type: ignore[assignment]  # as of Best

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, Best)), None)
        if best is None or not best.saved_now(trainer) or not self._copied(trainer, Path(best.best_model_path)):
            super().on_train_epoch_end(trainer, pl_module)

    def _copied(self, trainer: Trainer, source: Path) -> bool:
        """Copy a checkpoint unless it is saved otherwise, by a user's plugin or as a folder of several processes."""
        plugin = trainer.strategy.checkpoint_io
        if not isinstance(plugin, AtomicCheckpointIO):
            return False
        path = Path(str(self.dirpath), LAST)
        copied = trainer.strategy.broadcast(trainer.is_global_zero and plugin.copy_checkpoint(source, path))
        if copied:
            self.best_model_path = str(path)
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.after_save_checkpoint(proxy(self))  # as Lightning does after each save
        return copied

    @override
    def state_dict(self) -> dict[str, Any]:
        return {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def load(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint, tensors and plain data only.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, is damaged, or would run code.
    """
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    return checkpoint


def load_resumable(path: Path, named: bool) -> tuple[dict[str, Any], Path, str]:
    """Read the checkpoint to resume from; if it is damaged, the newest of the run that is not.

    Args:
        path: The checkpoint.
        named: Whether the user has named it: then no other one will do.

    Returns:
        The checkpoint, its path, and what to say if it is another one.

    Raises:
        UserError: None can be read.
        ValueError: It is damaged, and named.
    """
    run = path.parent.parent
    if not named and (folder := path.with_name(LAST)).is_dir():
        raise UserError(f"{folder} is a folder, not a checkpoint: move it away, then the run goes on from {path.name}")
    try:
        checkpoint = load(path)
        missing = "" if named or path.name == LAST else f"{path.with_name(LAST)} is missing"
        return checkpoint, path, f"{missing}; {_goes_on(checkpoint, path)}" if missing else ""
    except ValueError as error:
        if named:
            others = (
                f"; zoo fit --resume {shlex.quote(str(run))} takes the newest one that is whole"
                if resumable(run)
                else ""
            )
            raise ValueError(f"{message(error)}{others}") from error
        damaged = [message(error)]
    found: tuple[dict[str, Any], Path] | None = None
    for other in resumable(run):
        if other == path:
            continue
        try:
            checkpoint = load(other)
        except ValueError as error:
            damaged.append(message(error))
            continue
        if found is None or checkpoint["global_step"] > found[0]["global_step"]:
            found = checkpoint, other
    why = "; ".join(text.partition(": take an earlier")[0] for text in damaged)
    if found is None:
        raise UserError(f"{why}; there is no other: start again with zoo fit -c {shlex.quote(str(run / CONFIG))}")
    checkpoint, other = found
    return checkpoint, other, f"{why}; {_goes_on(checkpoint, other)}"


def _goes_on(checkpoint: Mapping[str, Any], path: Path) -> str:
    return f"the run goes on from {path.name}, step {checkpoint['global_step']}"


def check_fits(checkpoint: Mapping[str, Any], module: LightningModule, path: Path) -> None:
    """Refuse a checkpoint of another model before it is used.

    Raises:
        UserError: A weight is missing, unknown or of another shape.
    """
    saved, expected = checkpoint["state_dict"], module.state_dict()
    # mean and std are one number before the first fit and one per channel afterwards
    skip = {"mean", "std"}
    missing, unknown = expected.keys() - saved.keys(), saved.keys() - expected.keys()
    shapes = [k for k in expected.keys() & saved.keys() - skip if expected[k].shape != saved[k].shape]
    if not (missing or unknown or shapes):
        return
    if shapes:
        key = min(shapes)
        why = f"{key} has shape {tuple(saved[key].shape)} there and {tuple(expected[key].shape)} here"
    else:
        why = f"it lacks {min(missing)}" if missing else f"it has {min(unknown)}, which is unknown here"
    name = (checkpoint.get("zoo") or {}).get("model")
    raise UserError(
        f"{path} is a checkpoint of another model{f' ({name})' if name else ''} than {type(module).__name__}: {why}; "
        "give the recipe and the options it was trained with"
    )
