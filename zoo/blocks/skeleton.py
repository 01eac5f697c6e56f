"""Building a net without memory and random numbers, for weights that are loaded afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from zoo.internals import TorchFunctionMode

_DRAWS = {
    *(draw for name, draw in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")),
    *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
}


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
