"""Statistics of batch norms over the whole training set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from typing_extensions import override

from callbacks.contract import check_defines
from callbacks.internals import (
    as_step_gets_it,
    forward_context,
    gather_objects,
    has_whole_parameters,
    is_compiled,
    is_fit_validation,
    leaves,
    map_leaves,
)
from callbacks.reading import batches, counted, has_indices, indices_of

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class BatchNormReestimation(Callback):
    """Before each validation of a fit, compute the running mean and variance of the batch norms anew, over the whole training set
    and with the weights that are validated (Wu and Johnson 2021, arXiv:2105.07576, "PreciseBN").

    What training leaves is a moving average over its last batches, each of which saw other weights; and averaged weights
    (:class:`~callbacks.EMA`, schedule-free optimizers) have the statistics of weights that are not theirs. Here each batch norm
    gets the mean and the (biased) variance of its input, pooled over all examples: with one batch of all of them, evaluation gives
    what training mode does. While they are computed, a batch norm normalizes by the batch, all else is in evaluation mode.

    The statistics stay where validation saw them. So ``best.ckpt``, the folder ``model/`` and the test after the fit have those
    that ``val/loss`` belongs to; so has ``last.ckpt``, if its epoch ended with a validation. Training goes on from them, which
    changes none of its steps: in training, a batch norm does not read them. Under EMA, they are the average's alone.

    The examples are those of the training set, each once and without augmentation, in batches of ``batch_size`` in a fixed random
    order that the ranks divide; a last, small batch is spread over the others. Examples of weight 0 are left out. With
    ``limit_train_batches``, there are as many batches as in an epoch. It costs a forward pass over the training set a validation.

    The module's ``forward`` gets ``forward_args(batch)`` of the module, where it has such a method, or else the first part of the
    batch; a generator gets noise, other noise for each batch (``statistics_args(batch, number)``). Batch norms that ``forward``
    does not run keep their statistics, with a warning; those that are frozen (in evaluation mode while training) keep theirs.

    Raises:
        ValueError: The net has no batch norm, or is compiled; the run has no validation; or the training examples cannot be read by
            their index.
        TypeError: The strategy shards the parameters, or the module has no ``forward``.

    Example:
        >>> callback = BatchNormReestimation()
    """

    def __init__(self) -> None:
        self._trained: list[tuple[str, Any]] = []  # names and layers whose statistics training moves
        self._warned = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not has_whole_parameters(trainer):
            raise TypeError(
                f"{type(trainer.strategy).__name__} shards parameters, so no rank can run the net by itself: BatchNormReestimation "
                "works on a single device and with ddp"
            )
        check_defines(pl_module, "BatchNormReestimation", "forward(x)")
        if not _batch_norms(pl_module):
            raise ValueError(
                f"{type(pl_module).__name__} has no batch norm with running statistics: leave BatchNormReestimation out"
            )
        self._trained, self._warned = [], False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            raise ValueError(
                "BatchNormReestimation estimates before each validation, and this run has none: give validation data, or leave it "
                "out"
            )
        if is_compiled(pl_module):
            raise ValueError(
                "BatchNormReestimation cannot look into a compiled net: do not compile it, or leave the callback out"
            )
        loaders = leaves(trainer.train_dataloader)
        if len(loaders) != 1 or not has_indices(loaders[0]) or isinstance(loaders[0].dataset, IterableDataset):
            what = f"{len(loaders)} loaders" if len(loaders) != 1 else type(loaders[0]).__name__ + " of a stream"
            raise ValueError(
                f"BatchNormReestimation reads the training examples of one loader by their index, got {what}: leave it out"
            )

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._trained = [(name, layer) for name, layer in _batch_norms(pl_module) if layer.training]

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Estimate: averages are in their place by now, from ``on_validation_start`` of EMA or of the module."""
        if not self._trained or not is_fit_validation(trainer):
            return
        before = [(layer.running_mean.clone(), layer.running_var.clone()) for _, layer in self._trained]
        found: list[tuple[Tensor, Tensor] | None] = [None] * len(before)
        try:
            with isolate_rng(), torch.no_grad():
                found = self._estimates(trainer, pl_module)
        finally:
            for (_, layer), new, old in zip(self._trained, found, before, strict=True):
                _set(layer, *(old if new is None else new))
        missing = [name for (name, _), new in zip(self._trained, found, strict=True) if new is None]
        if missing and not self._warned:
            self._warned = True
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            rank_zero_warn(
                f"BatchNormReestimation: forward of {type(pl_module).__name__} does not run {missing[0]}{more}, which keeps the "
                "statistics of training"
            )

    def _estimates(self, trainer: Trainer, module: LightningModule) -> list[tuple[Tensor, Tensor] | None]:
        """Return mean and variance of each layer's input; None for one that did not run."""
        own = [Moments() for _ in self._trained]
        with _normalizing_by_batch([layer for _, layer in self._trained], own):
            for number, batch in _batches(trainer):
                inputs = _forward_args(module, as_step_gets_it(trainer, batch), number)
                with forward_context(trainer):
                    module(*inputs)
        totals = [Moments() for _ in own]
        for of_rank in gather_objects(trainer, [moments.on_cpu() for moments in own]):
            for total, part in zip(totals, of_rank, strict=True):
                total.add(*part)  # in the order of the ranks: the same sums on each of them, to the bit
        return [(total.mean, total.squares / total.count) if total.count else None for total in totals]


