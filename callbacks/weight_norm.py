"""Norm of the weights."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from callbacks.internals import each_norm
from callbacks.monitor import Monitor


class WeightNorm(Monitor):
    """Log ``weight_norm``: the Euclidean norm of the parameters that the optimizers hold, after the step.

    Unit: that of the parameters. Without weight decay it grows slowly; with it, it settles where decay and updates balance. Before
    a batch norm, the weights' scale does not change what the net computes, only the effective learning rate, lr / norm^2 (van
    Laarhoven 2017, arXiv:1706.05350). A norm that doubles within a few steps means that the rate is too high.

    All ranks hold the same weights, so the number is that of each; with accumulation, it changes at the end of a window only.
    Frozen parameters count.

    Args:
        per_layer: Whether to also log the norm of each parameter, ``weight_norm/<parameter>``.
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns this callback off).

    Raises:
        ValueError: ``every_n_steps`` is out of its range.

    Example:
        >>> WeightNorm(every_n_steps=10).per_layer
        False
    """

    def __init__(self, per_layer: bool = False, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.per_layer = per_layer

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.is_due_now(trainer):
            held = {id(p): p for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
            if held:
                each = each_norm([p.detach() for p in held.values()])
                names, values = ["weight_norm"], each.norm().reshape(1)
                if self.per_layer:
                    known = {id(p): name for name, p in pl_module.named_parameters()}
                    names += [f"weight_norm/{known.get(key, f'unnamed{i}')}" for i, key in enumerate(held)]
                    values = torch.cat([values, each])
                self.keep(trainer, names, values)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
