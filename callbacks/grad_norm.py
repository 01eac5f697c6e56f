"""Norm of the gradient."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from callbacks.internals import each_norm, grad_scale
from callbacks.monitor import Monitor


class GradNorm(Monitor):
    """Log ``grad_norm``: the p-norm of the gradient over the optimizer's parameters, before clipping.

    Unit: loss per unit of parameter. Under float16 mixed precision, the gradient is already unscaled (infinite on a step that the
    scaler skips); with accumulation, it is that of the whole window; under data parallelism, that of the global batch. Several
    optimizers log ``grad_norm/0``, ``grad_norm/1`` ... Parameters without a gradient do not count.

    Each value is logged with the step at which it was measured, but read from the device only when the trainer writes a row, so
    measuring at every step synchronizes no more often.

    In manual optimization, it is the gradient at ``optimizer.step()``. A module that clips should do so in its
    ``on_before_optimizer_step(optimizer)``, which runs after this callback and, under float16, on unscaled gradients; after
    clipping in ``training_step``, the norm logged is the clipped one.

    Args:
        norm_type: Order p > 0 of the norm, ``inf`` for the largest component.
        per_layer: Whether to also log the norm of each parameter's gradient, ``grad_norm/<parameter>``.
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns this callback off).

    Raises:
        ValueError: ``norm_type`` or ``every_n_steps`` is out of its range.

    Example:
        >>> GradNorm(norm_type=float("inf"), every_n_steps=1).every_n_steps
        1
    """

    def __init__(self, norm_type: float = 2.0, per_layer: bool = False, every_n_steps: int | None = None) -> None:
        if isinstance(norm_type, bool) or not isinstance(norm_type, int | float) or not norm_type > 0:
            raise ValueError(
                f"norm_type must be > 0 (2: Euclidean, 1: sum of absolute values, inf: the largest), got {norm_type}"
            )
        super().__init__(every_n_steps)
        self.norm_type = float(norm_type)
        self.per_layer = per_layer
        self._names: dict[int, str] = {}  # id of a parameter -> its name

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._names = {id(p): name for name, p in pl_module.named_parameters()} if self.per_layer else {}

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not self.is_due(trainer):
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        each = each_norm([p.grad for p in parameters], self.norm_type) / grad_scale(trainer, optimizer)
        total = torch.linalg.vector_norm(each, self.norm_type).reshape(1)
        index = [id(o) for o in trainer.optimizers].index(id(optimizer))
        names = ["grad_norm" if len(trainer.optimizers) == 1 else f"grad_norm/{index}"]
        if self.per_layer:
            names += [f"grad_norm/{self._names.get(id(p), f'unnamed{i}')}" for i, p in enumerate(parameters)]
            total = torch.cat([total, each])
        self.keep(trainer, names, total)
