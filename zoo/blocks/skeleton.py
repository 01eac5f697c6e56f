"""Building a net without memory and random numbers, for weights that are loaded afterwards."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from typing_extensions import override

from zoo.internals import TorchFunctionMode

_DRAWS = {
    *(draw for name, draw in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")),
    *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
}
# what is built within the innermost ``at_most``: a model that is built from another file on the way is counted there
_counted: ContextVar[dict[str, int] | None] = ContextVar("counted", default=None)


class _NoDraws(TorchFunctionMode):
    """Skip filling tensors on the meta device: it is slow there and has no effect."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def skeleton() -> Iterator[None]:
    """Build nets on the meta device, quickly; the buffers of a task are real."""
    with torch.device("meta"), _NoDraws():
        yield


@contextmanager
def at_most(tensors: Collection[Tensor]) -> Iterator[None]:
    """Refuse to build much more than a file holds, before memory is used for it: hyperparameters may be wrong, or hostile.

    Some more is built than is kept, such as the classifier's head of an encoder.

    Args:
        tensors: Those of the file.

    Raises:
        ValueError: Too many parameters or modules were built, or too large ones.
    """
    count, numbers = len(tensors), sum(t.numel() for t in tensors)
    limits = {"modules": 20 * count + 10_000, "tensors": 4 * count + 1000, "numbers": 8 * numbers + 2**28}
    built = dict.fromkeys(limits, 0)

    def add(**counts: int) -> None:
        if _counted.get() is not built:
            return
        for name, more in counts.items():
            built[name] += more
            if built[name] > limits[name]:
                raise ValueError(
                    f"they ask for more than {limits[name]:,} {name}; the file has {count:,} tensors of {numbers:,} numbers"
                )

    hooks = (
        register_module_module_registration_hook(lambda module, name, part: add(modules=1)),
        register_module_parameter_registration_hook(
            lambda module, name, p: add(tensors=1, numbers=0 if p is None else p.numel())
        ),
    )
    token = _counted.set(built)
    try:
        yield
    finally:
        _counted.reset(token)
        for hook in hooks:
            hook.remove()
