"""State of the random number generators in checkpoints."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from callbacks.internals import gather_objects, is_fitting


class RandomState(Callback):
    """Save the state of the random number generators in checkpoints: torch (CPU and CUDA), NumPy and Python, of each process.

    Lightning saves none of them, so dropout and all else that is random differs after a resume. The state is restored before the
    loaders are created, and again at the first batch if training continues in mid-epoch, so that numbers drawn in between (by
    the trainer's setup, by a loader that starts) do not matter.

    A run that is resumed with another number of processes may not repeat the same numbers: there is a warning, and each process
    beyond the saved ones takes the state of the first. (A task of the zoo has equal states on all processes, and draws from them
    what one process would.)

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=RandomState(), logger=False, enable_checkpointing=False, barebones=False)
    """

    KEY = "random_state"  # in a checkpoint, one entry for each process

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[self.KEY] = gather_objects(trainer, _current(pl_module.device))

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not is_fitting(trainer):
            return
        self._states = checkpoint.get(self.KEY, [])
        if self._states and len(self._states) != trainer.world_size:
            rank_zero_warn(
                f"The checkpoint holds the random state of {len(self._states)} processes, now there are {trainer.world_size}: "
                "training may continue with other random numbers than the stopped run would have drawn."
            )
        if trainer.strategy.restore_checkpoint_after_setup:  # on_fit_start is over
            self._restore(trainer, pl_module)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore(trainer, pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._states and batch_idx > 0:
            self._restore(trainer, pl_module)
        self._states = []

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._states = []

    def _restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._states:
            rank = trainer.global_rank
            _set(self._states[rank if rank < len(self._states) else 0], pl_module.device)


def _current(device: torch.device) -> dict[str, Any]:
    """Return the states as tensors and plain data, so that a checkpoint loads with ``weights_only=True``."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 (the global generator is meant)
    _, numpy_words, position, has_gauss, numpy_gauss = numpy_state
    state = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(words), gauss],
        "numpy": [torch.tensor(numpy_words.astype(np.int64)), int(position), int(has_gauss), float(numpy_gauss)],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    numpy_words, *rest = state["numpy"]
    np.random.set_state(("MT19937", numpy_words.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
