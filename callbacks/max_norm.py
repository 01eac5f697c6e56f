"""Max-norm regularization."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from callbacks.internals import has_whole_parameters, is_skipped
from callbacks.layer_weights import TRANSPOSED, check_layers, layer_weights


class MaxNorm(Callback):
    """Scale the incoming weights of each unit back to the norm ``max_norm`` wherever an optimizer step has made them longer (Hinton
    et al. 2012, arXiv:1207.0580; Srivastava et al. 2014, JMLR 15, section 5.1).

    The units of a linear layer are the rows of its matrix, those of a convolution its filters (of a transposed one, all weights
    that lead to an output channel), those of a recurrent or an attention layer the rows of each of its matrices, that of the
    input and that of the state apart. Biases, norms and embeddings are left alone, and so is a weight that is tied to an
    embedding.

    Weights are scaled at the end of ``optimizer.step()``, so with accumulation once a window, not where float16's scaler skips the
    step, and before whatever looks at the weights after a batch: averages of them (:class:`~callbacks.EMA`) stay within the norm,
    too. What the step does not move, because it is frozen or has no gradient, stays as it is. All ranks scale alike.

    Args:
        max_norm: Largest Euclidean norm, > 0, in the unit of the weights; the papers take 3 to 4 beside dropout.
        layers: Names of layers, or of parts of the net that hold some, as ``module.named_modules()`` has them, "net." in front left
            out at will; None: all layers of these kinds, the output layer among them.

    Raises:
        ValueError: ``max_norm`` is out of its range, there is no such layer, it has no such weights, the net has none, or the
            optimizer averages the weights.
        TypeError: An argument has another type, or the strategy shards the parameters.

    Example:
        >>> MaxNorm(3.0, layers=["fc1", "fc2"]).max_norm
        3.0
    """

    def __init__(self, max_norm: float = 3.0, layers: Sequence[str] | None = None) -> None:
        if isinstance(max_norm, bool) or not isinstance(max_norm, int | float):
            raise TypeError(f"max_norm must be a number > 0, got {max_norm!r}")
        if not 0 < max_norm < math.inf:
            raise ValueError(f"max_norm must be a finite number > 0, got {max_norm}")
        self.max_norm = float(max_norm)
        self.layers = check_layers(layers)
        self._kinds: dict[
            int, tuple[bool, int]
        ] = {}  # id of a weight -> whether it is of a transposed convolution, groups
        self._depth: dict[int, int] = {}  # a step that calls the step of its base class runs the hooks twice
        self._handles: list[RemovableHandle] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not has_whole_parameters(trainer):
            raise TypeError(
                f"{type(trainer.strategy).__name__} shards parameters, and the norm is that of whole units: MaxNorm works on a "
                "single device and with ddp"
            )
        layer_weights(pl_module, self.layers, "MaxNorm")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove()
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):  # so it keeps two sets of weights
                raise ValueError(
                    f"{type(optimizer).__name__} averages the weights from numbers of its own, which MaxNorm does not scale: drop "
                    "MaxNorm, or take another optimizer"
                )

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._handles:
            return
        # not at the start of training, so that callbacks which measure the step itself (UpdateRatio) have their hooks before
        self._kinds = {
            id(weight): (isinstance(layer, TRANSPOSED), int(getattr(layer, "groups", 1)))
            for layer, weight in layer_weights(pl_module, self.layers, "MaxNorm")
        }
        for index, optimizer in enumerate(trainer.optimizers):
            self._handles += [
                optimizer.register_step_pre_hook(lambda *_, index=index: self._begin(index)),
                optimizer.register_step_post_hook(lambda optimizer, *_, index=index: self._end(index, optimizer)),
            ]

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._depth = [], {}

    def _begin(self, index: int) -> None:
        self._depth[index] = self._depth.get(index, 0) + 1

    @torch.no_grad()
    def _end(self, index: int, optimizer: Optimizer) -> None:
        self._depth[index] -= 1
        if self._depth[index]:
            return
        skipped = is_skipped(optimizer)
        for weight in (p for group in optimizer.param_groups for p in group["params"]):
            if id(weight) in self._kinds and weight.requires_grad and weight.grad is not None:
                transposed, groups = self._kinds[id(weight)]
                scale = (self.max_norm / _norms(weight, transposed, groups)).clamp(max=1)  # of a norm of 0, infinite
                weight.mul_(scale if skipped is None else torch.where(skipped, 1, scale))


def _norms(weight: Tensor, transposed: bool, groups: int) -> Tensor:
    """Return the norm of each unit's weights, in a shape that broadcasts over them, in float32 or float64."""
    dtype = torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype
    if not transposed:  # (W, ...) -> (W, 1 ...)
        return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True, dtype=dtype)
    apart = weight.unflatten(
        0, (groups, -1)
    )  # (C, W / G, ...) -> (G, C / G, W / G, ...): a unit sees the inputs of its group
    dims = (1, *range(3, apart.ndim))
    each = torch.linalg.vector_norm(apart, dim=dims, keepdim=True, dtype=dtype)  # -> (G, 1, W / G, 1 ...)
    return each.expand(-1, apart.shape[1], *each.shape[2:]).flatten(0, 1)  # -> (C, W / G, 1 ...)
