"""Lion: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """Step by the sign of a momentum, so that every weight moves by the learning rate (algorithm 2 of the paper).

    ``p <- p - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p)``, then ``m <- beta2 * m + (1 - beta2) * g``. The paper
    takes a learning rate three to ten times smaller than AdamW's, and a weight decay as many times larger.

    Args:
        params: Parameters, or their groups.
        lr: Learning rate, > 0.
        betas: Share of the momentum in a step, and of the old momentum in the new one, each in [0, 1).
        weight_decay: Decoupled weight decay, >= 0.

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        if lr <= 0 or weight_decay < 0 or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"Lion takes lr > 0, two betas in [0, 1), weight_decay >= 0, got lr={lr}, betas={betas}, "
                f"weight_decay={weight_decay}"
            )
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; a closure computes the loss and its gradient again, and returns the loss.

        Raises:
            ValueError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise ValueError(
                        "Lion takes dense gradients, got a sparse one: build the embedding with sparse=False"
                    )
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                momentum = state["exp_avg"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * torch.lerp(p.grad, momentum, beta1).sign_())
                momentum.lerp_(p.grad, 1 - beta2)
        return loss
