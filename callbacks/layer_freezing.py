"""Freezing of the lower layers, and gradual unfreezing."""

from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.checks import check_integer, is_better
from callbacks.internals import has_whole_parameters, is_fit_validation, mean_over_ranks, rebuild_ddp

# Number of trained layer groups counted from the head, "head", "all", or the name of the lowest layer that is trained.
Layers = int | str


class LayerFreezing(Callback):
    """Freeze the lower layers of a module at the start of a fit, and unfreeze them later.

    The module (:class:`~callbacks.Freezable`) holds the state: its frozen layers stay in evaluation mode, so norms and dropout in
    them are off, and the optimizer holds all parameters from the first step, so any learning rate schedule goes on. Layers are
    unfrozen at the start of an epoch, on all processes. The DDP wrapper is then rebuilt, since it synchronizes only the parameters
    that were trained when it was built.

    Layers are given as a number of layer groups counted from the head (1: the head), as "head" or "all", or as the name of the
    lowest layer that is trained ("layer4"). ``module.layer_groups()`` lists the groups.

    Args:
        train: Layers trained at the start.
        every: Unfreeze ``groups`` more layer groups every so many epochs, >= 1: gradual unfreezing (Howard and Ruder 2018,
            arXiv:1801.06146, section 3.3).
        milestones: Layers trained from an epoch on, counted from 0: ``{3: "layer4", 6: "all"}``.
        patience: Unfreeze ``groups`` more layer groups after so many validations in a row without a new best of the module's
            ``monitor``, >= 1.
        groups: Number of layer groups to unfreeze at a time, >= 1.
        down_to: Lowest layers that ``every`` and ``patience`` unfreeze.

    Raises:
        ValueError: An argument is out of its range, more than one schedule is given, the module has no such layers, milestones
            freeze again, or the schedule does not end within the run.
        TypeError: The module is not :class:`~callbacks.Freezable`, or the strategy shards the parameters.

    Example:
        >>> LayerFreezing("head", every=2).train
        'head'
    """

    def __init__(
        self,
        train: Layers = "head",
        *,
        every: int | None = None,
        milestones: dict[int, Layers] | None = None,
        patience: int | None = None,
        groups: int = 1,
        down_to: Layers = "all",
    ) -> None:
        schedules = {"every": every, "milestones": milestones, "patience": patience}
        if len(given := [name for name, value in schedules.items() if value is not None]) > 1:
            raise ValueError(f"give one of every, milestones and patience, got {' and '.join(given)}")
        for name, value in (("every", every), ("patience", patience), ("groups", groups)):
            if value is not None or name == "groups":
                check_integer(name, value, 1)
        for layers in (train, down_to, *(milestones or {}).values()):
            if isinstance(layers, bool) or not isinstance(layers, int | str):
                raise TypeError(
                    f"layers are given as a number of groups, 'head', 'all' or a layer's name, got {layers!r}"
                )
        if milestones is not None and (not milestones or min(milestones) < 1):
            raise ValueError(f"milestones are epochs from 1 on, each with the layers trained then, got {milestones}")
        self.train, self.every, self.patience = train, every, patience
        self.milestones = dict(sorted((milestones or {}).items()))
        self.groups, self.down_to = groups, down_to
        self._state: dict[str, Any] = {"best": None, "waited": 0, "released": 0}  # of patience
        self._begun = False  # whether this fit has trained a batch

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        module: Any = pl_module
        missing = [name for name in ("layer_groups", "group_of", "frozen") if not hasattr(module, name)]
        if missing or type(module).freeze is LightningModule.freeze:  # Lightning's own freezes everything
            raise TypeError(
                f"{type(module).__name__} must define {', '.join(missing or ['freeze(below)'])} to be frozen by LayerFreezing: see "
                "callbacks.Freezable"
            )
        if not has_whole_parameters(trainer):
            raise TypeError(
                f"{type(trainer.strategy).__name__} shards parameters, and a shard cannot be frozen in part: LayerFreezing works "
                "on a single device and with ddp"
            )
        steps = [_trained(module, layers) for layers in (self.train, *self.milestones.values())]
        if steps != sorted(set(steps)) and self.milestones:
            raise ValueError(f"each milestone must unfreeze more layers, got {self.train!r}, then {self.milestones}")
        if self.patience is not None and not trainer.enable_validation:
            raise ValueError(
                "patience counts validations, and this run has none, so no layer would be unfrozen: give validation data, or "
                "every= or milestones= instead of patience="
            )
        if self.patience is not None and getattr(module, "monitor", None) is None:
            raise ValueError(
                f"patience waits for a new best of the module's monitor, and this {type(module).__name__} has none: give every= or "
                "milestones= instead of patience=, or a metric to monitor (for a generator: judge=)"
            )
        self._check_end(trainer, module)
        self._state = {"best": None, "waited": 0, "released": 0}
        self._begun = False
        # a checkpoint to resume from is loaded after this
        module.freeze(len(module.layer_groups()) - self._target(module, 0))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps, per_epoch = trainer.max_steps, trainer.num_training_batches / trainer.accumulate_grad_batches
        if 0 < steps < (last := self._last(pl_module)) * per_epoch:
            raise ValueError(
                f"the last layers would be unfrozen in epoch {last}, which max_steps={steps} does not reach: unfreeze more often, "
                "stop at a layer (down_to), or train longer"
            )

    def _last(self, module: Any) -> int:
        """Return the epoch in which the last layers are unfrozen."""
        if not self.every:
            return max([0, *self.milestones])
        missing = _trained(module, self.down_to) - _trained(module, self.train)
        return self.every * -(-missing // self.groups)

    def _check_end(self, trainer: Trainer, module: Any) -> None:
        last = self._last(module)
        epochs = trainer.max_epochs
        if epochs is not None and 0 <= epochs <= last:
            raise ValueError(
                f"the last layers would be unfrozen in epoch {last}, but the run's epochs are 0..{epochs - 1}: unfreeze "
                "more often or more groups at a time, stop at a layer (down_to), or train longer"
            )

    def _target(self, module: Any, epoch: int) -> int:
        """Return the number of layer groups trained in an epoch, counted from the head."""
        trained = _trained(module, self.train)
        if self.milestones:
            return max([trained, *(_trained(module, layers) for at, layers in self.milestones.items() if at <= epoch)])
        releases = epoch // self.every if self.every else self._state["released"]
        return max(trained, min(trained + releases * self.groups, _trained(module, self.down_to)))

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0 and self._begun:
            return
        self._begun = True  # resumed in mid-epoch: a module that does not save its frozen layers gets them here
        # not in on_train_epoch_start, which a run resumed from the last batch of an epoch does not call for the next one
        module: Any = pl_module
        groups = module.layer_groups()
        frozen = len(groups) - self._target(module, trainer.current_epoch)
        if frozen == module.frozen:
            return
        module.freeze(frozen)
        rebuild_ddp(trainer)
        rank_zero_info(
            f"epoch {trainer.current_epoch + 1}: trained from {groups[frozen][0]} on, {frozen} layer groups frozen"
        )

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.patience is None or not is_fit_validation(trainer):
            return
        module: Any = pl_module
        name, mode = module.monitor
        if name not in trainer.callback_metrics:
            raise ValueError(
                f"patience waits for {name!r}, which is not logged; logged are {', '.join(trainer.callback_metrics)}"
            )
        value = mean_over_ranks(trainer, trainer.callback_metrics[name])  # so that all ranks decide the same
        better = is_better(value, self._state["best"], mode)
        self._state |= {"best": value, "waited": 0} if better else {"waited": self._state["waited"] + 1}
        if self._state["waited"] >= self.patience:
            self._state |= {"waited": 0, "released": self._state["released"] + 1}

    @override
    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = dict(state_dict)


def _trained(module: Any, layers: Layers | Literal["head", "all"]) -> int:
    """Return the number of layer groups that ``layers`` stands for, counted from the head."""
    count = len(module.layer_groups())
    if layers == "all":
        return count
    if isinstance(layers, str):  # "head", too: a module may train parts that come after the net's own head
        return count - module.group_of(layers)
    if not 1 <= layers <= count:
        raise ValueError(f"{type(module).__name__} has {count} layer groups: train 1..{count} of them, got {layers}")
    return layers
