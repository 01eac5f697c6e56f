"""SAM: Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving Generalization", arXiv:2010.01412."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SAM(Optimizer):
    """Step along the gradient at the worst point nearby, so that flat minima are preferred (algorithm 1 of the paper).

    A step looks twice at a batch. The first gradient g moves the weights w to ``w + rho * g / ||g||`` (equation 2 for p = 2, the
    norm over all parameters). The gradient there is the one that the base optimizer applies, at w: the weights are put back to the
    bit. Weight decay is the base optimizer's, at w. It takes twice the time of the base optimizer, and a copy of the weights.

    It has the groups and the state of its base, so schedules and checkpoints hold as for the base alone.

    Args:
        base: The optimizer that makes the steps, from a single gradient each.
        rho: Distance to the point nearby, in units of the weights, > 0; the paper's default.

    Raises:
        ValueError: ``rho`` is out of its range.

    Example:
        >>> p = torch.nn.Parameter(torch.tensor([3.0]))
        >>> sam = SAM(torch.optim.SGD([p], lr=0.1), rho=0.5)
        >>> def closure():
        ...     sam.zero_grad()
        ...     loss = p.square().sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> sam.step(closure).item()
        4.5
        >>> round(p.item(), 4)  # 3 - 0.1 (3 + 0.5)
        2.65
    """

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        check_rho(rho)
        self.base, self.rho = base, float(rho)
        self._has_looked = False  # whether the gradient is one of a second look
        super().__init__(base.param_groups, base.defaults)
        self._share()

    def _share(self) -> None:
        """Have the very groups and state of the base; a loaded state has brought new ones."""
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the base optimizer."""
        self.base.load_state_dict(state_dict)
        self._share()

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Move the weights along the gradient that they have, by ``rho``; afterwards they are what they were.

        A closure of :meth:`step` that does this itself, for its second look, is called once.

        Raises:
            ValueError: A gradient is sparse.
        """
        with torch.no_grad():
            trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            before = [p.clone() for p in trained]
            factor = self.rho / _norm([p.grad for p in trained])
            for p in trained:
                p.add_(factor * p.grad)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, own in zip(trained, before, strict=True):
                    p.copy_(own)
            self._has_looked = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the loss of the first look.

        Args:
            closure: Computes the loss and its gradient again, and returns the loss.

        Raises:
            ValueError: No closure is given, or a gradient is sparse.
        """
        if closure is None:
            raise ValueError("SAM looks twice at a batch and takes a closure, got None: optimizer.step(closure)")
        self._has_looked = False
        with torch.enable_grad():
            loss = closure()
            if not self._has_looked:
                with self.perturbed():
                    closure()
        self.base.step()
        return loss


def check_rho(rho: float = 0.05) -> None:
    """Check the distance to the point nearby.

    Raises:
        ValueError: It is no number above 0.
    """
    if isinstance(rho, bool) or not isinstance(rho, int | float) or not 0 < rho < math.inf:
        raise ValueError(f"SAM takes rho > 0, got {rho!r}")


def _norm(gradients: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together, infinite if they are all 0: that is no direction."""
    if any(g.is_sparse for g in gradients):
        raise ValueError("SAM takes dense gradients, got a sparse one: build the embedding with sparse=False")
    norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
    return torch.where(norm > 0, norm, math.inf)
