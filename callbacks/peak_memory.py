"""Peak memory."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.internals import largest_over_ranks
from callbacks.monitor import Monitor

resource: Any = import_module("resource") if find_spec("resource") else None  # None: Windows


class PeakMemory(Monitor):
    """Log ``peak_memory``: the most memory that was in use since the process began.

    Unit: MB (1e6 bytes). On a CUDA device, it is what tensors took on it (``torch.cuda.max_memory_allocated``: the allocator
    reserves more); elsewhere, the resident memory of the process, without its loading processes. Of several ranks, it is that
    of the largest. Reading it does not wait for the device. On Windows without CUDA there is no such number: a note says so, and
    nothing is logged.

    Healthy is a number that stays after the first epoch; one that grows means that something is kept, such as losses with their
    graphs (PyTorch, "Frequently Asked Questions": "My model reports out of memory").

    Args:
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns this callback off).

    Raises:
        ValueError: ``every_n_steps`` is out of its range.

    Example:
        >>> PeakMemory().every_n_steps is None
        True
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if peak_memory(pl_module.device) is None:
            rank_zero_info("PeakMemory: this system does not tell the peak memory of a process, so none is logged.")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.is_due_now(trainer) and (used := peak_memory(pl_module.device)) is not None:
            value = torch.tensor([used / 1e6], device=pl_module.device)
            self.keep(trainer, ["peak_memory"], largest_over_ranks(trainer, value))
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def peak_memory(device: torch.device) -> int | None:
    """Return the peak in bytes, on a CUDA device or of this process; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
