"""Statistics of activations."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from callbacks.internals import is_compiled, is_window_end, sum_over_ranks
from callbacks.monitor import Monitor

RECTIFIED = ("relu", "relu6")  # 0 for all that is negative: such a unit can die
SMOOTH = ("leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "hardswish")
BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {"tanh": lambda y: y, "sigmoid": lambda y: 2 * y - 1}  # to (-1, 1)
SATURATED = 0.95**0.5  # of |tanh|, where its derivative, 1 - tanh^2, is 0.05 of the largest; the same for the sigmoid
CHANNELS_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.GroupNorm),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


class ActivationStats(Monitor):
    """Log the mean and the standard deviation of each activation, the share of its dead units and that of its saturated values.

    ``activation_mean/<name>``, ``activation_std/<name>``
        Over all values of the output; unit: that of the activation.
    ``dead_units/<name>``
        Of ReLU and ReLU6: the share, in [0, 1], of units (channels, features) that are 0 for every example at every place.
    ``saturation/<name>``
        Of tanh and sigmoid: the share, in [0, 1], of values where the derivative is below 5% of its largest.
    ``dead_units``, ``saturation``
        The same over all layers.

    ``<name>`` is the layer whose output is activated, and the function, ``net.layer1.0.bn1.relu``; to be exact, the last module
    with parameters of its own that ran before. Functions count as modules do (``nn.ReLU()``, ``F.relu(x)``, ``x.relu()``); those
    that do not run in Python (in ``nn.LSTM``, ``nn.TransformerEncoder``'s fast path) or without gradients are not seen. A layer
    that runs several times a step, a recurrent cell for instance, has one number over all of them.

    Numbers are of a whole step: all batches of an accumulation window, and all ranks. Their sums are added, so every rank must run
    the same layers: one that runs others waits for ever. A unit that is dead in one step may live in another: look at several.

    Healthy: means near 0 and deviations that neither shrink nor grow with depth (Glorot and Bengio 2010, "Understanding the
    difficulty of training deep feedforward neural networks"; He et al. 2015, arXiv:1502.01852); after a ReLU, the mean is
    positive. Dead units: a few percent; 40% come from a rate that is too high (Karpathy, CS231n, "Neural Networks part 1").
    Saturation near 0; layers whose values all saturate stop learning (Glorot and Bengio 2010, figure 2).

    A net without any of these functions has a line in the log that says so, and trains on: a monitor changes nothing of a run. So
    has a compiled net, whose functions cannot be seen.

    Args:
        per_layer: Whether to log each layer's numbers, or only those over all layers.
        every_n_steps: Optimizer steps from one measurement to the next; by default those at which the trainer writes a row
            (``log_every_n_steps``, of which 0 turns this callback off).

    Raises:
        ValueError: ``every_n_steps`` is out of its range.

    Example:
        >>> ActivationStats(per_layer=False).per_layer
        False
    """

    def __init__(self, per_layer: bool = True, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        self.per_layer = per_layer
        self._layer: tuple[str, nn.Module] | None = None  # that ran last
        self._found: dict[str, list[Tensor]] = {}  # name -> sums, live units; of the step so far
        self._mode: _Watch | None = None
        self._paused = False  # during backward, which may run parts of the net again (activation checkpoints)
        self._handles: list[RemovableHandle] = []
        self._noted = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._found, self._noted = {}, False
        if is_compiled(pl_module):
            self._note("the net is compiled, so its activations cannot be seen")

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._noted or not self.is_due(trainer):
            return
        for name, module in pl_module.named_modules():
            if name and next(module.parameters(recurse=False), None) is not None:
                self._handles.append(module.register_forward_pre_hook(self._remember(name)))
        self._layer, self._paused = None, False
        self._mode = _Watch(self._see)
        self._mode.__enter__()

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._paused = True

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = False

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._mode is not None:
            self._end_watch()
            if is_window_end(trainer):
                self._measure(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end_watch()
        self._found = {}
        super().on_exception(trainer, pl_module, exception)

    def _end_watch(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
        for handle in self._handles:
            handle.remove()
        self._mode, self._handles = None, []

    def _note(self, why: str) -> None:
        self._noted = True
        rank_zero_info(f"ActivationStats logs nothing: {why}.")

    def _remember(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any) -> None:
            self._layer = name, module

        return hook

    @torch.no_grad()
    def _see(self, function: str, output: Tensor) -> None:
        """Add the sums of an output to those of its layer."""
        if self._paused or self._layer is None or not output.numel():
            return
        name, layer = self._layer
        y = output.detach()
        y = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
        mean, square = y.mean(), torch.linalg.vector_norm(y).square() / y.numel()  # a tenth of the time of var_mean
        bounded = BOUNDED.get(function)
        saturated = (bounded(y).abs() > SATURATED).to(mean.dtype).mean() if bounded else torch.zeros_like(mean)
        each = torch.stack([torch.ones_like(mean), mean, square, saturated])
        sums = (each if y.device.type == "mps" else each.double()) * y.numel()
        parts = [sums]
        if function in RECTIFIED:
            units = 1 if y.ndim > 2 and (isinstance(layer, CHANNELS_FIRST) or _is_map(layer, y)) else y.ndim - 1
            parts.append((y.amax([d for d in range(y.ndim) if d != units]) > 0).to(sums.dtype))
        key = f"{name}.{function}"
        known = self._found.get(key)
        if known is not None and [len(part) for part in known] == [len(part) for part in parts]:
            parts = [a + b for a, b in zip(known, parts, strict=True)]
        self._found[key] = parts

    def _measure(self, trainer: Trainer) -> None:
        if not self._found:
            if not self._noted:
                self._note("the net has no activation that it knows (ReLU, GELU, SiLU, tanh, sigmoid and the like)")
            return
        names = sorted(self._found)
        sizes = [len(part) for name in names for part in self._found[name]]
        flat = sum_over_ranks(trainer, torch.cat([part for name in names for part in self._found[name]]))
        parts = iter(flat.split(sizes))
        rows: dict[str, Tensor] = {}
        dead, saturated = [], []
        for name in names:
            count, total, squares, beyond = next(parts)
            mean = total / count
            layer: dict[str, Tensor] = {
                f"activation_mean/{name}": mean,
                f"activation_std/{name}": (squares / count - mean.square()).clamp(min=0).sqrt(),
            }
            function = name.rsplit(".", 1)[1]
            if function in RECTIFIED:
                dead.append(next(parts) == 0)
                layer[f"dead_units/{name}"] = dead[-1].to(mean.dtype).mean()
            if function in BOUNDED:
                saturated.append(torch.stack([beyond, count]))
                layer[f"saturation/{name}"] = beyond / count
            if self.per_layer:
                rows |= layer
        if dead:
            rows["dead_units"] = torch.cat(dead).to(flat.dtype).mean()
        if saturated:
            beyond, count = torch.stack(saturated).sum(0)
            rows["saturation"] = beyond / count
        self._found = {}
        if rows:
            self.keep(trainer, list(rows), torch.stack(list(rows.values())))


class _Watch(TorchFunctionMode):
    """Tell of each activation function that is called with gradients on, whoever calls it."""

    def __init__(self, see: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self.see = see

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").rstrip("_")  # relu and relu_
        if (name in BOUNDED or name in RECTIFIED or name in SMOOTH) and torch.is_grad_enabled():
            self.see(name, output)
        return output


def _is_map(layer: nn.Module, y: Tensor) -> bool:
    """Whether an output of a layer of another kind is a map ``(B, C, H, W)``, not ``(B, H, W, C)`` or ``(B, T, D)``."""
    return y.ndim > 3 and not isinstance(layer, nn.Linear | nn.LayerNorm)
