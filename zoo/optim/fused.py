"""torch's fused kernels, one call for all parameters of a group: where they can be taken, and what keeps them right."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

FUSED: tuple[type[Optimizer], ...] = (SGD, Adam, AdamW, Adagrad)  # optimizers of torch that have a fused kernel
KERNELS = ("fused", "foreach", "differentiable")  # arguments by which a user chooses the kernel


def can_fuse(cls: type[Optimizer], parameters: Iterable[Tensor], arguments: Mapping[str, Any]) -> bool:
    """Return whether torch's fused kernel makes the steps of an optimizer, on these parameters, with these arguments.

    The kernels go over the memory of a parameter as one block, so it must be a plain tensor without gaps. Whether there is one
    for its device and type, torch is asked, by a step of one number. That of SGD starts the momenta of a group together, so a
    parameter that is unfrozen later starts at 0: with dampening that is another step.
    """
    parameters = list(parameters)
    if cls not in FUSED or (cls is SGD and arguments.get("momentum") and arguments.get("dampening")):
        return False
    if not all(type(p) is nn.Parameter and _is_dense(p) for p in parameters):
        return False
    for device, dtype in {(p.device, p.dtype) for p in parameters}:
        number = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
        number.grad = torch.zeros_like(number)
        try:
            optimizer: Any = cls
            optimizer([number], **{**arguments, "fused": True}).step()
        except Exception:  # no kernel; or arguments that are refused as they stand when the optimizer is built
            return False
    return True


def guard(optimizer: Optimizer) -> None:
    """Keep the fused steps of an optimizer right where torch does not: after loading a state, and for parameters that join."""
    optimizer.register_load_state_dict_post_hook(_settle)
    if type(optimizer) is SGD:
        optimizer.register_step_pre_hook(_start_momenta)


def _is_dense(parameter: Tensor) -> bool:
    """Return whether a tensor fills its memory: a copy then has its layout."""
    return parameter.is_contiguous() or torch.empty_like(parameter, device="meta").stride() == parameter.stride()


def _settle(optimizer: Optimizer) -> None:
    """Give a loaded state the layout of its parameters; drop a kernel that there is not, such as that of another device."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    for group in optimizer.param_groups:
        if group["fused"] and not can_fuse(type(optimizer), group["params"], {}):
            group["fused"] = False


def _start_momenta(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Give parameters that get their first gradient later than others of their group (unfrozen ones) a momentum of 0.

    The kernel takes all momenta of a group or none. Without dampening the first step from 0 is that without a momentum.
    """
    for group in optimizer.param_groups:
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                if parameter.requires_grad and optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