class Moments:
    """Count, mean and sum of squared deviations of each channel, pooled (Chan et al. 1983, "Algorithms for Computing the Sample
    Variance", The American Statistician 37(3)).

    Example:
        >>> moments = Moments()
        >>> for values in ([1.0, 2.0], [6.0]):
        ...     _ = moments.add_values(torch.tensor(values)[:, None])
        >>> moments.count, moments.mean.item(), moments.squares.item()
        (3, 3.0, 14.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, count: int, mean: Any, squares: Any) -> None:
        """Add what was counted elsewhere."""
        if not count:
            return
        share = count / (self.count + count)
        delta = mean - self.mean
        self.mean = self.mean + delta * share
        self.squares = self.squares + squares + delta**2 * (self.count * share)
        self.count += count

    def add_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add values ``(B, C, ...)``; return their own mean and biased variance."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        variance, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
        count = x.numel() // x.shape[1]
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        self.add(count, mean.to(exact), variance.to(exact) * count)
        return mean, variance

    def on_cpu(self) -> tuple[int, Any, Any]:
        """Return count, mean and squares, to send to other ranks."""
        return self.count, torch.as_tensor(self.mean).cpu(), torch.as_tensor(self.squares).cpu()


def _batch_norms(module: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, BATCH_NORMS) and layer.running_mean is not None
    ]


@contextmanager
def _normalizing_by_batch(layers: list[Any], moments: list[Moments]) -> Iterator[None]:
    """Let layers in evaluation mode normalize each batch by its own statistics, and add these to the moments.

    The batch's statistics are written into the running ones: training mode would ask other ranks for theirs (SyncBatchNorm), count
    the batch, and refuse one value a channel.
    """

    def look(own: Moments) -> Callable[..., None]:
        def hook(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            _set(layer, *own.add_values(inputs[0]))

        return hook

    handles = [layer.register_forward_pre_hook(look(own)) for layer, own in zip(layers, moments, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _set(layer: Any, mean: Tensor, variance: Tensor) -> None:
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)


def _batches(trainer: Trainer) -> Iterator[tuple[int, Any]]:
    """Yield this rank's batches of the training set, of the examples that count, with their numbers among those of all ranks."""
    (loader,) = leaves(trainer.train_dataloader)
    size = loader.batch_size or getattr(getattr(trainer, "datamodule", None), "batch_size", 32)  # None: the sampler's
    indices = torch.tensor(indices_of(loader))
    indices = indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))]
    parts = indices.tensor_split(max(1, len(indices) // size))  # of `size` or a few more: none is small
    limit = getattr(trainer, "limit_train_batches", 1.0)
    if getattr(trainer, "fast_dev_run", False) or isinstance(limit, int) or limit < 1:
        parts = parts[: max(1, int(trainer.num_training_batches)) * trainer.world_size]
    numbers = range(trainer.global_rank, len(parts), trainer.world_size)
    for number, batch in zip(numbers, batches(loader, [parts[i].tolist() for i in numbers]), strict=True):
        if type(batch) not in (tuple, list) or len(batch) < 3:
            yield number, batch
        elif (counts := counted(batch[2])).any():
            yield number, batch if counts.all() else map_leaves(lambda part, rows=counts: _rows(part, rows), batch)


def _rows(part: Any, rows: Tensor) -> Any:
    return part[rows] if isinstance(part, Tensor) and part.ndim and len(part) == len(rows) else part


def _forward_args(module: Any, batch: Any, number: int) -> tuple[Any, ...]:
    if hasattr(module, "statistics_args"):
        return module.statistics_args(batch, number)
    if hasattr(module, "forward_args"):
        return module.forward_args(batch)
    return (batch[0] if type(batch) in (tuple, list) else batch,)
