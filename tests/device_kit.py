"""A GPU that is not there: tensors that say they are on ``cuda:0``, and whose numbers the CPU computes.

What a GPU refuses is an error here too: a tensor of the CPU beside one of the GPU (but one number by itself, an index, a
copy), a generator of the CPU, ``numpy()``. What makes the CPU wait until the GPU has done all its work, such as ``item()``, is
written down. The values are real, so that all that depends on them runs as well: decoding, metrics, whole fits. Kernels,
precision and speed of a GPU are not tested by it: that is for ``make test-gpu``.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from zoo.internals import tree_map

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = {aten.copy_, aten._to_copy}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
# They look at values, or the size of what they give depends on them.
LOOKING = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique2,
}


class Far(Tensor):
    """A tensor on the GPU. C++ takes it for one of the meta device, as it does torch's own fake tensors."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        sizes = {"strides": near.stride(), "storage_offset": near.storage_offset()}
        far: Far = Tensor._make_wrapper_subclass(cls, near.size(), dtype=near.dtype, device="meta", **sizes)
        far.near = near
        return far

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]

    def data_ptr(self) -> int:
        """Where it is: the same for views."""
        return self.near.data_ptr()

    def tolist(self) -> Any:
        """Wait, and read."""
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        """Refuse."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:
        return f"{self.near}, on {CUDA}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            twin = Far(self.near.clone())
            kind = (
                torch.nn.Parameter if isinstance(self, torch.nn.Parameter) else lambda x, grad: x.requires_grad_(grad)
            )
            memo[id(self)] = kind(twin, self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.near.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor of the GPU, after it was taken away")


class Device(TorchDispatchMode):
    """Computes what is asked of the GPU, and judges which tensors meet."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()
        self.waits: Counter[str] = Counter()  # lines of ours at which the CPU has waited

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        far: list[Far] = []
        near: list[Tensor] = []
        plain, options = _fetch(args, far, near), _fetch(kwargs or {}, far, near)
        packet, here = func.overloadpacket, bool(far)
        if options.get("device") is not None:
            here, options["device"] = options["device"].type in ("cuda", "meta"), torch.device("cpu")
            options.pop("pin_memory", None)
        self._judge(func, args, far, near)
        if here and (generator := options.get("generator")) not in (None, self.generator):
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device}', in {func}")
        if packet in COPIES and not (options.get("non_blocking") or True in args[2:3]):
            ends = (isinstance(args[0], Far), isinstance(args[1], Far) if packet is aten.copy_ else here)
            if ends[0] != ends[1]:
                self._wait()
        elif packet is aten.equal and far and args[0].shape != args[1].shape:
            pass  # known without a look
        elif far and (packet in LOOKING or (packet in INDEXING and _has_mask(args[1]))):
            self._wait()
        result = func(*plain, **options)
        if not here or packet is aten._local_scalar_dense:
            return result
        sent = _send(result)
        return return_and_correct_aliasing(func, args, kwargs or {}, sent) if far else sent

    def _judge(self, func: Any, args: Any, far: list[Far], near: list[Tensor]) -> None:
        strangers = [t for t in near if t.ndim] if far else []
        if not strangers or func.overloadpacket in COPIES:
            return
        if func.overloadpacket not in INDEXING or not all(isinstance(t, Far) for t in (args[0], *args[2:3])):
            shapes = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in (*far, *strangers))
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {shapes}")
        self._wait()

    def _wait(self) -> None:
        foreign = ("/site-packages/", "/lib/python", __file__)
        frames = (f for f in reversed(traceback.extract_stack()) if not any(part in f.filename for part in foreign))
        last = next(frames)
        self.waits[f"{Path(last.filename).name}: {last.line}"] += 1


