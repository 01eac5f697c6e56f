"""The hooks of a run at less cost: a small model's step takes no longer than the calls around it."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning.pytorch import Callback
from lightning.pytorch.profilers import PassThroughProfiler
from typing_extensions import override

# called directly, not as hooks that may be missing
_ALWAYS_CALLED = {"on_save_checkpoint", "on_load_checkpoint"}
_HOOKS = [n for n in dir(Callback) if n.startswith(("on_", "setup", "teardown")) and n not in _ALWAYS_CALLED]
_NOTHING: AbstractContextManager[None] = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Measure nothing, in one context for all; Lightning's own makes a new one for each of some 200 calls a step."""

    @override
    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


def leave_out_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Unset the hooks that a callback only inherits: the trainer skips what is not callable, and would call each in every step.

    Args:
        callbacks: Callbacks whose hooks nothing but the trainer calls.
    """
    for callback in callbacks:
        for name in _HOOKS:
            if getattr(type(callback), name) is getattr(Callback, name):
                setattr(callback, name, None)


def look_for_cuda_once() -> None:
    """Without a GPU, let torch not search for NVIDIA's library again in each step of Adam, as Lightning asks it to."""
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
