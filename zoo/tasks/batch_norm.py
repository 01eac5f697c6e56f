"""Batch norm on one value a channel, which torch refuses: found before training where it can be, else explained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from zoo.blocks.modes import evaluating
from zoo.internals import BATCH_NORMS
from zoo.model import Model

_TORCHS_WORDS = "Expected more than 1 value per channel"


def check_batch_norm(task: Model) -> None:
    """Refuse batches of one example, the last one of an epoch too, if a batch norm sees one value a channel of an example.

    Raises:
        ValueError: It does; the message names the settings.
    """
    if (what := _batch_of_one(task)) is not None and (layer := _layer_of_one_value(task)) is not None:
        raise ValueError(_message(task, what, layer))


@contextmanager
def explained(task: Model) -> Iterator[None]:
    """Name settings and cure where torch refuses a batch of one example."""
    try:
        yield
    except ValueError as error:
        if _TORCHS_WORDS not in str(error):
            raise
        layer = _layer_of_one_value(task)
        raise ValueError(_message(task, "a batch has one example", layer or "a layer")) from error


def _message(task: Model, what: str, layer: str) -> str:
    norm = "model.norm (such as layer)" if "norm" in task.hparams else "a net without batch norm"
    return (
        f"batch norm cannot train on one value a channel, which {layer} of {type(task.net).__name__} sees: {what}; take "
        f"data.batch_size 2 or more, data.drop_last true so that no short batch is left, or another normalization: {norm}"
    )


def _batch_of_one(task: Model) -> str | None:
    """Return where the data have a batch of one example, as far as this is known; None if they have none."""
    trainer = task.trainer
    data: Any = getattr(trainer, "datamodule", None)
    loader: Any = trainer.train_dataloader
    source = loader if data is None or not hasattr(data, "batch_size") else data
    size = getattr(source, "batch_size", None)
    if size == 1:
        return "data.batch_size is 1"
    try:
        count = len(loader.dataset)
    except (AttributeError, TypeError):  # no loader of a dataset, or a stream
        return None
    if not isinstance(size, int) or getattr(source, "drop_last", True):
        return None
    last = count % (size * trainer.world_size)
    reached = trainer.num_training_batches > count // (size * trainer.world_size)
    if reached and 0 < last < 2 * trainer.world_size:  # a process without an example is given one that does not count
        return (
            f"{count:,} examples in batches of {size * trainer.world_size} leave one of {last} (data.batch_size {size})"
        )
    return None


def _layer_of_one_value(task: Model) -> str | None:
    """Return the name of a batch norm that trains and sees one value a channel of one example."""
    several = task.trainer.world_size > 1
    layers: list[str] = []

    def look(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].numel() == inputs[0].shape[1]:
                layers.append(name)

        return hook

    handles = [
        layer.register_forward_pre_hook(look(name))
        for name, layer in task.net.named_modules()
        if isinstance(layer, BATCH_NORMS) and layer.training and not (several and isinstance(layer, nn.SyncBatchNorm))
    ]
    try:
        with evaluating(task):
            if handles:
                task.example_output()
    except ValueError:  # the shape of an example is not known
        return None
    finally:
        for handle in handles:
            handle.remove()
    return layers[0] if layers else None
