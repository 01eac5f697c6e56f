"""Muon for the matrices of hidden layers and AdamW for the rest, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al. 2024: steep at 0, and near 1 after five iterations


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") beside AdamW.

    The momentum of a matrix becomes (nearly) orthogonal before it is a step: its singular values are moved to about 1, by
    Newton-Schulz iterations. The step is times ``0.2 sqrt(max(rows, columns))``, which gives it the size of AdamW's (Liu et al.
    2025, "Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2), so both share one learning rate and one decoupled
    weight decay. A parameter that stacks several matrices (queries, keys and values; the gates of a recurrent layer) is treated as
    those matrices. On a GPU the iterations run in bfloat16, as the authors' do, elsewhere in the type of the gradient.

    :func:`zoo.optim.parameter_groups` makes the groups: one that has ``rows`` is stepped by Muon, all others by AdamW.

    Args:
        params: Groups. ``rows`` of a group has, for each of its parameters ``(sum(rows), columns)``, the rows of the matrices that
            it stacks.
        lr: Learning rate, > 0.
        weight_decay: Decoupled weight decay, >= 0.
        momentum: Share of the old momentum in the new one, in [0, 1).
        nesterov: Whether the step looks ahead by one gradient.
        iterations: Number of Newton-Schulz iterations, >= 1.
        betas: AdamW's, in [0, 1).
        eps: AdamW's, >= 0.

    Raises:
        ValueError: An argument out of its range, or no group of matrices.
    """

    _rest: AdamW | None = None  # steps the groups without rows, on the very dicts and states of this optimizer

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        iterations: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if lr <= 0 or weight_decay < 0 or not 0 <= momentum < 1 or iterations < 1:
            raise ValueError(
                f"MuonAdamW takes lr > 0, weight_decay >= 0, momentum in [0, 1), iterations >= 1, got lr={lr}, "
                f"weight_decay={weight_decay}, momentum={momentum}, iterations={iterations}"
            )
        own = {"momentum": momentum, "nesterov": nesterov, "iterations": iterations}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **own, "betas": tuple(betas), "eps": eps})
        if not any("rows" in group for group in self.param_groups):
            raise ValueError("there is no matrix of a hidden layer for Muon: take AdamW")
        self._adamw()  # checks its arguments

    def _adamw(self) -> AdamW | None:
        """Return the optimizer of the other parameters; a loaded state has brought new dicts."""
        groups = [group for group in self.param_groups if "rows" not in group]
        if not groups:
            return None
        if self._rest is None:
            self._rest = AdamW(groups, **{name: self.defaults[name] for name in ("lr", "weight_decay", "betas", "eps")})
        self._rest.param_groups, self._rest.state = groups, self.state
        return self._rest

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; a closure computes the loss and its gradient again, and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p, rows in zip(group["params"], group["rows"], strict=True) if "rows" in group else ():
                if p.grad is not None:
                    self._step_matrices(p, rows, group)
        if (adamw := self._adamw()) is not None:
            adamw.step()
        return loss

    def _step_matrices(self, p: Tensor, rows: list[int], group: dict[str, Any]) -> None:
        """Make the step of a parameter, which stacks matrices of so many rows."""
        gradient, state = cast(Tensor, p.grad), self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        parts = [
            0.2 * max(part.shape) ** 0.5 * orthogonalized(part, group["iterations"]) for part in direction.split(rows)
        ]
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(group["lr"] * torch.cat(parts).to(p.dtype))


def orthogonalized(matrix: Tensor, iterations: int) -> Tensor:
    """Return a matrix with the same singular vectors, whose singular values lie at about 1 (between 0.7 and 1.2 mostly).

    Each iteration maps a singular value s of the scaled matrix to ``a s + b s^3 + c s^5``. A matrix of zeros stays one.

    Shape:
        ``(rows, columns)`` -> ``(rows, columns)``.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.promote_types(matrix.dtype, torch.float32))
    tall = len(x) > x.shape[1]
    x = x.T if tall else x  # (fewer, more): the products below are the small ones
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        product = x @ x.T
        x = a * x + (b * product + c * product @ product) @ x
    return x.T if tall else x
