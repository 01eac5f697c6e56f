"""Gradient-noise scale."""

from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.internals import add_, each_norm, grad_scale, is_window_end, logged_step, sum_over_ranks
from callbacks.monitor import Monitor, batch_size_of


@dataclass
class _Group:
    """Gradients of one optimizer's steps that are compared."""

    ids: list[int]  # of the parameters
    total: list[Tensor]  # sum of the gradients
    squares: Tensor  # sum of their squared norms
    examples: int
    steps: int = 1
    last: int = field(default=-1)  # step


class GradientNoiseScale(Monitor):
    """Log ``gradient_noise_scale``: the simple noise scale, tr(S) / |G|^2 (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.9).

    Unit: examples (rows of the batch's first tensor). G is the gradient of the whole training set, S the covariance of an
    example's. It predicts the batch size beyond which more examples a step save hardly any steps: with a batch of that size,
    training takes twice the least number of steps (section 2.3). A healthy batch is of its order or below; the scale grows during
    training. Infinite means that the noise hides the gradient.

    The gradients of some steps in a row are compared, each with their mean, as the squared norm of a mean of K gradients exceeds
    |G|^2 by tr(S) / (K B) (appendix A.1, B_small = B, B_big = K B). That takes no further pass through the net, and assumes that
    G stays the same for these steps: true where ``update_ratio`` is small. The estimates of tr(S) and |G|^2 are averaged apart
    over time (their ratio is not an unbiased estimate of anything), so the first values are noisy.

    B is the number of examples of an optimizer step: over all batches of the accumulation window and over all ranks, as is the
    gradient. The loss must be a mean over examples. Gradients are those before clipping. Several optimizers log
    ``gradient_noise_scale/0`` ... The averages are saved in checkpoints; a group of steps that a checkpoint cuts is left out. On
    steps that are measured, a copy of the gradients is held in memory.

    Args:
        steps: Number K of steps that are compared, >= 2.
        smoothing: Share of the averages that each measurement keeps, in [0, 1).
        every_n_steps: Optimizer steps from one measurement to the next, not less than ``steps``; by default those at which the
            trainer writes a row (``log_every_n_steps``, of which 0 turns this callback off), or ``steps`` if these are more.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> GradientNoiseScale(steps=4).smoothing
        0.9
    """

    def __init__(self, steps: int = 2, smoothing: float = 0.9, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        check_integer("steps", steps, 2)
        if isinstance(smoothing, bool) or not isinstance(smoothing, int | float) or not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
        if every_n_steps is not None and every_n_steps < steps:
            raise ValueError(f"every_n_steps must be >= steps={steps}, got {every_n_steps}")
        self.steps, self.smoothing = steps, float(smoothing)
        self.averages: dict[int, Tensor] = {}  # index of an optimizer -> averages of tr(S) and |G|^2
        self._groups: dict[int, _Group] = {}
        self._examples = 0  # of the step so far, on this rank

    @override
    def interval(self, trainer: Trainer) -> int:
        every = super().interval(trainer)
        return every and max(every, self.steps)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # a checkpoint to resume from is loaded after this
            self.averages, self._groups, self._examples = {}, {}, 0

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._examples += batch_size_of(batch)

    @override
    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step, interval = logged_step(trainer), self.interval(trainer)
        index = [id(o) for o in trainer.optimizers].index(id(optimizer))
        group = self._groups.get(index)
        if group is None and (not interval or (step + self.steps) % interval):
            return
        if group is not None and group.last == step:
            return  # the optimizer calls its closure again
        parameters = [p for held in optimizer.param_groups for p in held["params"] if p.grad is not None]
        grads = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
        if not grads:
            return
        scale = grad_scale(trainer, optimizer)
        grads = [g.detach().to(torch.float32, copy=True) / scale if isinstance(scale, Tensor) else g for g in grads]
        squares = _exact(each_norm(grads)).square().sum()
        ids = [id(p) for p in parameters]
        if group is None or group.ids != ids:  # another set of parameters: what there is cannot be compared
            if group is not None:
                del self._groups[index]
                return
            copies = [g.to(torch.promote_types(g.dtype, torch.float32), copy=True) for g in grads]
            self._groups[index] = _Group(ids, copies, squares, self._examples, last=step)
            return
        add_(group.total, [g.to(t.dtype) for g, t in zip(grads, group.total, strict=True)])
        group.squares = group.squares + squares
        group.examples, group.steps, group.last = group.examples + self._examples, group.steps + 1, step
        if group.steps == self.steps:
            self._measure(trainer, index, self._groups.pop(index))

    def _measure(self, trainer: Trainer, index: int, group: _Group) -> None:
        k = group.steps
        small, big = group.squares / k, _exact(each_norm(group.total)).square().sum() / k**2
        size = sum_over_ranks(trainer, torch.tensor(group.examples / k, dtype=small.dtype, device=small.device))
        now = torch.stack([size * (small - big) * k / (k - 1), (k * big - small) / (k - 1)])
        before = self.averages.get(index)
        # from 0, which makes both averages too small by the same factor: their ratio stays
        before = torch.zeros_like(now) if before is None else before.to(now.device, now.dtype)
        # a gradient that overflowed, of a step that the scaler skips, is left out
        average = torch.where(now.isfinite().all(), self.smoothing * before + (1 - self.smoothing) * now, before)
        self.averages[index] = average
        noise, signal = average
        value = torch.where(signal > 0, noise / signal, torch.inf).reshape(1)
        one = len(trainer.optimizers) == 1
        self.keep(trainer, ["gradient_noise_scale" if one else f"gradient_noise_scale/{index}"], value)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_window_end(trainer):
            self._examples = 0
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"averages": {index: average.tolist() for index, average in self.averages.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.averages = {
            int(i): torch.tensor(values, dtype=torch.float64) for i, values in state_dict["averages"].items()
        }


def _exact(x: Tensor) -> Tensor:
    return x if x.device.type == "mps" else x.double()
