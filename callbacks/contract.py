"""What callbacks use of a module, besides Lightning's hooks. Any LightningModule may define it; the zoo's tasks do.

A callback refuses a module that does not define its protocol before anything is trained, and names what is missing. Two
attributes are used where they exist:

- ``monitor``: the metric that decides which checkpoint is best, and its mode, such as ``("val/loss", "min")``; or None.
- ``class_names``: names of the classes 0..K-1, or None.

:class:`~callbacks.BatchNormReestimation` calls ``forward`` with ``statistics_args(batch, number)`` or ``forward_args(batch)``,
where a module has them.

``callbacks.ModelFolder`` wants ``save_pretrained(folder, training)``, ``callbacks.WrongExamples`` a ``predict_step`` besides
``render``.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule
from torch import Tensor


@runtime_checkable
class Freezable(Protocol):
    """A module whose lower layers can be frozen (:class:`~callbacks.LayerFreezing`).

    Its optimizer holds all parameters from the start: freezing never adds or removes a group.
    """

    @property
    def frozen(self) -> int:
        """Number of frozen layer groups, counted from the input."""

    def layer_groups(self) -> Sequence[Sequence[str]]:
        """Return the names of the layers in each group, by depth: the input's first, the head's last."""

    def group_of(self, layer: str) -> int:
        """Return the index of the group that holds a layer; "head" is the group of the net's last layer.

        Raises:
            ValueError: There is no such layer.
        """

    def freeze(self, below: int) -> Any:
        """Freeze the first ``below`` groups, and unfreeze all others.

        Frozen parameters have ``requires_grad=False``, and frozen layers stay in evaluation mode whatever ``train()`` sets.
        """


@runtime_checkable
class Renderable(Protocol):
    """A module that shows what it makes of a batch (:class:`~callbacks.Samples`, :class:`~callbacks.WrongExamples`)."""

    def render(self, batch: Any) -> dict[str, Any]:
        """Return what is worth looking at, by name: uint8 images ``(3, H, W)``, texts, or tables (lists of rows, the first one the
        column names). It is called in evaluation mode, without gradients, on the first process alone.

        A dict is for trackers that lay masks over images by themselves, as W&B does, and is no file: ``images``, uint8
        ``(N, 3, H, W)``; ``masks``, by name, uint8 ``(N, H, W)``; ``class_names``, those of the classes 0..K-1.
        """


@runtime_checkable
class Sampleable(Protocol):
    """A generative model (:class:`~callbacks.NearestNeighbors`)."""

    def sample(self, count: int) -> Tensor:
        """Return examples ``(count, ...)`` in units of the data."""


@runtime_checkable
class Growable(Protocol):
    """A datamodule whose training batches can grow (:class:`~callbacks.BatchSizeSchedule`)."""

    batch_size: int

    def use_batch_sizes(self, of_epoch: Any) -> None:
        """Let ``train_dataloader`` give batches of ``of_epoch(epoch)`` examples of each process; None: of ``batch_size``."""

    def count_batches(self, batch_size: int) -> int:
        """Return the number of batches of a training epoch, of this process, with that many examples in a batch."""


def check_defines(module: LightningModule, callback: str, *methods: str) -> None:
    """Refuse a module that lacks what a callback calls.

    Args:
        module: The module.
        callback: Name of the callback, for the message.
        methods: What it calls, as it is called: "render(batch)".

    Raises:
        TypeError: A method is missing, or is Lightning's own, which does something else.
    """
    for method in methods:
        name = method.partition("(")[0]
        if getattr(type(module), name, getattr(module, name, None)) in (None, getattr(LightningModule, name, None)):
            raise TypeError(
                f"{type(module).__name__} must define {method} for {callback}: see callbacks.contract, or leave it out"
            )
