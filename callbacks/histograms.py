"""Histograms of weights and gradients."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.internals import grad_scale, has_whole_parameters, logged_step
from callbacks.monitor import Monitor
from callbacks.writing import log_histogram, takes_histograms


class Histograms(Monitor):
    """Send histograms of each trained parameter, ``weights/<parameter>``, and of its gradient, ``gradients/<parameter>``.

    TensorBoard and W&B take them; a run without either is trained without them, and a line says so. Weights are those before
    the step; gradients are those of the step, before clipping, and already unscaled. Values that are not finite are left out.

    All values of the net are looked at, and 64 bins of each parameter are read from the device and sent, which takes longer than a
    step of a small net: the interval decides what it costs (benchmarks/RESULTS.md).

    Args:
        every_n_steps: Optimizer steps from one time to the next, >= 1.
        bins: Number of bins between the smallest and the largest value, >= 1.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> Histograms(every_n_steps=1000).bins
        64
    """

    def __init__(self, every_n_steps: int = 500, bins: int = 64) -> None:
        super().__init__(every_n_steps)
        check_integer("bins", bins, 1)
        self.bins = bins

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not has_whole_parameters(trainer):
            raise ValueError("Histograms needs whole parameters on each process: leave it out, or use ddp")
        if not any(takes_histograms(logger) for logger in trainer.loggers):
            rank_zero_info(
                "Histograms sends nothing: no logger takes them, give --logger tensorboard, wandb or wandb-offline"
            )

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        takers = [logger for logger in trainer.loggers if takes_histograms(logger)]
        if not takers or not trainer.is_global_zero or not self.is_due(trainer):
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        scale = grad_scale(trainer, optimizer)
        for name, parameter in pl_module.named_parameters():
            if id(parameter) not in held:
                continue
            tensors = {"weights": parameter.detach()}
            if parameter.grad is not None:
                tensors["gradients"] = parameter.grad / scale
            for kind, tensor in tensors.items():
                found = histogram(tensor, self.bins)
                if found is None:
                    continue
                for logger in takers:
                    log_histogram(logger, f"{kind}/{name}", *found, logged_step(trainer))


def histogram(tensor: Tensor, bins: int) -> tuple[Tensor, Tensor] | None:
    """Return the counts ``(bins,)`` of the finite values and the edges of the bins ``(bins + 1,)``; None without such a value."""
    values = tensor.float().flatten()
    values = values[values.isfinite()]
    if not len(values):
        return None
    low, high = (float(end) for end in torch.aminmax(values))
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    return values.histc(bins, low, high).cpu(), torch.linspace(low, high, bins + 1)
