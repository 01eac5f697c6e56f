"""What this package needs of Lightning's and torch's private parts, and of the state of a running trainer.

Everything that may change with a new version of them is here, and nowhere else in ``zoo``.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest.mock import patch

import jsonargparse._parameter_resolvers
import torch
import torch.fx.experimental._config
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

NORMS: tuple[type[nn.Module], ...] = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
BATCH_NORMS: type[nn.Module] = nn.modules.batchnorm._BatchNorm
CONVOLUTIONS: type[nn.Module] = nn.modules.conv._ConvNd

__all__ = [
    "BATCH_NORMS",
    "CONVOLUTIONS",
    "NORMS",
    "TorchDispatchMode",
    "TorchFunctionMode",
    "apply_to",
    "assert_on_device",
    "default_generator",
    "grad_scaler",
    "has_trainer",
    "hide_arguments",
    "is_fitting",
    "is_last_of_window",
    "no_capture_checks",
    "own_tensors",
    "reset_compiler",
    "row_is_due",
    "sizes_of_one_are_sizes",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "unscale_before_step",
]


def no_capture_checks() -> ExitStack:
    """Return a context in which optimizers do not ask a GPU whether it records a graph, which would start CUDA in this process."""
    stack = ExitStack()
    for name in ("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check"):
        if hasattr(Optimizer, name):  # by version of torch
            stack.enter_context(patch.object(Optimizer, name, lambda self: None))
    return stack


def hide_arguments(cls: type, names: Collection[str]) -> None:
    """Keep arguments that a class would hand to its parent, and has no use for, off the command line."""
    ignored: Any = jsonargparse._parameter_resolvers.ignore_params
    parts = cls.__module__.split(".")
    for depth in range(1, len(parts) + 1):  # it may be known by the name of any package that shows it
        ignored[f"{'.'.join(parts[:depth])}.{cls.__qualname__}.__init__"] = set(names)


def has_trainer(module: LightningModule) -> bool:
    """Return whether a module belongs to a trainer now (its property ``trainer`` raises an error if not)."""
    return module._trainer is not None


def is_fitting(module: LightningModule) -> bool:
    """Return whether a module is being fitted: true in the fit's validation, false in validation by itself."""
    return has_trainer(module) and module.trainer.state.fn == "fit"


def grad_scaler(trainer: Trainer) -> Any:
    """Return the gradient scaler of float16 training, or None."""
    return getattr(trainer.precision_plugin, "scaler", None)


def unscale_before_step(optimizer: Optimizer) -> None:
    """Have the trainer unscale the gradient of a fused optimizer before its step, as that of any other.

    Under float16 it would unscale in its step, after clipping and norms have seen scaled gradients; and Lightning refuses to clip
    for it under any mixed precision.
    """
    unscaled: Any = optimizer
    unscaled._step_supports_amp_scaling = False


def row_is_due(trainer: Trainer, last: int) -> bool:
    """Return whether this optimizer step is one that is logged, and is not ``last``, the one that was logged last."""
    every: int = getattr(trainer, "log_every_n_steps")  # noqa: B009 (set by a connector, unknown to mypy)
    step = trainer.global_step
    return every > 0 and step != last and step % every == 0


def is_last_of_window(trainer: Trainer) -> bool:
    """Return whether the optimizer steps after the current batch, the last one of its accumulation window."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that are registered in a module itself, not in its children."""
    return {name: t for name, t in {**module._parameters, **module._buffers}.items() if t is not None}


def default_generator(device: torch.device) -> Any:
    """Return torch's global generator of a device; None where it has none that can be read."""
    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator if device.type == "cpu" else None


def assert_on_device(condition: Tensor, message: str) -> None:
    """Have a GPU stop the program where a condition does not hold, which is not waited for."""
    torch._assert_async(condition, message)


def sizes_of_one_are_sizes() -> AbstractContextManager[Any]:
    """Return a context in which ``torch.export`` makes no graph that is for sizes above one alone."""
    config: Any = torch.fx.experimental._config  # its functions are added at run time
    context: AbstractContextManager[Any] = config.patch(backed_size_oblivious=True)
    return context


def reset_compiler() -> None:
    """Forget what torch has compiled."""
    torch._dynamo.reset()


def apply_to(module: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
    """Move or cast the tensors of a module as ``nn.Module._apply`` does those of another."""
    module._apply(function)