class _Calls(TorchFunctionMode):
    """What torch settles before it comes to an operation: where a new tensor is made, and copies that are none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], CUDA)
        if func is Tensor.to and isinstance(args[0], Far):
            args = tuple(value for value in args if not _is_gpu(value))
            kwargs = {name: value for name, value in kwargs.items() if not _is_gpu(value)}
            if len(args) == 1 and not kwargs.keys() - {"non_blocking"}:
                return args[0]
        if func is Tensor.new_tensor:
            given = {"device": args[0].device, "dtype": args[0].dtype} | kwargs
            func, args, kwargs = torch.tensor, args[1:], given
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        meta = torch.device("meta")
        args = tuple(meta if _is_gpu(value) else value for value in args)
        return func(*args, **{name: meta if _is_gpu(value) else value for name, value in kwargs.items()})


class Accelerator(CPUAccelerator):
    """Lets a trainer take the GPU that is not there."""

    def setup_device(self, device: torch.device) -> None:
        """Need nothing."""


class RealDevice:
    """A real one, of which torch tells where it was waited for."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()

    def note(self, message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        """Take the place of ``warnings.showwarning``."""
        if "synchronizing CUDA operation" in str(message):
            self.waits[f"{Path(filename).name}: {linecache.getline(filename, lineno).strip()}"] += 1


@contextlib.contextmanager
def gpu() -> Iterator[Device | RealDevice]:
    """Have a GPU; a model is sent to it by ``model.to("cuda")``, and trained on it by ``Trainer(**on_gpu())``."""
    if real():
        found = RealDevice()
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = found.note
            torch.cuda.set_sync_debug_mode("warn")
            yield found
            torch.cuda.set_sync_debug_mode(mode)
    elif _active:  # the whole test has it
        _active[0].waits.clear()
        yield _active[0]
    else:
        device = Device()
        with contextlib.ExitStack() as stack:
            cuda = {"default_generators": (device.generator,), "current_device": lambda: 0, "_lazy_init": lambda: None}
            for name, value in cuda.items():
                stack.enter_context(patch.object(torch.cuda, name, value))
            for name in (
                "_accelerator_graph_capture_health_check",
                "_cuda_graph_capture_health_check",
            ):  # as of 2.12, before
                if hasattr(Optimizer, name):
                    stack.enter_context(patch.object(Optimizer, name, lambda _: None))
            stack.enter_context(patch.object(torch.backends.cudnn, "is_acceptable", lambda _: False))
            # a module's parameters are changed in place, as on a GPU: tied ones stay tied
            stack.enter_context(patch("torch.__future__.get_swap_module_params_on_conversion", lambda: True))
            stack.enter_context(device)
            stack.enter_context(_Calls())
            _active.append(device)
            stack.callback(_active.pop)
            yield device


_active: list[Device] = []


def real() -> bool:
    """Whether the tests run on a real GPU: ``make test-gpu``."""
    return os.environ.get("ZOO_TEST_DEVICE") == "cuda"


def to_gpu(batch: Any) -> Any:
    """Send all tensors of a batch there."""
    return tree_map(lambda x: x.to("cuda") if isinstance(x, Tensor) else x, batch)


def on_gpu() -> dict[str, Any]:
    """Arguments of a trainer, to train on it."""
    if real():
        return {"accelerator": "gpu", "devices": 1}
    # tensors of inference mode can have no views here
    here = SingleDeviceStrategy(CUDA, accelerator=Accelerator())
    return {"accelerator": "auto", "strategy": here, "inference_mode": False}


def _is_gpu(value: Any) -> bool:
    return (
        value in ("cuda", "cuda:0")
        if isinstance(value, str)
        else isinstance(value, torch.device) and value.type == "cuda"
    )


def _fetch(value: Any, far: list[Far], near: list[Tensor]) -> Any:
    """Return the numbers of all tensors, and add the tensors to the lists."""
    if isinstance(value, Far):
        far.append(value)
        return value.near
    if isinstance(value, Tensor):
        near.append(value)
    elif isinstance(value, tuple | list):
        return [_fetch(part, far, near) for part in value]
    elif isinstance(value, dict):
        return {name: _fetch(part, far, near) for name, part in value.items()}
    return value


def _send(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value if isinstance(value, Far) else Far(value)
    return type(value)(_send(part) for part in value) if type(value) in (tuple, list) else value


def _has_mask(indices: Any) -> bool:
    return any(isinstance(index, Far) and index.dtype in (torch.bool, torch.uint8) for index in indices)
