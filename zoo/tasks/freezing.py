"""Freezing that holds: declared state of a module, through train(), resuming and distribution."""

import warnings
from typing import Self

from lightning.pytorch import LightningModule
from torch import nn

from zoo.blocks.layers import layer_groups, modules_of, parameters_of
from zoo.registry import suggest


class Freezable(LightningModule):
    """A module whose ``net`` can be frozen from the input up to a layer."""

    net: nn.Module
    _frozen = 0

    def setup(self, stage: str) -> None:
        """Keep Lightning from warning of modules in evaluation mode that are meant to be."""
        if stage == "fit" and self._frozen:
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")

    def layer_groups(self) -> list[list[str]]:
        """The net's modules by depth, input first, head last; see :func:`zoo.blocks.layer_groups`."""
        return layer_groups(self.net)

    def group_of(self, layer: str) -> int:
        """The number of the layer group that a module, by its name in the net, belongs to or begins in; "head"; "all": the first.

        Raises:
            ValueError: no such module; the message suggests the closest.
        """
        groups = self.layer_groups()
        if layer in ("head", "all"):
            return len(groups) - 1 if layer == "head" else 0
        places = {name: i for i, group in enumerate(groups) for name in group}
        # a group's member, what lies in one, or a container of some: then its lowest
        found = next(
            (i for name, i in places.items() if f"{layer}.".startswith(f"{name}.") or name.startswith(f"{layer}.")),
            None,
        )
        if found is None:
            first = [group[0] for group in groups]
            raise ValueError(f"no layer {layer!r}{suggest(layer, first)}; the layers are {', '.join(first)}")
        return found

    @property
    def frozen(self) -> int:
        """How many of the lowest layer groups are frozen."""
        return self._frozen

    def freeze(self, below: int | str | None = None) -> Self:
        """Freeze the layer groups below one of them, and set all others free.

        What is frozen has no gradient, and nothing is kept for one below the lowest group that is trained; it is in evaluation
        mode whatever :meth:`train` says: its norms keep their statistics, its dropout is off. The state is in the checkpoint.
        The optimizer holds all parameters at all times, so any schedule goes on. During a fit, change it through
        ``callbacks.LayerFreezing``, which also tells the distributed strategy.

        Args:
            below: number of groups to freeze, 0 for none, negative counted from the end (-1: all but the head); or the name of a
                module: all groups below its own are frozen; None: the whole net.

        Raises:
            TypeError: neither a number nor a name.
            ValueError: not so many groups, or no such module; the message suggests the closest.
        """
        groups = self.layer_groups()
        if below is None:
            below = len(groups)
        if isinstance(below, str):
            below = self.group_of(below)
        if isinstance(below, bool) or not isinstance(below, int):
            raise TypeError(f"freeze takes a number of layer groups or the name of a module, got {below}")
        count = below + len(groups) if below < 0 else below
        if not 0 <= count <= len(groups):
            raise ValueError(
                f"{type(self.net).__name__} has {len(groups)} layer groups: freeze 0..{len(groups)}, got {below}"
            )
        self._frozen = count
        for i, names in enumerate(groups):
            for parameter in parameters_of(self.net, names):
                parameter.requires_grad_(i >= count)
        return self.train(self.training)

    def unfreeze(self) -> Self:
        """Set the whole net free."""
        return self.freeze(0)

    def train(self, mode: bool = True) -> Self:
        """Training mode for what is not frozen."""
        super().train(mode)
        if mode and self._frozen:
            for names in self.layer_groups()[: self._frozen]:
                for module in modules_of(self.net, names):
                    module.eval()
        return self
