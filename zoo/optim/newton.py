"""Newton's method, for small problems."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Newton(Optimizer):
    """Damped Newton's method: ``p <- p - lr * (H + damping * I)^-1 g``, for problems of up to about a thousand parameters.

    The Hessian is computed from central differences of the gradient, with two closure calls for each parameter, so that any
    closure will do. For a quadratic loss it is exact up to rounding, and one step with ``lr=1`` and ``damping=0`` solves it.

    Args:
        params: Parameters of one floating dtype, in one group.
        lr: Step length, > 0; 1 is the pure Newton step.
        damping: Added to the diagonal of the Hessian (Levenberg), >= 0; above 0 if the Hessian may be singular.
        eps: Half the step of the central differences, in units of the parameters, > 0.

    Raises:
        ValueError: An argument out of its range, or more than one parameter group.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1.0, damping: float = 1e-4, eps: float = 1e-2) -> None:
        if lr <= 0 or eps <= 0 or damping < 0:
            raise ValueError(f"Newton takes lr > 0, eps > 0, damping >= 0, got lr={lr}, eps={eps}, damping={damping}")
        super().__init__(params, {"lr": lr, "damping": damping, "eps": eps})
        if len(self.param_groups) != 1:
            raise ValueError(f"Newton takes one parameter group, got {len(self.param_groups)}: set weight_decay=0")

    def _flat(self, gradient: bool) -> Tensor:
        parts = [p.grad if gradient else p for p in self.param_groups[0]["params"] if p.requires_grad]
        return nn.utils.parameters_to_vector([part for part in parts if part is not None]).detach().clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Computes the loss and its gradient again, and returns the loss.

        Raises:
            ValueError: No closure is given.
        """
        if closure is None:
            raise ValueError(
                "Newton takes a closure that computes the loss and its gradient, got None: optimizer.step(closure)"
            )
        group = self.param_groups[0]
        params = [p for p in group["params"] if p.requires_grad]
        with torch.enable_grad():
            loss = closure()
        theta, gradient = self._flat(gradient=False), self._flat(gradient=True)

        def gradient_at(point: Tensor) -> Tensor:
            nn.utils.vector_to_parameters(point, params)
            with torch.enable_grad():
                closure()
            return self._flat(gradient=True)

        columns = []
        for i in range(theta.numel()):
            shift = torch.zeros_like(theta)
            shift[i] = group["eps"]
            columns.append((gradient_at(theta + shift) - gradient_at(theta - shift)) / (2 * group["eps"]))
        hessian = torch.stack(columns)
        hessian = (hessian + hessian.T) / 2 + group["damping"] * torch.eye(len(theta), device=theta.device)
        direction = torch.linalg.lstsq(hessian, gradient.unsqueeze(1)).solution.squeeze(1)
        nn.utils.vector_to_parameters(theta - group["lr"] * direction, params)
        return loss
