"""Sizes and receptive fields of feature maps: r_l = r_{l-1} + (k_l - 1) * s_1 ... s_{l-1}, along any graph of operations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks.modes import evaluating
from zoo.internals import TorchDispatchMode, tree_leaves

aten = torch.ops.aten


@dataclass(frozen=True)
class FeatureMap:
    """A feature map of a net.

    Attributes:
        channels: Number of channels.
        stride: Distance in the image from one value of the map to the next, in pixels.
        receptive_field: Side of the square of the image that one value depends on, in pixels.
    """

    channels: int
    stride: int
    receptive_field: int


@dataclass(frozen=True)
class _Field:
    """Receptive field along a row: the first value sees the pixels ``low..high``, each next one ``stride`` pixels further."""

    low: int
    high: int
    stride: int

    def slid(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> "_Field":
        low = self.low - padding * self.stride
        return _Field(low, low + self.high - self.low + (kernel - 1) * dilation * self.stride, self.stride * stride)


class _Tracker(TorchDispatchMode):
    """Propagate receptive fields through every operation on tensors that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[int, tuple[Tensor, _Field]] = {}  # by id; the tensor is kept so that no other gets its id

    def give(self, x: Tensor, field: _Field) -> None:
        self.fields[id(x)] = (x, field)

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        seen = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and id(x) in self.fields]
        if not seen:
            return out
        fields = [self.fields[id(x)][1] for x in seen]
        if len({field.stride for field in fields}) > 1:
            raise ValueError(f"{func} joins maps of different strides, which have no common receptive field")
        joined = _Field(min(f.low for f in fields), max(f.high for f in fields), fields[0].stride)
        field = self._through(func, seen[0], args, joined, tree_leaves(out)[0])
        for result in tree_leaves(out):
            if isinstance(result, Tensor):
                self.give(result, field)
        return out

    def _through(self, func: Any, x: Tensor, args: Any, field: _Field, out: Any) -> _Field:
        packet = func.overloadpacket
        if packet is aten.convolution:
            weight, stride, padding, dilation = args[1], args[3], args[4], args[5]
            if args[6]:
                raise ValueError("a transposed convolution has no receptive field of one size")
            return field.slid(weight.shape[-1], stride[-1], padding[-1], dilation[-1])
        if packet in (aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d):
            kernel = args[1]
            stride = args[2] if len(args) > 2 and args[2] else kernel
            padding = args[3] if len(args) > 3 else [0]
            dilation = args[4] if len(args) > 4 and packet is not aten.avg_pool2d else [1]
            return field.slid(kernel[-1], stride[-1], padding[-1], dilation[-1])
        if packet is aten.slice and args[1] in (x.ndim - 1, -1):
            start, step = (args[2] or 0) if len(args) > 2 else 0, args[4] if len(args) > 4 else 1
            start = max(start + x.shape[-1], 0) if start < 0 else start
            return _Field(field.low + start * field.stride, field.high + start * field.stride, field.stride * step)
        if packet is aten.constant_pad_nd:
            return field.slid(1, 1, args[1][0])
        if isinstance(out, Tensor) and out.ndim == x.ndim and out.shape[-1] == x.shape[-1]:
            return field  # value by value, or across channels
        raise ValueError(
            f"the receptive field behind {func} is not known: it changes {tuple(x.shape)} to {tuple(out.shape)}"
        )


def conv_out_size(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    *,
    transposed: bool = False,
    output_padding: int = 0,
) -> int:
    """Return the size of a convolution's or pooling's output along one axis.

    It is ``floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1``; of a transposed convolution
    ``(size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1``.

    Args:
        size: Size of the input, >= 1.
        kernel: Size of the kernel, >= 1.
        stride: Distance from one position of the kernel to the next, >= 1.
        padding: Zeros on each of the two sides, >= 0.
        dilation: Distance from one value of the kernel to the next, >= 1.
        transposed: Whether the convolution is a transposed one.
        output_padding: Of a transposed convolution: added to one side of the output, >= 0, less than stride or dilation.

    Raises:
        ValueError: An argument out of its range, or no output: the kernel is larger than the padded input.

    Example:
        >>> conv_out_size(32, kernel=5)
        28
        >>> conv_out_size(7, kernel=4, stride=2, padding=1, transposed=True)
        14
    """
    for name, value, least in (
        *(("size", size, 1), ("kernel", kernel, 1), ("stride", stride, 1)),
        *(("padding", padding, 0), ("dilation", dilation, 1), ("output_padding", output_padding, 0)),
    ):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    if output_padding and (not transposed or output_padding >= max(stride, dilation)):
        raise ValueError(
            f"output_padding is of transposed convolutions, and less than stride or dilation, got {output_padding}"
        )
    reach = dilation * (kernel - 1) + 1
    out = (size - 1) * stride - 2 * padding + reach + output_padding if transposed else size + 2 * padding - reach
    if out < (1 if transposed else 0):
        raise ValueError(
            f"a kernel of {kernel} with dilation {dilation} reaches over {reach} values, and there is no output for a size of "
            f"{size} with padding {padding}: take a smaller kernel or a larger input"
        )
    return out if transposed else out // stride + 1


def on_meta(net: nn.Module, function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Return what a function gives for an image on the meta device; no value is computed, and the net is not changed.

    Args:
        net: Module that holds all parameters that ``function`` uses.
        function: What to call, in evaluation mode.
        x: The image, on the meta device.
    """
    with evaluating(net):
        state = {f"net.{name}": t for name, t in meta_tensors(net).items()}
        return torch.func.functional_call(_Call(net, function), state, x)


def meta_tensors(net: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a net on the meta device, those that are in no state dict included."""
    return {name: t.detach().to("meta") for name, t in (*net.named_parameters(), *net.named_buffers())}


def feature_maps(net: nn.Module, function: Callable[[Tensor], Any], shape: tuple[int, int, int]) -> list[FeatureMap]:
    """Return channels, stride and receptive field of the feature maps that a function computes.

    The operations are followed on the meta device; no value is computed, and the net is not changed.

    Args:
        net: Module that holds all parameters that ``function`` uses.
        function: Maps an image ``(1, C, H, W)`` to a feature map or a list of them, by convolutions, poolings, norms, sums,
            concatenations ...
        shape: Shape (C, H, W) of an image that it takes.

    Raises:
        ValueError: An operation whose receptive field is not known, such as a dense layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2))
        >>> feature_maps(net, net, (3, 32, 32))
        [FeatureMap(channels=8, stride=2, receptive_field=4)]
    """
    tracker = _Tracker()
    dtype = next((p.dtype for p in net.parameters()), None)
    x = torch.empty(1, *shape, device="meta", dtype=dtype)
    tracker.give(x, _Field(0, 0, 1))
    with tracker:
        maps = on_meta(net, function, x)
    described = []
    for y in [maps] if isinstance(maps, Tensor) else maps:
        field = tracker.fields[id(y)][1]
        described.append(FeatureMap(y.shape[1], field.stride, field.high - field.low + 1))
    return described


class _Call(nn.Module):
    def __init__(self, net: nn.Module, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.function = net, function if not isinstance(function, nn.Module) else function.forward

    @override
    def forward(self, x: Tensor) -> Any:
        return self.function(x)
