"""Optimizers by name, their parameter groups, and Newton's method for small problems."""

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.blocks.layers import layer_groups, parameters_of
from zoo.registry import suggest


class Newton(Optimizer):
    """Damped Newton's method: ``p <- p - lr * (H + damping * I)^-1 g``, for problems of up to about a thousand parameters.

    The Hessian is made of central differences of the gradient, two closure calls per parameter, so any closure will do.
    It is exact (up to rounding) for a quadratic loss, which one step of ``lr=1`` then solves.

    Args:
        params: parameters of one floating dtype, in one group.
        lr: step length; 1 is the pure Newton step.
        damping: added to the Hessian's diagonal (Levenberg); above 0 where the Hessian may be singular, >= 0.
        eps: half the distance of the central difference, in units of the parameters, > 0.

    Raises:
        ValueError: an argument out of its range, or more than one parameter group.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1.0, damping: float = 1e-4, eps: float = 1e-2) -> None:
        if lr <= 0 or eps <= 0 or damping < 0:
            raise ValueError(f"Newton wants lr > 0, eps > 0, damping >= 0, got lr={lr}, eps={eps}, damping={damping}")
        super().__init__(params, {"lr": lr, "damping": damping, "eps": eps})
        if len(self.param_groups) != 1:
            raise ValueError(f"Newton takes one parameter group, got {len(self.param_groups)}: set weight_decay=0")

    def _flat(self, gradient: bool) -> Tensor:
        parts = [p.grad if gradient else p for p in self.param_groups[0]["params"] if p.requires_grad]
        return nn.utils.parameters_to_vector([part for part in parts if part is not None]).detach().clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; ``closure`` computes the loss and its gradient anew and returns the loss."""
        if closure is None:
            raise ValueError("Newton needs a closure that computes the loss and its gradient")
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


def optimizer_class(name: str) -> type[Optimizer]:
    """The optimizer of a name: any of ``torch.optim`` ("SGD", "AdamW", "LBFGS" ...), "Newton", or "package.module.Class".

    Raises:
        ValueError: no such optimizer; the message suggests the closest.
    """
    if "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"optimizer {name!r} cannot be imported: {error}") from error
        if not (isinstance(found, type) and issubclass(found, Optimizer)):
            raise ValueError(f"optimizer {name!r} is no torch.optim.Optimizer class")
        return found
    known = {
        k: v
        for k, v in vars(torch.optim).items()
        if isinstance(v, type) and issubclass(v, Optimizer) and v is not Optimizer
    }
    known["Newton"] = Newton
    if name not in known:
        by_case = {k.lower(): k for k in known}
        hint = f", did you mean {by_case[name.lower()]!r}?" if name.lower() in by_case else suggest(name, known)
        raise ValueError(f"unknown optimizer {name!r}{hint}; known: {', '.join(sorted(known))}")
    return known[name]


def check_optimizer(name: str, lr: float, weight_decay: float, arguments: dict[str, Any]) -> None:
    """Refuse what :func:`build_optimizer` could not build, before any work is done.

    Raises:
        ValueError: unknown optimizer, ``lr`` not above 0, negative ``weight_decay`` or one the optimizer does not have.
        TypeError: an argument that the optimizer does not have.
    """
    known = inspect.signature(optimizer_class(name)).parameters
    if not lr > 0:
        raise ValueError(f"lr must be above 0, got {lr}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be 0 or above, got {weight_decay}")
    if weight_decay and "weight_decay" not in known:
        raise ValueError(f"{name} has no weight decay: leave weight_decay at 0, got {weight_decay}")
    for argument in arguments:
        if argument in ("lr", "weight_decay", "params"):
            raise TypeError(f"give {argument} to the task itself, not in optimizer_args")
        if argument not in known:
            raise TypeError(f"{name} has no argument {argument!r}{suggest(argument, known)}")


def parameter_groups(
    net: nn.Module, lr: float, weight_decay: float, decay_norm_and_bias: bool, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Named parameter groups of a net: norms and biases (one dimension or none) get no weight decay unless told otherwise.

    Args:
        net: gives the parameters; all are in a group, frozen ones too.
        lr: rate of the head.
        weight_decay: of weights.
        decay_norm_and_bias: whether of norms and biases too.
        layer_decay: each layer group below the head has the rate of the one above it times this, in (0, 1].

    Returns:
        One group "all", or "decay" and "no_decay" where the difference matters; with ``layer_decay`` those of each layer group,
        from the input to the head: "0/decay", "0/no_decay", "1/decay" ..., each with its ``lr``.
    """
    if layer_decay == 1:
        return _by_decay("", list(net.parameters()), weight_decay, decay_norm_and_bias)
    layers, found = layer_groups(net), []
    for i, names in enumerate(layers):
        parameters = parameters_of(net, names)
        rate = lr * layer_decay ** (len(layers) - 1 - i)
        found += [{**group, "lr": rate} for group in _by_decay(f"{i}/", parameters, weight_decay, decay_norm_and_bias)]
    return found


def _by_decay(
    prefix: str, parameters: list[nn.Parameter], weight_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    if not weight_decay or decay_norm_and_bias:
        return [{"name": f"{prefix}all", "params": parameters, "weight_decay": weight_decay}]
    groups = [
        {"name": f"{prefix}decay", "params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"name": f"{prefix}no_decay", "params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    net: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    arguments: dict[str, Any],
    decay_norm_and_bias: bool,
    layer_decay: float = 1.0,
) -> Optimizer:
    """The optimizer of a name over the groups of :func:`parameter_groups`."""
    cls = optimizer_class(name)
    groups = parameter_groups(net, lr, weight_decay, decay_norm_and_bias, layer_decay)
    if "weight_decay" not in inspect.signature(cls).parameters:
        for group in groups:
            del group["weight_decay"]
    return cls(groups, lr=lr, **arguments)  # type: ignore[call-arg]
