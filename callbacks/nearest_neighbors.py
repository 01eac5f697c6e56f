"""Whether a generative model copies its training data."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.contract import check_defines
from callbacks.internals import as_step_gets_it, folder_after_fit, gather_objects, leaves
from callbacks.reading import counted, has_indices, read
from callbacks.writing import warning_only, write


class NearestNeighbors(Callback):
    """Compare samples of a generative model with their nearest training examples when it is tested.

    Logs ``test/copy_ratio``, the median distance from a sample to its nearest training example, divided by the median distance
    from a real test example to its own nearest one. It is about 1 for a model that makes new examples like the real ones, near 0
    for one that copies what it has seen, and above 1 for bad samples. Distances are Euclidean, in units of the data. For images,
    the run folder gets ``nearest_neighbors.png`` after a fit: the samples closest to the training data, each above its neighbor.

    Samples are those of ``pl_module.sample(count)`` (:class:`~callbacks.Sampleable`). The training examples are those of the
    trainer's datamodule, without augmentation; they must fit into memory. A module without ``sample`` is refused; one is
    left alone whose inputs or samples are not one tensor of floats of one shape (tokens, parts of several tensors).

    Args:
        num_samples: Number of samples to compare, >= 1.
        num_shown: Number of them in the picture, >= 1.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> NearestNeighbors().num_samples
        500
    """

    def __init__(self, num_samples: int = 500, num_shown: int = 16) -> None:
        for name, value in (("num_samples", num_samples), ("num_shown", num_shown)):
            check_integer(name, value, 1)
        self.num_samples = num_samples
        self.num_shown = num_shown
        self._folder: Path | None = None
        self._train: Tensor | None = None
        self._real: list[Tensor | None] = []  # of each batch, the distances to the nearest training example

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage in ("fit", "test"):
            check_defines(pl_module, "NearestNeighbors", "sample(count)")

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._folder = folder_after_fit(trainer)
        self._real, self._train = [], _training_examples(trainer)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._train is not None:
            x = _inputs(batch)
            if x is None or x.shape[1:] != self._train.shape[1:]:
                self._real.append(None)
                return
            weight = batch[2:] if isinstance(batch, list | tuple) else ()
            self._real.append(_nearest(x[counted(weight[0])] if weight else x, self._train)[0])

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._train is None or not self._real:
            return
        parts = [part for parts in gather_objects(trainer, self._real) for part in parts]
        module: Any = pl_module
        with torch.no_grad():
            made = module.sample(self.num_samples)
        if (
            any(part is None for part in parts)
            or not isinstance(made, Tensor)
            or made.shape[1:] != self._train.shape[1:]
        ):
            return
        real, made = torch.cat(parts), made.float().cpu()
        distances, indices = _nearest(made, self._train)
        ratio = distances.median() / real.median()
        module.log("test/copy_ratio", ratio, batch_size=1, prog_bar=True, sync_dist=True, reduce_fx="max")
        if self._folder is not None and trainer.is_global_zero:
            with warning_only("NearestNeighbors could not show them"):
                self._show(made, distances, indices)
        self._train = None

    def _show(self, made: Tensor, distances: Tensor, indices: Tensor) -> None:
        """Write the picture: pairs of a sample and its neighbor, the closest first, eight in a row."""
        if self._train is None or self._folder is None or made.ndim != 4 or made.shape[1] not in (1, 3):
            return
        closest = distances.argsort()[: self.num_shown]
        scale = max(1, 64 // made.shape[-1])

        def tiles(images: Tensor, above: int, below: int) -> Tensor:
            pixels = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1)
            pixels = pixels.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
            return torch.nn.functional.pad(pixels, (2, 2, above, below), value=255)

        # (N, 3, H, W) twice -> (N, 3, 2 H, W): a sample above its neighbor
        pixels = torch.cat([tiles(made[closest], 8, 1), tiles(self._train[indices[closest]], 1, 8)], dim=2)
        rows = [torch.cat([*part], dim=2) for part in pixels.split(8)]
        width = rows[0].shape[2]
        rows = [torch.nn.functional.pad(row, (0, width - row.shape[2]), value=255) for row in rows]
        write(self._folder, "nearest_neighbors", torch.cat(rows, dim=1))


def _training_examples(trainer: Trainer) -> Tensor | None:
    """Return all training inputs in their order, as an evaluation step would get them, on the CPU.

    None where they cannot be compared: there is no datamodule, examples have no index, are no floats or differ in shape.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if data is None:
        return None
    data.setup("validate")  # the training split, without beginning a fit
    inputs: list[Tensor] = []
    for loader in leaves(data.train_dataloader()):
        if not has_indices(loader):
            return None
        for part in torch.arange(len(loader.dataset)).split(512):
            x = _inputs(as_step_gets_it(trainer, read(loader, part.tolist())))
            if x is None or (inputs and x.shape[1:] != inputs[0].shape[1:]):
                return None
            inputs.append(x)
    return torch.cat(inputs) if inputs else None


def _inputs(batch: Any) -> Tensor | None:
    """Return the inputs of a batch on the CPU; None if they are not one tensor of floats or of pixels."""
    x = batch[0] if isinstance(batch, list | tuple) else batch
    comparable = isinstance(x, Tensor) and (x.is_floating_point() or x.dtype == torch.uint8)
    return x.float().cpu() if comparable else None


def _nearest(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance to the nearest training example and its index: ``(B, ...)``, ``(N, ...)`` -> ``(B,)``, ``(B,)``."""
    distances, indices = zip(
        *(torch.cdist(part, train.flatten(1)).min(dim=1) for part in x.float().cpu().flatten(1).split(256)), strict=True
    )
    return torch.cat(distances), torch.cat(indices)
