"""Size of the updates beside that of the weights."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from callbacks.internals import each_norm, subtract_
from callbacks.monitor import Monitor


class UpdateRatio(Monitor):
    """Log ``update_ratio``: the Euclidean norm of the update that an optimizer applied, over that of the weights before it.

    Unit: none. The update is the difference of the weights after and before ``optimizer.step()``, so it holds for any optimizer,
    with momentum, weight decay, clipping and the learning rate of the step; it is 0 on a step that float16's scaler skips. What
    the module or a callback does to the weights afterwards (clipping them, for instance) is not in it. About 1e-3 is healthy
    (Karpathy, CS231n, "Babysitting the learning process"): far above, the rate is too high; far below, too low.

    With accumulation, it is the step at the end of the window; under data parallelism, all ranks apply the same update, and the
    number is that of each. Several optimizers log ``update_ratio/0``, ``update_ratio/1`` ... Parameters that do not want a
    gradient do not count. On a step that is measured, a copy of the weights is held in memory.

    Args:
        per_layer: Whether to also log the ratio of each parameter, ``update_ratio/<parameter>``: infinite where the parameter
            was zero (a bias at the first step), 0 where nothing moved.
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns this callback off).

    Raises:
        ValueError: ``every_n_steps`` is out of its range.

    Example:
        >>> UpdateRatio(per_layer=True).every_n_steps is None
        True
    """

    def __init__(self, per_layer: bool = False, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.per_layer = per_layer
        self._names: dict[int, str] = {}  # id of a parameter -> its name
        self._before: dict[int, list[Tensor]] = {}  # index of an optimizer -> its weights before the step
        self._depth: dict[int, int] = {}  # a step that calls the step of its base class runs the hooks twice
        self._handles: list[RemovableHandle] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._names = {id(p): name for name, p in pl_module.named_parameters()} if self.per_layer else {}
        self._remove()
        for index, optimizer in enumerate(trainer.optimizers):
            self._handles += [
                optimizer.register_step_pre_hook(partial(self._begin, trainer, index)),
                optimizer.register_step_post_hook(partial(self._end, trainer, index)),
            ]

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove()
        super().on_train_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._remove()
        super().on_exception(trainer, pl_module, exception)

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._before, self._depth = [], {}, {}

    def _begin(self, trainer: Trainer, index: int, optimizer: Optimizer, *_: Any) -> None:
        self._depth[index] = self._depth.get(index, 0) + 1
        if self._depth[index] == 1 and self.is_due(trainer):
            self._before[index] = [p.detach().clone() for p in _trained(optimizer)]

    @torch.no_grad()
    def _end(self, trainer: Trainer, index: int, optimizer: Optimizer, *_: Any) -> None:
        self._depth[index] -= 1
        if self._depth[index] or not (before := self._before.pop(index, [])):
            return
        parameters = _trained(optimizer)
        weights = each_norm(before)
        subtract_(before, [p.detach() for p in parameters])
        updates = each_norm(before)
        names = ["update_ratio" if len(trainer.optimizers) == 1 else f"update_ratio/{index}"]
        ratios = _ratio(updates.norm(), weights.norm()).reshape(1)
        if self.per_layer:
            names += [f"update_ratio/{self._names.get(id(p), f'unnamed{i}')}" for i, p in enumerate(parameters)]
            ratios = torch.cat([ratios, _ratio(updates, weights)])
        self.keep(trainer, names, ratios)


def _trained(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def _ratio(update: Tensor, weight: Tensor) -> Tensor:
    return torch.where(update == 0, 0.0, update / weight)
